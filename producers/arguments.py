"""Command-line options and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from stream_detector import plugins
from stream_detector.cli.options import add_renamed
from stream_detector.datasets import FORMATS
from stream_detector.datasets.replay import Times
from stream_detector.datasets.times import TsUnit, iso_to_ms
from stream_detector.simulation.faults import KINDS, SYNTAX
from stream_detector.simulation.profiles import PROFILES
from stream_detector.simulation.scenarios import SCENARIOS
from stream_detector.simulation.simulate import CHANNELS, DEFAULT_CHANNELS

_EXAMPLES = """\
examples:
  replay a folder of recordings, one minute per second, one asset per file:
    python -m producers replay data/skab/valve1 --format skab --topic pump.readings --speed 60
  the same with the topic, brokers and field names of a set-up, as fast as possible:
    python -m producers replay data/skab/valve1 --format skab --config configs/pump.yaml --speed max
  replay your own table in a loop as a live stream, with its times moved to now:
    python -m producers replay line3.csv --format csv --topic line3.readings --times now --loop forever
  write two hours of four simulated machines, with faults and labels, to files:
    python -m producers simulate --machines 4 --hours 2 --out machines/
  send one simulated machine live, with an outer-race fault after ten minutes:
    python -m producers simulate --machines 1 --hours 1 --faults bearing-outer@10m+5m:0.8 --topic pump.readings

Each command has its own --help.
"""

_REPLAY = """\
formats (a folder means all its files of the format):
{formats}

Assets are named after their files: valve1/0.csv is valve1-0, pump.csv is pump. The key of each reading is its
asset. Labels are never sent. Times without an offset are read as UTC.
"""

_SIMULATE = """\
faults: default (two of different kinds per machine; one in runs of less than an hour), none, or a list of
  {syntax}
with times such as 90s, 45m, 1.5h or 40% (of the run) and a severity above 0, up to 1. A sensor fault affects one
channel; machine-2=sensor-stuck/current@1h+10m names the channel and the machine. Names:
{faults}

scenarios, instead of faults; the first 40 % of the run are healthy, so choose --hours long enough (a week is 168):
{scenarios}

channels: {channels}

The same seed gives the same bytes; machine-3 of a seed is the same among 3 machines as among 100.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producers`."""
    parser = argparse.ArgumentParser(
        prog="python -m producers",
        description="Send readings to a topic: replay recorded data, or simulate machines from physics.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_replay(commands)
    _add_simulate(commands)
    return parser


def _add_replay(commands: Any) -> None:
    formats = "\n".join(f"  {name:9} {format.layout}" for name, format in FORMATS.items())
    formats += "".join(
        f"\n  {name:9} of the package {plugins.origin('readers', name)}" for name in plugins.names("readers")
    )
    parser = commands.add_parser(
        "replay",
        allow_abbrev=False,
        help="send recorded data",
        description="Send recordings in parallel, all starting at once, at a multiple of their original speed.",
        epilog=_REPLAY.format(formats=formats),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings, or folders of them")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="format of the files; see below")
    parser.add_argument("--rows", type=_at_least(1), metavar="N", help="send only the first N rows of each recording")
    add_renamed(parser, "--limit", "--rows", type=_at_least(1))
    parser.add_argument("--skip", type=_at_least(1), metavar="N", help="skip the first N rows of each recording")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--asset", help="name of the asset, for a single file (default: the file's name)")
    reading.add_argument("--asset-column", metavar="NAME", help="column that names the asset (csv, parquet: asset)")
    reading.add_argument(
        "--ts-column", metavar="NAME", help="time column (csv, parquet: timestamp, ts, time, datetime or date)"
    )
    reading.add_argument("--ts-unit", choices=get_args(TsUnit), help="times are numbers of this unit since 1970")
    reading.add_argument(
        "--label-column", metavar="NAME", help="label column, not sent (csv, parquet: anomaly, is_anomaly or label)"
    )
    reading.add_argument("--columns", type=_names, metavar="A,B", help="send these channels only")
    reading.add_argument(
        "--rate-hz", type=_positive, metavar="HZ", help="sample rate of waveforms whose files don't contain it"
    )
    reading.add_argument(
        "--block", type=_at_least(1), default=1_024, metavar="N", help="cwru: samples per message (default: 1024)"
    )
    reading.add_argument(
        "--start", type=_time, metavar="TIME", help="start of recordings without times (default: 2000-01-01T00:00:00Z)"
    )
    _add_sending(parser, times="keep")


def _add_simulate(commands: Any) -> None:
    faults = "\n".join(f"  {kind.name:19} {kind.about} (default severity {kind.severity:g})" for kind in KINDS.values())
    scenarios = "\n".join(f"  {name:19} {scenario.about}" for name, scenario in SCENARIOS.items())
    channels = ", ".join(f"{name} ({unit})" for name, (unit, _, _) in CHANNELS.items())
    parser = commands.add_parser(
        "simulate",
        allow_abbrev=False,
        help="simulate machines and write files, send readings, or both",
        description="Simulate machines with speed and load profiles and labelled faults.",
        epilog=_SIMULATE.format(syntax=SYNTAX, faults=faults, scenarios=scenarios, channels=channels),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--machines", type=_at_least(1), default=4, metavar="N", help="number of machines (default: 4)")
    parser.add_argument(
        "--hours", type=_positive, default=2.0, metavar="H", help="length of the run in hours (default: 2)"
    )
    parser.add_argument("--rate", type=_positive, default=1.0, metavar="HZ", help="readings per second (default: 1)")
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, metavar="S", help="seed of the random numbers (default: 0)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--faults", default="default", metavar="LIST", help="faults and events, see below (default: default)"
    )
    what.add_argument("--scenario", choices=list(SCENARIOS), metavar="NAME", help="name of a scenario, see below")
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        help="operation of the machines: one operating point, production cycles, or two shifts a day (default: the "
        "scenario's, else shift)",
    )
    parser.add_argument("--name", default="machine", help="machines are called NAME-1, NAME-2, … (default: machine)")
    parser.add_argument(
        "--channels",
        type=_names,
        default=list(DEFAULT_CHANNELS),
        metavar="A,B",
        help=f"channels to simulate (default: {','.join(DEFAULT_CHANNELS)})",
    )
    parser.add_argument(
        "--start", type=_time, metavar="TIME", help="start of simulated time (default: 2025-01-06T14:00:00Z)"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out", type=Path, metavar="DIR", help="write <machine>.csv, faults.json and events.json to DIR"
    )
    files.add_argument("--format", choices=["csv", "parquet"], default="csv", help="format of the files (default: csv)")
    waves = parser.add_argument_group("waveforms")
    waves.add_argument(
        "--waveform", action="store_true", help="vibration as blocks of samples (in files: parquet only)"
    )
    waves.add_argument(
        "--waveform-every", type=_positive, default=10.0, metavar="S", help="seconds between blocks (default: 10)"
    )
    waves.add_argument(
        "--block", type=_at_least(1), default=2_048, metavar="N", help="samples per block (default: 2048)"
    )
    waves.add_argument(
        "--sample-rate", type=_positive, default=12_800.0, metavar="HZ", help="sample rate (default: 12800)"
    )
    _add_sending(parser, times="now")


def _add_sending(parser: argparse.ArgumentParser, times: str) -> None:
    group = parser.add_argument_group("sending")
    group.add_argument("--topic", help="topic to send to (default: the first input topic of --config)")
    group.add_argument(
        "--config", type=Path, metavar="YAML", help="set-up with brokers, security, topic, field names and format"
    )
    group.add_argument(
        "--bootstrap-servers",
        type=_names,
        metavar="HOST:PORT,…",
        help="brokers (default: those of --config, else 127.0.0.1:9092)",
    )
    group.add_argument(
        "--speed", type=_speed, default=1.0, metavar="X", help="recorded seconds per second, or max (default: 1)"
    )
    group.add_argument(
        "--times",
        choices=get_args(Times),
        default=times,
        help="event times: as recorded (keep), or moved so that the first (now) or last (until-now) reading is now "
        f"(default: {times})",
    )
    group.add_argument(
        "--loop",
        type=_loops,
        default=1,
        metavar="N",
        help="how often to send the recordings, or forever; repetitions have later times (default: 1)",
    )
    group.add_argument(
        "--message-format",
        choices=["json", "msgpack"],
        help="format of the messages (default: that of --config, else json)",
    )
    group.add_argument(
        "--partitions",
        type=_at_least(1),
        default=4,
        metavar="N",
        help="partitions of the topic if it is created (default: 4)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return names


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return number

    return parse


def _speed(text: str) -> float | None:
    return None if text == "max" else _positive(text)


def _loops(text: str) -> int | None:
    return None if text == "forever" else _at_least(1)(text)


def _time(text: str) -> float:
    try:
        return iso_to_ms(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ISO 8601 such as 2025-01-06T14:00:00Z, got {text!r}") from None
