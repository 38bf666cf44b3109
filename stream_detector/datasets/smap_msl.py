"""NASA's SMAP and MSL telemetry: one recording per channel, in `train/NAME.npy` and `test/NAME.npy`, or in NAME.npz.

Column 0 is the telemetry `value`; the others, from `command1` on, encode the commands sent. Training rows come first
and are marked `training`. Anomalies are index ranges of the test part, ends included, in `labeled_anomalies.csv`, which
is searched for in the folders above the file; without it, or if it doesn't list the channel, there are no labels.
There are no times: rows are placed one minute apart.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.datasets.table import read_text
from stream_detector.errors import DataError

_LABELS = "labeled_anomalies.csv"
_STEP_MS = 60_000.0


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [*path.rglob("*.npz"), *(file for file in path.rglob("*.npy") if file.parent.name == "test")]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    train, test = _parts(path)
    names = ["value", *(f"command{index}" for index in range(1, test.shape[1]))]
    chosen = options.choose(names, str(path))
    rows = np.concatenate([train, test])
    ranges = _ranges(path)
    ts_ms = options.start_ms + _STEP_MS * np.arange(len(rows), dtype=np.float64)
    labels = None
    faults = []
    if ranges is not None:
        labels = np.zeros(len(rows), np.int8)
        for start, end in ranges:
            if not 0 <= start <= end:
                raise DataError(f"{path.stem} in {_LABELS}: {start} to {end} is not a range of indices; correct it")
            first, last = len(train) + start, min(len(train) + end, len(rows) - 1)  # some ranges end past the last row
            labels[first : last + 1] = 1
            if first <= last:
                faults.append(Fault(float(ts_ms[first]), float(ts_ms[last]), "anomaly"))
    return [
        Recording(
            asset=asset,
            ts_ms=ts_ms,
            values={name: np.ascontiguousarray(rows[:, names.index(name)]) for name in chosen},
            labels=labels,
            marks={"training": (np.arange(len(rows)) < len(train)).astype(np.int8)},
            faults=faults,
            source=str(path),
        )
    ]


def _parts(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                if missing := {"train", "test"} - set(arrays):
                    raise DataError(f"{path}: no array {sorted(missing)[0]!r}; expected train and test")
                found = [arrays["train"], arrays["test"]]
        else:
            beside = path.parent.parent / "train" / path.name
            if not beside.is_file():
                raise DataError(f"{path}: its training part {beside} is missing; keep the folders train/ and test/")
            found = [np.load(file, allow_pickle=False) for file in (beside, path)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not arrays that can be read: {error}") from error
    train, test = (np.asarray(part, np.float64) for part in found)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not len(test):
        raise DataError(f"{path}: train is {train.shape}, test {test.shape}; expected (rows, columns) of equal columns")
    return train, test


def _ranges(path: Path) -> list[tuple[int, int]] | None:
    for folder in path.resolve().parents:
        labels = folder / _LABELS
        if not labels.is_file():
            continue
        table = read_text(labels, delimiter=",")
        for name in ("chan_id", "anomaly_sequences"):
            if name not in table.header:
                raise DataError(f"{labels}, line 1: no column {name!r}; the columns are: {', '.join(table.header)}")
        found: list[tuple[int, int]] = []
        known = False
        for row, channel in enumerate(table.columns["chan_id"]):
            if channel.strip() != path.stem:
                continue
            known = True
            found += _pairs(table.columns["anomaly_sequences"][row], f"{labels}, line {table.lines[row]}")
        return sorted(found) if known else None
    return None


def _pairs(text: str, where: str) -> list[tuple[int, int]]:
    try:
        pairs: Any = json.loads(text)
        return [(int(start), int(end)) for start, end in pairs]
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {text[:40]!r} is not a list of [first, last]: {error}") from None


FORMAT = Format("NAME.npz (train, test), or train/NAME.npy and test/NAME.npy; labeled_anomalies.csv", _find, _load)
