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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold import gpd
from stream_detector.decision.threshold.sample import appended, packed
from stream_detector.types import ThresholdState

MIN_PEAKS = 10
MIN_SCORES = 50  # fewer say nothing of a tail: no level, no alarms
REFIT_SHARE = 16
WIDE = 1.5
LEAST_TAIL = 10.0
FLAT_MARGIN = 1e-3

# ThresholdState.numbers: risk, t, γ, σ, n, floor (the lowest level allowed), news (peaks since the last fit), free,
# cut, missing (peaks above the cut, by the law). `sample` holds the peaks (whole scores, not excesses), oldest first.
# While fewer than MIN_SCORES were seen, level is None, numbers is empty and `sample` holds all scores.


class Spot:
    """The method `spot` under one configuration. Pure: every call returns a new state."""

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
            return ThresholdState(self.name, None, seen, (), kept)
        scores = kept.astype(np.float64)
        ranked = np.sort(scores)
        wanted = max(MIN_PEAKS, math.floor(self.tail * seen))
        t = float(ranked[seen - wanted - 1])
        if t == ranked[-1]:  # so many ties at the top that nothing lies above: step below them
            below = ranked[: np.searchsorted(ranked, t, "left")]
            t = float(below[-1]) if len(below) else t
        peaks = scores[scores > t]
        n = float(seen)
        if len(peaks) > self.max_peaks:
            # Keep evenly spaced ranks (the same law as all of them) in the order they came; n shrinks in proportion.
            ranks = ((np.arange(self.max_peaks) + 0.5) * (len(peaks) / self.max_peaks)).astype(np.intp)
            n *= self.max_peaks / len(peaks)
            peaks = peaks[np.sort(np.argsort(peaks, kind="stable")[ranks])]
        return self._fitted(self.risk, seen, n, t, peaks.astype(np.float32), len(peaks), t)

    def update(self, state: ThresholdState, score: float, limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt one more normal `score`; `limit`: the pin it also had to lie below, if any."""
        seen = state.seen + 1
        if state.level is None:
            sample = appended(state.sample, score)
            if len(sample) < MIN_SCORES:
                return ThresholdState(self.name, None, seen, (), sample)
            return self.calibrate(sample.astype(np.float64))
        risk, t, shape, scale, n, floor, news, free, cut, missing = state.numbers
        n += 1.0
        peaks = state.sample
        if score <= t:
            level = self._level(risk, t, shape, scale, n, len(peaks), floor, missing)
            return ThresholdState(
                self.name, level, seen, (risk, t, shape, scale, n, floor, news, free, cut, missing), peaks
            )
        peaks = appended(peaks, score)
        cut += ((state.level if limit is None else min(state.level, limit)) - cut) / (len(peaks) - free)
        if len(peaks) > self.max_peaks:
            if len(peaks) > WIDE * self.tail * n:
                return self._narrowed(risk, seen, n, t, peaks, int(free), cut)
            n -= n / len(peaks)
            peaks = peaks[1:]
            free = max(free - 1.0, 0.0)
        news += 1.0
        if news * REFIT_SHARE >= len(peaks):
            return self._fitted(risk, seen, n, t, peaks, int(free), cut)
        floor = self._floor(risk, t, n, peaks)
        level = self._level(risk, t, shape, scale, n, len(peaks), floor, missing)
        return ThresholdState(
            self.name, level, seen, (risk, t, shape, scale, n, floor, news, free, cut, missing), peaks
        )

    def learn(self, state: ThresholdState, scores: Sequence[float], limit: float | None = None) -> ThresholdState:
        """Return `state` having learnt these normal scores in turn: what as many calls of `update` return.

        Most lie below the tail, where they count and no more: of a run of those the level is taken once.
        """
        low = 0
        for score in scores:
            if state.level is not None and score <= state.numbers[1]:
                low += 1
                continue
            state = self.update(self._counted(state, low), score, limit)
            low = 0
        return self._counted(state, low)

    def _counted(self, state: ThresholdState, low: int) -> ThresholdState:
        """Return the state after so many more scores below the tail."""
        if not low:
            return state
        risk, t, shape, scale, n, floor, news, free, cut, missing = state.numbers
        for _ in range(low):
            n += 1.0  # one by one, as `update` does: n has a fraction, and another sum could end in other bits
        level = self._level(risk, t, shape, scale, n, len(state.sample), floor, missing)
        numbers = (risk, t, shape, scale, n, floor, news, free, cut, missing)
        return ThresholdState(self.name, level, state.seen + low, numbers, state.sample)

    def adopt(self, state: ThresholdState) -> ThresholdState | None:
        """Return `state` as this configuration would have it; None when another method made it."""
        if state.method != self.name:
            return None
        if state.level is None:
            return state
        risk, t, _, _, n, _, _, free, cut, _ = state.numbers
        peaks = state.sample
        if self.budgeted and len(peaks) <= self.max_peaks:
            return state  # the controller sets its risk
        if risk == self.risk and len(peaks) <= self.max_peaks:
            return state
        if (surplus := len(peaks) - self.max_peaks) > 0:
            n *= self.max_peaks / len(peaks)
            peaks = peaks[surplus:]
            free = max(free - surplus, 0.0)
        return self._fitted(self.risk, state.seen, n, t, peaks, int(free), cut)

    def with_risk(self, state: ThresholdState, risk: float) -> ThresholdState:
        """Return a state that has a level, for another risk."""
        _, t, shape, scale, n, _, news, free, cut, missing = state.numbers
        floor = self._floor(risk, t, n, state.sample)
        level = self._level(risk, t, shape, scale, n, len(state.sample), floor, missing)
        numbers = (risk, t, shape, scale, n, floor, news, free, cut, missing)
        return ThresholdState(state.method, level, state.seen, numbers, state.sample, state.pending)

    def risk_of(self, state: ThresholdState) -> float:
        """Return the risk of a state that has a level."""
        return state.numbers[0]

    def tail_from(self, state: ThresholdState) -> float:
        """Return the score that the tail begins at."""
        return state.numbers[1]

    def tail_quarter(self, state: ThresholdState) -> float:
        """Return the score that a quarter of the tail lies above."""
        peaks, place = state.sample, len(state.sample) * 3 // 4
        if not len(peaks):  # all scores were alike: nothing lay above any of them
            return self.tail_from(state)
        return float(np.partition(peaks, place)[place]) + self.tail_from(state) - state.numbers[1]

    def tail_share(self, state: ThresholdState) -> float:
        """Return the share of normal scores in the tail, those missing by the law included."""
        n, missing = state.numbers[4], state.numbers[9]
        return max(len(state.sample) + missing, 1.0) / (n + missing)

    def _fitted(
        self, risk: float, seen: int, n: float, t: float, peaks: NDArray[np.float32], free: int, cut: float
    ) -> ThresholdState:
        count = len(peaks)
        shape, scale, missing = 0.0, 0.0, 0.0
        if count:
            shape, scale, below = gpd.fit(peaks.astype(np.float64) - t, cut - t, (count - free) / count)
            missing = (count - free) * (1.0 - below) / below
        if scale == 0.0:  # no two scores differ above t: nothing to extrapolate from but the scores' size
            scale = float(np.float32(FLAT_MARGIN * abs(t)))
        floor = self._floor(risk, t, n, peaks)
        level = self._level(risk, t, shape, scale, n, count, floor, missing)
        numbers = (risk, t, shape, scale, n, floor, 0.0, float(free), cut, missing)
        return ThresholdState(self.name, level, seen, numbers, peaks)

    def _narrowed(
        self, risk: float, seen: int, n: float, t: float, peaks: NDArray[np.float32], free: int, cut: float
    ) -> ThresholdState:
        """Move t up to the peaks' median and let go of those below; when ties leave too few, drop the oldest."""
        median = float(np.partition(peaks, len(peaks) // 2)[len(peaks) // 2])
        above = peaks > median
        if int(above.sum()) >= MIN_PEAKS:
            return self._fitted(risk, seen, n, median, peaks[above], int(above[:free].sum()), cut)
        return self._fitted(risk, seen, n - n / len(peaks), t, peaks[1:], max(free - 1, 0), cut)

    def _level(
        self, risk: float, t: float, shape: float, scale: float, n: float, count: int, floor: float, missing: float
    ) -> float:
        share = risk * (n + missing) / max(count + missing, 1.0)
        return max(floor, t + gpd.quantile(shape, scale, share)) if share < 1.0 else floor

    def _floor(self, risk: float, t: float, n: float, peaks: NDArray[np.float32]) -> float:
        """Return the lowest level that at most ⌊risk n⌋ of the peaks exceed; t when all of them may."""
        allowed = int(risk * n)
        if allowed >= len(peaks):
            return t
        return float(peaks.max()) if allowed == 0 else float(np.partition(peaks, -1 - allowed)[-1 - allowed])
