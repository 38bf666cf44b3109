"""Faults by name: the effect of each on a machine or its sensors, its time course, and its syntax on a command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.simulation import sensors
from stream_detector.simulation.sensors import Sensor

Array = NDArray[np.float64]


@dataclass(slots=True)
class Stress:
    """Effects of faults and events on a machine, each a scalar or (N,); the defaults are those of a healthy machine."""

    torque: Array | float = 0.0  # added, relative to rated
    volts: Array | float = 1.0  # factor
    cooling: Array | float = 1.0  # factor
    friction: Array | float = 0.0  # added losses, relative to rated
    unbalance: Array | float = 0.0  # added amplitude at rated speed, g
    misalignment: Array | float = 0.0  # added amplitude at rated speed and torque, g
    outer: Array | float = 0.0  # peak of an impact at rated speed, g
    inner: Array | float = 0.0
    ball: Array | float = 0.0
    level: Array | float = 1.0  # factor of all healthy vibration
    ambient: Array | float = 0.0  # added to the ambient temperature, K


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault, or of harmless event that changes readings. Exactly one of strain, spoil and clock is set."""

    name: str
    about: str
    onset_s: float  # time from the start to full severity; 0 is a step
    severity: float  # default
    strain: Callable[[Stress, Array], None] | None = None
    """Add the effects of a severity (N,) in 0..1 to the stress on the machine."""
    spoil: Callable[[Array, Array, Sensor], Array] | None = None
    """True readings (N,), severity (N,), sensor -> reported readings (N,)."""
    channel: str = ""  # sensor faults: the default channel; EVERY for all channels
    clock: Callable[[Array], Array] | None = None
    """Severity (N,) -> seconds added to the times of readings (N,)."""
    harmless: bool = False  # an event, not a fault: it is never labelled
    lasts: bool = False  # by default it lasts to the end of the run
    burst_s: float = 0.0  # intermittent: length of each burst ...
    every_s: float = 0.0  # ... and time from one burst's start to the next; 0: present all the time


#: The channel of a sensor fault that affects all channels.
EVERY = "*"


def _impacts(part: str, peak_g: float) -> Callable[[Stress, Array], None]:
    def strain(stress: Stress, severity: Array) -> None:
        setattr(stress, part, getattr(stress, part) + peak_g * severity)
        stress.friction = stress.friction + 0.08 * severity

    return strain


def _unbalance(stress: Stress, severity: Array) -> None:
    stress.unbalance = stress.unbalance + 0.5 * severity


def _misalignment(stress: Stress, severity: Array) -> None:
    stress.misalignment = stress.misalignment + 0.5 * severity
    stress.unbalance = stress.unbalance + 0.1 * severity
    stress.friction = stress.friction + 0.05 * severity


def _overheating(stress: Stress, severity: Array) -> None:
    stress.cooling = stress.cooling * (1 - 0.9 * severity)


def _overload(stress: Stress, severity: Array) -> None:
    stress.torque = stress.torque + 0.6 * severity


def _supply_dip(stress: Stress, severity: Array) -> None:
    stress.volts = stress.volts * (1 - 0.3 * severity)


def _wear(stress: Stress, severity: Array) -> None:
    stress.outer = stress.outer + 2.0 * severity
    stress.friction = stress.friction + 0.35 * severity
    stress.torque = stress.torque + 0.08 * severity


def _rub(stress: Stress, severity: Array) -> None:
    stress.unbalance = stress.unbalance + 0.35 * severity
    stress.friction = stress.friction + 0.3 * severity
    stress.torque = stress.torque + 0.2 * severity


def _knock(stress: Stress, severity: Array) -> None:
    stress.inner = stress.inner + 8.0 * severity
    stress.torque = stress.torque + 0.8 * severity


def _load_step(stress: Stress, severity: Array) -> None:
    stress.torque = stress.torque + 0.3 * severity


def _season(stress: Stress, severity: Array) -> None:
    stress.ambient = stress.ambient + 15.0 * severity


def _maintenance(stress: Stress, severity: Array) -> None:
    stress.level = stress.level * (1 - 0.4 * severity)
    stress.cooling = stress.cooling * (1 + 0.25 * severity)
    stress.torque = stress.torque - 0.08 * severity


KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind("bearing-outer", "damage on the outer race: impacts at BPFO", 60.0, 0.6, _impacts("outer", 3.0)),
        FaultKind("bearing-inner", "damage on the inner race: impacts at BPFI", 60.0, 0.6, _impacts("inner", 5.0)),
        FaultKind("bearing-ball", "damage on a ball: impacts at 2 BSF", 60.0, 0.6, _impacts("ball", 5.0)),
        FaultKind("unbalance", "mass lost or gained: more vibration at shaft speed", 10.0, 0.6, _unbalance),
        FaultKind("misalignment", "coupling out of line: vibration at twice shaft speed", 10.0, 0.6, _misalignment),
        FaultKind("overheating", "cooling lost; labelled until the excess heat is gone", 5.0, 0.7, _overheating),
        FaultKind("overload", "more torque than normal for the load", 10.0, 0.7, _overload),
        FaultKind("supply-dip", "supply voltage too low: more slip and current", 1.0, 0.8, _supply_dip),
        FaultKind("wear", "a bearing wears: impacts, friction and heat grow for hours", 86_400.0, 0.8, _wear),
        FaultKind("knock", "one hard blow: seconds of impacts and torque", 0.0, 0.8, _knock),
        FaultKind(
            "intermittent",
            "a rub that comes and goes: five minutes in every half hour",
            0.0,
            0.7,
            _rub,
            burst_s=300.0,
            every_s=1_800.0,
        ),
        FaultKind("sensor-stuck", "a sensor repeats its last reading", 0.0, 1.0, None, sensors.stuck, "temperature"),
        FaultKind("sensor-dropout", "a sensor sends nothing", 0.0, 1.0, None, sensors.dropout, "vibration"),
        FaultKind("sensor-offset", "a sensor reads too high", 0.0, 0.6, None, sensors.offset, "temperature"),
        FaultKind(
            "sensor-out-of-range", "a sensor sends impossible values", 0.0, 0.8, None, sensors.out_of_range, "current"
        ),
        FaultKind("sensor-saturated", "a sensor clips at full scale", 0.0, 0.8, None, sensors.saturated, "vibration"),
        FaultKind("silent", "the machine sends nothing at all", 0.0, 1.0, None, sensors.dropout, EVERY),
        FaultKind("clock-ahead", "the machine's clock is ahead, by up to an hour", 0.0, 0.5, clock=sensors.ahead),
        FaultKind("clock-behind", "the machine's clock is behind, by up to an hour", 0.0, 0.5, clock=sensors.behind),
        FaultKind(
            "load-step",
            "no fault: the load changes, more torque from then on",
            20.0,
            0.6,
            _load_step,
            harmless=True,
            lasts=True,
        ),
        FaultKind(
            "season",
            "no fault: the ambient temperature rises for days, by up to 15 K",
            259_200.0,
            0.6,
            _season,
            harmless=True,
            lasts=True,
        ),
        FaultKind(
            "maintenance",
            "no fault: runs smoother and cooler from then on",
            0.0,
            0.6,
            _maintenance,
            harmless=True,
            lasts=True,
        ),
        FaultKind(
            "sensor-replaced",
            "no fault: a new sensor reads slightly higher",
            0.0,
            0.15,
            None,
            sensors.offset,
            "temperature",
            harmless=True,
            lasts=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time: seconds plus a share of the whole run."""

    seconds: float = 0.0
    share: float = 0.0

    def of(self, run_s: float) -> float:
        """Return the seconds in a run of `run_s` seconds."""
        return self.seconds + self.share * run_s


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """A planned fault: kind, time, duration, severity and asset. Values that are None take the kind's default."""

    kind: str
    start: Duration
    duration: Duration | None = None  # None: 6 % of the run, within 2 to 20 minutes; for kinds that last, to its end
    severity: float | None = None  # 0..1
    onset_s: float | None = None
    channel: str | None = None  # sensor faults only
    asset: str | None = None  # None: every machine

    def __post_init__(self) -> None:
        """Raise DataError on an unknown kind, a severity out of range, or a channel that can't be chosen."""
        if self.kind not in KINDS:
            raise DataError(f"fault {self.kind!r} is not known; expected one of: {', '.join(KINDS)}")
        if self.severity is not None and not 0 < self.severity <= 1:
            raise DataError(f"the severity of {self.kind} must be more than 0 and at most 1, got {self.severity}")
        kind = KINDS[self.kind]
        if self.channel is not None and (kind.spoil is None or kind.channel == EVERY):
            raise DataError(f"{self.kind} can't be limited to a channel; leave /{self.channel} out")

    def resolved(self, run_s: float) -> Onset:
        """Return the fault with times in seconds, for a run of `run_s` seconds. Raises DataError if outside the run."""
        kind = KINDS[self.kind]
        start = self.start.of(run_s)
        usual = run_s - start if kind.lasts else float(np.clip(0.06 * run_s, 120.0, 1_200.0))
        length = usual if self.duration is None else self.duration.of(run_s)
        if not (0 <= start < run_s and length > 0):
            raise DataError(f"{self.kind} at {start:g} s for {length:g} s is outside a run of {run_s:g} s")
        severity = kind.severity if self.severity is None else self.severity
        onset_s = kind.onset_s if self.onset_s is None else self.onset_s
        return Onset(kind, start, min(start + length, run_s), severity, onset_s, self.channel or kind.channel)


@dataclass(frozen=True, slots=True)
class Onset:
    """The time course of a fault: its severity rises from `start_s` for `onset_s`, stays, and drops to 0 at `end_s`."""

    kind: FaultKind
    start_s: float
    end_s: float
    severity: float
    onset_s: float
    channel: str

    def envelope(self, t_s: Array) -> Array:
        """Return the severity at these times, (N,)."""
        climbed = np.ones(len(t_s)) if self.onset_s <= 0 else np.clip((t_s - self.start_s) / self.onset_s, 0.0, 1.0)
        inside = (t_s >= self.start_s) & (t_s < self.end_s)
        if self.onset_s > 0:
            climbed = np.maximum(climbed, 1e-9)  # labelled rows never have severity 0
        if self.kind.every_s > 0:
            inside &= (t_s - self.start_s) % self.kind.every_s < self.kind.burst_s
        return np.where(inside, self.severity * climbed, 0.0)


#: Default faults: entry i % 4 for machine i. Heat takes a long time to dissipate, so the kinds that heat the machine
#: come first in time, and short runs have none of them.
_DEFAULTS: tuple[tuple[str, ...], ...] = (
    ("overload", "bearing-outer"),
    ("overheating", "unbalance"),
    ("bearing-inner", "sensor-offset"),
    ("supply-dip", "misalignment"),
)
_STARTS = (Duration(share=0.45), Duration(share=0.82))
_SHORT_S = 3_600.0


def default_faults(assets: Sequence[str], run_s: float) -> list[FaultPlan]:
    """Return two faults of different kinds per machine, at 45 % and 82 % of the run, with healthy time around each.

    Runs of less than an hour have one per machine, at 45 %.
    """
    plans = []
    for place, asset in enumerate(assets):
        kinds = _DEFAULTS[place % len(_DEFAULTS)]
        if run_s < _SHORT_S:
            kinds = kinds[1:]
        plans += [FaultPlan(kind, start, asset=asset) for kind, start in zip(kinds, _STARTS, strict=False)]
    return plans


SYNTAX = "[ASSET=]NAME[/CHANNEL]@START[+DURATION][~ONSET][:SEVERITY]"
_PLAN = re.compile(
    r"(?:(?P<asset>[^=@]+)=)?(?P<kind>[a-z-]+)(?:/(?P<channel>\w+))?@(?P<start>[^+~:]+)"
    r"(?:\+(?P<duration>[^~:]+))?(?:~(?P<onset>[^:]+))?(?::(?P<severity>.+))?"
)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0}


def parse(text: str, assets: Sequence[str], run_s: float) -> list[FaultPlan]:
    """Parse `default`, `none`, or a comma-separated list of faults in SYNTAX. Raises DataError with the syntax."""
    if text == "default":
        return default_faults(assets, run_s)
    if text == "none":
        return []
    return [_parsed(part.strip(), assets) for part in text.split(",")]


def _parsed(text: str, assets: Sequence[str]) -> FaultPlan:
    match = _PLAN.fullmatch(text)
    if match is None:
        raise DataError(f"fault {text!r} is not written as {SYNTAX}, such as bearing-outer@45m:0.6")
    if match["asset"] is not None and match["asset"] not in assets:
        raise DataError(f"fault {text!r}: no machine is called {match['asset']!r}; they are: {', '.join(assets)}")
    try:
        severity = None if match["severity"] is None else float(match["severity"])
        plan = FaultPlan(match["kind"], _duration(match["start"]), severity=severity, asset=match["asset"])
        onset = None if match["onset"] is None else _duration(match["onset"])
        if onset is not None and onset.share:
            raise ValueError("an onset is a time, not a share")
        return replace(
            plan,
            duration=None if match["duration"] is None else _duration(match["duration"]),
            onset_s=None if onset is None else onset.seconds,
            channel=match["channel"],
        )
    except ValueError as error:
        raise DataError(f"fault {text!r}: {error}; write {SYNTAX}, times as 90, 90s, 45m, 1.5h or 40%") from None


def _duration(text: str) -> Duration:
    if text.endswith("%"):
        return Duration(share=float(text[:-1]) / 100)
    unit = text[-1:] if text[-1:] in _UNITS else ""
    return Duration(seconds=float(text.removesuffix(unit)) * _UNITS[unit])
