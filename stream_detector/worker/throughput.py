"""How much work fits into a time, learnt from how long work took. Pure: times come in as numbers."""

from __future__ import annotations

import math

FIRST = 16  # windows of the first slice, of whose time nothing is known
GROWTH = 4.0  # no slice has more than so many times the windows of the largest one known
WEIGHT = 0.3  # of the newest slice in the estimate


class Throughput:
    """Windows a time: how long a number of them will take, and how many fit into a time.

    The first slices are small and grow, so that a scorer which is slow from the start can't take long once, either.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self._each_ms = 0.0
        self._largest = FIRST / GROWTH

    def note(self, count: int, took_ms: float) -> None:
        """Learn from a slice of `count` windows: a much slower one counts at once, a faster one slowly."""
        each = took_ms / count
        self._each_ms = max(self._each_ms + WEIGHT * (each - self._each_ms), each / 2)
        self._largest = max(self._largest, count)

    def takes_ms(self, count: int) -> float:
        """Return how long so many windows are expected to take."""
        return count * self._each_ms

    def fit(self, budget_ms: float) -> int:
        """Return how many windows to take on for a time, at least 1."""
        by_time = budget_ms / self._each_ms if self._each_ms > 0 else math.inf
        return max(1, int(min(by_time, self._largest * GROWTH)))
