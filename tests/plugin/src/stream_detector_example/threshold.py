"""A level that is a multiple of the calibration's median, and stays there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from stream_detector_example.settings import FixedMultipleConfig

from stream_detector.types import ThresholdState

#: Scores that a median is taken of, where there was no calibration.
ENOUGH = 20


@dataclass(frozen=True)
class FixedMultiple:
    """The method under one configuration. A state's numbers are (median, factor); its sample what was seen before."""

    config: FixedMultipleConfig
    name: str = field(default="fixed-multiple", init=False)

    @property
    def risk(self) -> float:
        """Passed on to alerts; the level doesn't depend on it."""
        return self.config.risk

    def calibrate(self, scores: NDArray[np.float64]) -> ThresholdState:
        """Return the state after `scores` (n,) of normal windows."""
        finite = np.clip(scores[np.isfinite(scores)], -3e38, 3e38).astype(np.float32)
        return self._state(finite, len(finite))

    def update(self, state: ThresholdState, score: float, limit: float | None = None) -> ThresholdState:
        """Return `state` having seen one more normal `score`."""
        if state.level is None:
            return self._state(np.append(state.sample, np.float32(score)), state.seen + 1)
        return ThresholdState(
            method=self.name, level=state.level, seen=state.seen + 1, numbers=state.numbers, sample=state.sample
        )

    def learn(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> ThresholdState:
        """Return `state` having seen these normal scores in turn."""
        for score in scores:
            state = self.update(state, score, limit)
        return state

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return `state` under this configuration's factor; None when another method made it."""
        if state.method != self.name:
            return None
        if state.level is None or state.numbers[1] == self.config.factor:
            return state
        return self._levelled(state.numbers[0], state.seen)

    def _state(self, scores: NDArray[np.float32], seen: int) -> ThresholdState:
        if len(scores) < ENOUGH:
            return ThresholdState(method=self.name, level=None, seen=seen, sample=scores)
        return self._levelled(float(np.median(scores)), seen)

    def _levelled(self, median: float, seen: int) -> ThresholdState:
        level = median + (self.config.factor - 1.0) * abs(median)
        return ThresholdState(method=self.name, level=level, seen=seen, numbers=(median, self.config.factor))
