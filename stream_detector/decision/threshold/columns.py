"""Threshold states of many assets side by side, an entry a slot, so that they judge and learn together."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.threshold import ThresholdMethod, learn_together
from stream_detector.decision.threshold.spot import Spot
from stream_detector.decision.threshold.spot_columns import SpotColumns
from stream_detector.types import ThresholdState

Ints = NDArray[np.intp]


class ThresholdColumns(Protocol):
    """States of one method, each of which has a level. Scores that wait to be learnt are kept elsewhere."""

    level: NDArray[np.float64]
    """(slots,) the adaptive level; NaN for none."""
    seen: NDArray[np.int64]
    """(slots,) normal scores learnt from."""

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""

    def hold(self, slot: int, state: ThresholdState) -> bool:
        """Take a state over; return False where the columns have no room for what is in it."""

    def tails(self, slots: Ints) -> NDArray[np.float64]:
        """Return the scores that assets' tails begin at, (n,); the levels where the method has no tail."""

    def states(self, slots: Ints) -> list[ThresholdState]:
        """Return the states of assets, without scores that wait."""

    def learn(self, slots: Ints, scores: NDArray[np.float64]) -> None:
        """Learn the normal scores (A, m) of A assets: what `ThresholdMethod.learn` makes of each."""


class ObjectColumns:
    """Any method's states, as objects."""

    def __init__(self, method: ThresholdMethod) -> None:
        """Hold states of this method."""
        self._method = method
        self._states: list[ThresholdState | None] = []
        self.level = np.zeros(0)
        self.seen = np.zeros(0, np.int64)

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""
        more = slots - len(self._states)
        self._states += [None] * more
        self.level = np.concatenate([self.level, np.zeros(more)])
        self.seen = np.concatenate([self.seen, np.zeros(more, np.int64)])

    def hold(self, slot: int, state: ThresholdState) -> bool:
        """Take a state over."""
        self._states[slot], self.seen[slot] = state, state.seen
        self.level[slot] = np.nan if state.level is None else state.level
        return True

    def tails(self, slots: Ints) -> NDArray[np.float64]:
        """Return the levels of assets, (n,)."""
        return self.level[slots]

    def states(self, slots: Ints) -> list[ThresholdState]:
        """Return the states of assets."""
        return [one for slot in slots.tolist() if (one := self._states[slot]) is not None]

    def learn(self, slots: Ints, scores: NDArray[np.float64]) -> None:
        """Learn the normal scores (A, m) of A assets."""
        for slot, state in zip(slots.tolist(), learn_together(self._method, self.states(slots), scores), strict=True):
            self.hold(slot, state)


def columns_for(method: ThresholdMethod) -> ThresholdColumns:
    """Return columns, of no assets yet, for states of a method."""
    return SpotColumns(method) if type(method) is Spot else ObjectColumns(method)
