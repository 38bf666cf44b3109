"""`stream-detector evaluate simulated`: try a set-up on simulated machines before a plant does."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from stream_detector.cli.options import at_least_1
from stream_detector.cli.printing import print_json
from stream_detector.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "simulated.yaml"
#: Shortest run of a suite with faults or events: some of them take days.
LEAST_DAYS = 6.0
SUITES = {
    "healthy": "whether the measured risk and alert budget match the set ones (no fault, no change)",
    "nuisance": "how many false incidents harmless changes cause",
    "faults": "whether slow, intermittent and double faults are caught, and not learnt as normal",
    "kinds": "whether point, contextual, collective and sensor faults get the right kind",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulated` to those of `evaluate`."""
    group = parser.add_argument_group("simulated")
    group.add_argument("--suite", choices=list(SUITES), help="; ".join(f"{n}: {about}" for n, about in SUITES.items()))
    group.add_argument(
        "--machines", type=at_least_1, metavar="N", help="healthy: number of machines per seed (default: 100)"
    )
    group.add_argument(
        "--days", type=_days, metavar="D", help="length of a run in days; healthy: of its judged part (default: 7)"
    )


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    if args.suite is None:
        raise ConfigError(f"simulated needs --suite, one of {', '.join(SUITES)}")
    for name in ("data", "detector", "baselines", "report", "keep"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} is not for the protocol simulated; give it a set-up by --config")
    if args.machines is not None and args.suite != "healthy":
        raise ConfigError(f"--machines is for --suite healthy; {args.suite} takes as many as --seeds needs")
    days = args.days or 7.0
    if args.suite != "healthy" and days < LEAST_DAYS:
        raise ConfigError(f"--days must be at least {LEAST_DAYS:g} for --suite {args.suite}: its events take so long")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from stream_detector.config import loading as settings
    from stream_detector.evaluate.simulated import SUITES as TRIALS
    from stream_detector.evaluate.simulated import Trial
    from stream_detector.simulation.simulate import simulate

    logging.getLogger("stream_detector.evaluate.offline").setLevel(
        logging.ERROR
    )  # readings of broken sensors are refused
    config = settings.load(args.config or CONFIG)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=args.quiet or not sys.stderr.isatty(),
    ) as bars:
        bar = bars.add_task(args.suite, total=None)

        def tell(what: str, done: int, of: int) -> None:
            bars.update(bar, description=what, completed=done, total=of)

        figures = TRIALS[args.suite](Trial(config, simulate, range(args.seeds), args.machines or 100, days, tell))
    if args.json:
        print_json(figures, indent=None)
    else:
        _print(args.suite, figures)
    return 0


def _print(suite: str, figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(title=f"simulated, {suite}", show_header=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("value")
    for name, value in figures.items():
        if isinstance(value, dict):
            for key, part in value.items():
                table.add_row(f"{name}, {key}", _text(part))
        elif isinstance(value, list):
            for part in value:
                table.add_row(name, _text(part))
        else:
            table.add_row(name, _text(value))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _days(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1_000:
        raise argparse.ArgumentTypeError(f"expected a number of days above 0, got {text!r}")
    return number
