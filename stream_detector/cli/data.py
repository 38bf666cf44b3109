"""Recorded data on the command line: options that say which files and how to read them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.cli.options import at_least_1
from stream_detector.errors import DataError

if TYPE_CHECKING:
    from stream_detector.config import Config
    from stream_detector.datasets.recording import Recording
    from stream_detector.evaluate.offline import Encoded

#: The formats built in, as `datasets.FORMATS` has them: help names them without a reader being imported.
FORMATS = (
    "skab", "nab", "cwru", "femto", "ims", "smap-msl", "ucr", "yahoo-s5", "nsl-kdd", "kdd99", "creditcard", "csv",
    "parquet",
)  # fmt: skip
#: Help of --format, behind what its files are.
FORMATS_HELP = f"{', '.join(FORMATS)}, or a plug-in's (default: csv)"


def add_options(parser: argparse.ArgumentParser, messages: bool = False) -> None:
    """Add `--data` and what belongs to it; `messages`: and `--messages`, of which one is to be given."""
    group = parser.add_argument_group("recorded data")
    which = group.add_mutually_exclusive_group(required=True) if messages else group
    which.add_argument("--data", type=Path, nargs="+", required=not messages, metavar="FILE", help="files or folders")
    if messages:
        which.add_argument(
            "--messages", type=Path, nargs="+", metavar="FILE",
            help="instead of recordings, the values of an input topic: one file per partition, one value per line in "
            "log order, as kafka-console-consumer.sh --partition N --from-beginning prints them",
        )  # fmt: skip
    group.add_argument("--format", metavar="FORMAT", default="csv", help=f"format of the files: {FORMATS_HELP}")
    group.add_argument("--rows", type=at_least_1, metavar="N", help="use only the first N rows of each file")
    group.add_argument("--ts-column", metavar="NAME", help="csv, parquet: the time column (default: detected)")
    group.add_argument("--ts-unit", choices=["s", "ms", "us", "ns"], help="csv, parquet: unit of numeric times")
    group.add_argument("--asset-column", metavar="NAME", help="csv, parquet: the column that names the asset")
    group.add_argument("--label-column", metavar="NAME", help="csv, parquet: the label column; never sent")
    group.add_argument("--columns", type=lambda text: text.split(","), metavar="A,B", help="use these channels only")
    group.add_argument(
        "--rate-hz", type=float, metavar="HZ", help="sample rate of waveforms whose files don't contain it"
    )


def recordings(args: argparse.Namespace, config: Config) -> list[Recording]:
    """Return the recordings the options name. Raises DataError, also when one lacks every configured channel."""
    from stream_detector.datasets import read

    found = read(
        args.data,
        args.format,
        ts_column=args.ts_column,
        ts_unit=args.ts_unit,
        asset_column=args.asset_column,
        label_column=args.label_column,
        columns=args.columns,
        rate_hz=args.rate_hz,
    )
    for number, recording in enumerate(found):
        if not set(recording.channels) & set(config.channels):
            raise DataError(
                f"{recording.source or recording.asset}: none of its columns {recording.channels} is a channel of "
                f"this set-up; channels: expects {list(config.channels)}"
            )
        _check_kinds(recording, config)
        found[number] = recording.carrying(config.channels)
    return [recording.head(args.rows) for recording in found] if args.rows else found


def _check_kinds(recording: Recording, config: Config) -> None:
    """Raise DataError when a column of words stands where the set-up has a number."""
    for name, column in recording.values.items():
        channel = config.channels.get(name)
        if channel is not None and channel.kind == "number" and column.dtype == object:
            found = next(value for value in column if value is not None)
            mend = "write decimals with a point" if "," in found else "or make it `kind: category`"
            raise DataError(
                f"{recording.source or recording.asset}: column {name!r} holds {found!r}; channels.{name} expects "
                f"numbers; {mend}"
            )


def lines(path: Path) -> Iterator[Encoded]:
    """Yield a file's lines as messages without keys. Raises DataError when it can't be read."""
    from stream_detector.evaluate.offline import Encoded

    try:
        with path.open("rb") as file:
            for line in file:
                yield Encoded(None, line.rstrip(b"\r\n"), [])
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error


def encoded(recordings: Sequence[Recording]) -> Iterator[Encoded]:
    """Yield the recordings' readings as messages, one recording after the other."""
    from stream_detector.evaluate.offline import Encoded

    for recording in recordings:
        for message in recording.messages():
            yield Encoded(message.key, message.value, message.headers)
