"""DSPOT: SPOT on what remains of a score when its own recent mean is taken off, for scores that drift.

Siffer et al. (KDD 2017), section 4.3: with M the mean of the last d normal scores, SPOT runs on X' = X - M and the
level is M + z. The paper's plain mean of d scores needs all d of them in the state; here M is an exponential moving
average of the same mean age, (d + 1)/2 scores, that is of weight 2/(d + 1), which needs one number. What alarmed moves
neither M nor the tail, so a step of the scores stays an alarm: DSPOT follows drift, not jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold.spot import MIN_SCORES, Learning, Spot, named, numbers_of
from stream_detector.types import ThresholdState, replace


class DSpotNumbers(NamedTuple):
    """SpotNumbers of the differences from M, and M."""

    risk: float
    t: float
    shape: float
    scale: float
    n: float
    floor: float
    news: float
    free: float
    cut: float
    missing: float
    mean: float
    """M, the recent mean of normal scores."""


class DSpot(Spot):
    """The method `dspot` under one configuration: Spot's state, and M."""

    name = "dspot"

    def __init__(self, config: ThresholdConfig) -> None:
        """Take Spot's settings and the depth."""
        super().__init__(config)
        self.weight = 2.0 / (config.depth + 1.0)

    def calibrate(self, scores: NDArray[np.float64]) -> ThresholdState:
        """Return the state after `scores` (n,), oldest first, of normal windows the model wasn't trained on."""
        finite = np.asarray(scores, np.float64)
        finite = finite[np.isfinite(finite)]
        if len(finite) < MIN_SCORES:
            return super().calibrate(finite)
        mean = float(finite[: min(len(finite), round(2.0 / self.weight))].mean())
        rest = np.empty(len(finite))
        for place, score in enumerate(finite.tolist()):
            rest[place] = score - mean
            mean += self.weight * (score - mean)
        return _moved(super().calibrate(rest), mean)

    def learning(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> Learning:
        """Learn in steps, see `Spot.learning`: each score less the mean of those before it."""
        for score in scores:
            if state.level is None:
                state = self._gathered(state, score)
                continue
            mean = _mean_of(state)
            below = None if limit is None else limit - mean
            still = yield from super().learning(_still(state), (score - mean,), below)
            state = _moved(still, mean + self.weight * (score - mean))
        return state

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return `state` as this configuration would have it; None when another method made it."""
        if state.method != self.name or state.level is None:
            return super().adopt(state)
        still = _still(state)
        adopted = super().adopt(still)
        if adopted is still or adopted is None:
            return named(state, DSpotNumbers)
        return _moved(adopted, _mean_of(state))

    def with_risk(self, state: ThresholdState, risk: float) -> ThresholdState:
        """Return a state that has a level, for another risk."""
        return _moved(super().with_risk(_still(state), risk), _mean_of(state))

    def tail_from(self, state: ThresholdState) -> float:
        """Return the score that the tail begins at."""
        return numbers_of(state).t + _mean_of(state)


def _mean_of(state: ThresholdState) -> float:
    """Return M of a state that has a level."""
    return DSpotNumbers._make(state.numbers).mean


def _still(state: ThresholdState) -> ThresholdState:
    """Return Spot's state of the differences from M."""
    assert state.level is not None
    return replace(state, level=state.level - _mean_of(state), numbers=numbers_of(state))


def _moved(state: ThresholdState, mean: float) -> ThresholdState:
    """Return the state of the scores themselves."""
    assert state.level is not None
    return replace(state, level=state.level + mean, numbers=DSpotNumbers._make((*state.numbers, mean)))
