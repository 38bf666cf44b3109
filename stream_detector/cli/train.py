"""`stream-detector train`: recorded history -> a detector on disk."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.cli import data, labels
from stream_detector.cli.options import add_config, add_json, add_quiet
from stream_detector.cli.printing import print_json, print_line
from stream_detector.errors import ConfigError, DataError
from stream_detector.telemetry.printable import printable

if TYPE_CHECKING:
    from stream_detector.artifacts.artifact import Artifact
    from stream_detector.config import Config
    from stream_detector.training.labels import Labels
    from stream_detector.types import WindowBatch

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


log = logging.getLogger(__name__)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector on recorded normal operation",
        description="Train the set-up's detector on recorded normal operation. Scaler and weights come from the first "
        "part of each asset's windows; the tail (train.holdout) is kept for early stopping and calibration. The same "
        "data, settings and seed give the same file. The detectors classifier and deep-sad also learn from labelled "
        "faults: a label column, labels of the public formats, or --truth. Other detectors ignore labels.",
    )
    add_config(parser)
    data.add_options(parser)
    labels.add_option(parser)
    parser.add_argument(
        "--out", type=Path, metavar="PATH",
        help="file to write, or with --per-asset a folder (default: the set-up's artifact)",
    )  # fmt: skip
    parser.add_argument(
        "--per-asset",
        action="store_true",
        help="one detector per asset: in one file if --out ends with .safetensors, else one file per asset in a folder",
    )
    add_json(parser, "print one JSON object that describes the trained detectors")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from stream_detector.artifacts.model_set import save_all
    from stream_detector.config import loading as settings
    from stream_detector.evaluate.offline import windows
    from stream_detector.training.train import train, train_many

    config = settings.load(args.config)
    out: Path | None = args.out or config.artifact
    if out is None:
        raise ConfigError("artifact is not set; give --out PATH, or set artifact in the configuration")
    recordings = data.recordings(args, config)
    known = labels.labels(args, recordings, config)
    history = _history(args, config, windows(config, data.encoded(recordings)), known)
    left_out: Mapping[str, str] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=args.quiet or not sys.stderr.isatty(),
    ) as bars:
        if args.per_asset and out.suffix == ".safetensors" and not out.is_dir():
            from stream_detector.training.fleet import train_fleet

            every = bars.add_task("assets", total=len(recordings), loss="")
            fleet = train_fleet(config, history, progress=lambda asset: bars.update(every, advance=1), labels=known)
            fleet.save(out)
            artifacts = [*fleet.artifacts.values(), *([fleet.shared] if fleet.shared else [])]
            left_out = fleet.left_out
        elif args.per_asset:
            whole = bars.add_task("assets", total=len(recordings), loss="")

            def one_more(asset: str) -> None:
                bars.update(whole, advance=1, description=f"asset {escape(printable(asset))}")

            trained = train_many(config, history, progress=one_more, labels=known)
            save_all(trained, out)
            artifacts = list(trained.values())
        else:
            bar = bars.add_task("training", total=config.train.epochs, loss="")

            def epoch(done: int, of: int, loss: float, validation: float) -> None:
                bars.update(bar, completed=done, total=of, loss=f"{loss:.4g}, held out {validation:.4g}")

            artifact = train(config, history, progress=epoch, labels=known)
            artifact.save(out)
            artifacts = [artifact]
    _report(artifacts, out, left_out, as_json=args.json)
    return 0


def _history(
    args: argparse.Namespace, config: Config, batches: Iterator[WindowBatch], known: Labels | None
) -> Iterator[WindowBatch]:
    """Return the windows to train on: without faulty ones if requested; warns if labelled faults train as normal."""
    from stream_detector.models import Labelled, detector_class
    from stream_detector.training.labels import only_normal

    if issubclass(detector_class(config.model.kind), Labelled):
        if args.normal_only:
            raise ConfigError(f"--normal-only: model.kind {config.model.kind} learns from faults; leave it out")
        return batches
    if args.normal_only:
        if known is None:
            raise DataError("--normal-only: the history has no labels; give --label-column or --truth")
        return only_normal(batches, known, config)
    if known is not None and (faults := known.faults):
        log.warning(
            "the history has %d rows or stretches labelled faulty, and model.kind %s takes all of it for normal; "
            "--normal-only leaves them out",
            faults,
            config.model.kind,
        )
    return batches


def _report(artifacts: list[Artifact], out: Path, left_out: Mapping[str, str], as_json: bool) -> None:
    rows = [
        {
            "assets": list(artifact.assets or ()),
            "version": artifact.ref.version,
            "kind": artifact.ref.kind,
            "windows_trained": artifact.split.n_train,
            "windows_calibrated": artifact.split.n_calibration,
            "windows_faulty": artifact.fit.faulty,
            "warnings": list(artifact.fit.warnings),
        }
        for artifact in artifacts
    ]
    if as_json:
        print_json({"path": str(out), "artifacts": rows, "short_history": list(left_out)}, indent=None)
        return
    for artifact in artifacts:
        name = ", ".join(artifact.assets or ()) or "all assets"
        faulty = f" ({artifact.fit.faulty} labelled faulty)" if artifact.fit.faulty else ""
        print_line(
            f"{name}: {artifact.ref.kind} {artifact.ref.version}, trained on {artifact.split.n_train} windows{faulty}, "
            f"calibrated on {artifact.split.n_calibration}"
        )
    print_line(f"wrote {out}")
