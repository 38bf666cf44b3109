"""What a broken sensor reports instead of the true value: readings (N,), severity (N,), the sensor -> readings (N,)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: A saturated amplifier's gain over its right one, at severity 1.
_GAIN = 60.0
#: How far a clock is off at severity 1.
CLOCK_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor's scale, in its channel's unit."""

    span: float  # what faults of the reading are measured by: about its range in use
    top: float  # full scale: what it says at most


def stuck(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Repeat the last good reading."""
    bad = severity > 0
    last = np.maximum.accumulate(np.where(bad, 0, np.arange(len(readings))))
    held: Array = readings[last]
    return held


def dropout(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Say nothing."""
    return np.where(severity > 0, np.nan, readings)


def offset(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Read too high."""
    return readings + sensor.span * severity


def saturated(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Amplify too much and clip at full scale: pinned to it, but for what is still below."""
    return np.where(severity > 0, np.minimum(readings * (1 + _GAIN * severity), sensor.top), readings)


def out_of_range(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Say what can't be, far below zero, as an open loop does; it flickers, so that it isn't stuck as well."""
    flicker = 1 + 0.1 * np.sin(2.4 * np.arange(len(readings)))
    return np.where(severity > 0, -2 * sensor.top * severity * flicker, readings)


def ahead(severity: Array) -> Array:
    """Return what a clock that is ahead adds to each time, s."""
    return np.round(CLOCK_S * severity)


def behind(severity: Array) -> Array:
    """Return what a clock that is behind adds to each time, s."""
    return -ahead(severity)
