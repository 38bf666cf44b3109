"""The columns of the quiet path: what quiet windows change of the states of one task, an entry a slot. Pure."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.blocks import Blocks
from stream_detector.decision.table import StateTable
from stream_detector.decision.threshold.columns import ThresholdColumns
from stream_detector.types import AssetState, AuditedLevel, Controls, ModelRef, ThresholdState, replace

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
    in_order: bool  # sorted by slot

    def at(self, places: Ints | NDArray[np.bool_]) -> Rows:
        """Return some of the windows, sorted by slot."""
        return Rows(
            slots=self.slots[places],
            end_ms=self.end_ms[places],
            score=self.score[places],
            serial=self.serial[places],
            offset=None if self.offset is None else self.offset[places],
            due=self.due[places],
            plain=self.plain[places],
            model=self.model[places],
            models=self.models,
            in_order=True,
        )


class QuietColumns:
    """What quiet windows change of the states of one task, an entry a slot of its table.

    All else of a state that is held here is as the table's objects have it.
    """

    _ARRAYS = (
        "held",
        "limit",
        "low",
        "queue",
        "oldest",
        "queued",
        "has_learnt",
        "written",
        "written_ms",
        "audit_ms",
        "until_ms",
    )

    def __init__(self, table: StateTable, threshold: ThresholdColumns, blocks: Blocks, capacity: int) -> None:
        """`threshold` and `blocks` hold no asset yet; `capacity`: scores that wait at most."""
        self._table = table
        self.threshold = threshold
        self.blocks = blocks
        self.held = np.zeros(0, np.bool_)
        self.limit = np.zeros(0)  # scores up to it are quiet
        self.low = np.zeros(0)  # scores up to it would end an incident
        self.queue = np.zeros((0, capacity), np.float32)  # scores that wait to be learnt, a ring for each asset
        self.oldest = np.zeros(0, np.intp)  # place of the oldest one
        self.queued = np.zeros(0, np.intp)  # number of them
        self.has_learnt = np.zeros(0, np.bool_)  # whether the threshold is newer than that of the table's object
        self.written = np.zeros(0)  # the level as the audit topic has it; NaN for none
        self.written_ms = np.zeros(0, np.int64)  # and since when
        self.audit_ms = np.zeros(0, np.int64)  # from when on a moved level is written again
        self.until_ms = np.zeros(0, np.int64)  # from when on the alert budget looks at the risk
        self.controls = Controls()
        """Those that the assets held were last compared with."""
        self.grow(len(table.judged))

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""
        more = slots - len(self.held)
        for name in self._ARRAYS:
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))
        self.threshold.grow(slots)
        self.blocks.grow(slots)

    def states(self, slots: Ints) -> list[AssetState]:
        """Return the states of assets that are held."""
        bases = [base for slot in slots.tolist() if (base := self._table.objects[slot]) is not None]
        audits = zip(self.written[slots].tolist(), self.written_ms[slots].tolist(), strict=True)
        audited = [AuditedLevel(level=level if level == level else None, at_ms=at_ms) for level, at_ms in audits]
        judged, parts = self._table.judged[slots].tolist(), (self.thresholds(slots), self.blocks.states(slots))
        return [
            replace(base, judged_ms=judged_ms, threshold=threshold, adaptation=adaptation, audited=written)
            for base, judged_ms, threshold, adaptation, written in zip(bases, judged, *parts, audited, strict=True)
        ]

    def thresholds(self, slots: Ints) -> list[ThresholdState]:
        """Return the thresholds of assets that are held."""
        rings, size = self.queue[slots].tobytes(), 4 * self.queue.shape[1]
        waiting = []
        for at, (oldest, count) in enumerate(
            zip(self.oldest[slots].tolist(), self.queued[slots].tolist(), strict=True)
        ):
            ring = rings[at * size : (at + 1) * size]
            waiting.append((ring[4 * oldest :] + ring[: 4 * oldest])[: 4 * count])
        self._refresh(slots[self.has_learnt[slots]])
        bases = [base for slot in slots.tolist() if (base := self._table.objects[slot]) is not None]
        return [replace(base.threshold, pending=its) for base, its in zip(bases, waiting, strict=True)]

    def _refresh(self, slots: Ints) -> None:
        """Note in the table's objects what thresholds have learnt, so that it is put into structs once."""
        objects = self._table.objects
        for slot, threshold in zip(slots.tolist(), self.threshold.states(slots), strict=True):
            base = objects[slot]
            assert base is not None
            objects[slot] = replace(base, threshold=threshold)
        self.has_learnt[slots] = False

    def places(self, slots: Ints, count: int) -> Ints:
        """Return where in their queues the `count` oldest scores of assets lie, (n, count)."""
        found: Ints = (self.oldest[slots, None] + np.arange(count)) % self.queue.shape[1]
        return found


def run_of(slots: Ints) -> Ints | slice:
    """Return distinct slots in rising order, as a slice where they have no gap: looked up without copies."""
    first, last = int(slots[0]), int(slots[-1])
    return slice(first, last + 1) if last - first + 1 == len(slots) else slots


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

    def blocked(self, stop: Ints, good: NDArray[np.bool_]) -> Ints:
        """Return the slots of the runs that end before their end, at a window that is not good or at once."""
        if self.single:
            at = np.flatnonzero(stop == 0)
        else:
            runs = np.flatnonzero(stop < self._sizes)
            at = self.starts[runs] + stop[runs]
            at = at[~good[at] | (stop[runs] == 0)]
        found: Ints = self.keys[at]
        return found
