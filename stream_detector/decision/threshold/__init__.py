"""Scores -> verdicts, and what is learnt on the way. Pure: a state in, a new one out; no clock, no I/O.

Every method is a function of the sequence of scores alone: not of batches, workers or restarts. Judge first, then
learn, and never learn from what alarmed: a slow fault must not be learned away.
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
        """Return `state` having learnt these normal scores in turn: what as many calls of `update` return."""

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return a stored `state` as this configuration would have it: the same state when it was made under it.

        None when another method made it: calibrate then.
        """


class Judgement(msgspec.Struct, frozen=True, gc=False):
    """What was decided of one score."""

    level: float | None  # alarm above this; None while too little was seen
    anomalous: bool
    pinned: bool = False  # the level is an operator's


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
    """Return the score above which to alarm, of an adaptive level: `margin` times it, were it above 0.

    Levels of detectors whose scores are logarithms may lie at 0 or below; so the room is (margin - 1)·|level|.
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
    """Return what `score` means under `state`, and the state after it.

    A pin replaces the level for the verdict, not for learning: a score is learnt only when it lies above neither the
    pin nor the adaptive level. So a pin set high to silence an asset teaches nothing wrong, and after `unpin` the
    adaptive level is one that only ever saw scores it held for normal. A score that is not a number is anomalous,
    whatever the level, and never learnt. With a `margin` above 1, scores between the adaptive level and the alarm level
    (`alarm_level`) neither alarm nor are learnt: what is learnt must not depend on how tolerant the alarm is.

    `learn_after` is how many normal scores must follow one before it is learnt (and up to a quarter as many again,
    since they are learnt some at a time). Extreme value theory, and any quantile,
    takes scores for independent; those of overlapping windows are not. A score that rises slowly towards the level
    would be learnt step by step and lift the level before itself, for ever. Against a level that is `learn_after`
    scores behind, a rise faster than that alarms. What is learnt in the end is the same, so rates stay what they were.
    An incident empties the queue and nothing is learnt while it is open (engine.py): scores that rise to an alarm and
    fall off after it are no normal ones, and a fault that comes and goes would lift the level with each time.
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
    """Return `state` with a normal `score` in the queue and those whose turn it is learnt.

    They are learnt some at a time (MOST_SPARE, and a quarter of `learn_after`), for each time costs a new state of the
    method. They are learnt even if the level has fallen below them since: they were cut off by the level of their own
    time; were they cut off by today's as well, the sample would lack more of its tail than methods allow for.
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
    """Return a score as it waits to be learnt: float32, the largest that it holds for one beyond."""
    return _pack(score if -LARGEST <= score <= LARGEST else math.copysign(LARGEST, score))


def learn_together(
    method: ThresholdMethod, states: Sequence[ThresholdState], scores: NDArray[np.float64]
) -> list[ThresholdState]:
    """Return A states having learnt scores (A, m): what `method.learn` returns of each, sooner where it can be."""
    if isinstance(method, Spot):
        return method.learn_all(states, scores)
    return [method.learn(*one) for one in zip(states, scores.tolist(), strict=True)]
