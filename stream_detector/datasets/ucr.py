"""UCR anomaly archive: one series per file, `NNN_UCR_Anomaly_NAME_TRAIN_BEGIN_END.txt`.

There is one value per line; in some files all values are on one line. The first TRAIN values are normal and marked
`training`; the only anomaly is at values BEGIN to END, counted from 1. There are no times: values are placed one second
apart, or at the rate `rate_hz`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.errors import DataError

_NAME = re.compile(r"\d+_UCR_Anomaly_(?P<name>.+)_(?P<train>\d+)_(?P<begin>\d+)_(?P<end>\d+)\.txt")


def _find(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*.txt") if _NAME.fullmatch(file.name)]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path}: the name must give the anomaly's place, as in NNN_UCR_Anomaly_NAME_TRAIN_BEGIN_END.txt; "
            "keep the archive's names"
        )
    values = []
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, 1):
                try:
                    values += list(map(float, text.split()))
                except ValueError as error:
                    raise DataError(f"{path}, line {line}: {error}, expected a number; correct the line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    train, begin, end = (int(match[name]) for name in ("train", "begin", "end"))
    if not 0 < train < begin <= end <= len(values):
        raise DataError(
            f"{path}: its name says training to {train} and an anomaly at {begin} to {end}, but there are "
            f"{len(values)} values; is the file complete?"
        )
    place = np.arange(1, len(values) + 1)
    step_ms = 1_000.0 / (options.rate_hz or 1.0)
    ts_ms = options.start_ms + step_ms * np.arange(len(values), dtype=np.float64)
    return [
        Recording(
            asset=asset,
            ts_ms=ts_ms,
            values={name: np.array(values) for name in options.choose(["value"], str(path))},
            labels=((place >= begin) & (place <= end)).astype(np.int8),
            marks={"training": (place <= train).astype(np.int8)},
            faults=[Fault(float(ts_ms[begin - 1]), float(ts_ms[end - 1]), match["name"])],
            source=str(path),
        )
    ]


FORMAT = Format("NNN_UCR_Anomaly_NAME_TRAIN_BEGIN_END.txt, one value per line", _find, _load)
