"""What flows while faults go on: machines with faults of their own, recorded; a detector trained on a part of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.datasets.output import write
from stream_detector.datasets.recording import Recording
from stream_detector.simulation.simulate import simulate
from tests.integration.site import DETECTOR, call, write_config

#: All that moves thresholds and tells of sensors, fast enough for an hour of recordings, and many alerts: hardly a
#: moment at which a fault could strike without one being on its way.
TALKATIVE: dict[str, Any] = {
    "channels": {
        "vibration": {"unit": "g"},
        "temperature": {"valid": [-50, 500]},
        "current": {"unit": "A", "valid": [-10, 100]},
    },
    "threshold": {"method": "spot", "learn_after": 5, "max_peaks": 40, "budget": {"incidents": 600, "per": "day"}},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
    "adaptation": {"follow": 4.0, "block": 8, "flat_ms": 120_000, "policy": "adapt"},
}
#: Every reading a record, judged for itself as it comes.
_RECORDS: dict[str, Any] = {
    "channels": {
        "vibration": {"cell": "last", "log": True},
        "temperature": {"cell": "last", "valid": [-50, 500]},
        "current": {"cell": "last", "valid": [-10, 100]},
        "mode": {"kind": "category", "cell": "last"},
    },
    "window": {"mode": "records", "length": 1},
    "features": {"scaling": "standard", "clip": 10},
    "threshold": {"method": "spot", "risk": 1e-2, "learn_after": 5, "max_peaks": 40},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
}
#: Machines a detector is trained on; the others are of the same type.
_TRAINED_ON = 24
_FAULTS = ("bearing-outer", "overheating", "sensor-stuck/current", "bearing-inner", "sensor-offset/temperature")
_SENSORS = (
    "silent",
    "sensor-dropout/vibration",
    "sensor-out-of-range/temperature",
    "clock-behind",
    "sensor-stuck/vibration",
    "silent",
    "sensor-out-of-range/vibration",
    "sensor-saturated/vibration",
    "sensor-dropout/temperature",
    "sensor-out-of-range/current",
    "clock-ahead",
)
_CHANGES = ("load-step", "sensor-offset/temperature", "maintenance", "sensor-replaced/vibration")
_HEALTHY = 0.4  # share of every recording without a fault


@dataclass(frozen=True)
class Material:
    """Recordings as files and in memory, a detector, and the set-up for a backtest of them."""

    recordings: list[Recording]
    files: list[Path]
    artifact: Path
    config: Path
    sections: dict[str, Any]
    """Of the set-up."""


def make_material(
    folder: Path, assets: int, minutes: float, seed: int, records: bool = False, joined: bool = False
) -> Material:
    """Simulate machines, a reading a second, each with a course of its own; train a detector on their beginnings.

    `records`: each reading is a record. `joined`: fit for several topics, no machine's sensors fall silent and no clock
    is wrong: what is told of them depends on the order of the log, and topics have none together.
    """
    sections = _RECORDS if records else TALKATIVE
    chance = random.Random(seed)
    plans: list[str] = []
    knocked: list[float] = []  # until when, as a share of the recording
    for index in range(1, assets + 1):
        courses, until = _course(index + 2 * (joined and index % 4 == 1), minutes, chance)
        plans += [f"machine-{index}={course}" for course in courses]
        knocked.append(until)
    recordings = simulate(assets, minutes / 60, seed=seed, faults=", ".join(plans))
    for recording, until in zip(recordings, knocked, strict=True):
        _knock(recording, chance, until)
        if records:
            modes = chance.choices(["run", "idle", "?"], [90, 9, 1], k=len(recording))
            recording.values["mode"] = np.array(modes, object)
    files = [path for path in write(recordings, folder / "recordings") if path.suffix == ".csv"]
    artifact = folder / "machine.safetensors"
    config = write_config(folder / "train.yaml", "training", artifact, {}, "redis://127.0.0.1:1/0", **sections)
    rows = int(minutes * 60 * _HEALTHY)
    call(DETECTOR, "train", config, "--data", *files[:_TRAINED_ON], "--rows", rows, "--quiet")
    return Material(recordings, files, artifact, config, sections)


def _course(index: int, minutes: float, chance: random.Random) -> tuple[list[str], float]:
    """Return what happens to a machine, and up to which share of its recording it is knocked at.

    One of four has broken sensors, two of them in turn; one changes for good, then is let alone; one drifts, and has
    time to be quiet; one has faults.
    """

    def at(low: float, high: float) -> str:
        return f"{round(chance.uniform(low, high) * minutes * 60)}s"

    if index % 4 == 0:
        return [f"season@{at(0.35, 0.4)}~{round(minutes * 60)}s:1"], 0.0
    if index % 4 == 1:
        kinds = [_SENSORS[(index // 4 + more) % len(_SENSORS)] for more in (0, 5)]
        return [
            f"{kind}@{at(low, low + 0.1)}+{chance.randrange(20, 240)}s:{_severity(kind)}"
            for kind, low in zip(kinds, (0.45, 0.7), strict=True)
        ], 1.0
    if index % 4 == 2:
        kind, start = _CHANGES[index // 4 % len(_CHANGES)], round(chance.uniform(0.45, 0.6), 3)
        lasts = f"+{round((1 - start) * minutes * 60)}s" if kind.startswith("sensor-offset") else ""
        return [f"{kind}@{start:.1%}{lasts}:{chance.uniform(0.6, 0.9):.2f}"], start - 0.02
    kind = chance.choice(_FAULTS)
    return [f"{kind}@{at(0.45, 0.8)}+{max(180, round(minutes * 10))}s:0.9"], 1.0


def _severity(kind: str) -> float:
    """Return a fault's severity: a clock is two minutes off, not half an hour, which would hold its partition up."""
    return {"clock-ahead": 0.03, "clock-behind": 0.03}.get(kind, 0.9)


def _knock(recording: Recording, chance: random.Random, until: float) -> None:
    """Add knocks of some seconds after the healthy beginning: an alert or two each."""
    values = recording.values["vibration"]
    row = int(_HEALTHY * len(values))
    while (row := row + int(chance.uniform(15, 60))) < until * len(values) - 10:
        length = chance.randrange(4, 9)
        values[row : row + length] = values[row : row + length] * 8 + 1
