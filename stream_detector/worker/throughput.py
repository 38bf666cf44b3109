"""Estimates how many windows can be scored in a given time, from measured times. Pure: takes times as numbers."""

from __future__ import annotations

import math

FIRST = 16  # windows of the first slice, before any measurement
GROWTH = 4.0  # a slice has at most this multiple of the windows of the largest one so far
WEIGHT = 0.3  # weight of the newest slice in the estimate


class Throughput:
    """Running estimate of the scoring time per window.

    The first slices are small and grow, so even the first slices of a slow scorer take a bounded time.
    """

    def __init__(self) -> None:
        """Start without a measurement."""
        self._each_ms = 0.0
        self._largest = FIRST / GROWTH

    def note(self, count: int, took_ms: float) -> None:
        """Learn from a slice of `count` windows: the estimate rises quickly, and falls slowly."""
        each = took_ms / count
        self._each_ms = max(self._each_ms + WEIGHT * (each - self._each_ms), each / 2)
        self._largest = max(self._largest, count)

    def takes_ms(self, count: int) -> float:
        """Return the expected time of `count` windows, ms."""
        return count * self._each_ms

    def fit(self, budget_ms: float) -> int:
        """Return how many windows fit into `budget_ms`, at least 1."""
        by_time = budget_ms / self._each_ms if self._each_ms > 0 else math.inf
        return max(1, int(min(by_time, self._largest * GROWTH)))
