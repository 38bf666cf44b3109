"""CWRU bearing data: waveforms of accelerometers (g) at the drive end (DE), fan end (FE) and base (BA).

Reads the public `.mat` files (keys such as `X097_DE_time`; extra `mat`) and `.npz` files with arrays DE, FE, BA. A
recording becomes messages of `block` samples; the last one may be shorter. The sample rate is the first of these that
is known: `rate_hz`; `fs_hz` in a `files.csv` beside the file; the rate in the file's name (`…_DE48.npz`); the rate of
the recording's number in the public set; 48 kHz for fault-free recordings; the rate in the name of a folder above it
(`12k Drive End Bearing Fault Data/`).

Labels: `is_anomaly` of `files.csv`; else 0 for the fault-free recordings (97 to 100, or with the word `normal` in the
name of the file or its folder) and 1 for all others, since every other recording of the set is of a damaged bearing.
"""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.datasets.table import read_text
from stream_detector.errors import DataError

CHANNELS = ("DE", "FE", "BA")
_KEY = re.compile(r"X(\d+)_(DE|FE|BA)_time")
_RATE = re.compile(r"(?:DE|FE)(12|48)\b|(?<!\d)(12|48)\s*k", re.IGNORECASE)
_NORMAL = re.compile(r"(?<![A-Za-z])(?:normal|Normal|NORMAL)(?![a-z])")  # neither abnormal nor normalised
_FAULT_FREE = range(97, 101)
#: Sample rate of the fault-free recordings. Some indexes and mirrors list 12 kHz, but only 48 kHz gives the right shaft
#: frequency.
_FAULT_FREE_HZ = 48_000.0
#: Sample rate -> (first, last) numbers of the public set's fault recordings; 12 kHz has drive end and fan end.
_NUMBERED = {
    48_000.0: (
        (109, 112),
        (122, 125),
        (135, 138),
        (148, 151),
        (161, 164),
        (173, 177),
        (189, 192),
        (201, 204),
        (213, 217),
        (226, 229),
        (238, 241),
        (250, 253),
        (262, 265),
    ),
    12_000.0: (
        (105, 108),
        (118, 121),
        (130, 133),
        (144, 147),
        (156, 160),
        (169, 172),
        (185, 188),
        (197, 200),
        (209, 212),
        (222, 225),
        (234, 237),
        (246, 249),
        (258, 261),
        (270, 318),
        (3001, 3008),
    ),
}

Waves = dict[str, NDArray[np.float64]]


def _find(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for ending in ("*.mat", "*.npz") for file in path.rglob(ending)]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    if options.block < 1:
        raise DataError(f"a block must hold at least 1 sample, got {options.block}")
    number, waves = _from_npz(path) if path.suffix.lower() == ".npz" else _from_mat(path)
    entry = _entry(path)
    faulty = _is_faulty(path, number, entry)
    rate_hz = options.rate_hz or _rate(path, entry, number, faulty)
    length = min(map(len, waves.values()))  # in a few files one sensor stopped some samples earlier
    starts = range(0, length, options.block)
    interval_ms = 1_000.0 / rate_hz
    ts_ms = options.start_ms + np.arange(len(starts), dtype=np.float64) * (options.block * interval_ms)
    name = (entry or {}).get("fault", "") or "bearing"
    return [
        Recording(
            asset=asset,
            ts_ms=ts_ms,
            blocks={
                channel: [waves[channel][start : min(start + options.block, length)] for start in starts]
                for channel in options.choose(list(waves), str(path))
            },
            interval_ms=interval_ms,
            labels=np.full(len(starts), faulty, np.int8),
            faults=[Fault(float(ts_ms[0]), options.start_ms + length * interval_ms, name)] if faulty else [],
            source=str(path),
        )
    ]


def _from_npz(path: Path) -> tuple[int | None, Waves]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            waves = {name: _wave(arrays[name], path, name) for name in CHANNELS if name in arrays}
            keys = list(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file that can be read: {error}") from error
    if not waves:
        raise DataError(f"{path}: none of the arrays DE, FE, BA is in it; it holds: {', '.join(keys) or 'nothing'}")
    return None, waves


def _from_mat(path: Path) -> tuple[int | None, Waves]:
    """Return the recording's number and waveforms; with two numbers in a file, the one in its name or the higher."""
    try:
        scipy_io = importlib.import_module("scipy.io")  # an optional extra, untyped and slow to import
    except ImportError as error:
        raise DataError(f"{path}: reading .mat files needs scipy; install stream-detector[mat]") from error
    try:
        arrays: dict[str, Any] = scipy_io.loadmat(path)
    except Exception as error:  # scipy raises many types of exceptions on damaged files
        raise DataError(f"{path}: not a .mat file that can be read: {error}") from error
    found: dict[int, Waves] = {}
    for key, array in arrays.items():
        if match := _KEY.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = _wave(array, path, key)
    if not found:
        keys = ", ".join(key for key in arrays if not key.startswith("__"))
        raise DataError(f"{path}: no array is named like X097_DE_time; it holds: {keys or 'nothing'}")
    number = int(path.stem) if path.stem.isdecimal() and int(path.stem) in found else max(found)
    return number, {name: found[number][name] for name in CHANNELS if name in found[number]}


def _wave(array: Any, path: Path, name: str) -> NDArray[np.float64]:
    wave = np.asarray(array, np.float64).reshape(-1)
    if not len(wave) or not np.isfinite(wave).all():
        raise DataError(
            f"{path}: {name} is empty or holds a sample that is not finite; correct the file or leave it out"
        )
    return wave


def _entry(path: Path) -> dict[str, str] | None:
    """Return the file's row of `files.csv` beside it, if any."""
    index = path.parent / "files.csv"
    if not index.is_file():
        return None
    table = read_text(index)
    if "file" not in table.header or path.name not in table.columns["file"]:
        return None
    row = table.columns["file"].index(path.name)
    return {name: column[row] for name, column in table.columns.items()}


def _rate(path: Path, entry: dict[str, str] | None, number: int | None, faulty: bool) -> float:
    if entry is not None and entry.get("fs_hz"):
        try:
            rate = float(entry["fs_hz"])
        except ValueError:
            rate = 0.0
        if not (0 < rate < np.inf):
            raise DataError(f"{path.parent}/files.csv: fs_hz of {path.name} is {entry['fs_hz']!r}, expected samples/s")
        return rate
    if (found := _named(path.name) or _rate_of(number)) is not None:
        return found
    if not faulty:
        return _FAULT_FREE_HZ
    for folder in path.resolve().parents:
        if (found := _named(folder.name)) is not None:
            return found
    raise DataError(
        f"{path}: the sample rate is unknown; put it in the folder's name, such as 12k Drive End Bearing Fault Data, "
        "put a files.csv (file,fs_hz) beside the file, or give --rate-hz 12000 or 48000"
    )


def _named(name: str) -> float | None:
    match = _RATE.search(name)
    return 1_000.0 * int(match[1] or match[2]) if match else None


def _is_faulty(path: Path, number: int | None, entry: dict[str, str] | None) -> bool:
    if entry is not None and entry.get("is_anomaly"):
        return entry["is_anomaly"].strip() not in ("0", "0.0")
    if number in _FAULT_FREE or _rate_of(number) is not None:
        return number not in _FAULT_FREE
    return not any(map(_NORMAL.search, (path.resolve().parent.name, path.stem)))


def _rate_of(number: int | None) -> float | None:
    """Return the sample rate of the public set's fault recording with this number; None for other numbers."""
    for rate, spans in _NUMBERED.items():
        if number is not None and any(first <= number <= last for first, last in spans):
            return rate
    return None


FORMAT = Format("*.mat with keys like X097_DE_time, or *.npz with arrays DE, FE, BA", _find, _load)
