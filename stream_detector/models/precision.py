"""Find channels whose variation is too small for float32: windows hold float32, whose steps grow with the value.

A pressure of 101,325 Pa that varies by 0.1 Pa has steps of 0.008 Pa; a value of 1e7 that varies by 0.1 has steps of 1,
so the variation is lost before a detector could see it. No side effects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A spread of fewer float32 steps than this is reported: a hundredth of the spread can't be resolved. With steps of
#: |median| · 2^-23 to 2^-24 this means |median| / spread above 1e5 to 2e5.
STEPS = 80.0


class Coarse(NamedTuple):
    """A column that loses precision in float32."""

    column: int
    median: float
    spread: float
    """Standard deviation, estimated from the quartiles if they differ."""
    step: float
    """Distance between neighbouring float32 numbers at the median."""


def coarse_columns(values: NDArray[np.float32], numbers: NDArray[np.bool_]) -> list[Coarse]:
    """Return the columns of values (n, C) whose spread is below STEPS float32 steps, among the `numbers` (C,) bool.

    A column that never changes is not reported: whether it lost any variation is unknown.
    """
    found = []
    for column in np.flatnonzero(numbers).tolist():
        each = values[:, column].astype(np.float64)
        each = each[np.isfinite(each)]
        if not each.size:
            continue
        low, median, high = np.quantile(each, [0.25, 0.5, 0.75]).tolist()
        spread = (high - low) / 1.349 or float(each.std())
        step = float(np.spacing(np.float32(abs(median))))
        if 0 < spread < STEPS * step:
            found.append(Coarse(column, median, spread, step))
    return found
