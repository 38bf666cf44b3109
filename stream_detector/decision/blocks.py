"""What quiet windows change of assets' adaptation, side by side, an entry a slot: the blocks that they fill. Pure.

`AdaptationRules.quiet` is what decides of one asset; here it is done to many. Where a block moves the shift, or comes
from a machine that is not calm, the scalar rule itself decides.
"""

from __future__ import annotations

from math import log

import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.adaptation import LEAST_SIZE, AdaptationRules
from stream_detector.types import Adaptation, replace

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Flags = NDArray[np.bool_]
#: Places in the columns: of assets one after the other, or of a run of slots.
Slots = Ints | slice


class Blocks:
    """Adaptations of many assets that have no incident."""

    _ARRAYS = ("count", "_normal", "_low", "_logs", "_sums", "_anchor", "_shift", "_usual", "_waiting", "_has_usual",
               "_has_waiting", "_calm_ms", "_last", "_before", "_is_new")  # fmt: skip

    def __init__(self, rules: AdaptationRules, columns: int) -> None:
        """`columns`: N, numeric ones."""
        self._rules = rules
        self._states: list[Adaptation | None] = []  # without the block that is being filled; see `_is_new`
        nothing, wide = np.zeros(0), np.zeros((0, columns), np.float32)
        # the block that is being filled
        self.count = np.zeros(0, np.int64)  # windows in it
        self._normal, self._low = self.count, self.count  # how many are normal, how many would end an incident
        self._logs = nothing
        self._sums = wide  # -0.0 is the sum of none
        # as in `Adaptation`
        self._anchor, self._shift, self._usual, self._waiting = wide, wide, wide, wide
        self._has_usual = self._has_waiting = np.zeros(0, np.bool_)
        self._calm_ms = self.count
        self._last, self._before = nothing, nothing  # mean logarithms of the last two blocks; NaN for none
        self._is_new = np.zeros(0, np.bool_)  # a block was concluded since `_states` was made

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""
        more = slots - len(self.count)
        for name in self._ARRAYS:
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
        self._states += [None] * more

    def hold(self, slot: int, state: Adaptation) -> None:
        """Take a state over."""
        if state.count:
            self.count[slot], self._normal[slot], self._low[slot] = state.count, state.normal, state.low
            self._logs[slot], self._sums[slot] = state.logs, state.sums
        else:
            self._empty(slot)
        self._states[slot], self._is_new[slot] = state, False
        if not len(state.shift):
            return  # windows don't tell where the machine is: no block is ever filled
        self._anchor[slot], self._shift[slot] = state.anchor, state.shift
        self._has_usual[slot], self._has_waiting[slot] = len(state.usual) > 0, len(state.waiting) > 0
        if len(state.usual):
            self._usual[slot] = state.usual
        if len(state.waiting):
            self._waiting[slot] = state.waiting
        self._last[slot] = state.past[-1] if state.past else np.nan

    def _empty(self, slots: Slots | int) -> None:
        self.count[slots] = self._normal[slots] = self._low[slots] = 0
        self._logs[slots], self._sums[slots] = 0.0, -0.0

    def states(self, slots: Ints) -> list[Adaptation]:
        """Return assets' adaptations."""
        counts = self.count[slots].tolist()
        numbers = (self._logs[slots].tolist(), self._normal[slots].tolist(), self._low[slots].tolist())
        return [
            replace(learnt, sums=sums, count=count, logs=logs, normal=normal, low=low) if count else learnt
            for learnt, sums, count, logs, normal, low in zip(
                self.learnt(slots), self._sums[slots], counts, *numbers, strict=True
            )
        ]

    def learnt(self, slots: Ints) -> list[Adaptation]:
        """Return assets' adaptations, regardless of the blocks that are being filled."""
        new = slots[self._is_new[slots]]
        numbers = (self._calm_ms[new].tolist(), self._before[new].tolist(), self._last[new].tolist())
        flags = self._has_usual[new].tolist()
        columns = zip(new.tolist(), flags, self._usual[new], self._waiting[new], *numbers, strict=True)
        for slot, has_usual, usual, waiting, calm_ms, before, last in columns:
            old = self._states[slot]
            assert old is not None
            self._states[slot] = Adaptation(
                serial=old.serial,
                shift=old.shift,
                anchor=old.anchor,
                usual=usual.copy() if has_usual else old.usual,
                waiting=waiting.copy(),
                calm_ms=calm_ms,
                past=(before, last) if before == before else (last,),
            )
        self._is_new[new] = False
        return [one for slot in slots.tolist() if (one := self._states[slot]) is not None]

    def fill(self, slots: Slots, offset: NDArray[np.float32], score: Floats, low: Flags) -> None:
        """Count a window (n,) in each of some assets' blocks; their offsets are (n, N)."""
        self._sums[slots] += offset
        self._logs[slots] += logs_of(score)
        self.count[slots] += 1
        self._normal[slots] += 1
        self._low[slots] += low

    def fill_in_turn(self, slots: Ints, offset: NDArray[np.float32], score: Floats, low: Flags) -> None:
        """Count windows likewise, of which several may be of one asset: one after the other, as the chain does."""
        np.add.at(self._sums, slots, offset)  # other sums could end in other bits
        np.add.at(self._logs, slots, logs_of(score))
        np.add.at(self.count, slots, 1)
        np.add.at(self._normal, slots, 1)
        np.add.at(self._low, slots, low.astype(np.int64))

    def conclude(
        self, slots: Ints, offset: NDArray[np.float32], score: Floats, low: Flags, *, end_ms: NDArray[np.int64]
    ) -> Flags:
        """Take the windows (n,) that fill assets' blocks; return where they are the chain's, and nothing is changed.

        That is where a shift moves, or a mean is no number.
        """
        rules, samples = self._rules, self._rules.samples
        means = (self._sums[slots] + offset) / np.float32(samples)
        logs = self._logs[slots] + logs_of(score)
        normal, lows = self._normal[slots] + 1, self._low[slots] + low
        anchor, waiting, has_waiting = self._anchor[slots], self._waiting[slots], self._has_waiting[slots]
        with np.errstate(invalid="ignore"):
            away = np.abs(means - anchor).max(axis=1, initial=0.0).astype(np.float64)
        plain = rules.calm(away, normal, lows) & ~(has_waiting & rules.moves(waiting, anchor, self._shift[slots]))
        if rules.roams:
            plain &= self._has_usual[slots]
        finite = np.isfinite(means).all(axis=1)
        chained: Flags = ~finite
        for place in np.flatnonzero(finite & ~plain).tolist():
            slot = int(slots[place])
            full = replace(
                self.learnt(slots[place : place + 1])[0],
                count=samples,
                logs=float(logs[place]),
                normal=int(normal[place]),
                low=int(lows[place]),
            )
            mean = means[place].copy()
            after, change = rules.concluded(full, mean, float(away[place]), int(end_ms[place]))
            if change is None:
                self.hold(slot, after)
            else:
                chained[place] = True
        plain &= finite
        its = slots[plain]
        self._empty(its)
        self._usual[its] = np.where(has_waiting[plain, None], waiting[plain], self._usual[its])
        self._has_usual[its] |= has_waiting[plain]
        self._waiting[its], self._has_waiting[its] = means[plain], True
        self._before[its], self._last[its] = self._last[its], logs[plain] / samples
        self._calm_ms[its] = end_ms[plain]
        self._is_new[its] = True
        return chained


def logs_of(scores: Floats) -> Floats:
    """Return the logarithms of scores' sizes (n,), to the bits of `math.log`: numpy's own may round otherwise."""
    sizes = np.maximum(np.abs(scores), LEAST_SIZE)
    return np.fromiter(map(log, sizes.data), np.float64, len(sizes))
