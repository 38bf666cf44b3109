"""IMS bearings (University of Cincinnati): four bearings run to failure, one folder per test.

Files are named by their time, `YYYY.MM.DD.hh.mm.ss`, and hold 20,480 rows at 20 kHz, tab-separated: 8 columns in test 1
(two accelerometers per bearing: `bearing1.x`, `bearing1.y`, …), 4 in tests 2 and 3 (`bearing1` to `bearing4`), in g.
Each file becomes one message with one block per channel. There are no labels: each recording ends when a bearing fails.
A test is large (test 1: 1.4 GB in memory); `--columns bearing3.x` reads one channel.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.times import iso_to_ms
from stream_detector.errors import DataError

RATE_HZ = 20_000.0
_FILE = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})\.(\d{2})\.(\d{2})\.(\d{2})")
_CHANNELS = {
    4: ["bearing1", "bearing2", "bearing3", "bearing4"],
    8: [f"bearing{bearing}.{axis}" for bearing in range(1, 5) for axis in ("x", "y")],
}


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return list({file.parent for file in path.rglob("*") if _FILE.fullmatch(file.name)})


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    if path.is_file():
        raise DataError(f"{path}: an IMS recording is a folder of files named by their time; give {path.parent}")
    files = sorted(file for file in path.iterdir() if _FILE.fullmatch(file.name))
    if not files:
        raise DataError(f"{path}: no file named like 2004.02.12.10.32.39 in this folder")
    width = _width(files[0])
    if width not in _CHANNELS:
        raise DataError(f"{files[0]}, line 1: {width} columns, expected 4 or 8 separated by tabs")
    names = _CHANNELS[width]
    chosen = options.choose(names, str(path))
    blocks: dict[str, list[NDArray[np.float64] | None]] = {name: [] for name in chosen}
    for file in files:
        table = _table(file, [names.index(name) for name in chosen], width)
        for place, name in enumerate(chosen):
            blocks[name].append(np.ascontiguousarray(table[:, place]))
    return [
        Recording(
            asset=asset,
            ts_ms=np.array([_time(file) for file in files]),
            blocks=blocks,
            interval_ms=1_000.0 / (options.rate_hz or RATE_HZ),
            source=str(path),
        )
    ]


def _time(file: Path) -> float:
    match = _FILE.fullmatch(file.name)
    assert match is not None
    year, month, day, hour, minute, second = match.groups()
    try:
        return iso_to_ms(f"{year}-{month}-{day}T{hour}:{minute}:{second}")
    except ValueError as error:
        raise DataError(f"{file}: its name is not a time: {error}; rename or remove it") from None


def _width(file: Path) -> int:
    try:
        with file.open(encoding="ascii", errors="replace") as text:
            return len(text.readline().split())
    except OSError as error:
        raise DataError(f"{file}: can't be read: {error.strerror or error}") from error


def _table(file: Path, columns: list[int], width: int) -> NDArray[np.float64]:
    """Return the columns of one file as float32, to save memory: the files have three decimals."""
    if (found := _width(file)) != width:
        raise DataError(
            f"{file}, line 1: {found} columns, the folder's first file has {width}; use one folder per test"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty file
            table = np.loadtxt(file, dtype=np.float32, usecols=columns, ndmin=2, encoding="ascii")
    except (OSError, ValueError, UserWarning) as error:
        raise DataError(f"{file}: not a table of numbers: {error}; correct or remove the file") from error
    if not np.isfinite(table).all():
        row = int(np.argmin(np.isfinite(table).all(axis=1)))
        raise DataError(f"{file}, line {row + 1}: a value is not finite; correct or remove the file")
    return table  # type: ignore[return-value]  # float32, see above; messages are read as float32 anyway


FORMAT = Format("folders of files named YYYY.MM.DD.hh.mm.ss", _find, _load)
