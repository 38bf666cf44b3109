"""Shipped set-ups for what no public set here covers, from outside: a generated history, `train`, `backtest`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from stream_detector.__main__ import main
from stream_detector.cli.evaluate import CONFIGS

START_S = 1_700_000_000
Row = dict[str, object]


def write(path: Path, rows: Iterable[Row]) -> Path:
    """Write rows as CSV."""
    listed = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)
    return path


def processes(count: int, seed: int) -> list[Row]:
    """What a host's audit log tells of usual processes: a few kinds, each with its own user, parent and amounts."""
    rng = np.random.default_rng(seed)
    kinds = [
        ("www", "nginx", "systemd", 0, 40, 2, 30, 5e5),
        ("root", "cron", "systemd", 1, 12, 1, 0, 0),
        ("app", "python3", "nginx", 0, 90, 8, 6, 4e4),
        ("backup", "rsync", "cron", 0, 900, 400, 1, 2e7),
    ]
    rows: list[Row] = []
    for index in range(count):
        user, process, parent, privileged, opened, written, connections, sent = kinds[rng.integers(len(kinds))]
        amounts = [int(rng.poisson(x * rng.lognormal(0, 0.2))) for x in (opened, written, connections, sent)]
        rows.append(
            {
                "ts": START_S + index,
                "asset": "web-1",
                "user": user,
                "process": process,
                "parent": parent,
                "outcome": "denied" if rng.random() < 0.02 else "ok",
                "privileged": privileged,
                **dict(zip(("files_opened", "files_written", "connections", "bytes_sent"), amounts, strict=True)),
                "duration": round(float(rng.lognormal(0, 0.3)), 3),
            }
        )
    return rows


def minutes(count: int, seed: int) -> list[Row]:
    """An instrument's minutes: returns with heavy tails, volumes that go with them."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(5, count)
    price = np.log(100) + np.cumsum(3e-4 * moves)
    volume = 9 + 0.3 * np.abs(moves) + 0.2 * rng.normal(size=count)
    trades = volume - 4 + 0.1 * rng.normal(size=count)
    spread = 2 + 0.2 * np.abs(rng.normal(size=count))
    return [
        {
            "ts": START_S + 60 * i,
            "asset": "ABC",
            "price_log": f"{price[i]:.6f}",
            "volume_log": f"{volume[i]:.4f}",
            "trades_log": f"{trades[i]:.4f}",
            "spread": f"{spread[i]:.3f}",
        }
        for i in range(count)
    ]


def alerts(setup: str, history: Path, later: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict]:
    """Train the shipped set-up on the history; return what a backtest of the later rows would have published."""
    config = folder / f"{setup}.yaml"
    config.write_text((CONFIGS / f"{setup}.yaml").read_text())
    made = str(folder / "detector.safetensors")
    assert main(["train", str(config), "--data", str(history), "--ts-unit", "s", "--out", made, "--quiet"]) == 0
    capsys.readouterr()
    config.write_text(config.read_text().replace("artifact: ../artifacts/", "artifact: detector.safetensors  # "))
    assert main(["backtest", str(config), "--data", str(later), "--ts-unit", "s", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_intruder_s_shell_on_a_host(tmp_path, capsys):
    """A shell out of a web server that reads everything and sends it away is told; what is usual makes few alerts."""
    later = processes(800, seed=1)
    later[500] |= {
        "user": "www",
        "process": "sh",
        "parent": "nginx",
        "outcome": "denied",
        "privileged": 1,
        "files_opened": 40_000,
        "files_written": 700,
        "connections": 4,
        "bytes_sent": 900_000_000,
    }
    history = write(tmp_path / "history.csv", processes(4_000, seed=0))
    found = alerts("host", history, write(tmp_path / "later.csv", later), tmp_path, capsys)
    opened = [alert for alert in found if alert["event"] == "open"]
    assert any("T22:21:40" in alert["end"] for alert in opened), [alert["end"] for alert in opened]
    assert len(opened) <= 8


def test_a_flash_crash_of_a_price(tmp_path, capsys):
    """Ten per cent in three minutes on a multiple of the volume is told while it happens; other hours are quiet."""
    later = minutes(1_500, seed=1)
    for index in range(1_000, 1_500):
        fall = 0.035 * min(index - 999, 3)
        later[index]["price_log"] = f"{float(str(later[index]['price_log'])) - fall:.6f}"
        if index < 1_003:
            later[index]["volume_log"] = f"{float(str(later[index]['volume_log'])) + 2.5:.4f}"
    history = write(tmp_path / "history.csv", minutes(4_000, seed=0))
    found = alerts("prices", history, write(tmp_path / "later.csv", later), tmp_path, capsys)
    opened = [alert for alert in found if alert["event"] == "open"]
    crash = f"{np.datetime64(START_S + 60 * 1_000, 's')}"
    assert any(crash[:15] <= alert["end"][:15] <= f"{crash[:14]}9" for alert in opened), [a["end"] for a in opened]
    assert len(opened) <= 3
