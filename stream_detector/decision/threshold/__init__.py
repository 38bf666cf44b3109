"""Judges scores and learns the threshold from normal ones. Pure: a state in, a new one out; no clock, no I/O.

Every method is a function of the sequence of scores alone: not of batches, workers or restarts. Judge first, then
learn, and never learn from scores that alarmed: a slow fault must not be learnt as normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector import plugins
from stream_detector.config import PluginThresholdConfig, ThresholdConfig
from stream_detector.config.judging import MOST_SPARE
from stream_detector.decision.threshold.dspot import DSpot
from stream_detector.decision.threshold.mad import Mad
from stream_detector.decision.threshold.quantile import Quantile
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import ThresholdState, replace

__all__ = ["Judgement", "ThresholdMethod", "alarm_level", "judge", "learn_together", "make_method", "pack_score"]


class ThresholdMethod(Protocol):
    """A way to turn normal scores into a level. Higher scores are stranger."""

    name: str
    risk: float

    def calibrate(self, scores: NDArray[np.float64]) -> ThresholdState:
        """Return the state after `scores` (n,), oldest first, of normal windows the model wasn't trained on."""

    def update(self, state: ThresholdState, score: float, limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt one more normal `score`; `limit`: the pin it also had to lie below, if any."""

    def learn(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt these normal scores in order: the same as one `update` per score."""

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return a stored `state` adapted to this configuration: unchanged if the configuration is the same.

        None when another method made it: calibrate again.
        """


class Judgement(msgspec.Struct, frozen=True, gc=False):
    """The decision about one score."""

    level: float | None  # alarm above this; None until there are enough scores
    anomalous: bool
    pinned: bool = False  # the level was set by an operator


_pack = Struct("<f").pack

_METHODS: dict[str, type[Spot] | type[Quantile] | type[Mad]] = {
    "spot": Spot,
    "dspot": DSpot,
    "quantile": Quantile,
    "mad": Mad,
}


def make_method(config: ThresholdConfig) -> ThresholdMethod:
    """Return the method the settings name, built in or a plug-in's. Raises ConfigError when it can't be loaded."""
    if isinstance(config, PluginThresholdConfig):
        made: ThresholdMethod = plugins.implementation("thresholds", config.method)(config)
        return made
    return _METHODS[config.method](config)


def alarm_level(level: float | None, margin: float) -> float | None:
    """Return the score above which to alarm for an adaptive level: for a positive level, `margin` times it.

    Detectors whose scores are logarithms may have levels at or below 0, so the distance is (margin - 1)·|level|.
    """
    return None if level is None else level + (margin - 1.0) * abs(level)


def judge(
    method: ThresholdMethod,
    state: ThresholdState,
    score: float,
    *,
    pinned: float | None = None,
    margin: float = 1.0,
    learn_after: int = 0,
    adapt: bool = True,
) -> tuple[Judgement, ThresholdState]:
    """Return the judgement of `score` under `state`, and the state after it.

    A pin replaces the level for the judgement, not for learning: a score is learnt only if it is above neither the pin
    nor the adaptive level. So a high pin that silences an asset does not distort learning, and after `unpin` the
    adaptive level is based only on scores below itself. A non-finite score is anomalous at any level and never learnt.
    With a `margin` above 1, scores between the adaptive level and the alarm level (`alarm_level`) neither alarm nor are
    learnt: learning must not depend on how tolerant the alarm is.

    `learn_after` is the number of normal scores that must follow a score before it is learnt (up to a quarter more,
    since scores are learnt in groups). Extreme value theory and quantiles assume independent scores; scores of
    overlapping windows are not. A score that rises slowly towards the level would otherwise be learnt step by step and
    raise the level ahead of itself indefinitely. With a level that lags by `learn_after` scores, a rise faster than
    that lag alarms. The same scores are learnt in the end, so alarm rates do not change.
    An incident empties the queue, and nothing is learnt while it is open (engine.py): scores that rise to an alarm and
    fall after it are not normal, and an intermittent fault would raise the level each time.
    Without `adapt` nothing is learnt once there is a level.
    """
    level = state.level
    if not adapt and level is not None:
        limit = level + (margin - 1.0) * abs(level) if pinned is None else pinned
        return Judgement(limit, not score <= limit, pinned is not None), state
    if pinned is not None:
        anomalous = not score <= pinned
        learn = not anomalous and (level is None or score <= level)
        return Judgement(pinned, anomalous, True), _learn(method, state, score, learn_after, pinned) if learn else state
    if level is None:
        if score - score == 0.0:  # finite
            return Judgement(None, False), method.update(state, score)
        return Judgement(None, score != score), state
    above = level if margin == 1.0 else level + (margin - 1.0) * abs(level)  # alarm_level, without a call
    if score <= level:
        return Judgement(above, False), _learn(method, state, score, learn_after)
    return Judgement(above, not score <= above), state


def _learn(
    method: ThresholdMethod, state: ThresholdState, score: float, learn_after: int, limit: float | None = None
) -> ThresholdState:
    """Return `state` with a normal `score` queued and the due scores learnt.

    Scores are learnt in groups (MOST_SPARE, and a quarter of `learn_after`), since each update creates a new state of
    the method. They are learnt even if the level has since fallen below them: they were already censored by the level
    at their own time; censoring by the current level as well would remove more of the tail than the methods assume.
    """
    if state.level is None or (learn_after == 0 and not state.pending):
        return method.update(state, score, limit)
    queue = state.pending + pack_score(score)
    due = len(queue) // 4 - learn_after
    if due <= MOST_SPARE and 4 * due <= learn_after:  # no more than `spare`, without a call
        return replace(state, pending=queue)
    state = method.learn(state, np.frombuffer(queue, "<f4", due).tolist(), limit)
    return replace(state, pending=queue[4 * due :])


def pack_score(score: float) -> bytes:
    """Return a score as stored in the queue: float32, clipped to the largest finite one."""
    return _pack(score if -LARGEST <= score <= LARGEST else math.copysign(LARGEST, score))


def learn_together(
    method: ThresholdMethod, states: Sequence[ThresholdState], scores: NDArray[np.float64]
) -> list[ThresholdState]:
    """Return A states having learnt scores (A, m): the same as `method.learn` for each, vectorized where possible."""
    if isinstance(method, Spot):
        return method.learn_all(states, scores)
    return [method.learn(*one) for one in zip(states, scores.tolist(), strict=True)]
