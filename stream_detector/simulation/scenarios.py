"""Scenarios, one for each cause of false alarms and missed faults: the faults and events of each machine in a run.

In the first 40 % of a run there is no fault or event, so that a detector can learn the normal state. After that, the
times differ from machine to machine; kinds of sensor faults rotate over the machines, so that a fleet has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_detector.simulation.faults import Duration, FaultPlan

#: Share of a run, at its beginning, without faults and events.
HEALTHY = 0.40

#: (asset, its index, its own random generator, channels) -> its faults and events.
_Plans = Callable[[str, int, np.random.Generator, Sequence[str]], list[FaultPlan]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario: description, plans for each machine, and the machines' profile."""

    about: str
    of: _Plans
    profile: str = "shift"

    def plans(self, assets: Sequence[str], channels: Sequence[str], seed: int = 0) -> list[FaultPlan]:
        """Return the faults and events of all machines. Those of a machine depend only on the seed and its index."""
        found: list[FaultPlan] = []
        for place, asset in enumerate(assets):
            found += self.of(asset, place, np.random.default_rng([seed, place, 1]), channels)
        return found


def _share(rng: np.random.Generator, low: float, high: float) -> Duration:
    return Duration(share=round(float(rng.uniform(low, high)), 4))


def _healthy(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    return []


def _load_steps(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    first, second = _share(rng, 0.45, 0.50), _share(rng, 0.70, 0.75)
    severity = float(np.round(rng.uniform(0.4, 0.8), 2))
    return [
        FaultPlan("load-step", first, severity=severity, asset=asset),
        FaultPlan("load-step", second, severity=0.5, asset=asset),
    ]


def _season(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    severity = float(np.round(rng.uniform(0.4, 0.8), 2))
    return [FaultPlan("season", Duration(share=0.42), severity=severity, asset=asset)]


def _maintenance(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    severity = float(np.round(rng.uniform(0.4, 0.9), 2))
    return [FaultPlan("maintenance", _share(rng, 0.45, 0.60), severity=severity, asset=asset)]


def _replaced(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    channel = channels[place % len(channels)]
    severity = float(np.round(rng.uniform(0.1, 0.2), 3))
    return [FaultPlan("sensor-replaced", _share(rng, 0.45, 0.60), severity=severity, channel=channel, asset=asset)]


def _wear(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    """Wear for 45 % of the run, from about its middle; full severity after a day and a half."""
    return [FaultPlan("wear", _share(rng, 0.45, 0.55), Duration(share=0.45), onset_s=129_600.0, asset=asset)]


def _intermittent(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    return [FaultPlan("intermittent", _share(rng, 0.45, 0.60), Duration(share=0.25), asset=asset)]


def _two(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    """A mechanical fault, and during it a second fault of supply, load or cooling."""
    mechanical = ("bearing-outer", "unbalance", "bearing-inner", "misalignment")[place % 4]
    other = ("overload", "supply-dip", "overheating")[place % 3]
    start = _share(rng, 0.50, 0.60)
    later = Duration(share=round(start.share + 0.03, 4))
    return [
        FaultPlan(mechanical, start, Duration(share=0.10), asset=asset),
        FaultPlan(other, later, Duration(share=0.04), asset=asset),
    ]


#: Kinds of `sensor-faults`: machine i has kind i % 7.
SENSOR_FAULTS = (
    "sensor-stuck",
    "sensor-dropout",
    "sensor-out-of-range",
    "sensor-saturated",
    "clock-ahead",
    "silent",
    "clock-behind",
)


def _sensors(asset: str, place: int, rng: np.random.Generator, channels: Sequence[str]) -> list[FaultPlan]:
    kind = SENSOR_FAULTS[place % len(SENSOR_FAULTS)]
    channel = channels[place // len(SENSOR_FAULTS) % len(channels)] if kind.startswith("sensor-") else None
    return [FaultPlan(kind, _share(rng, 0.50, 0.60), Duration(share=0.08), channel=channel, asset=asset)]


SCENARIOS: Mapping[str, Scenario] = {
    "healthy": Scenario("nothing happens", _healthy),
    "load-steps": Scenario("no fault: two permanent changes of load", _load_steps),
    "season": Scenario("no fault: two shifts a day, and the ambient temperature rises", _season, "day"),
    "maintenance": Scenario("no fault: runs smoother and cooler from one moment on", _maintenance),
    "sensor-replaced": Scenario("no fault: a new sensor reads slightly higher", _replaced),
    "slow-wear": Scenario("a bearing wears for more than a day", _wear),
    "intermittent": Scenario("a rub that comes and goes", _intermittent),
    "two-faults": Scenario("a second fault during the first", _two),
    "sensor-faults": Scenario("stuck, dropout, out of range, saturated, clock, silent: in turn", _sensors),
}
