"""FEMTO-ST bearing data (PRONOSTIA): bearings run to failure, one folder `BearingX_Y` per bearing.

`acc_*.csv`: hour, minute, second, microsecond, horizontal and vertical acceleration (g), 2,560 samples at 25.6 kHz
every 10 s; each file becomes one message with a block of `horizontal` and one of `vertical`. `temp_*.csv`, if present:
hour, minute, second, tenth of a second, temperature (°C) at 10 Hz; each row becomes a reading of `temperature`.
Separator `,` or `;`, no header.

Files hold only the time of day: the first one is on the day of `start_ms`, and a jump back of more than half a day
means that midnight has passed. There are no labels: each recording ends when the bearing fails.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.errors import DataError

RATE_HZ = 25_600.0
_WAVES = {"horizontal": 4, "vertical": 5}  # channel -> column
_DAY_MS = 86_400_000.0
_FILE = re.compile(r"(acc|temp)_(\d+)\.csv", re.IGNORECASE)

Table = NDArray[np.float64]


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return list({file.parent for file in path.rglob("*.csv") if _FILE.fullmatch(file.name)})


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    if path.is_file():
        raise DataError(f"{path}: a FEMTO recording is a folder of acc_*.csv files; give the folder {path.parent}")
    waves = [(file, _table(file, 6)) for file in _files(path, "acc")]
    if not waves:
        raise DataError(f"{path}: no acc_*.csv in this folder; expected files such as acc_00001.csv")
    temperatures = _files(path, "temp")
    channels = options.choose([*_WAVES, *(["temperature"] if temperatures else [])], str(path))
    heat = [(file, _table(file, 5)) for file in temperatures] if "temperature" in channels else []

    midnight = np.floor(options.start_ms / _DAY_MS) * _DAY_MS
    clock = np.array([_of_day(table[:1], 1e-3)[0] for _, table in waves])
    wave_ts = midnight + _unwrapped(clock)
    heat_ts = np.empty(0)
    if heat:
        clock = _unwrapped(np.concatenate([_of_day(table, _sub_second_ms(table)) for _, table in heat]))
        # Waves and temperatures may start on different sides of midnight: choose the day with the closest starts.
        heat_ts = clock + midnight + _DAY_MS * np.round((wave_ts[0] - midnight - clock[0]) / _DAY_MS)
    ts_ms = np.concatenate([wave_ts, heat_ts])
    order = np.argsort(ts_ms, kind="stable")

    temperature = np.concatenate([np.full(len(waves), np.nan), *(table[:, 4] for _, table in heat)])
    blocks: dict[str, list[NDArray[np.float64] | None]] = {}
    for channel, column in _WAVES.items():
        if channel in channels:
            mine = [np.ascontiguousarray(table[:, column]) for _, table in waves]
            blocks[channel] = [mine[row] if row < len(mine) else None for row in order]
    return [
        Recording(
            asset=asset,
            ts_ms=ts_ms[order],
            values={"temperature": temperature[order]} if heat else {},
            blocks=blocks,
            interval_ms=1_000.0 / (options.rate_hz or RATE_HZ),
            source=str(path),
        )
    ]


def _files(folder: Path, kind: str) -> list[Path]:
    found = [(int(match[2]), file) for file in folder.iterdir() if (match := _FILE.fullmatch(file.name))]
    return [file for _, file in sorted(found) if file.name.lower().startswith(kind)]


def _table(path: Path, columns: int) -> Table:
    try:
        with path.open(encoding="ascii") as file:
            separator = ";" if ";" in file.readline() else ","
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty file
            table = np.loadtxt(path, delimiter=separator, ndmin=2, encoding="ascii")
    except (OSError, ValueError, UserWarning) as error:
        raise DataError(
            f"{path}: not a table of numbers without header: {error}; correct or remove the file"
        ) from error
    if table.shape[1] < columns:
        raise DataError(f"{path}: {table.shape[1]} columns, expected {columns}; correct or remove the file")
    if not np.isfinite(table[:, :columns]).all():
        row = int(np.argmin(np.isfinite(table[:, :columns]).all(axis=1)))
        raise DataError(f"{path}, line {row + 1}: a value is not finite; correct or remove the file")
    return table


def _of_day(table: Table, sub_second_ms: float) -> NDArray[np.float64]:
    """Return the time of day of each row, ms."""
    hours, minutes, seconds, parts = table[:, :4].T
    of_day: NDArray[np.float64] = ((hours * 60 + minutes) * 60 + seconds) * 1_000.0 + parts * sub_second_ms
    return of_day


def _sub_second_ms(table: Table) -> float:
    """Return the unit, in ms, of a temperature file's fourth column: tenths of a second, or microseconds in some."""
    return 100.0 if table[:, 3].max() < 10 else 1e-3


def _unwrapped(of_day_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a day each time the clock jumps back by more than half of one."""
    days = np.concatenate([[0.0], np.cumsum(np.diff(of_day_ms) < -_DAY_MS / 2)])
    unwrapped: NDArray[np.float64] = of_day_ms + days * _DAY_MS
    return unwrapped


FORMAT = Format("folders BearingX_Y of acc_*.csv", _find, _load)
