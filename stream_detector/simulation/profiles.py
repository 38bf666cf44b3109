"""Profiles of a machine's operation: speed and torque over time, both relative to rated."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: (random generator, seconds since the start (N,), second of the day at the start) -> speed (N,), torque (N,).
Profile = Callable[[np.random.Generator, Array, float], tuple[Array, Array]]


def constant(rng: np.random.Generator, t_s: Array, day_s: float) -> tuple[Array, Array]:
    """One constant operating point."""
    return np.full(len(t_s), 1.0), np.full(len(t_s), 0.75)


def shift(rng: np.random.Generator, t_s: Array, day_s: float) -> tuple[Array, Array]:
    """Repeated production cycles of four operating points, one to two minutes each, with ramps between them.

    Each machine has its own operating points; from cycle to cycle they vary by a few percent in length and torque.
    """
    points = [(0.88, 0.52), (1.0, 0.80), (1.0, 0.95), (0.94, 0.66)]
    speeds = [speed * (1 + 0.01 * rng.standard_normal()) for speed, _ in points]
    torques = [torque * (1 + 0.03 * rng.standard_normal()) for _, torque in points]
    lengths = rng.uniform(60.0, 120.0, len(points))
    length = float(t_s[-1]) + 1.0 if len(t_s) else 0.0
    at, speed, torque = [0.0], [speeds[0]], [torques[0]]
    now, place = -float(rng.uniform(0.0, float(lengths.sum()))), 0  # start at a random point of a cycle
    while now < length:
        goal_speed, goal_torque = speeds[place], torques[place] * (1 + 0.02 * float(rng.standard_normal()))
        ramp, hold = float(rng.uniform(8.0, 20.0)), float(lengths[place] * rng.uniform(0.9, 1.1))
        at += [now, now + ramp]
        speed += [speed[-1], goal_speed]
        torque += [torque[-1], goal_torque]
        now, place = now + ramp + hold, (place + 1) % len(points)
    return np.interp(t_s, at[1:], speed[1:]), np.interp(t_s, at[1:], torque[1:])


def day(rng: np.random.Generator, t_s: Array, day_s: float) -> tuple[Array, Array]:
    """Two shifts (06 to 14 and 14 to 22 h UTC) of production cycles with one break each; idling at night."""
    speed, torque = shift(rng, t_s, day_s)
    hours = [0.0, 5.9, 6.0, 9.98, 10.0, 10.5, 10.52, 17.98, 18.0, 18.5, 18.52, 22.0, 22.1, 24.0]
    works = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    share = np.interp((day_s + t_s) % 86_400.0 / 3_600.0, hours, works)
    idle_speed, idle_torque = 0.5, 0.12
    return idle_speed + share * (speed - idle_speed), idle_torque + share * (torque - idle_torque)


PROFILES: Mapping[str, Profile] = {"constant": constant, "shift": shift, "day": day}
