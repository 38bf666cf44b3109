"""Simulation of machines from physical models, as labelled recordings.

A machine follows its speed and load profile; supply, load and ambient temperature vary slowly at random; faults act on
the machine or on its sensors. All readings come from the models in physics.py, so channels are coupled as in a real
machine: more torque means more slip, more current and, minutes later, more heat.

Seeded: a machine depends only on the seed and its own index. A fault does not change the random numbers: with and
without it, the same machine has the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.recording import Fault, Recording
from stream_detector.errors import DataError
from stream_detector.simulation.faults import EVERY, FaultPlan, Onset, Stress, parse
from stream_detector.simulation.physics import (
    AMPLITUDE_SPREAD,
    Array,
    Bearing,
    Motor,
    Shaking,
    Structure,
    Thermal,
    Vibration,
    wander,
)
from stream_detector.simulation.profiles import PROFILES
from stream_detector.simulation.scenarios import SCENARIOS
from stream_detector.simulation.sensors import Sensor

#: Default start of simulated time, UNIX ms: 2025-01-06T14:00:00Z.
DEFAULT_START_MS = 1_736_172_000_000.0
#: Available channels: unit, decimals (the sensor's resolution), and the sensor.
CHANNELS: dict[str, tuple[str, int, Sensor]] = {
    "vibration": ("g", 5, Sensor(span=0.3, top=2.0)),
    "temperature": ("°C", 2, Sensor(span=25.0, top=150.0)),
    "current": ("A", 3, Sensor(span=6.0, top=40.0)),
    "speed": ("rpm", 1, Sensor(span=150.0, top=4_000.0)),
    "torque": ("% of rated", 1, Sensor(span=50.0, top=300.0)),
    "voltage": ("V", 1, Sensor(span=60.0, top=800.0)),
}
DEFAULT_CHANNELS = ("vibration", "temperature", "current")

_RATED_VOLTS = 400.0
_EXCESS_K = 1.0  # a fault stays labelled after its end until the excess heat it caused is below this


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's constants; `drawn` varies them within the tolerances of one type of machine."""

    motor: Motor = field(default_factory=Motor)
    thermal: Thermal = field(default_factory=Thermal)
    vibration: Vibration = field(default_factory=Vibration)
    ambient_c: float = 22.0
    unbalance_g: float = 0.07  # amplitude at rated speed, healthy
    misalignment_g: float = 0.04  # amplitude at rated speed and torque, healthy
    noise_g: float = 0.06  # RMS at rated speed

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Machine:
        """Draw a machine's constants, each within some percent of the type's."""

        def about(value: float, spread: float) -> float:
            return value * float(np.exp(spread * rng.standard_normal()))

        return cls(
            motor=Motor(rated_amps=about(12.0, 0.05), rated_slip=about(0.025, 0.1)),
            thermal=Thermal(tau_s=about(300.0, 0.1), rise_k=about(35.0, 0.08)),
            vibration=Vibration(Bearing(), Structure(resonance_hz=about(3_200.0, 0.06))),
            ambient_c=22.0 + float(rng.uniform(-2.0, 2.0)),
            unbalance_g=about(0.07, 0.15),
            misalignment_g=about(0.04, 0.15),
            noise_g=about(0.06, 0.1),
        )


@dataclass(frozen=True, slots=True)
class Waveforms:
    """Settings for vibration as blocks of samples instead of one RMS per reading."""

    every_s: float = 10.0
    samples: int = 2_048
    rate_hz: float = 12_800.0


@dataclass(slots=True)
class _Run:
    """A machine's states through time; all (N,)."""

    speed_hz: Array
    torque: Array
    volts: Array
    amps: Array
    heat_k: Array  # temperature above ambient
    healthy_k: Array  # the same without faults
    ambient_k: Array | float  # added to the ambient temperature
    shaking: Shaking


def simulate(
    machines: int = 4,
    hours: float = 2.0,
    seed: int = 0,
    rate_hz: float = 1.0,
    faults: str | Sequence[FaultPlan] = "default",
    *,
    start_ms: float = DEFAULT_START_MS,
    profile: str | None = None,
    scenario: str | None = None,
    name: str = "machine",
    channels: Sequence[str] = DEFAULT_CHANNELS,
    waveforms: Waveforms | None = None,
) -> list[Recording]:
    """Simulate machines `name`-1, `name`-2, … from `start_ms` (UNIX ms) for `hours`, one reading every 1/rate_hz s.

    `faults`: `default` (see `faults.default_faults`), `none`, a text in `faults.SYNTAX`, or plans. `scenario`: one of
    `scenarios.SCENARIOS`, which replaces `faults` and, unless `profile` is given, sets the profile. Labels are 1 during
    a fault and until the excess heat it caused has dissipated. Raises DataError on invalid settings.
    """
    count = round(hours * 3_600 * rate_hz) if rate_hz > 0 and np.isfinite(hours * rate_hz) else 0
    if machines < 1 or count < 1:
        raise DataError(f"expected at least one machine and one reading, got {machines} for {hours} h at {rate_hz} Hz")
    if scenario is not None and scenario not in SCENARIOS:
        raise DataError(f"scenario {scenario!r} is not known; expected one of: {', '.join(SCENARIOS)}")
    profile = profile or (SCENARIOS[scenario].profile if scenario else "shift")
    if profile not in PROFILES:
        raise DataError(f"profile {profile!r} is not known; expected one of: {', '.join(PROFILES)}")
    if unknown := [channel for channel in channels if channel not in CHANNELS]:
        raise DataError(f"channel {unknown[0]!r} is not known; expected some of: {', '.join(CHANNELS)}")
    assets = [f"{name}-{number}" for number in range(1, machines + 1)]
    plans = list(faults) if not isinstance(faults, str) else parse(faults, assets, count / rate_hz)
    if scenario is not None:
        plans = SCENARIOS[scenario].plans(assets, channels, seed)
    for plan in plans:
        if plan.channel is not None and plan.channel not in channels:
            raise DataError(f"{plan.kind} in {plan.channel!r}: no such channel; they are: {', '.join(channels)}")
    recordings = []
    for place, asset in enumerate(assets):
        mine = [plan.resolved(count / rate_hz) for plan in plans if plan.asset in (None, asset)]
        source = _Machine(np.random.SeedSequence([seed, place]), profile, start_ms)
        recordings.append(source.record(asset, mine, count, rate_hz=rate_hz, channels=channels, waveforms=waveforms))
    return recordings


class _Machine:
    """One machine with a separate random generator per purpose, so that draws for one don't change those for others."""

    def __init__(self, seed: np.random.SeedSequence, profile: str, start_ms: float) -> None:
        constants, self._work, self._supply, self._air, self._shake, self._sense, self._waves = map(
            np.random.default_rng, seed.spawn(7)
        )
        self.machine = Machine.drawn(constants)
        self._profile = PROFILES[profile]
        self._start_ms = start_ms

    def record(
        self,
        asset: str,
        faults: Sequence[Onset],
        count: int,
        *,
        rate_hz: float,
        channels: Sequence[str],
        waveforms: Waveforms | None,
    ) -> Recording:
        t_s = np.arange(count) / rate_hz
        ts_ms = self._start_ms + np.round(t_s * 1_000.0, 3)
        run = self._run(t_s, 1 / rate_hz, faults)
        readings = self._readings(run, t_s, 1 / rate_hz)
        clock_s = np.zeros(count)
        for fault in faults:
            severity = fault.envelope(t_s)
            if fault.kind.spoil is not None:
                for channel in channels if fault.channel == EVERY else [fault.channel]:
                    readings[channel] = fault.kind.spoil(readings[channel], severity, CHANNELS[channel][2])
            elif fault.kind.clock is not None:
                clock_s += fault.kind.clock(severity)
        truth, labels = self._truth(run, t_s, [fault for fault in faults if not fault.kind.harmless])
        events, _ = self._truth(run, t_s, [fault for fault in faults if fault.kind.harmless])
        values = {name: np.round(readings[name], CHANNELS[name][1]) for name in channels}
        recording = Recording(asset, ts_ms, values, labels=labels, faults=truth, events=events, source=asset)
        if clock_s.any():
            recording.sent_ms, recording.ts_ms = ts_ms, ts_ms + 1_000.0 * clock_s
        return recording if waveforms is None else self._with_waveforms(recording, run, waveforms, rate_hz)

    def _run(self, t_s: Array, step_s: float, faults: Sequence[Onset]) -> _Run:
        machine, motor, thermal, count = self.machine, self.machine.motor, self.machine.thermal, len(t_s)
        speed, torque = self._profile(self._work, t_s, self._start_ms / 1_000.0 % 86_400.0)
        torque = torque * (1 + 0.015 * wander(self._work, count, step_s, 15.0))
        volts = 1 + 0.006 * wander(self._supply, count, step_s, 120.0)
        calm, stress = Stress(), Stress()  # without the faults, and with them
        for fault in faults:
            if fault.kind.strain is not None:
                fault.kind.strain(stress, fault.envelope(t_s))
                if fault.kind.harmless:
                    fault.kind.strain(calm, fault.envelope(t_s))
        strained, fed = torque + stress.torque, volts * stress.volts
        amps = motor.amps(strained, fed)

        # The fan is on the shaft, so its air flow follows the speed.
        air = np.clip(speed, 0.1, None) ** 0.6
        usual_losses = thermal.losses(motor.amps(torque, volts), motor.rated_amps)
        start_k = float(np.mean(thermal.rise_k * usual_losses / air))  # in steady state at the start
        healthy_amps = motor.amps(torque + calm.torque, volts * calm.volts)
        healthy_losses = thermal.losses(healthy_amps, motor.rated_amps) + calm.friction
        healthy_k = thermal.rise(healthy_losses, air * calm.cooling, step_s, start_k)
        losses = thermal.losses(amps, motor.rated_amps) + stress.friction
        heat_k = thermal.rise(losses, air * stress.cooling, step_s, start_k)

        shaft_hz = motor.shaft_hz(speed, strained, fed)
        hiss = np.exp(0.04 * wander(self._shake, count, step_s, 20.0))
        pace = shaft_hz / (motor.mains_hz / motor.pole_pairs)  # relative to synchronous speed
        felt = 0.5 + 0.5 * strained
        shaking = Shaking(
            unbalance=(machine.unbalance_g * stress.level + stress.unbalance) * pace**2,  # centrifugal force
            misalignment=(machine.misalignment_g * stress.level + stress.misalignment) * pace**2 * felt,
            outer=stress.outer * pace * felt,
            inner=stress.inner * pace * felt,
            ball=stress.ball * pace * felt,
            noise=machine.noise_g * stress.level * pace**1.5 * felt * hiss,
        )
        return _Run(shaft_hz, strained, fed, amps, heat_k, healthy_k, stress.ambient, shaking)

    def _readings(self, run: _Run, t_s: Array, step_s: float) -> dict[str, Array]:
        machine, rng, count = self.machine, self._sense, len(t_s)
        hour = (self._start_ms / 3_600_000.0 + t_s / 3_600.0) % 24.0
        ambient = machine.ambient_c + 2.0 * np.sin(2 * np.pi * (hour - 9.0) / 24.0)  # warmest at 15 h
        ambient = ambient + run.ambient_k + 0.15 * wander(self._air, count, step_s, 1_200.0)
        steady, impacts = map(np.asarray, machine.vibration.mean_square(run.speed_hz, run.shaking))
        # An RMS over a second contains few impacts of different strength; `spread` is the relative deviation of their
        # sum, from AMPLITUDE_SPREAD.
        per_second = np.clip(machine.vibration.bearing.outer * run.speed_hz, 1.0, None)
        spread = np.sqrt(np.expm1(4 * AMPLITUDE_SPREAD**2) / per_second)
        impacts = impacts * np.clip(1 + spread * rng.standard_normal(count), 0.1, None)
        return {
            "vibration": np.sqrt(steady + impacts) * (1 + 0.01 * rng.standard_normal(count)),
            "temperature": ambient + run.heat_k + 0.08 * rng.standard_normal(count),
            "current": run.amps * (1 + 0.004 * rng.standard_normal(count)),
            "speed": 60 * run.speed_hz * (1 + 0.0003 * rng.standard_normal(count)),
            "torque": 100 * run.torque * (1 + 0.005 * rng.standard_normal(count)),
            "voltage": _RATED_VOLTS * run.volts * (1 + 0.001 * rng.standard_normal(count)),
        }

    def _truth(self, run: _Run, t_s: Array, faults: Sequence[Onset]) -> tuple[list[Fault], NDArray[np.int8]]:
        """Return faults and labels (N,): from a fault's start until its end and until its excess heat has gone."""
        truth, labels = [], np.zeros(len(t_s), np.int8)
        hot = np.abs(run.heat_k - run.healthy_k) > _EXCESS_K
        for fault in sorted(faults, key=lambda fault: fault.start_s):
            end_s = fault.end_s
            if fault.kind.strain is not None:
                later = np.flatnonzero((t_s >= end_s) & ~hot)
                end_s = float(t_s[later[0]]) if len(later) else float(t_s[-1])
            labels[(t_s >= fault.start_s) & (t_s <= end_s)] = 1
            start_ms, end_ms = (self._start_ms + 1_000.0 * time_s for time_s in (fault.start_s, end_s))
            truth.append(Fault(start_ms, end_ms, fault.kind.name, fault.severity))
        return truth, labels

    def _with_waveforms(self, whole: Recording, run: _Run, waveforms: Waveforms, rate_hz: float) -> Recording:
        """Replace vibration values by blocks of samples in rows of their own, in time order with the other channels."""
        highest = 2.2 * self.machine.vibration.structure.resonance_hz
        if waveforms.rate_hz < highest or waveforms.samples < 1 or not waveforms.every_s > 0:
            raise DataError(
                f"waveforms need at least 1 sample at {highest:.0f} Hz or more (the resonance must fit), "
                f"got {waveforms.samples} at {waveforms.rate_hz:g} Hz every {waveforms.every_s:g} s"
            )
        stride = max(1, round(waveforms.every_s * rate_hz))
        places = np.arange(0, len(whole), stride)
        waves = [
            self.machine.vibration.waveform(
                float(run.speed_hz[place]), run.shaking.at(place), waveforms.samples, waveforms.rate_hz, self._waves
            )
            for place in places.tolist()
        ]
        slow = {name: column for name, column in whole.values.items() if name != "vibration"}
        rows = np.concatenate([np.arange(len(whole)) if slow else np.empty(0, np.int64), places])
        is_wave = np.arange(len(rows)) >= len(rows) - len(places)
        order = np.argsort((whole.ts_ms if whole.sent_ms is None else whole.sent_ms)[rows], kind="stable")
        rows, is_wave = rows[order], is_wave[order]
        each = iter(waves)
        return Recording(
            asset=whole.asset,
            ts_ms=whole.ts_ms[rows],
            values={name: np.where(is_wave, np.nan, column[rows]) for name, column in slow.items()},
            blocks={"vibration": [np.round(next(each), 5) if wave else None for wave in is_wave.tolist()]},
            interval_ms=1_000.0 / waveforms.rate_hz,
            labels=None if whole.labels is None else whole.labels[rows],
            faults=whole.faults,
            events=whole.events,
            source=whole.source,
            sent_ms=None if whole.sent_ms is None else whole.sent_ms[rows],
        )
