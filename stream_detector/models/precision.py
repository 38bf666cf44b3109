"""Channels too large for how little they vary: windows hold float32, whose steps grow with the value.

A pressure of 101,325 Pa that varies by 0.1 Pa comes in steps of 0.008 Pa; one of 1e7 by as much, in steps of 1: all a
detector could see of it is gone. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A spread of fewer float32 steps than this is reported: a hundredth of it can't be resolved any more. With steps of
#: |median| · 2^-23 to 2^-24 that is |median| / spread above 1e5 to 2e5.
STEPS = 80.0


class Coarse(NamedTuple):
    """A column that loses precision."""

    column: int
    median: float
    spread: float
    """Standard deviation, by the quartiles where they differ."""
    step: float
    """Between neighbouring float32 numbers at the median."""


def coarse_columns(values: NDArray[np.float32], numbers: NDArray[np.bool_]) -> list[Coarse]:
    """Return the columns of (n, C) values whose spread is few steps of float32, of those that are `numbers` (C,).

    A column that never changes is none: what it might have lost can't be seen.
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
