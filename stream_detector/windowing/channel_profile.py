"""The usual behaviour of each channel alone, learnt from the training history's windows and kept in the artifact.

The models learn how channels relate. A sensor fault shows in its channel alone: a value repeated longer than ever in
training, pinned to an extreme, or far outside the measured range. An anomaly is contextual when the channel's value
alone is usual. Only cells with readings of their own count; a filled cell repeats the one before by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Number of cells at a window's end that are examined.
REACH = 128
#: Margin on each side of the span of the central 99.8 % of training values, as a share of that span.
ROOM = 0.1
#: Rows of a channel profile's table.
FIELDS = (
    "low",
    "high",  # least and largest value of a cell
    "usual_low",
    "usual_high",  # range of the last cell as the model sees it (smoothed, differenced), with ROOM
    "repeats",  # share of cells that repeat the one before exactly
    "run",  # longest run of repeats, in cells
    "ties_high",
    "ties_low",  # most cells at a window's end that equal its largest or its least value
    "gap",  # longest run of cells without a reading of its own
    "number",  # 1 for numbers, 0 for categories
)


@dataclass(frozen=True, slots=True)
class ChannelProfile:
    """A table with one row per name in FIELDS and one column per window column; counts are in cells."""

    table: Floats  # (len(FIELDS), C)

    def __post_init__(self) -> None:
        """Raise ValueError when the table has another shape or a value that is not finite."""
        if self.table.ndim != 2 or len(self.table) != len(FIELDS) or not np.isfinite(self.table).all():
            raise ValueError(f"norms are {self.table.shape}, expected ({len(FIELDS)}, columns) finite numbers")

    def __getitem__(self, name: str) -> Floats:
        """Return one field for all columns, (C,)."""
        row: Floats = self.table[FIELDS.index(name)]
        return row


class ChannelProfileLearner:
    """Learns one asset's channel profile from its windows in event-time order, independent of batching."""

    def __init__(self, columns: int, cell_ms: float) -> None:
        """Start without any windows."""
        self._cell_ms = cell_ms
        self._end_ms = -np.inf
        self._run = np.zeros(columns)  # cells at the end that repeat the one before
        self._gap = np.zeros(columns)  # cells at the end without a reading
        self.low = np.full(columns, np.inf)
        self.high = np.full(columns, -np.inf)
        self.longest = np.zeros((2, columns))  # run, gap
        self.ties = np.zeros((2, columns))  # of the largest, of the least
        self.alike = np.zeros((2, columns))  # pairs alike, pairs

    def learn(self, values: NDArray[np.float32], filled: Bools, end_ms: NDArray[np.int64]) -> None:
        """Learn from windows (W, T, C)."""
        own, ends = ~filled, end_ms.astype(np.float64)
        if self._end_ms == -np.inf:
            self._take_range(values[0], own[0])
        self._take_range(values[:, -1], own[:, -1])
        if values.shape[1] > 1:
            self._take_tails(values[:, -REACH:], own[:, -REACH:], np.diff(ends, prepend=self._end_ms) / self._cell_ms)
        self._end_ms = float(ends[-1])

    def _take_tails(self, tail: NDArray[np.float32], own: Bools, steps: Floats) -> None:
        for place, ties in enumerate(ties_at_ends(tail, own)):
            self.ties[place] = np.maximum(self.ties[place], ties.max(axis=0))
        pair = own[:, -1] & own[:, -2]
        same = pair & (tail[:, -1] == tail[:, -2])
        self.alike += np.stack([same.sum(axis=0), pair.sum(axis=0)])
        runs, gaps = trailing_run(tail, own), _trailing(~own)
        most = tail.shape[1] - 1
        self.longest = np.maximum(self.longest, np.stack([runs.max(axis=0), gaps.max(axis=0)]))
        long = runs + gaps >= most  # fills the examined cells, so it may continue across windows
        for row in np.flatnonzero(long.any(axis=1)).tolist():
            if row and not long[row - 1].any():
                self._run, self._gap = runs[row - 1], gaps[row - 1]
            step = min(float(steps[row]), 1e9)
            self._run = np.where(long[row] & (runs[row] > 0), np.maximum(self._run + step, runs[row]), runs[row])
            self._gap = np.where(gaps[row] > most, np.maximum(self._gap + step, gaps[row]), gaps[row])
            self.longest = np.maximum(self.longest, np.stack([self._run, self._gap]))
        if not long[-1].any():
            self._run, self._gap = runs[-1], gaps[-1]

    def _take_range(self, values: NDArray[np.float32], own: Bools) -> None:
        self.low = np.minimum(self.low, np.where(own, values, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(own, values, -np.inf).max(axis=0, initial=-np.inf))


def channel_profile_of(learners: Sequence[ChannelProfileLearner], observed: Floats, numbers: Bools) -> ChannelProfile:
    """Return the profile learnt from the windows of all these assets.

    `observed` (N, C): last cells as the model sees them; `numbers` (C,): True for columns that are not categories.
    """
    low, high = np.min([one.low for one in learners], axis=0), np.max([one.high for one in learners], axis=0)
    alike = np.sum([one.alike for one in learners], axis=0)
    longest = np.max([one.longest for one in learners], axis=0)
    ties = np.max([one.ties for one in learners], axis=0)
    usual = np.quantile(observed, (0.001, 0.999), axis=0)
    room = ROOM * (usual[1] - usual[0])
    usual = np.stack([usual[0] - room, usual[1] + room])
    rows = [
        np.where(np.isfinite(low), low, 0.0),
        np.where(np.isfinite(high), high, 0.0),
        *usual,
        (alike[0] + 1) / (alike[1] + 2),
        longest[0],
        *ties,
        longest[1],
        numbers.astype(np.float64),
    ]
    return ChannelProfile(np.stack(rows))


def trailing_run(values: NDArray[np.float32], own: Bools) -> Floats:
    """Return the number of own cells at the end of windows (W, T, C) that repeat the one before, (W, C)."""
    alike = values[:, 1:] == values[:, :-1]
    going = np.minimum.accumulate(alike[:, ::-1], axis=1)
    return np.asarray((going & own[:, :0:-1]).sum(axis=1), np.float64)


def ties_at_ends(values: NDArray[np.float32], own: Bools) -> tuple[Floats, Floats]:
    """Return how many own cells (W, T, C) equal their window's largest and least value, (W, C) each."""
    high, low = values.max(axis=1, keepdims=True), values.min(axis=1, keepdims=True)
    at_high, at_low = (values == high) & own, (values == low) & own
    return np.asarray(at_high.sum(axis=1), np.float64), np.asarray(at_low.sum(axis=1), np.float64)


def _trailing(flags: Bools) -> Floats:
    """Return how many cells at the end (W, T, C) are set without a gap, (W, C)."""
    return np.asarray(np.minimum.accumulate(flags[:, ::-1], axis=1).sum(axis=1), np.float64)
