"""Tiny files in the layouts of the public data sets, and where the real ones lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_detector.datasets.recording import Recording

DATA = Path(__file__).parents[3] / "shared" / "data"

SKAB_HEADER = (
    "datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;Volume Flow RateRMS"
)


def real(name: str) -> Path:
    """Return a folder of the shared data; skips the test where it is missing."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the recordings are not here: {folder.name} of ../shared/data")
    return folder


def only(recordings: list[Recording]) -> Recording:
    """The one recording there is."""
    assert len(recordings) == 1
    return recordings[0]


def write(path: Path, text: str) -> Path:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def skab(path: Path, rows: int = 3, labels: bool = True, end: str = "\r\n") -> Path:
    """A SKAB file, a row a second from 10:14:33; the second row is anomalous."""
    header = SKAB_HEADER + (";anomaly;changepoint" if labels else "")
    lines = [header]
    for row in range(rows):
        numbers = ";".join(f"{row + column / 10:.1f}" for column in range(8))
        truth = f";{float(row == 1)};{float(row == 1)}" if labels else ""
        lines.append(f"2020-03-09 10:14:{33 + row:02d};{numbers}{truth}")
    return write(path, end.join(lines) + end)


def femto_wave(path: Path, clock: tuple[int, int, int, float], rows: int = 4, separator: str = ",") -> Path:
    """A FEMTO acceleration file: horizontal counts 0, 1, …, vertical is its negative."""
    hour, minute, second, micros = clock
    lines = [
        separator.join(map(str, (hour, minute, second, f"{micros + row * 39:.4e}", float(row), -float(row))))
        for row in range(rows)
    ]
    return write(path, "\n".join(lines) + "\n")


def femto_heat(path: Path, clock: tuple[int, int, int], rows: int = 3) -> Path:
    """A FEMTO temperature file from this second on, ten rows a second."""
    hour, minute, second = clock
    lines = [f"{hour:02d};{minute:02d};{second + row // 10:02d};{row % 10};{70 + row:.3f}" for row in range(rows)]
    return write(path, "\r\n".join(lines) + "\r\n")


def cwru(path: Path, samples: int = 2_500) -> Path:
    """A bearing recording as .npz: DE counts samples, FE is its half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.arange(samples, dtype=float).reshape(-1, 1)
    np.savez(path, DE=wave, FE=wave / 2)
    return path
