"""Yahoo S5: series of `value` with labelled points, folders `A1Benchmark` to `A4Benchmark`.

A1, A2: `timestamp,value,is_anomaly`. A3, A4: `timestamps,value,anomaly,changepoint,trend,noise,seasonality1` to `3`;
the components of the value (trend, noise, seasonality) are not channels. Times are UNIX seconds, or (A1) hours, counted
from `start_ms`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream_detector.datasets.options import Format, ReadOptions, first_line
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.table import read_text
from stream_detector.errors import DataError

_HOUR_MS = 3_600_000.0
#: Times below this are hours: as UNIX seconds they would be in 1970.
_LEAST_SECONDS = 10_000_000.0
_HEADERS = {
    ("timestamp", "value", "is_anomaly"): "is_anomaly",
    (
        "timestamps",
        "value",
        "anomaly",
        "changepoint",
        "trend",
        "noise",
        "seasonality1",
        "seasonality2",
        "seasonality3",
    ): "anomaly",
}


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*.csv") if _fields(first_line(file)) in _HEADERS]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    table = read_text(path, delimiter=",")
    label = _HEADERS.get(tuple(table.header))
    if label is None:
        raise DataError(
            f"{path}, line 1: the header is {','.join(table.header)[:80]!r}, expected timestamp,value,is_anomaly "
            "(A1, A2) or timestamps,value,anomaly,changepoint,… (A3, A4); is this a Yahoo S5 file?"
        )
    times = table.numbers(table.header[0])
    if not np.isfinite(times).all():
        row = int(np.argmin(np.isfinite(times)))
        raise DataError(f"{path}, line {table.lines[row]}: the timestamp is missing; correct or remove the row")
    in_hours = float(times.max()) < _LEAST_SECONDS
    return [
        Recording(
            asset=asset,
            ts_ms=options.start_ms + _HOUR_MS * (times - times.min()) if in_hours else 1_000.0 * times,
            values={name: table.numbers(name) for name in options.choose(["value"], str(path))},
            labels=table.flags(label),
            marks={"changepoint": table.flags("changepoint")} if "changepoint" in table.header else {},
            source=str(path),
        )
    ]


def _fields(line: str) -> tuple[str, ...]:
    return tuple(field.strip() for field in line.split(","))


FORMAT = Format("AnBenchmark/*.csv with `timestamp,value,is_anomaly` or `timestamps,value,anomaly,…`", _find, _load)
