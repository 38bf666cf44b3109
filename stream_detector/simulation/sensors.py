"""Sensor faults: true readings (N,), severity (N,), sensor -> reported readings (N,); and faults of the clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Gain error of a saturated amplifier at severity 1: its gain is 1 + 60 times the correct one.
_GAIN = 60.0
#: Error of a clock at severity 1, s.
CLOCK_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor's scale, in its channel's unit."""

    span: float  # about the range of readings in use; offsets are relative to it
    top: float  # full scale, the maximum reading


def stuck(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Repeat the last reading before the fault."""
    bad = severity > 0
    last = np.maximum.accumulate(np.where(bad, 0, np.arange(len(readings))))
    held: Array = readings[last]
    return held


def dropout(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Report nothing (NaN)."""
    return np.where(severity > 0, np.nan, readings)


def offset(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Report readings that are too high by a constant."""
    return readings + sensor.span * severity


def saturated(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Amplify too much and clip at full scale, so that most readings are at full scale."""
    return np.where(severity > 0, np.minimum(readings * (1 + _GAIN * severity), sensor.top), readings)


def out_of_range(readings: Array, severity: Array, sensor: Sensor) -> Array:
    """Report impossible values far below zero, as with an open current loop; they vary, unlike a stuck sensor's."""
    flicker = 1 + 0.1 * np.sin(2.4 * np.arange(len(readings)))
    return np.where(severity > 0, -2 * sensor.top * severity * flicker, readings)


def ahead(severity: Array) -> Array:
    """Return the error of a clock that is ahead, s, to be added to each time."""
    return np.round(CLOCK_S * severity)


def behind(severity: Array) -> Array:
    """Return the (negative) error of a clock that is behind, s, to be added to each time."""
    return -ahead(severity)
