"""`stream-detector evaluate`: how good is a detector on labelled recordings, and what do simple ones reach?"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.cli import evaluate_live, evaluate_simulated
from stream_detector.cli.data import FORMATS_HELP
from stream_detector.cli.options import add_json, add_quiet, at_least_1
from stream_detector.cli.printing import print_json
from stream_detector.errors import ConfigError
from stream_detector.telemetry.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from stream_detector.config import Config
    from stream_detector.evaluate.protocols import Protocol
    from stream_detector.evaluate.series import Outcome

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: Simple detectors printed beside every other, of those that there are.
BASELINES = ("robust-z", "mahalanobis", "pca")
#: Beside a detector that learns from labels, also: which of them finds faults that nobody labelled?
BESIDE_LABELLED = ("ae",)
#: Protocols that leave it open how many rows train; those of the others are published.
OPEN_SPLIT = ("csv", "yahoo-s5", "femto", "creditcard", "kdd99")
PROTOCOL_NAMES = (
    "skab",
    "nab",
    "smap-msl",
    "cwru",
    "femto",
    "nsl-kdd",
    "kdd99",
    "creditcard",
    "yahoo-s5",
    "ucr",
    "csv",
    "simulated",
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a detector on labelled recordings",
        description="Train a detector on the part of a public data set that its protocol prescribes, run the rest "
        "through the stages of a worker and compare the alarms with the labels. The decision for a row uses only the "
        "rows up to it. Simple detectors are measured for comparison. docs/evaluation.md explains the figures.",
    )
    parser.add_argument("protocol", choices=PROTOCOL_NAMES, metavar="PROTOCOL", help=", ".join(PROTOCOL_NAMES))
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder in the data set's own layout; not for simulated"
    )
    parser.add_argument(
        "--detector", metavar="KIND", help="model.kind, with its shipped settings (default: the set-up's)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="CONFIG", help="YAML file of the set-up (default: the shipped one)"
    )
    parser.add_argument(
        "--seeds",
        type=at_least_1,
        default=1,
        metavar="N",
        help="number of seeds to train with (default: 1); simulated: each seed gives other machines",
    )
    parser.add_argument(
        "--baselines",
        metavar="KIND,…",
        help=f"detectors to compare with; none for none (default: {','.join(BASELINES)})",
    )
    parser.add_argument(
        "--train",
        type=_amount,
        metavar="N",
        help=f"{', '.join(OPEN_SPLIT)}: train on the first N rows or, below 1, on this share of them",
    )
    add_json(parser, "print one JSON object")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="plot signals, scores and alarms of every file"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="save the first seed's detectors, set-up and alerts, to run them live"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="run the first seed again through a broker and a worker started here; status 1 if alerts differ",
    )
    add_quiet(parser)
    table = parser.add_argument_group("csv")
    table.add_argument("--format", metavar="FORMAT", help=f"format of the files: {FORMATS_HELP}")
    table.add_argument(
        "--label-column", metavar="NAME", help="the label column (default: anomaly, is_anomaly or label)"
    )
    table.add_argument("--ts-column", metavar="NAME", help="the time column (default: detected)")
    table.add_argument("--ts-unit", choices=["s", "ms", "us", "ns"], help="unit of numeric times")
    table.add_argument("--asset-column", metavar="NAME", help="the column that names the asset")
    evaluate_simulated.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    if args.protocol == "simulated":
        return evaluate_simulated.run(args)
    if args.data is None:
        raise ConfigError(f"{args.protocol} needs --data DIR, the data set in its own layout")
    if args.train is not None and args.protocol not in OPEN_SPLIT:
        raise ConfigError(f"--train is for {', '.join(OPEN_SPLIT)}; {args.protocol} defines which rows are trained on")
    if args.report is not None and not args.report.resolve().parent.is_dir():
        raise ConfigError(f"--report {args.report}: there is no folder {args.report.parent}; make it first")
    if args.suite is not None:
        raise ConfigError(f"--suite is for the protocol simulated, not for {args.protocol}")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from stream_detector.datasets import read
    from stream_detector.evaluate.protocols import PROTOCOLS, Request
    from stream_detector.models import Labelled, detector_class, kinds

    protocol = PROTOCOLS[args.protocol]
    config = _config(protocol, args.config, args.detector)
    by_labels = issubclass(detector_class(config.model.kind), Labelled)
    usual = (*BESIDE_LABELLED, *BASELINES) if by_labels else BASELINES
    wanted = usual if args.baselines is None else _names(args.baselines)
    known = [kind for kind in wanted if kind in kinds()]
    if args.baselines is not None and (missing := [kind for kind in wanted if kind not in known]):
        raise ConfigError(f"--baselines: {missing[0]!r} is no detector; expected of {', '.join(kinds())}")
    baselines = {kind: _config(protocol, args.config, kind) for kind in known if kind != config.model.kind}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=args.quiet or not sys.stderr.isatty(),
    ) as bars:
        bar = bars.add_task("reading", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bars.update(bar, description=what, completed=done, total=of)

        asked = Request(
            data=args.data,
            config=config,
            read=read,  # type: ignore[arg-type]  # it names its options, the protocol only that there are some
            baselines=baselines,
            seeds=range(args.seeds),
            tell=tell,
            options=_csv_options(args),
            format=args.format or "csv",
            train=args.train,
            own_config=args.config is not None,
        )
        outcome = protocol.run(asked)
        live = evaluate_live.run(outcome.first, tell) if args.live else None
    if args.report is not None:
        from stream_detector.evaluate.report import write

        write(args.report, outcome, protocol)
    if args.keep is not None:
        from stream_detector.evaluate.keep import keep

        keep(outcome.first, args.keep)
    plain = {"protocol": outcome.protocol, "detector": outcome.detector, **outcome.figures}
    if live is not None:
        plain["live"] = live
    if args.json:
        print_json(_finite(plain), indent=None)
    else:
        _print(protocol, outcome)
        if live is not None:
            Console().print(_told(live), markup=False)
    return 0 if live is None or live["equal"] else 1


def _config(protocol: Protocol, given: Path | None, kind: str | None) -> Config:
    """Return the set-up asked for with the detector asked for, in that family's shipped settings."""
    from stream_detector.config import loading as settings
    from stream_detector.models import kinds

    if kind is not None and kind not in kinds():
        raise ConfigError(f"--detector must be one of {', '.join(kinds())}, got {kind!r}")
    path = given or CONFIGS / f"{protocol.config}.yaml"
    if given is None and kind is not None and (own := CONFIGS / f"{protocol.config}-{kind}.yaml").is_file():
        path = own
    if given is None and not path.is_file():
        raise ConfigError(f"the shipped set-up {path} is not here; give --config CONFIG")
    config = settings.load(path)
    if kind is None or kind == config.model.kind:
        return config
    return settings.load(path, env=os.environ, overrides={"model": {"kind": kind}})


def _csv_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("label_column", "ts_column", "ts_unit", "asset_column")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if (given or args.format) and args.protocol != "csv":
        option = "--" + next(iter(given), "format").replace("_", "-")
        raise ConfigError(f"{option} is for the protocol csv; {args.protocol} files say it themselves")
    return given


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (0 < number < 1 or (number >= 1 and number.is_integer())):
        raise argparse.ArgumentTypeError(f"expected a share below 1 or a whole number of rows, got {text!r}")
    return number


def _names(text: str) -> list[str]:
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(protocol: Protocol, outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    figures = outcome.figures
    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(title=f"{protocol.name}: {figures.get('files', '?')} files, {len(figures['seeds'])} seeds")
    table.add_column("detector", no_wrap=True)
    for column in protocol.columns:
        table.add_column(column, justify="right")
    spread = figures.get("spread", {})

    def cells(row: Mapping[str, Any], with_sd: bool) -> list[str]:
        found = []
        for column in protocol.columns:
            value = row.get(column)
            text = "-" if value is None else f"{value:.3f}"
            if with_sd and value is not None and column in spread and len(figures["seeds"]) > 1:
                text += f" ± {spread[column]['sd']:.3f}"
            found.append(text)
        return found

    table.add_row(outcome.detector, *cells(figures, with_sd=True))
    for name, row in figures["baselines"].items():
        table.add_row(name, *cells(row, with_sd=False))
    for name, row in figures.get("published", {}).items():
        table.add_row(f"published {name}", *cells(row, with_sd=False))
    console.print(table)
    if untrained := figures["untrained"]:
        files = printable(", ".join(untrained))
        console.print(f"{len(untrained)} files without a detector, all their faults missed: {files}", markup=False)
    if "categories" in figures:
        console.print(_categories(outcome))
    if incidents := figures.get("incidents"):
        console.print(
            f"{incidents['caught']:.3g} of {incidents['faults']:.0f} faults caught, "
            f"{incidents['already_open']:.3g} by an incident open before; {incidents['false']:.3g} false incidents in "
            f"{incidents['days']:.3g} days; in alarm {incidents['alarm_share']:.1%} of the time"
        )


def _told(live: Mapping[str, Any]) -> str:
    """Say how a run through a broker compares."""
    told = f"live, through a broker: {live['alerts']} alerts of {live['recordings']} recordings, "
    if live["equal"]:
        return told + "the same bytes as the evaluation's"
    if not live["missing"] + live["unexpected"]:
        return told + "the same as the evaluation's, in another order"
    return told + f"{live['missing']} of them missing, {live['unexpected']} others"


def _categories(outcome: Outcome) -> Table:
    """Return the share of attacks found, one row per category, types in the training data apart from new ones."""
    from rich.table import Table

    rows = {outcome.detector: outcome.figures, **outcome.figures["baselines"]}
    table = Table(title="attacks found: types that training data names, new ones")
    table.add_column("attacks", no_wrap=True)
    table.add_column("count", justify="right")
    for name in rows:
        table.add_column(name, justify="right")

    def add(title: str, count: float, found: list[float | None]) -> None:
        table.add_row(title, f"{count:.0f}", *("-" if one is None else f"{one:.3f}" for one in found))

    for category, parts in outcome.figures["categories"].items():
        for which in ("seen", "unseen"):
            if count := parts[which]["attacks"]:
                found = [row["categories"][category][which]["recall"] for row in rows.values()]
                add(f"{category}, {which}", count, found)
    for which in ("seen", "unseen"):
        count = sum(parts[which]["attacks"] for parts in outcome.figures["categories"].values())
        add(f"all, {which}", count, [row[f"recall_{which}_attacks"] for row in rows.values()])
    return table
