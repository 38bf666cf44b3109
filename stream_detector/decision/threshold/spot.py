"""SPOT: alarm above the level that normal scores exceed with probability `risk`, by extreme value theory.

Siffer, Fouque, Termier, Largouët, "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017. Scores above t,
the (1 - tail) quantile, are peaks; their excesses follow a generalised Pareto law (gpd.py), hence their equation (1)

    z = t + (σ/γ) ((q n / N)^(-γ) - 1)        q: risk, n: scores seen, N: peaks among them

A score above z alarms and teaches nothing; one between t and z is a new peak; any other only counts in n.

Where this differs from the paper, and why

- Peaks are bounded (`max_peaks`), and n goes with them. When the oldest peak is dropped, n loses the scores that
  peak stood for, n/N, so that N/n stays the rate of peaks among recent scores, and old scores are forgotten.
- The tail is at least LEAST_TAIL times the risk: with z close to t, nearly all peaks would be cut off.
- Few calibration scores. A tail of 2 % of 60 scores is one peak; at least MIN_PEAKS are taken, however wide a tail
  that is. As scores come in, the tail narrows again: once `max_peaks` are there and they are more than 1.5 tails of
  the scores, t moves up to their median and the lower half is let go; no score is lost to the count.
- The level is never below the scores' own (1 - risk) quantile: of n scores, at most ⌊q n⌋ of those still kept lie
  above it. For few scores that means: not below the largest score known to be normal.
- A prior on γ (gpd.py), since with ten peaks its likelihood is nearly flat.
- What it alarmed on is missing from what it learns. Unheeded, that lowers the level, which cuts off more: a vicious
  circle. So the law is fitted as one of which only the part below `cut` was seen (gpd.py; `cut`: the level at which
  peaks were let in, averaged over them), and both n and N in z count the scores that are missing by that law. Peaks
  from the calibration (`free` of them, the first in `sample`) were not cut.
- The law is fitted again once N/REFIT_SHARE peaks came, not at each; z follows n and N at every score.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold import gpd
from stream_detector.decision.threshold.sample import appended, packed
from stream_detector.types import ThresholdState, replace

MIN_PEAKS = 10
MIN_SCORES = 50  # fewer say nothing of a tail: no level, no alarms
REFIT_SHARE = 16
WIDE = 1.5
LEAST_TAIL = 10.0
FLAT_MARGIN = 1e-3


class SpotNumbers(NamedTuple):
    """What SPOT remembers beside its peaks."""

    risk: float
    t: float
    """The (1 - tail) quantile: scores above it are peaks."""
    shape: float
    """γ of the law of the excesses over t."""
    scale: float
    """σ of it."""
    n: float
    """Scores seen that the peaks kept stand for."""
    floor: float
    """The lowest level allowed."""
    news: float
    """Peaks since the law was fitted last."""
    free: float
    """Peaks that come from the calibration, the first ones in the sample: they were not cut off."""
    cut: float
    """The level at which the other peaks were let in, averaged over them."""
    missing: float
    """Peaks above the cut, by the law."""


class FitRequest(NamedTuple):
    """A tail to be fitted: the arguments of `gpd.fit`."""

    excesses: NDArray[np.float64]
    cut: float
    share: float


_T, _N = SpotNumbers._fields.index("t"), SpotNumbers._fields.index("n")

#: Learns step by step: yields the fits it needs, takes (γ, σ, F(cut)) of each, returns the state.
Learning = Generator[FitRequest, tuple[float, float, float], ThresholdState]


class Spot:
    """The method `spot` under one configuration. Pure: every call returns a new state.

    `ThresholdState.sample` holds the peaks (whole scores, not excesses), oldest first. While fewer than MIN_SCORES were
    seen, `level` is None, `numbers` is empty and `sample` holds all scores.
    """

    name = "spot"

    def __init__(self, config: ThresholdConfig) -> None:
        """Take risk, tail and max_peaks from the settings."""
        self.risk = config.risk
        self.tail = max(config.tail, min(LEAST_TAIL * config.risk, 0.5))
        self.max_peaks = config.max_peaks
        self.budgeted = config.budget is not None

    def calibrate(self, scores: NDArray[np.float64]) -> ThresholdState:
        """Return the state after `scores` (n,), oldest first, of normal windows the model wasn't trained on.

        Scores that are not finite are left out. With fewer than MIN_SCORES the level is None until more were learnt.
        """
        kept = packed(scores)
        seen = len(kept)
        if seen < MIN_SCORES:
            return ThresholdState(method=self.name, level=None, seen=seen, sample=kept)
        scores = kept.astype(np.float64)
        ranked = np.sort(scores)
        wanted = max(MIN_PEAKS, math.floor(self.tail * seen))
        t = float(ranked[seen - wanted - 1])
        if t == ranked[-1]:  # ties at the top leave no score above: step below them
            below = ranked[: np.searchsorted(ranked, t, "left")]
            t = float(below[-1]) if len(below) else t
        peaks = scores[scores > t]
        n = float(seen)
        if len(peaks) > self.max_peaks:
            # Keep evenly spaced ranks (the same law as all of them) in the order they came; n shrinks in proportion.
            ranks = ((np.arange(self.max_peaks) + 0.5) * (len(peaks) / self.max_peaks)).astype(np.intp)
            n *= self.max_peaks / len(peaks)
            peaks = peaks[np.sort(np.argsort(peaks, kind="stable")[ranks])]
        tail = _Tail(self.risk, t, n, peaks.astype(np.float32), free=float(len(peaks)), cut=t)
        return finished(self._fitted(tail, seen))

    def update(self, state: ThresholdState, score: float, limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt one more normal `score`; `limit`: the pin it also had to lie below, if any."""
        return finished(self.learning(state, (score,), limit))

    def learn(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt these normal scores in turn: what as many calls of `update` return."""
        if type(self) is Spot and state.level is not None and scores and max(scores) <= state.numbers[_T]:
            n = state.numbers[_N]
            for _ in scores:
                n += 1.0  # one by one, as in `learning`
            return _counted(state, n, len(scores))
        return finished(self.learning(state, scores, limit))

    def learning(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> Learning:
        """Learn as `learn` does, in steps, so that the fits of many assets can be made together.

        Most scores lie below the tail, where they count and no more: of a run of those the level is taken once.
        """
        start = 0
        while state.level is None and start < len(scores):
            state = self._gathered(state, scores[start])
            start += 1
        if start == len(scores):
            return state
        assert state.level is not None
        tail, level, low = _Tail.of(state), state.level, False
        for place in range(start, len(scores)):
            score = scores[place]
            if score <= tail.t:
                tail.n += 1.0  # one by one: n has a fraction, and another sum could end in other bits
                low = True
                continue
            if low:
                level, low = tail.level(), False
            tail.n += 1.0
            seen = state.seen + place - start + 1
            if self._took(tail, score, level if limit is None else min(level, limit)):
                level = (yield from self._fitted(tail, seen)).level or 0.0
            else:
                tail.floor = _floor(tail.risk, tail.t, tail.n, tail.peaks)
                level = tail.level()
        if low:
            level = tail.level()
        return tail.state(self.name, level, state.seen + len(scores) - start)

    def learn_all(self, states: Sequence[ThresholdState], scores: NDArray[np.float64]) -> list[ThresholdState]:
        """Return A states having learnt scores (A, m): what `learn` returns of each, their fits made side by side."""
        return finished_together([self.learning(*one) for one in zip(states, scores.tolist(), strict=True)])

    def _gathered(self, state: ThresholdState, score: float) -> ThresholdState:
        """Return the state of too few scores for a level after one more."""
        sample = appended(state.sample, score)
        if len(sample) < MIN_SCORES:
            return ThresholdState(method=self.name, level=None, seen=state.seen + 1, sample=sample)
        return self.calibrate(sample.astype(np.float64))

    def _took(self, tail: _Tail, score: float, limit: float) -> bool:
        """Take a new peak let in below `limit`; return whether the law must be fitted again."""
        tail.peaks = appended(tail.peaks, score)
        count = len(tail.peaks)
        tail.cut += (limit - tail.cut) / (count - tail.free)
        if count > self.max_peaks:
            if count > WIDE * self.tail * tail.n:
                tail.narrow()
                return True
            tail.n -= tail.n / count
            tail.peaks = tail.peaks[1:]
            tail.free = max(tail.free - 1.0, 0.0)
        tail.news += 1.0
        return tail.news * REFIT_SHARE >= len(tail.peaks)

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return `state` as this configuration would have it; None when another method made it."""
        if state.method != self.name:
            return None
        if state.level is None:
            return state
        tail = _Tail.of(state)
        few = len(tail.peaks) <= self.max_peaks
        if few and (self.budgeted or tail.risk == self.risk):  # under a budget its controller sets the risk
            return named(state, SpotNumbers)
        if (surplus := len(tail.peaks) - self.max_peaks) > 0:
            tail.n *= self.max_peaks / len(tail.peaks)
            tail.peaks = tail.peaks[surplus:]
            tail.free = max(tail.free - surplus, 0.0)
        tail.risk = self.risk
        return replace(finished(self._fitted(tail, state.seen)), pending=state.pending)

    def with_risk(self, state: ThresholdState, risk: float) -> ThresholdState:
        """Return a state that has a level, for another risk."""
        tail = _Tail.of(state)
        tail.risk = risk
        tail.floor = _floor(risk, tail.t, tail.n, tail.peaks)
        return replace(state, level=tail.level(), numbers=tail.numbers())

    def risk_of(self, state: ThresholdState) -> float:
        """Return the risk of a state that has a level."""
        return numbers_of(state).risk

    def tail_from(self, state: ThresholdState) -> float:
        """Return the score that the tail begins at."""
        return numbers_of(state).t

    def tail_quarter(self, state: ThresholdState) -> float:
        """Return the score that a quarter of the tail lies above."""
        peaks, place = state.sample, len(state.sample) * 3 // 4
        if not len(peaks):  # all scores were alike: nothing lay above any of them
            return self.tail_from(state)
        return float(np.partition(peaks, place)[place]) + self.tail_from(state) - numbers_of(state).t

    def tail_share(self, state: ThresholdState) -> float:
        """Return the share of normal scores in the tail, those missing by the law included."""
        numbers = numbers_of(state)
        return max(len(state.sample) + numbers.missing, 1.0) / (numbers.n + numbers.missing)

    def _fitted(self, tail: _Tail, seen: int) -> Learning:
        """Return the state with the law fitted to the tail's peaks, `seen` scores after the beginning."""
        count, free = len(tail.peaks), int(tail.free)
        tail.shape, tail.scale, tail.missing, tail.news, tail.free = 0.0, 0.0, 0.0, 0.0, float(free)
        if count:
            tail.shape, tail.scale, below = yield FitRequest(
                tail.peaks.astype(np.float64) - tail.t, tail.cut - tail.t, (count - free) / count
            )
            tail.missing = (count - free) * (1.0 - below) / below
        if tail.scale == 0.0:  # no two scores differ above t: nothing to extrapolate from but the scores' size
            tail.scale = float(np.float32(FLAT_MARGIN * abs(tail.t)))
        tail.floor = _floor(tail.risk, tail.t, tail.n, tail.peaks)
        return tail.state(self.name, tail.level(), seen)


class _Tail:
    """SpotNumbers and peaks while something is learnt; private to one call, so that it may change."""

    __slots__ = ("cut", "floor", "free", "missing", "n", "news", "peaks", "risk", "scale", "shape", "t")

    def __init__(self, risk: float, t: float, n: float, peaks: NDArray[np.float32], *, free: float, cut: float) -> None:
        """Take a tail without a law."""
        self.risk, self.t, self.n, self.peaks, self.free, self.cut = risk, t, n, peaks, free, cut
        self.shape = self.scale = self.floor = self.news = self.missing = 0.0

    @classmethod
    def of(cls, state: ThresholdState) -> _Tail:
        """Take the tail of a state that has a level."""
        tail = cls.__new__(cls)
        (
            tail.risk,
            tail.t,
            tail.shape,
            tail.scale,
            tail.n,
            tail.floor,
            tail.news,
            tail.free,
            tail.cut,
            tail.missing,
        ) = state.numbers
        tail.peaks = state.sample
        return tail

    def numbers(self) -> SpotNumbers:
        """Return what is to be remembered of it beside the peaks."""
        return SpotNumbers(
            self.risk, self.t, self.shape, self.scale, self.n, self.floor, self.news, self.free, self.cut, self.missing
        )

    def state(self, method: str, level: float, seen: int) -> ThresholdState:
        """Return the threshold's state."""
        return ThresholdState(method=method, level=level, seen=seen, numbers=self.numbers(), sample=self.peaks)

    def level(self) -> float:
        """Return the score that normal ones exceed with probability `risk`."""
        share = self.risk * (self.n + self.missing) / max(len(self.peaks) + self.missing, 1.0)
        if share >= 1.0:
            return self.floor
        return max(self.floor, self.t + gpd.quantile(self.shape, self.scale, share))

    def narrow(self) -> None:
        """Move t up to the peaks' median and let go of those below; when ties leave too few, drop the oldest."""
        median = float(np.partition(self.peaks, len(self.peaks) // 2)[len(self.peaks) // 2])
        above = self.peaks > median
        if int(above.sum()) >= MIN_PEAKS:
            self.free = float(above[: int(self.free)].sum())
            self.t, self.peaks = median, self.peaks[above]
        else:
            self.n -= self.n / len(self.peaks)
            self.peaks, self.free = self.peaks[1:], float(max(int(self.free) - 1, 0))


def finished(learning: Learning) -> ThresholdState:
    """Return the state at the end of a learning, having made each fit on the way."""
    try:
        request = next(learning)
        while True:
            request = learning.send(gpd.fit(*request))
    except StopIteration as end:
        state: ThresholdState = end.value
        return state


def finished_together(learnings: Sequence[Learning]) -> list[ThresholdState]:
    """Return the states at the ends of some learnings, their fits made side by side: the same states, sooner."""
    states: list[ThresholdState | None] = [None] * len(learnings)
    waiting: list[int] = []
    requests: list[FitRequest] = []

    def go_on(place: int, fitted: tuple[float, float, float] | None) -> None:
        try:
            requests.append(learnings[place].send(fitted))  # type: ignore[arg-type]  # None starts a generator
            waiting.append(place)
        except StopIteration as end:
            states[place] = end.value

    for place in range(len(learnings)):
        go_on(place, None)
    while requests:
        places, fits = waiting[:], gpd.fit_all(requests)
        waiting.clear()
        requests.clear()
        for place, fitted in zip(places, fits, strict=True):
            go_on(place, fitted)
    return [state for state in states if state is not None]


def numbers_of(state: ThresholdState) -> SpotNumbers:
    """Return the numbers of a state of SPOT, or of a method built on it, that has a level."""
    numbers = state.numbers
    return numbers if isinstance(numbers, SpotNumbers) else SpotNumbers._make(numbers[: len(SpotNumbers._fields)])


def named(state: ThresholdState, kind: type[Any]) -> ThresholdState:
    """Return a state whose numbers are of this NamedTuple: those from a store are a plain tuple."""
    return state if type(state.numbers) is kind else replace(state, numbers=kind._make(state.numbers))


def _counted(state: ThresholdState, n: float, count: int) -> ThresholdState:
    """Return a state after `count` more scores below the tail, which make it `n`."""
    risk, t, shape, scale, _, floor, news, free, cut, missing = state.numbers
    numbers = SpotNumbers(risk, t, shape, scale, n, floor, news, free, cut, missing)
    share = risk * (n + missing) / max(len(state.sample) + missing, 1.0)
    level = max(floor, t + gpd.quantile(shape, scale, share)) if share < 1.0 else floor
    return replace(state, level=level, seen=state.seen + count, numbers=numbers)


def _floor(risk: float, t: float, n: float, peaks: NDArray[np.float32]) -> float:
    """Return the lowest level that at most ⌊risk n⌋ of the peaks exceed; t when all of them may."""
    allowed = int(risk * n)
    if allowed >= len(peaks):
        return t
    return float(peaks.max()) if allowed == 0 else float(np.partition(peaks, -1 - allowed)[-1 - allowed])
