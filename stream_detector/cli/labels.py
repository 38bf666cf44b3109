"""Labels on the command line: columns of the recordings, or a list of faults."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.errors import DataError

if TYPE_CHECKING:
    from stream_detector.config import Config
    from stream_detector.datasets.ground_truth import Interval
    from stream_detector.datasets.recording import Recording
    from stream_detector.training.labels import Labels


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--truth` and `--normal-only`."""
    parser.add_argument(
        "--truth", type=Path, metavar="FILE",
        help="list of faults, for detectors that learn from labels: JSON like the simulator's faults.json, or CSV "
        "with the columns asset, start, end; it replaces the files' label columns",
    )  # fmt: skip
    parser.add_argument(
        "--normal-only", action="store_true",
        help="for a detector that doesn't learn from labels: leave windows labelled faulty out of training",
    )  # fmt: skip


def labels(args: argparse.Namespace, recordings: Sequence[Recording], config: Config) -> Labels | None:
    """Return the known faults of the recordings; None without labels. Raises DataError on a broken list."""
    from stream_detector.training.labels import from_intervals, from_rows

    if args.truth is None:
        return from_rows(recordings, config)
    return from_intervals(read_truth(args.truth), [recording.asset for recording in recordings])


def read_truth(path: Path) -> list[Interval]:
    """Read a list of faults. Raises DataError that names the file, the entry and the fix."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text) if text.lstrip().startswith("[") else list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as a list of faults: {error}; give JSON or CSV") from error
    if not entries:
        raise DataError(f"{path}: it lists no fault; give a JSON list or a CSV with the columns asset, start, end")
    return [_interval(path, number, entry) for number, entry in enumerate(entries, start=1)]


def _interval(path: Path, number: int, entry: Mapping[str, Any]) -> Interval:
    from stream_detector.datasets.ground_truth import Interval

    try:
        start, end = _time(entry["start"]), _time(entry["end"])
        one = Interval(str(entry["asset"]), start, end, str(entry.get("fault") or "fault"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "asset, start and end, times as ISO 8601 (2020-03-09T10:14:33Z) or UNIX ms"
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: fault {number} has not {expected} ({reason}); mend or remove it") from error
    if end < start:
        raise DataError(f"{path}: fault {number} of {one.asset!r} ends before it starts; swap start and end")
    return one


def _time(value: object) -> float:
    """Return UNIX ms."""
    from stream_detector.datasets.times import iso_to_ms

    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return iso_to_ms(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise ValueError(f"{value!r} is no time")
    return float(value)
