"""Card transactions (ULB): `Time` in seconds since the first one, `V1` to `V28`, `Amount`, and the label `Class`.

`Time` counts from `start_ms`. Transactions of the same second are placed 1 ms apart, so each has its own timestamp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.records import first_fields, read_records
from stream_detector.errors import DataError

_CHANNELS = (*(f"V{index}" for index in range(1, 29)), "Amount")
_NAMES = ("Time", *_CHANNELS, "Class")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    tables = [file for ending in ("*.csv", "*.csv.gz") for file in path.rglob(ending)]
    return [file for file in tables if first_fields(file) == list(_NAMES)]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    if first_fields(path) != list(_NAMES):
        raise DataError(f"{path}, line 1: expected Time,V1,…,V28,Amount,Class as header; is this creditcard.csv?")
    columns = read_records(path, _NAMES, (), header=True)
    labels = columns["Class"]
    if wrong := np.flatnonzero((labels != 0) & (labels != 1)).tolist():
        raise DataError(f"{path}, line {wrong[0] + 2}: Class is {labels[wrong[0]]:g}, expected 0 or 1; correct the row")
    return [
        Recording(
            asset=asset,
            ts_ms=options.start_ms + 1_000.0 * columns["Time"] + _turn(columns["Time"]),
            values={name: columns[name] for name in options.choose(_CHANNELS, str(path))},
            labels=labels.astype(np.int8),
            source=str(path),
        )
    ]


def _turn(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the number of rows directly before it with the same time."""
    index = np.arange(len(seconds))
    is_first = np.concatenate([[True], seconds[1:] != seconds[:-1]])
    turn: NDArray[np.float64] = (index - np.maximum.accumulate(np.where(is_first, index, 0))).astype(np.float64)
    return turn


FORMAT = Format("creditcard.csv with Time,V1,…,V28,Amount,Class as header", _find, _load)
