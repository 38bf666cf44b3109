"""What flows while faults go on: machines with faults of their own, recorded; a detector trained on a part of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.output import write
from producers.recording import Recording
from producers.simulate import simulate
from tests.integration.site import DETECTOR, call, write_config

#: Many alerts: hardly a moment at which a fault could strike without one being on its way.
TALKATIVE: dict[str, Any] = {
    "threshold": {"method": "spot", "risk": 1e-2},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
}
#: Machines a detector is trained on; the others are of the same type.
_TRAINED_ON = 24
_FAULTS = ("bearing-outer", "overheating", "sensor-stuck/current", "bearing-inner", "sensor-offset/temperature")
_HEALTHY = 0.4  # share of every recording without a fault


@dataclass(frozen=True)
class Material:
    """Recordings as files and in memory, a detector, and the set-up for a backtest of them."""

    recordings: list[Recording]
    files: list[Path]
    artifact: Path
    config: Path


def make_material(folder: Path, assets: int, minutes: float, seed: int) -> Material:
    """Simulate machines, one reading a second; three of four have a fault in their later half, all are knocked at."""
    chance = random.Random(seed)
    faults = []
    for index in range(1, assets + 1):
        if index % 4:
            kind, at = chance.choice(_FAULTS), int(chance.uniform(0.45, 0.8) * minutes)
            faults.append(f"machine-{index}={kind}@{at}m+{max(3, int(minutes / 6))}m:0.9")
    recordings = simulate(assets, minutes / 60, seed=seed, faults=", ".join(faults))
    for recording in recordings:
        _knock(recording, chance)
    files = [path for path in write(recordings, folder / "recordings") if path.suffix == ".csv"]
    artifact = folder / "machine.safetensors"
    config = write_config(folder / "train.yaml", "training", artifact, {}, "redis://127.0.0.1:1/0", **TALKATIVE)
    rows = int(minutes * 60 * _HEALTHY)
    call(DETECTOR, "train", config, "--data", *files[:_TRAINED_ON], "--rows", rows, "--quiet")
    return Material(recordings, files, artifact, config)


def _knock(recording: Recording, chance: random.Random) -> None:
    """Add knocks of some seconds to all but the healthy beginning: an alert or two each."""
    values = recording.values["vibration"]
    row = int(_HEALTHY * len(values))
    while (row := row + int(chance.uniform(15, 60))) < len(values) - 10:
        length = chance.randrange(4, 9)
        values[row : row + length] = values[row : row + length] * 8 + 1
