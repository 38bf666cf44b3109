"""The physics of a driven machine: how vibration, current and temperature follow from speed, torque, supply and damage.

Source of the bearing kinematics and the impulse model of a damaged race: Randall & Antoni, "Rolling element bearing
diagnostics, a tutorial", MSSP 25 (2011). Load zone after Stribeck; induction motor by its equivalent circuit in the
linear range of slip; temperature as one thermal mass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLIP_JITTER = 0.01  # relative standard deviation of the time between impacts, because rolling elements slip
AMPLITUDE_SPREAD = 0.2  # standard deviation of the logarithm of an impact's strength


@dataclass(frozen=True)
class Bearing:
    """A ball bearing's geometry; the default is a 6205."""

    balls: int = 9
    ball_mm: float = 7.94
    pitch_mm: float = 39.04
    contact_deg: float = 0.0

    @property
    def _ratio(self) -> float:
        return self.ball_mm / self.pitch_mm * float(np.cos(np.deg2rad(self.contact_deg)))

    @property
    def cage(self) -> float:
        """FTF, turns of the cage per turn of the shaft."""
        return (1 - self._ratio) / 2

    @property
    def outer(self) -> float:
        """BPFO, balls passing a point of the outer race per turn of the shaft."""
        return self.balls * (1 - self._ratio) / 2

    @property
    def inner(self) -> float:
        """BPFI, balls passing a point of the inner race per turn of the shaft."""
        return self.balls * (1 + self._ratio) / 2

    @property
    def ball(self) -> float:
        """BSF, turns of a ball about its axis per turn of the shaft; a defect on it hits a race twice per turn."""
        return self.pitch_mm / (2 * self.ball_mm) * (1 - self._ratio**2)


@dataclass(frozen=True)
class Structure:
    """The resonance between bearing and sensor that an impact excites: e^(-ζωt) sin(ω√(1-ζ²) t)."""

    resonance_hz: float = 3_200.0
    damping: float = 0.05  # ζ

    @property
    def _decay_and_frequency(self) -> tuple[float, float]:
        omega = 2 * np.pi * self.resonance_hz
        return self.damping * omega, omega * float(np.sqrt(1 - self.damping**2))

    @cached_property
    def energy_s(self) -> float:
        """∫ h² dt of the response h to a unit impact, in seconds."""
        a, b = self._decay_and_frequency
        return b**2 / (4 * a * (a**2 + b**2))

    def response(self, rate_hz: float) -> Array:
        """Return the response to a unit impact, sampled at `rate_hz` until it has decayed to a thousandth."""
        a, b = self._decay_and_frequency
        t = np.arange(max(2, int(np.log(1_000.0) / a * rate_hz))) / rate_hz
        wave: Array = np.exp(-a * t) * np.sin(b * t)
        return wave


def load_zone(phase: Array) -> Array:
    """Return the strength, 0..1, of impacts at this angle (rad) from the load; half of the bearing carries no load."""
    return np.clip(np.cos(phase), 0.0, None) ** 1.5


_ZONE_MEAN_SQUARE = float(np.mean(load_zone(np.linspace(0, 2 * np.pi, 3_600, endpoint=False)) ** 2))


@dataclass(slots=True)
class Shaking:
    """The sources of a machine's vibration, each (N,) or a scalar, acceleration in g."""

    unbalance: Array | float = 0.0  # amplitude at shaft speed
    misalignment: Array | float = 0.0  # amplitude at twice shaft speed
    outer: Array | float = 0.0  # peak of the response to an impact on the outer race
    inner: Array | float = 0.0  # same for the inner race, within the load zone
    ball: Array | float = 0.0  # same for a ball
    noise: Array | float = 0.0  # RMS of all other vibration: flow, friction, electronics

    def at(self, place: int) -> Shaking:
        """Return the values at one index."""
        parts = {name: getattr(self, name) for name in Shaking.__slots__}
        return Shaking(**{name: float(part[place]) if np.ndim(part) else part for name, part in parts.items()})


@dataclass(frozen=True)
class Vibration:
    """The readings of an accelerometer on the bearing housing, from the sources of vibration."""

    bearing: Bearing = field(default_factory=Bearing)
    structure: Structure = field(default_factory=Structure)

    def impacts_hz(self, shaft_hz: Array | float) -> dict[str, Array | float]:
        """Return the impacts per second of each kind of damage."""
        orders = {"outer": self.bearing.outer, "inner": self.bearing.inner, "ball": 2 * self.bearing.ball}
        return {name: order * shaft_hz for name, order in orders.items()}

    def mean_square(self, shaft_hz: Array | float, shaking: Shaking) -> tuple[Array | float, Array | float]:
        """Return the expected mean squares (g²) of the steady vibration and of the impacts.

        A sine of amplitude a gives a²/2; impacts at rate f with peak A give f·A²·∫h² dt, since their phases are
        independent.
        """
        steady = (np.square(shaking.unbalance) + np.square(shaking.misalignment)) / 2 + np.square(shaking.noise)
        felt = {"outer": 1.0, "inner": _ZONE_MEAN_SQUARE, "ball": _ZONE_MEAN_SQUARE}
        impacts: Array | float = 0.0
        for name, rate in self.impacts_hz(shaft_hz).items():
            impacts = impacts + rate * np.square(getattr(shaking, name)) * (self.structure.energy_s * felt[name])
        return steady, impacts

    def waveform(
        self, shaft_hz: float, shaking: Shaking, samples: int, rate_hz: float, rng: np.random.Generator
    ) -> Array:
        """Synthesise `samples` of acceleration (g) at `rate_hz`, with constant shaft speed and damage."""
        t = np.arange(samples) / rate_hz
        phase, second = rng.uniform(0, 2 * np.pi, 2)
        turning = 2 * np.pi * shaft_hz * t
        wave: Array = np.asarray(shaking.unbalance) * np.sin(turning + phase)
        wave += np.asarray(shaking.misalignment) * np.sin(2 * turning + second)
        wave += np.asarray(shaking.noise) * rng.standard_normal(samples)
        response = self.structure.response(rate_hz)
        lead = len(response)  # the response to impacts before the first sample has not decayed yet
        hits = np.zeros(samples + lead)
        for name, often in self.impacts_hz(shaft_hz).items():
            if (peak := float(getattr(shaking, name))) > 0:
                modulation = {"outer": 0.0, "inner": shaft_hz, "ball": self.bearing.cage * shaft_hz}[name]
                hits += peak * _hits(float(often), modulation, len(hits), rate_hz, rng)
        if hits.any():
            size = 1 << (len(hits) + lead - 2).bit_length()
            rung = np.fft.irfft(np.fft.rfft(hits, size) * np.fft.rfft(response, size), size)
            wave += rung[lead : lead + samples]
        return wave


def _hits(often_hz: float, modulation_hz: float, samples: int, rate_hz: float, rng: np.random.Generator) -> Array:
    """Return impacts on a grid of samples, times jittered by slip; mean square strength 1, before the load zone."""
    length_s = samples / rate_hz
    count = int(length_s * often_hz * 1.2) + 8
    gaps = (1 + SLIP_JITTER * rng.standard_normal(count)) / often_hz
    times = np.cumsum(gaps) - rng.uniform(0, 1) / often_hz
    times = times[(times >= 0) & (times < length_s)]
    strength = np.exp(AMPLITUDE_SPREAD * rng.standard_normal(len(times)) - AMPLITUDE_SPREAD**2)  # E[s²] = 1
    if modulation_hz > 0:
        strength *= load_zone(2 * np.pi * modulation_hz * times + rng.uniform(0, 2 * np.pi))
    grid = np.zeros(samples)
    np.add.at(grid, (times * rate_hz).astype(np.int64), strength)
    return grid


@dataclass(frozen=True, slots=True)
class Motor:
    """A four-pole induction motor on a converter with constant volts per hertz, in the linear range of slip."""

    mains_hz: float = 50.0
    pole_pairs: int = 2
    rated_slip: float = 0.025
    rated_amps: float = 12.0
    idle_share: float = 0.35  # magnetising current, relative to rated current

    def shaft_hz(self, speed: Array, torque: Array, volts: Array) -> Array:
        """Return turns per second; speed reference, torque and volts are relative to rated. Slip ~ torque/volts²."""
        turning: Array = self.mains_hz / self.pole_pairs * (speed - self.rated_slip * torque / volts**2)
        return turning

    def amps(self, torque: Array, volts: Array) -> Array:
        """Return the RMS current, A: magnetising current ~ volts, torque current ~ torque/volts, in quadrature."""
        idle = self.idle_share * volts
        working = np.sqrt(1 - self.idle_share**2) * torque / volts
        amps: Array = self.rated_amps * np.hypot(idle, working)
        return amps


@dataclass(frozen=True, slots=True)
class Thermal:
    """One thermal mass, heated by losses and cooled by the ambient air: τ dθ/dt = rise·losses - cooling·θ."""

    tau_s: float = 300.0
    rise_k: float = 35.0  # steady state above ambient, at rated losses and full cooling
    iron_share: float = 0.3  # iron losses, independent of the load, relative to rated losses

    def losses(self, amps: Array, rated_amps: float) -> Array:
        """Return the losses relative to rated losses: iron losses, and copper losses with the square of the current."""
        lost: Array = self.iron_share + (1 - self.iron_share) * np.square(amps / rated_amps)
        return lost

    def rise(self, losses: Array, cooling: Array, step_s: float, start_k: float) -> Array:
        """Return θ (K above ambient) at each step, exact for inputs constant within a step. `cooling` 1 is full."""
        target = self.rise_k * losses / cooling
        keep = np.exp(-step_s * cooling / self.tau_s)
        out = np.empty(len(target))
        theta = start_k
        for place, (goal, share) in enumerate(zip(target.tolist(), keep.tolist(), strict=True)):
            theta = goal + (theta - goal) * share
            out[place] = theta
        return out


def wander(rng: np.random.Generator, count: int, step_s: float, tau_s: float) -> Array:
    """Return a stationary first-order Gauss-Markov series of unit variance and correlation time `tau_s`."""
    keep = float(np.exp(-step_s / tau_s))
    kicks = rng.standard_normal(count) * np.sqrt(1 - keep**2)
    value = float(rng.standard_normal())
    out = np.empty(count)
    for place, kick in enumerate(kicks.tolist()):
        value = keep * value + kick
        out[place] = value
    return out
