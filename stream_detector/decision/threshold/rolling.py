"""What methods that look at the last `memory` normal scores share: the ring buffer and when the level is recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold.sample import LARGEST, appended, packed
from stream_detector.decision.threshold.spot import named
from stream_detector.types import ThresholdState, replace

MIN_SCORES = 20  # fewer say nothing of a level: no alarms
EVERY = 16


class RollingNumbers(NamedTuple):
    """What is remembered beside the ring."""

    risk: float
    oldest: float
    """Place of the oldest score in the ring."""
    learnt: float
    """How many of its scores were learnt under a level, and are not from the calibration."""
    cut: float
    """That level, averaged over them."""


class Rolling:
    """A ring of scores and a level computed from all of them. Pure: every call returns a new state.

    `ThresholdState.sample` is the ring. The level is computed again whenever `seen` is a multiple of EVERY, so it
    depends on the scores' order alone.
    """

    name: str

    def __init__(self, config: ThresholdConfig) -> None:
        """Take risk and memory from the settings."""
        self.risk = config.risk
        self.memory = config.memory

    def level(self, scores: NDArray[np.float64], cut: float, share: float) -> float:
        """Return the level for the scores kept (m,), in any order, a `share` of them learnt under the level `cut`."""
        raise NotImplementedError

    def calibrate(self, scores: NDArray[np.float64]) -> ThresholdState:
        """Return the state after `scores` (n,), oldest first, of normal windows the model wasn't trained on.

        Scores that are not finite are left out. With fewer than MIN_SCORES the level is None until more were learnt.
        """
        kept = packed(scores)
        return self._levelled(len(kept), 0, 0.0, kept[-self.memory :])

    def update(self, state: ThresholdState, score: float, limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt one more normal `score`; `limit`: the pin it also had to lie below, if any."""
        seen = state.seen + 1
        _, oldest, learnt, cut = state.numbers
        place = int(oldest)
        if len(state.sample) < self.memory:
            sample = appended(state.sample, score)
        else:
            sample = state.sample.copy()
            sample[place] = min(max(score, -LARGEST), LARGEST)
            place = (place + 1) % self.memory
        level = state.level
        if level is not None:
            learnt = min(learnt + 1.0, float(self.memory))
            cut += ((level if limit is None else min(level, limit)) - cut) / learnt
        if seen % EVERY == 0 or (level is None and len(sample) >= MIN_SCORES):
            return self._levelled(seen, int(learnt), cut, sample, oldest=place)
        numbers = RollingNumbers(self.risk, float(place), learnt, cut)
        return ThresholdState(method=self.name, level=level, seen=seen, numbers=numbers, sample=sample)

    def learn(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt these normal scores in turn: what as many calls of `update` return."""
        for score in scores:
            state = self.update(state, score, limit)
        return state

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return `state` as this configuration would have it; None when another method made it."""
        if state.method != self.name:
            return None
        risk, oldest, learnt, cut = state.numbers
        kept = len(state.sample)
        fits = oldest == 0.0 if kept < self.memory else kept == self.memory
        if risk == self.risk and fits:
            return named(state, RollingNumbers)
        sample = np.roll(state.sample, -int(oldest))[-self.memory :]
        adopted = self._levelled(state.seen, min(int(learnt), len(sample)), cut, sample)
        return replace(adopted, pending=state.pending)

    def _levelled(
        self, seen: int, learnt: int, cut: float, sample: NDArray[np.float32], *, oldest: int = 0
    ) -> ThresholdState:
        level = None
        if (m := len(sample)) >= MIN_SCORES:
            level = self.level(sample.astype(np.float64), cut, learnt / m)
        numbers = RollingNumbers(self.risk, float(oldest), float(learnt), cut)
        return ThresholdState(method=self.name, level=level, seen=seen, numbers=numbers, sample=sample)
