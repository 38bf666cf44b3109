"""Checks of a window's channels for readings that no healthy sensor gives: array operations over a whole batch.

RUN    the newest cells repeat one value for longer than chance or the training history can explain
FLAT   the whole window repeats one value, but for this channel a window is too short to be sure
TIES   many cells are at the window's maximum (minimum), which is at or beyond the training range: clipped
OUT    the newest cell is physically implausible: many times the channel's range away, or negative although the
       training range is not
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import WindowBatch
from stream_detector.windowing.channel_profile import FIELDS, REACH, ChannelProfile, Floats, ties_at_ends, trailing_run

RUN, FLAT, TIES, OUT = 1, 2, 4, 8
Codes = NDArray[np.uint8]

#: A run of repeated values is a fault when its probability by chance is below this.
_CHANCE = 1e-9
#: Minimum repeats of a stuck sensor, and the multiple of the longest run, or of the most ties, in training.
_LEAST, _TIMES = 4, 2
#: Runs are not checked on channels of which at least this share of cells repeats the previous one in training.
_MOSTLY = 0.98
#: Distance beyond the training range, in multiples of it, that no machine can cause.
_FAR = 20.0


class SensorChecks:
    """The limits of each model's channels."""

    def __init__(self, profiles: Sequence[ChannelProfile | None], columns: int, length: int) -> None:
        """`profiles`: channel profiles by model index; None for artifacts without one, which are not checked."""
        reach = min(length, REACH)
        never = np.full(columns, np.inf)
        tables = [one.table if one is not None and one.table.shape[1] == columns else None for one in profiles]
        field = {name: index for index, name in enumerate(FIELDS)}

        def stacked(name: str) -> Floats:  # (models, C)
            return np.stack([never if table is None else table[field[name]] for table in tables])

        self.any = bool(tables) and length > 1 and any(table is not None for table in tables)
        if not self.any:
            return
        self._reach = reach
        numbers = stacked("number") == 1.0
        run, repeats = stacked("run"), stacked("repeats")
        with np.errstate(divide="ignore", invalid="ignore"):
            by_chance = np.ceil(np.log(_CHANCE) / np.log(np.minimum(repeats, _MOSTLY)))
        need = np.maximum(np.maximum(by_chance, _TIMES * run + 1), _LEAST)
        self.need: Floats = np.where(numbers & (repeats < _MOSTLY), need, np.inf)
        """(models, C) number of cells that must repeat the previous one; infinite if constant values are usual."""
        self._high_ties = np.where(numbers, _TIMES * stacked("ties_high") + 2, np.inf)
        self._low_ties = np.where(numbers, _TIMES * stacked("ties_low") + 2, np.inf)
        low, high = stacked("low"), stacked("high")
        span = high - low
        varies = numbers & (span > 0) & np.isfinite(self.need)
        self._high: Floats = np.where(numbers, high, np.inf)
        self._low: Floats = np.where(numbers, low, -np.inf)
        with np.errstate(invalid="ignore"):
            far_low = np.where(low >= 0, np.maximum(low - _FAR * span, -0.5 * span), low - _FAR * span)
            self._far_high: Floats = np.where(varies, high + _FAR * span, np.inf)
            self._far_low: Floats = np.where(varies, far_low, -np.inf)

    def look(self, windows: WindowBatch, model: NDArray[np.int32]) -> Codes | None:
        """Return flags (W, C) of each window's channels; None if none is set. `model` (W,): index, -1 for none."""
        if not self.any or not len(model):
            return None
        values, filled = windows.values, windows.filled
        newest, before = values[:, -1], values[:, -2]
        own = ~filled[:, -1]
        codes = np.zeros(newest.shape, np.uint8)
        codes[own & ((newest > self._far_high[model]) | (newest < self._far_low[model]))] = OUT
        alike = own & (newest == before) & np.isfinite(self.need[model])
        extreme = own & ((newest >= self._high[model]) | (newest <= self._low[model]))
        rows = np.flatnonzero((alike | extreme).any(axis=1) & (model >= 0))
        if rows.size:
            tail, tail_own = values[rows, -self._reach :], ~filled[rows, -self._reach :]
            mine, need = model[rows], self.need[model[rows]]
            run = trailing_run(tail, tail_own)
            codes[rows] |= np.where(run >= need, RUN, 0).astype(np.uint8)
            whole = run + filled[rows, -self._reach :].sum(axis=1) >= tail.shape[1] - 1
            codes[rows] |= np.where(whole & (run > 0) & (run < need) & np.isfinite(need), FLAT, 0).astype(np.uint8)
            high, low = ties_at_ends(tail, tail_own)
            at_high = (high >= self._high_ties[mine]) & (tail.max(axis=1) >= self._high[mine])
            at_low = (low >= self._low_ties[mine]) & (tail.min(axis=1) <= self._low[mine])
            codes[rows] |= np.where(at_high | at_low, TIES, 0).astype(np.uint8)
        codes[model < 0] = 0
        return codes if codes.any() else None

    def beyond(self, model: int, column: int, value: float) -> bool:
        """Return whether a value is outside the training range."""
        return not self._low[model, column] <= value <= self._high[model, column]

    @property
    def reach(self) -> int:
        """Number of cells at a window's end that are checked."""
        return self._reach
