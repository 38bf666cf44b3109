"""NAB, the Numenta anomaly benchmark: series of `timestamp,value`.

The labelled windows are in `labels/combined_windows.json`, searched for in the folders above the file. Without it, or
if the file isn't listed in it, a recording has no labels. Times have no offset and are taken as UTC.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions, first_line
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.datasets.table import read_text
from stream_detector.datasets.times import iso_to_ms, texts_to_ms
from stream_detector.errors import DataError

_LABELS = Path("labels", "combined_windows.json")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*.csv") if first_line(file) == "timestamp,value"]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    table = read_text(path, delimiter=",")
    if table.header != ["timestamp", "value"]:
        raise DataError(
            f"{path}, line 1: the header is {','.join(table.header)!r}, expected 'timestamp,value'; "
            "is this a NAB file? --format csv reads other tables"
        )
    ts_ms = texts_to_ms(table.columns["timestamp"], None, str(path), table.lines)
    windows = _windows(path)
    return [
        Recording(
            asset=asset,
            ts_ms=ts_ms,
            values={name: table.numbers(name) for name in options.choose(["value"], str(path))},
            labels=None if windows is None else _inside(ts_ms, windows),
            faults=[Fault(start, end, "anomaly") for start, end in windows or []],
            source=str(path),
        )
    ]


def _windows(path: Path) -> list[tuple[float, float]] | None:
    """Return the file's labelled windows, UNIX ms, ends included; None when there are no labels for the file."""
    full = path.resolve()
    for folder in full.parents:
        labels = folder / _LABELS
        if not labels.is_file():
            continue
        try:
            windows = json.loads(labels.read_bytes()).get(f"{full.parent.name}/{full.name}")
            return None if windows is None else [(iso_to_ms(start), iso_to_ms(end)) for start, end in windows]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{labels}: not NAB's file of labelled windows: {error}") from error
    return None


def _inside(ts_ms: NDArray[np.float64], windows: list[tuple[float, float]]) -> NDArray[np.int8]:
    labels = np.zeros(len(ts_ms), np.int8)
    for start, end in windows:
        labels[(ts_ms >= start) & (ts_ms <= end)] = 1
    return labels


FORMAT = Format("*.csv with `timestamp,value` as header", _find, _load)
