"""`stream-detector backtest`: what a worker would have published for a recording."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.cli import data
from stream_detector.cli.options import add_artifact, add_config, add_json, add_quiet
from stream_detector.errors import DataError

_SHOWN = 20  # assets that are not judged

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "backtest",
        help="run a recording through the stages of a worker, in memory",
        description="Run recorded data through the same stages as a worker, without broker or store, and print the "
        "alerts; with --json they are the same bytes that a worker would publish, one alert per line. A summary goes "
        "to standard error. Files are run one after the other; --messages reads the messages of a topic, in log order.",
    )
    add_config(parser)
    data.add_options(parser, messages=True)
    add_artifact(parser)
    parser.add_argument(
        "--states", type=Path, metavar="FILE", help="write each asset's final state to FILE, as a worker would save it"
    )
    parser.add_argument(
        "--audit", type=Path, metavar="FILE", help="write the audit topic's entries to FILE, as published, one per line"
    )
    parser.add_argument(
        "--dead-letters",
        type=Path,
        metavar="FILE",
        help="write unusable messages to FILE, with the reason, one per line",
    )
    add_json(parser, "one JSON object per line, as published")
    add_quiet(parser, "no progress bar, no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    from rich.console import Console
    from rich.progress import Progress

    from stream_detector.artifacts.model_set import ModelSet
    from stream_detector.cli.show import alert_line, letter_line, not_judged_line, published, state_line
    from stream_detector.config import loading as settings
    from stream_detector.evaluate.offline import Backtest
    from stream_detector.scoring.scorer import Scorer

    overrides = {"artifact": args.artifact.resolve()} if args.artifact else None
    config = settings.load(args.config, overrides=overrides)
    recordings = [] if args.messages else data.recordings(args, config)
    if args.messages and len(config.inputs) > 1:
        raise DataError(f"--messages: the set-up joins {len(config.inputs)} topics, a file has the messages of one")
    models = ModelSet.load(config)
    # Taking over a task in memory is no news.
    logging.getLogger("stream_detector.worker.takeover").setLevel(logging.WARNING)
    if not args.quiet:  # the summary says which assets are not judged
        logging.getLogger("stream_detector.worker.coverage").setLevel(logging.ERROR)
    backtest = Backtest(
        config,
        Scorer(models, config.scorer),
        [one.calibration for one in models.artifacts],
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
        partitions=len(args.messages or [None]),
        as_sent=bool(args.messages),
    )
    parts = [data.lines(path) for path in args.messages] if args.messages else [data.encoded([r]) for r in recordings]
    count = 0
    with Progress(console=Console(stderr=True), disable=args.quiet or not sys.stderr.isatty()) as bars:
        for place, messages in enumerate(bars.track(parts, description="recordings")):
            for alert in backtest.run(messages, place if args.messages else 0):
                count += 1
                sys.stdout.write((published(alert) if args.json else alert_line(alert)) + "\n")
    if args.states:
        lines = (state_line(asset, state) for asset, state in sorted(backtest.states()))
        _write(args.states, lines)
    if args.audit:
        _write(args.audit, (entry.decode() for entry in backtest.audits))
    if args.dead_letters:
        _write(args.dead_letters, map(letter_line, backtest.refused))
    rows, dead = backtest.pipeline.messages, backtest.dead_letters
    reasons = f" ({', '.join(f'{number} {code}' for code, number in dead.most_common())})" if dead else ""
    windows, judged = backtest.pipeline.windows, backtest.scored
    missed = backtest.not_judged()
    if not args.quiet:
        sys.stderr.write(f"{rows} readings, {windows} windows, {count} alerts, {dead.total()} dead letters{reasons}\n")
        sys.stderr.writelines(f"not judged: {not_judged_line(one)}\n" for one in missed[:_SHOWN])
        if len(missed) > _SHOWN:
            sys.stderr.write(f"not judged: {len(missed) - _SHOWN} more assets\n")
    if dead.total() == rows:
        raise DataError(f"none of the {rows} readings can be used{reasons}; docs/wire-format.md explains the reasons")
    if not judged:
        why = f", for example {not_judged_line(missed[0])}" if missed else ""
        raise DataError(f"nothing was judged: {rows} readings gave {windows} windows{why}")
    return 0


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror or error}") from error
