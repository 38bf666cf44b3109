"""Tiny labelled data in the layouts of the public sets: a load that swings, and a jump that is a fault."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from tests.producers import files

START = datetime(2020, 3, 9, 10, tzinfo=UTC)


def series(rows: int, fault: range, seed: int = 0, columns: int = 1) -> np.ndarray:
    """Return (rows, columns) of a swinging signal, shifted by many of its spreads during the fault."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(rows) / 9)[:, None] * (1 + np.arange(columns)) + 0.1 * rng.normal(size=(rows, columns))
    load[np.isin(np.arange(rows), fault)] += 12
    return 20 + load


def moment(row: int, step_s: float = 1.0) -> str:
    """Time of a row."""
    return (START + timedelta(seconds=row * step_s)).strftime("%Y-%m-%d %H:%M:%S")


def skab(root: Path) -> Path:
    """Two labelled files of 700 rows, a fault in each, and a healthy one."""
    for number, fault in enumerate((range(520, 600), range(550, 640))):
        _skab(root / "valve1" / f"{number}.csv", 700, fault, number, True)
    _skab(root / "anomaly-free" / "anomaly-free.csv", 1_200, range(0), 9, False)
    return root


def _skab(path: Path, rows: int, fault: range, seed: int, labels: bool) -> None:
    values = series(rows, fault, seed, 8)
    lines = [files.SKAB_HEADER + (";anomaly;changepoint" if labels else "")]
    for row in range(rows):
        truth = f";{float(row in fault)};{float(row == fault.start)}" if labels else ""
        lines.append(f"{moment(row)};" + ";".join(f"{value:.4f}" for value in values[row]) + truth)
    files.write(path, "\n".join(lines) + "\n")


def nab(root: Path) -> Path:
    """Two series of 1,200 five-minute values; one has a window."""
    windows: dict[str, list[list[str]]] = {"art/quiet.csv": []}
    fault = range(800, 860)
    for name, where in (("quiet", range(0)), ("jump", fault)):
        values = series(1_200, where, len(name))[:, 0]
        text = "".join(f"{moment(row, 300)},{value:.4f}\n" for row, value in enumerate(values))
        files.write(root / "data" / "art" / f"{name}.csv", "timestamp,value\n" + text)
    ends = [f"{moment(row, 300)}.000000" for row in (fault.start - 20, fault.stop + 20)]
    windows["art/jump.csv"] = [ends]
    files.write(root / "labels" / "combined_windows.json", json.dumps(windows))
    return root


def smap_msl(root: Path) -> Path:
    """One channel of three columns, in the public layout."""
    for part, rows, fault, seed in (("train", 500, range(0), 1), ("test", 400, range(200, 260), 2)):
        (root / part).mkdir(parents=True)
        np.save(root / part / "P-1.npy", series(rows, fault, seed, 3))
    files.write(
        root / "labeled_anomalies.csv",
        'chan_id,spacecraft,anomaly_sequences,class,num_values\nP-1,SMAP,"[[200, 259]]",[point],400\n',
    )
    return root


def ucr(root: Path) -> Path:
    """One series of 1,200 values."""
    values = series(1_200, range(899, 930))[:, 0]
    files.write(root / "007_UCR_Anomaly_Tide_600_900_930.txt", "".join(f"{value:.5e}\n" for value in values))
    return root


def yahoo_s5(root: Path) -> Path:
    """One series of A1, in hours."""
    fault = range(500, 520)
    rows = enumerate(series(800, fault)[:, 0])
    text = "".join(f"{row + 1},{value:.4f},{int(row in fault)}\n" for row, value in rows)
    files.write(root / "A1Benchmark" / "real_1.csv", "timestamp,value,is_anomaly\n" + text)
    return root


def table(root: Path) -> Path:
    """Somebody's own CSV of two sensors."""
    fault = range(500, 560)
    lines = ["timestamp,flow,pressure,anomaly"]
    for row, (flow, pressure) in enumerate(series(800, fault, columns=2)):
        lines.append(f"{moment(row).replace(' ', 'T')}Z,{flow:.4f},{pressure:.4f},{int(row in fault)}")
    files.write(root / "line3.csv", "\n".join(lines) + "\n")
    return root


def cwru(root: Path) -> Path:
    """A healthy bearing at 48 kHz, a fault at each rate: noise of another size and colour."""
    rng = np.random.default_rng(3)
    (root / "x").mkdir(parents=True)
    tone = np.sin(np.arange(192_000) / 7)
    np.savez(root / "x" / "Normal_DE48.npz", DE=tone + 0.1 * rng.normal(size=192_000))
    np.savez(root / "x" / "IR_DE48.npz", DE=tone[:16_000] + 9 * rng.normal(size=16_000))
    np.savez(root / "x" / "OR_DE12.npz", DE=3 * rng.normal(size=8_000))
    return root


def femto(root: Path) -> Path:
    """A bearing of 300 blocks whose vibration grows after two thirds of its life, and its thermometer, at 10 Hz."""
    rng = np.random.default_rng(4)
    for number in range(300):
        size = 0.1 * (1 + max(0, number - 200))
        seconds = number * 10
        clock = f"{9 + seconds // 3600},{seconds // 60 % 60},{seconds % 60}"
        waves = size * rng.normal(size=(64, 2))
        text = "".join(f"{clock},{i * 39},{h:.4f},{v:.4f}\n" for i, (h, v) in enumerate(waves))
        files.write(root / "Bearing1_1" / f"acc_{number + 1:05d}.csv", text)
    heat = "".join(f"9,{i // 600},{i // 10 % 60},{i % 10},25.1\n" for i in range(1_200))
    files.write(root / "Bearing1_1" / "temp_00001.csv", heat)
    return root


def _connection(rng: np.random.Generator, attack: str) -> str:
    numbers = rng.poisson(3, size=38).astype(float) + (40 if attack != "normal" else 0)
    fields = [str(value) for value in numbers]
    return ",".join([fields[0], "tcp", "http", "SF", *fields[1:], attack])


def nsl_kdd(root: Path) -> Path:
    """300 connections to train on, 120 to judge, a third attacks, one of them unknown before."""
    rng = np.random.default_rng(6)
    train = [_connection(rng, "neptune" if row % 10 == 0 else "normal") + ",21" for row in range(300)]
    kinds = ["normal", "normal", "neptune", "normal", "normal", "mailbomb"]
    test = [_connection(rng, kinds[row % 6]) + ",21" for row in range(120)]
    files.write(root / "KDDTrain+.txt", "\n".join(train) + "\n")
    files.write(root / "KDDTest+.txt", "\n".join(test) + "\n")
    return root


def kdd99(root: Path) -> Path:
    """400 connections in one file."""
    rng = np.random.default_rng(7)
    rows = [_connection(rng, "smurf" if row % 8 == 7 else "normal") + "." for row in range(400)]
    files.write(root / "kddcup.data_10_percent", "\n".join(rows) + "\n")
    return root


def creditcard(root: Path) -> Path:
    """400 transactions, every tenth a fraud."""
    rng = np.random.default_rng(8)
    lines = ["Time," + ",".join(f"V{i}" for i in range(1, 29)) + ",Amount,Class"]
    for row in range(400):
        fraud = row % 10 == 5
        values = rng.normal(size=29) + 9 * fraud
        lines.append(f"{row // 2}," + ",".join(f"{value:.4f}" for value in values) + f",{int(fraud)}")
    files.write(root / "creditcard.csv", "\n".join(lines) + "\n")
    return root
