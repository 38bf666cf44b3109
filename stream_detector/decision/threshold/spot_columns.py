"""SPOT's states of many assets side by side: what `Spot.learning` does to one, done to all of them at once.

Most scores lie below the tail, where they count and no more. Peaks are taken in rounds, the next one of each asset that
has one, until an asset's law must be fitted again; those that wait for it are then fitted together. What is rare, or
too little to be worth array operations, goes through `Spot.learning` itself.

n grows by the scores below the tail in one sum. It has a fraction, but ends in the same bits as one by one: a sum of at
most n more passes one power of two at most, and is rounded there only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.threshold import gpd
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.decision.threshold.spot import (
    FLAT_MARGIN,
    REFIT_SHARE,
    WIDE,
    Spot,
    SpotNumbers,
    finished_together,
)
from stream_detector.types import ThresholdState

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

FEW = 24
"""Assets with new peaks for which `Spot.learning` is the sooner way."""
_RISK, _T, _SHAPE, _SCALE, _N, _FLOOR, _NEWS, _FREE, _CUT, _MISSING = range(len(SpotNumbers._fields))


class SpotColumns:
    """States of SPOT, each of which has a level; see `ThresholdColumns`."""

    def __init__(self, method: Spot) -> None:
        """Hold states of this method."""
        self._method = method
        self.level = np.zeros(0)
        self.seen = np.zeros(0, np.int64)
        self._numbers = np.zeros((len(SpotNumbers._fields), 0))  # (fields of SpotNumbers, slots)
        self._peaks = np.zeros((0, method.max_peaks), np.float32)  # oldest first, then -inf
        self._count = np.zeros(0, np.intp)  # peaks

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""
        more = slots - len(self.level)
        self.level = np.concatenate([self.level, np.zeros(more)])
        self.seen = np.concatenate([self.seen, np.zeros(more, np.int64)])
        self._numbers = np.concatenate([self._numbers, np.zeros((len(self._numbers), more))], axis=1)
        self._peaks = np.concatenate([self._peaks, np.zeros((more, self._peaks.shape[1]), np.float32)])
        self._count = np.concatenate([self._count, np.zeros(more, np.intp)])

    def hold(self, slot: int, state: ThresholdState) -> bool:
        """Take a state over; return False where it holds more peaks than this method keeps."""
        count = len(state.sample)
        if count > self._peaks.shape[1]:
            return False
        self.level[slot], self.seen[slot] = state.level, state.seen
        self._numbers[:, slot] = state.numbers
        self._peaks[slot, :count], self._peaks[slot, count:] = state.sample, -np.inf
        self._count[slot] = count
        return True

    def tails(self, slots: Ints) -> Floats:
        """Return the scores that assets' tails begin at, (n,)."""
        found: Floats = self._numbers[_T, slots]
        return found

    def states(self, slots: Ints) -> list[ThresholdState]:
        """Return the states of assets, without scores that wait."""
        columns = (self.level[slots].tolist(), self.seen[slots].tolist(), self._count[slots].tolist())
        method, numbers, peaks = self._method.name, self._numbers[:, slots].T.tolist(), self._peaks[slots]
        return [
            ThresholdState(
                method=method,
                level=level,
                seen=seen,
                numbers=SpotNumbers._make(its),
                sample=sample[:count].copy(),  # one that is kept must not keep the others
            )
            for level, seen, count, its, sample in zip(*columns, numbers, peaks, strict=True)
        ]

    def learn(self, slots: Ints, scores: Floats) -> None:
        """Learn the normal scores (A, m) of A assets: what `Spot.learn` makes of each."""
        numbers, above = self._numbers[:, slots], scores > self._numbers[_T, slots, None]
        peaked = np.flatnonzero(above.any(axis=1))
        alone = peaked
        if len(peaked) >= FEW:
            turn = _Turn(self._method, numbers[:, peaked], self.level[slots[peaked]])
            turn.begin(self._peaks[slots[peaked]], self._count[slots[peaked]], scores[peaked])
            alone = peaked[turn.learn(above[peaked])]
        learnings = [
            self._method.learning(state, scores[place].tolist())
            for state, place in zip(self.states(slots[alone]), alone.tolist(), strict=True)
        ]
        numbers[_N] += scores.shape[1]
        if len(peaked) >= FEW:
            numbers[:, peaked] = turn.numbers
            self._peaks[slots[peaked]], self._count[slots[peaked]] = turn.peaks, turn.count
        self._numbers[:, slots] = numbers
        self.level[slots] = levels(numbers, self._count[slots])
        self.seen[slots] += scores.shape[1]
        for slot, state in zip(slots[alone].tolist(), finished_together(learnings), strict=True):
            self.hold(slot, state)


class _Turn:
    """What some assets learn from scores with peaks among them; private to one call, so that it may change."""

    def __init__(self, method: Spot, numbers: Floats, level: Floats) -> None:
        """Take copies: `numbers` (fields, A) and `level` (A,)."""
        self._method = method
        self.numbers = numbers
        self._level = level

    def begin(self, peaks: NDArray[np.float32], count: Ints, scores: Floats) -> None:
        """Take copies of the peaks (A, max_peaks) and their numbers (A,); and the scores (A, m)."""
        self.peaks, self.count, self._scores = peaks, count, scores
        self._kept = np.clip(scores, -LARGEST, LARGEST).astype(np.float32)
        self._learnt = np.zeros(len(count), np.intp)  # scores learnt so far
        self._narrowed = np.zeros(len(count), np.bool_)

    def learn(self, above: NDArray[np.bool_]) -> Ints:
        """Learn all scores, those `above` (A, m) the tail's beginning as peaks; return who must learn alone.

        That is where the tail is to be narrowed, so that its beginning moves: what lies here of those is of no use.
        """
        places = np.nonzero(above)[1]  # by asset
        number = above.sum(axis=1)
        at, end = np.cumsum(number) - number, np.cumsum(number)  # the next peak of each in `places`, and the last
        left = np.arange(len(number))
        while len(left):
            waiting: list[Ints] = []
            while len(left):
                fits = self._took(left, places[at[left]])
                at[left] += 1
                waiting.append(left[fits])
                left = left[~fits & (at[left] < end[left]) & ~self._narrowed[left]]
            left = np.concatenate(waiting)
            self._fit(left)
            left = left[at[left] < end[left]]
        self.numbers[_N] += above.shape[1] - self._learnt
        return np.flatnonzero(self._narrowed)

    def _took(self, rows: Ints, places: Ints) -> NDArray[np.bool_]:
        """Take a peak of each of some assets, and the scores before it; return whose law must be fitted again."""
        numbers, count = self.numbers[:, rows], self.count[rows] + 1
        below = places - self._learnt[rows]
        numbers[_N] += below
        # before any other score the level is the one that came in, which settings may have made
        level = np.where(places > 0, levels(numbers, count - 1), self._level[rows])
        numbers[_N] += 1.0
        numbers[_CUT] += (level - numbers[_CUT]) / (count - numbers[_FREE])
        full = count > self._method.max_peaks
        self._narrowed[rows] = full & (count > WIDE * self._method.tail * numbers[_N])
        numbers[_N] = np.where(full, numbers[_N] - numbers[_N] / count, numbers[_N])
        numbers[_FREE] = np.where(full, np.maximum(numbers[_FREE] - 1.0, 0.0), numbers[_FREE])
        count -= full
        peaks = self.peaks[rows]
        peaks[full, :-1] = peaks[full, 1:]
        peaks[np.arange(len(rows)), count - 1] = self._kept[rows, places]
        numbers[_NEWS] += 1.0
        numbers[_FLOOR] = floors(numbers, count, peaks)
        self.numbers[:, rows], self.count[rows], self.peaks[rows] = numbers, count, peaks
        self._learnt[rows] = places + 1
        found: NDArray[np.bool_] = (numbers[_NEWS] * REFIT_SHARE >= count) & ~self._narrowed[rows]
        return found

    def _fit(self, rows: Ints) -> None:
        """Fit the law to the peaks of some assets."""
        numbers, count = self.numbers[:, rows], self.count[rows]
        numbers[_FREE] = np.trunc(numbers[_FREE])
        shares = (count - numbers[_FREE]) / count
        for size in set(count.tolist()):
            its = np.flatnonzero(count == size)
            start = numbers[_T, its]
            excesses = self.peaks[rows[its], :size].astype(np.float64) - start[:, None]
            laws = np.array(gpd.fit_alike(excesses, numbers[_CUT, its] - start, shares[its]))
            numbers[_SHAPE, its], numbers[_SCALE, its], below = laws.T
            numbers[_MISSING, its] = (size - numbers[_FREE, its]) * (1.0 - below) / below
        flat = (FLAT_MARGIN * np.abs(numbers[_T])).astype(np.float32)
        numbers[_SCALE] = np.where(numbers[_SCALE] == 0.0, flat, numbers[_SCALE])
        numbers[_NEWS] = 0.0
        self.numbers[:, rows] = numbers


def levels(numbers: Floats, count: Ints) -> Floats:
    """Return the level of each of A tails, (A,), from their numbers (fields, A) and the number of their peaks."""
    floor, n, missing = numbers[_FLOOR], numbers[_N], numbers[_MISSING]
    share = numbers[_RISK] * (n + missing) / np.maximum(count + missing, 1.0)
    level: Floats = numbers[_T] + gpd.quantiles(numbers[_SHAPE], numbers[_SCALE], share)
    return np.where((share < 1.0) & (level > floor), level, floor)


def floors(numbers: Floats, count: Ints, peaks: NDArray[np.float32]) -> Floats:
    """Return the lowest level of each of A tails, (A,): at most ⌊risk n⌋ of its peaks exceed it."""
    allowed = (numbers[_RISK] * numbers[_N]).astype(np.intp)
    found: Floats = numbers[_T].copy()
    for number in set(allowed.tolist()):
        its = np.flatnonzero((allowed == number) & (count > number))
        if number:
            found[its] = np.partition(peaks[its], -1 - number, axis=1)[:, -1 - number]
        else:
            found[its] = peaks[its].max(axis=1, initial=-np.inf)
    return found
