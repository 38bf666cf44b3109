"""The quiet path: windows in which nothing happens, decided a batch at a time. Pure but for the columns it owns.

Nearly all windows are quiet: the score lies below the level, no incident is open or about to be, no level is pinned, no
sensor is broken, no setting waits to be applied. Of such an asset the state changes in a few numbers only: the window
judged last, the scores that wait to be learnt, the block that adaptation fills. They lie in columns, an entry an asset,
and one comparison finds the windows that change nothing else. Now and then a quiet window has a consequence: waiting
scores are learnt, a block is full, an hour has passed since the level was written to the audit topic. These are worked
off for all assets together.

Whatever else a window is, it is left to the chain of policies (engine.py), which is the authority:
tests/test_quiet.py shows that both give the same bytes.

Windows of one asset come in order. In a batch sorted by asset each turn of `QuietPath.take` decides the longest prefix
of each asset's windows that is quiet without a consequence before its end; the caller steps the chain through what
stopped it, and turns again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import log

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.config.judging import spare
from stream_detector.decision.adaptation import LEAST_SIZE, log_of
from stream_detector.decision.audit import LEVEL_MS, LEVEL_STEP
from stream_detector.decision.controls import obeyed
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.decision.threshold import learn_together
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import (
    Adaptation,
    AssetState,
    Audit,
    AuditedLevel,
    Controls,
    ModelRef,
    ThresholdState,
    replace,
)

Ints = NDArray[np.intp]
_LATEST = 2**62


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
        """Allocate rows for this number of assets."""
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


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn of the quiet path has decided, and what it has left."""

    rows: Ints  # places in the batch of the windows decided, sorted by asset
    level: NDArray[np.float64]  # the adaptive level before each
    audits: list[tuple[int, Audit]]  # with the place of their window in the batch
    left: Ints  # places of the others, likewise
    chained: set[int]  # slots of which the first window left is the chain's to decide


class QuietPath:
    """The rules of the quiet path of one engine. Holds no state: a task's columns do."""

    def __init__(self, engine: Engine) -> None:
        """Decide as this engine does."""
        rules, config = engine.rules, engine.rules.config.threshold
        self._engine, self._rules, self._auditor = engine, rules, engine.auditor
        self._learn_after = config.learn_after
        self._learns = config.adapt
        self._capacity = config.learn_after + spare(config.learn_after) + 1
        self._columns = len(rules.config.numeric_columns) if rules.follows else 0
        self._samples = rules.adaptation.samples
        # Under a budget the scores of a window just judged decide whether the tail has moved below it, where the tail
        # moves with the scores' mean.
        self.on = not engine.is_extended and (rules.budget is None or type(rules.method) is Spot)
        """Whether there is a quiet path at all."""

    def columns(self, table: StateTable) -> QuietColumns:
        """Return a task's columns, made at first use."""
        if table.columns is None:
            table.columns = QuietColumns(table, self._capacity, self._columns)
        assert isinstance(table.columns, QuietColumns)
        return table.columns

    # Which assets are held ------------------------------------------------------------------------------------------

    def hold(self, table: StateTable, slot: int, controls: Controls) -> bool:
        """Take an asset's state into the columns if the next window may be quiet; return whether it was."""
        state = table.objects[slot]
        if state is None or not self._may_be_quiet(state, controls, table.names[slot]):
            return False
        columns = self.columns(table)
        waiting = np.frombuffer(state.threshold.pending, "<f4")
        if len(waiting) >= self._capacity:  # learn_after was lowered: the chain learns what is too much
            return False
        columns.queue[slot, : len(waiting)] = waiting
        columns.queued[slot] = len(waiting)
        columns.base[slot], columns.adaptation[slot] = state, state.adaptation
        adaptation = state.adaptation
        if adaptation.count:
            columns.sums[slot] = adaptation.sums
            columns.logs[slot] = adaptation.logs
            columns.counts[slot] = adaptation.count, adaptation.normal, adaptation.low
        else:
            columns.sums[slot] = -0.0
            columns.logs[slot] = 0.0
            columns.counts[slot] = 0
        columns.held[slot] = True
        columns.written[slot] = np.nan if state.audited.level is None else state.audited.level
        columns.written_ms[slot] = state.audited.at_ms
        columns.until_ms[slot] = _LATEST
        if state.budget is not None and self._rules.budget is not None:
            columns.until_ms[slot] = math.ceil(state.budget.set_ms + self._rules.budget.turn_ms)
        self._set_levels(columns, np.array([slot]), [state.threshold])
        return True

    def _may_be_quiet(self, state: AssetState, controls: Controls, asset: str) -> bool:
        incident, threshold, budget = state.incident, state.threshold, state.budget
        return (
            incident.opened_ms is None
            and incident.recent == 0
            and incident.rearm is None
            and threshold.level is not None
            and not state.sensors.faults
            and state.applied.pinned is None
            and (budget is None or (budget.recent == 0 and budget.quiet < 0))
            and (budget is None) == (self._rules.budget is None)
            and state.adaptation.count < self._samples
            and self._follows_orders(state, controls, asset)
        )

    def _follows_orders(self, state: AssetState, controls: Controls, asset: str) -> bool:
        accepts = controls.accepts
        return obeyed(state.applied, controls, asset) and not (
            accepts and accepts.get(asset, "") > state.applied.accepted
        )

    def _set_levels(self, columns: QuietColumns, slots: Ints, thresholds: Sequence[ThresholdState]) -> None:
        """Note assets' thresholds, and what follows of their levels."""
        rules = self._rules
        for slot, threshold in zip(slots.tolist(), thresholds, strict=True):
            columns.threshold[slot] = threshold
        level = np.array([one.level for one in thresholds], np.float64)  # NaN for none: above nothing
        columns.level[slots] = columns.limit[slots] = level
        columns.low[slots] = rules.incidents.quiet_below(level + (rules.margin - 1.0) * np.abs(level))
        if rules.budget is not None:
            assert isinstance(rules.method, Spot)
            columns.limit[slots] = np.minimum(level, [rules.method.tail_from(one) for one in thresholds])
        self._set_audit(columns, slots)

    def _set_audit(self, columns: QuietColumns, slots: Ints) -> None:
        moved = columns.level[slots] != columns.written[slots]
        columns.audit_ms[slots] = np.where(moved, columns.written_ms[slots] + LEVEL_MS, _LATEST)

    def obey(self, table: StateTable, controls: Controls) -> None:
        """Let go of the assets for which operators have set something new since the last look."""
        columns = self.columns(table)
        if columns.controls is controls:
            return
        columns.controls = controls
        for slot in np.flatnonzero(columns.held).tolist():
            base = columns.base[slot]
            if base is not None and not self._follows_orders(base, controls, table.names[slot]):
                table.release(slot)

    # One turn -------------------------------------------------------------------------------------------------------

    def take(self, table: StateTable, rows: Rows, left: Ints) -> Taken:
        """Decide the quiet windows at the front of each asset's.

        `left`: places of windows in the batch, sorted by slot, in the order they came.
        """
        columns, groups = self.columns(table), _Groups(rows.slots[left])
        good = self._good(table, rows, left)
        full, audited = self._consequences(columns, rows, left, groups)
        stop = self._stops(columns, groups, good, full | audited)
        fronts = (stop > 0) & full[groups.starts]
        blocks = self._blocks(columns, rows, left[groups.starts[fronts]])
        if len(blocks) < int(fronts.sum()):  # a shift moves, or a mean is no number: the chain's to decide
            stop[fronts & ~np.isin(groups.keys[groups.starts], list(blocks))] = 0
        taken = groups.before(stop)
        chosen = left[taken]
        level = columns.level[rows.slots[chosen]]
        audits = self._apply(table, rows, chosen, groups.ranks(taken), blocks)
        return Taken(rows=chosen, level=level, audits=audits, left=left[~taken], chained=groups.blocked(stop, good))

    def _good(self, table: StateTable, rows: Rows, left: Ints) -> NDArray[np.bool_]:
        """Return which windows are quiet as far as one comparison can say."""
        columns = self.columns(table)
        slots = rows.slots[left]
        good: NDArray[np.bool_] = columns.held[slots] & (rows.score[left] <= columns.limit[slots])
        good &= rows.serial[left] == table.serial[slots]
        good &= rows.plain[left]
        if self._rules.budget is not None:
            good &= rows.end_ms[left] < columns.until_ms[slots]
        return good

    def _consequences(
        self, columns: QuietColumns, rows: Rows, left: Ints, groups: _Groups
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which windows fill a block, and from which on a level is due to be written."""
        due = rows.due[left]
        audited = rows.end_ms[left] >= columns.audit_ms[groups.keys]
        if not due.any():
            return due, audited
        return due & (columns.counts[groups.keys, 0] + groups.cumulated(due) == self._samples), audited

    def _stops(
        self, columns: QuietColumns, groups: _Groups, good: NDArray[np.bool_], special: NDArray[np.bool_]
    ) -> Ints:
        """Return how many windows of each asset are decided in this turn.

        A full block and a level to be written are worked off for the first window of an asset only: windows stop
        before one, and after it. Scores are learnt after the last window, which fills the queue.
        """
        stop = groups.first(~good)
        if not groups.single:
            stop = np.minimum(stop, groups.first(special & groups.later))
            stop = np.where(special[groups.starts], np.minimum(stop, 1), stop)
            if self._learns:
                stop = np.minimum(stop, self._capacity - columns.queued[groups.keys[groups.starts]])
        return stop

    def _blocks(self, columns: QuietColumns, rows: Rows, ends: Ints) -> dict[int, Adaptation]:
        """Return by slot what full blocks leave of an asset's adaptation, of those whose shift stays where it is."""
        found: dict[int, Adaptation] = {}
        if not len(ends):
            return found
        assert rows.offset is not None
        slots = rows.slots[ends]
        means = (columns.sums[slots] + rows.offset[ends]) / np.float32(self._samples)
        old = [one for slot in slots.tolist() if (one := columns.adaptation[slot]) is not None]
        anchors = np.stack([one.anchor for one in old])
        with np.errstate(invalid="ignore"):
            away = np.abs(means - anchors).max(axis=1, initial=0.0).tolist()
        finite = np.isfinite(means).all(axis=1).tolist()
        counts, logs = columns.counts[slots].tolist(), columns.logs[slots].tolist()
        scores, ends_ms = rows.score[ends], rows.end_ms[ends].tolist()
        lows = (scores <= columns.low[slots]).tolist()
        for place, (slot, score) in enumerate(zip(slots.tolist(), scores.tolist(), strict=True)):
            if not finite[place]:
                continue
            state = replace(
                old[place],
                count=self._samples,
                logs=logs[place] + log_of(score),
                normal=counts[place][1] + 1,
                low=counts[place][2] + lows[place],
            )
            mean = means[place].copy()
            after, change = self._rules.adaptation.concluded(state, mean, away[place], ends_ms[place])
            if change is None:
                found[slot] = after
        return found

    def _apply(
        self, table: StateTable, rows: Rows, chosen: Ints, rank: Ints | None, blocks: dict[int, Adaptation]
    ) -> list[tuple[int, Audit]]:
        """Change the columns by quiet windows; return the audit entries of their consequences."""
        if not len(chosen):
            return []
        columns, slots = self.columns(table), rows.slots[chosen]
        table.judged[slots] = rows.end_ms[chosen]  # of several windows of an asset the last one stays
        table.dirty[slots] = True
        self._fill(columns, rows, chosen, blocks, single=rank is None)
        last = chosen if rank is None else chosen[np.append(slots[1:] != slots[:-1], True)]
        ends = slots if rank is None else rows.slots[last]
        learnt = np.zeros(len(last), np.bool_)
        before: dict[int, ThresholdState] = {}
        if self._learns:
            queued = columns.queued[slots] if rank is None else columns.queued[slots] + rank
            columns.queue[slots, queued] = np.clip(rows.score[chosen], -LARGEST, LARGEST)
            columns.queued[slots] = queued + 1
            learnt = columns.queued[ends] == self._capacity
            before = self._learn(columns, rows, last[learnt])
        return self._audited(table, rows, last[learnt | (rows.end_ms[last] >= columns.audit_ms[ends])], before)

    def _fill(
        self, columns: QuietColumns, rows: Rows, chosen: Ints, blocks: dict[int, Adaptation], *, single: bool
    ) -> None:
        """Add windows that are due to their assets' blocks, and begin others in the place of full ones.

        `single`: no asset has two.
        """
        seen = chosen[rows.due[chosen]]
        if blocks:
            filled = np.array(list(blocks), np.intp)
            columns.sums[filled], columns.logs[filled], columns.counts[filled] = -0.0, 0.0, 0
            for slot, adaptation in blocks.items():
                columns.adaptation[slot] = adaptation
            seen = seen[~np.isin(rows.slots[seen], filled)]
        if not len(seen):
            return
        assert rows.offset is not None
        slots, score = rows.slots[seen], rows.score[seen]
        logs = [log(size) for size in np.maximum(np.abs(score), LEAST_SIZE).tolist()]
        counts = np.ones((len(seen), 3), np.int64)
        counts[:, 2] = score <= columns.low[slots]
        if single:
            columns.sums[slots] += rows.offset[seen]
            columns.logs[slots] += logs
            columns.counts[slots] += counts
            return
        # one after the other, as the chain does: other sums could end in other bits
        np.add.at(columns.sums, slots, rows.offset[seen])
        np.add.at(columns.logs, slots, logs)
        np.add.at(columns.counts, slots, counts)

    def _learn(self, columns: QuietColumns, rows: Rows, ends: Ints) -> dict[int, ThresholdState]:
        """Learn what has waited for long enough, after windows that filled the queue; return the states before."""
        if not len(ends):
            return {}
        slots = rows.slots[ends]
        wait, due = self._learn_after, self._capacity - self._learn_after
        before = [one for slot in slots.tolist() if (one := columns.threshold[slot]) is not None]
        queues = columns.queue[slots]
        # with no wait a score is learnt as it came, whatever float32 would make of it
        scores = queues[:, :due].astype(np.float64) if wait else rows.score[ends, None]
        self._set_levels(columns, slots, learn_together(self._rules.method, before, scores))
        columns.queue[slots, :wait] = queues[:, due:]
        columns.queued[slots] = wait
        return dict(zip(slots.tolist(), before, strict=True))

    def _audited(
        self, table: StateTable, rows: Rows, ends: Ints, before: dict[int, ThresholdState]
    ) -> list[tuple[int, Audit]]:
        """Return entries for the levels that have moved, of windows that learnt or that are due by the hour."""
        if not len(ends):
            return []
        columns, slots = self.columns(table), rows.slots[ends]
        level, written = columns.level[slots], columns.written[slots]
        moved = np.abs(level - written)
        hour = rows.end_ms[ends] - columns.written_ms[slots] >= LEVEL_MS
        due = np.isnan(written) | (moved > LEVEL_STEP * np.abs(written)) | (hour & (moved > 0.0))
        found = []
        for row in ends[due].tolist():
            slot = int(rows.slots[row])
            base, threshold, adaptation = columns.base[slot], columns.threshold[slot], columns.adaptation[slot]
            assert base is not None
            assert threshold is not None
            assert adaptation is not None
            end_ms = int(rows.end_ms[row])
            after = replace(
                base,
                judged_ms=end_ms,
                threshold=replace(threshold, pending=columns.pending(slot)),
                adaptation=adaptation,
            )
            was = replace(after, threshold=before.get(slot, threshold))
            if self._auditor.on:
                ref = rows.models[rows.model[row]]
                found.append((row, self._auditor.entry(table.names[slot], ref, "level", was, after)))
            columns.base[slot] = replace(base, audited=AuditedLevel(level=threshold.level, at_ms=end_ms))
            columns.written[slot], columns.written_ms[slot] = columns.level[slot], end_ms
        self._set_audit(columns, slots)
        return found


class _Groups:
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
