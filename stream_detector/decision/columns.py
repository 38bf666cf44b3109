"""The columns of the quiet path: what quiet windows change of the states of one task, an entry a slot. Pure."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.table import StateTable
from stream_detector.types import Adaptation, AssetState, Controls, ModelRef, ThresholdState, replace

Ints = NDArray[np.intp]


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of a batch, columnar, in the order they came."""

    slots: Ints  # (W,)
    end_ms: NDArray[np.int64]  # (W,)
    score: NDArray[np.float64]  # (W,) written to when windows are scored again
    serial: NDArray[np.int64]  # (W,) of the shift each was scored under, likewise
    offset: NDArray[np.float32] | None  # (W, N), likewise
    due: NDArray[np.bool_]  # (W,) whether adaptation looks at it
    plain: NDArray[np.bool_]  # (W,) no sensor check says anything of it
    model: NDArray[np.int32]  # (W,)
    models: tuple[ModelRef, ...]


class QuietColumns:
    """What quiet windows change of the states of one task, an entry a slot of its table."""

    _ARRAYS = ("held", "limit", "level", "low", "queue", "queued", "sums", "logs", "counts", "written",
               "written_ms", "audit_ms", "until_ms")  # fmt: skip

    def __init__(self, table: StateTable, capacity: int, columns: int) -> None:
        """`capacity`: scores that wait at most; `columns`: N, numeric ones."""
        self._table = table
        self.threshold: list[ThresholdState | None] = []
        """Without the scores that wait."""
        self.adaptation: list[Adaptation | None] = []
        """Without the block that is being filled."""
        self.base: list[AssetState | None] = []
        """What quiet windows leave as it is."""
        self.held = np.zeros(0, np.bool_)
        self.limit = np.zeros(0)  # scores up to it are quiet
        self.level = np.zeros(0)  # the adaptive level
        self.low = np.zeros(0)  # scores up to it would end an incident
        self.queue = np.zeros((0, capacity), np.float32)  # scores that wait to be learnt, oldest first
        self.queued = np.zeros(0, np.intp)
        self.sums = np.zeros((0, columns), np.float32)  # of the block's offsets; -0.0 is the sum of none
        self.logs = np.zeros(0)
        self.counts = np.zeros((0, 3), np.int64)  # windows in the block, normal ones, low ones
        self.written = np.zeros(0)  # the level as the audit topic has it; NaN for none
        self.written_ms = np.zeros(0, np.int64)  # and since when
        self.audit_ms = np.zeros(0, np.int64)  # from when on a moved level is written again
        self.until_ms = np.zeros(0, np.int64)  # from when on the alert budget looks at the risk
        self.controls = Controls()
        """Those that the assets held were last compared with."""
        self.grow(len(table.judged))

    def grow(self, slots: int) -> None:
        """Make room for so many assets."""
        more = slots - len(self.held)
        for name in self._ARRAYS:
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
        self.threshold += [None] * more
        self.adaptation += [None] * more
        self.base += [None] * more

    def state(self, slot: int) -> AssetState:
        """Return the state of an asset that is held."""
        base, threshold, adaptation = self.base[slot], self.threshold[slot], self.adaptation[slot]
        assert base is not None
        assert threshold is not None
        assert adaptation is not None
        return replace(
            base,
            judged_ms=int(self._table.judged[slot]),
            threshold=replace(threshold, pending=self.pending(slot)),
            adaptation=self.block(slot, adaptation),
        )

    def block(self, slot: int, adaptation: Adaptation) -> Adaptation:
        """Return an adaptation with the block that is being filled."""
        count, normal, low = self.counts[slot].tolist()
        if not count:
            return adaptation
        sums, logs = self.sums[slot].copy(), float(self.logs[slot])
        return replace(adaptation, sums=sums, count=count, logs=logs, normal=normal, low=low)

    def pending(self, slot: int) -> bytes:
        """Return the scores that wait to be learnt, as states have them."""
        return self.queue[slot, : self.queued[slot]].tobytes()


class Groups:
    """Windows sorted by slot, as runs of one slot each."""

    def __init__(self, keys: Ints) -> None:
        """`keys`: (n,) the slot of each window."""
        self.keys = keys
        new = np.empty(len(keys), np.bool_)
        new[:1] = True
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        self.starts: Ints = np.flatnonzero(new)
        """(G,) where each run begins."""
        self.single = len(self.starts) == len(keys)
        """Whether no asset has two windows."""
        if not self.single:
            self.later = ~new
            self._sizes = np.diff(self.starts, append=len(keys))
            self._rank = np.arange(len(keys)) - np.repeat(self.starts, self._sizes)

    def first(self, flags: NDArray[np.bool_]) -> Ints:
        """Return how many windows each run has before its first flagged one, (G,)."""
        if self.single:
            return (~flags).astype(np.intp)
        found: Ints = np.minimum.reduceat(np.where(flags, self._rank, len(flags)), self.starts)
        return np.minimum(found, self._sizes)

    def cumulated(self, flags: NDArray[np.bool_]) -> Ints:
        """Return how many windows of its run are flagged up to each, (n,)."""
        if self.single:
            return flags.astype(np.intp)
        total = np.cumsum(flags)
        return total - np.repeat(total[self.starts] - flags[self.starts], self._sizes)

    def before(self, stop: Ints) -> NDArray[np.bool_]:
        """Return which windows come before the place where their run stops, (n,)."""
        if self.single:
            return stop > 0
        found: NDArray[np.bool_] = self._rank < np.repeat(stop, self._sizes)
        return found

    def ranks(self, chosen: NDArray[np.bool_]) -> Ints | None:
        """Return the places of some windows in their runs; None when all are the first."""
        return None if self.single else self._rank[chosen]

    def blocked(self, stop: Ints, good: NDArray[np.bool_]) -> set[int]:
        """Return the slots of the runs that end before their end, at a window that is not good or at once."""
        if self.single:
            return set(self.keys[stop == 0].tolist())
        open_ = np.flatnonzero(stop < self._sizes)
        at = self.starts[open_] + stop[open_]
        return set(self.keys[at[~good[at] | (stop[open_] == 0)]].tolist())
