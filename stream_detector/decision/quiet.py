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

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.config.judging import spare
from stream_detector.decision.audit import LEVEL_MS, LEVEL_STEP
from stream_detector.decision.blocks import Blocks
from stream_detector.decision.columns import Groups, Ints, QuietColumns, Rows, run_of
from stream_detector.decision.controls import obeyed
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.decision.threshold.columns import columns_for
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import AssetState, Audit, Controls

_LATEST = 2**62
Flags = NDArray[np.bool_]


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn of the quiet path has decided, and what it has left."""

    rows: Ints  # places in the batch of the windows decided, sorted by asset
    level: NDArray[np.float64]  # the adaptive level before each
    audits: list[tuple[int, Audit]]  # with the place of their window in the batch
    left: Ints  # places of the others, likewise
    chained: Ints  # slots of which the first window left is the chain's to decide


class QuietPath:
    """The rules of the quiet path of one engine. Holds no state: a task's columns do."""

    def __init__(self, engine: Engine) -> None:
        """Decide as this engine does."""
        rules, config = engine.rules, engine.rules.config.threshold
        self._rules, self._auditor = rules, engine.auditor
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
            blocks = Blocks(self._rules.adaptation, self._columns)
            table.columns = QuietColumns(table, columns_for(self._rules.method), blocks, self._capacity)
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
        if not columns.threshold.hold(slot, state.threshold):
            return False
        columns.blocks.hold(slot, state.adaptation)
        columns.queue[slot, : len(waiting)] = waiting
        columns.oldest[slot], columns.queued[slot] = 0, len(waiting)
        columns.has_learnt[slot] = False
        columns.held[slot] = True
        columns.written[slot] = np.nan if state.audited.level is None else state.audited.level
        columns.written_ms[slot] = state.audited.at_ms
        columns.until_ms[slot] = _LATEST
        if state.budget is not None and self._rules.budget is not None:
            columns.until_ms[slot] = math.ceil(state.budget.set_ms + self._rules.budget.turn_ms)
        self._set_limits(columns, np.array([slot]))
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

    def _set_limits(self, columns: QuietColumns, slots: Ints) -> None:
        """Note what follows of assets' levels."""
        rules, level = self._rules, columns.threshold.level[slots]
        columns.low[slots] = rules.incidents.quiet_below(level + (rules.margin - 1.0) * np.abs(level))
        columns.limit[slots] = level if rules.budget is None else np.minimum(level, columns.threshold.tails(slots))
        self._set_audit(columns, slots)

    def _set_audit(self, columns: QuietColumns, slots: Ints) -> None:
        moved = columns.threshold.level[slots] != columns.written[slots]
        columns.audit_ms[slots] = np.where(moved, columns.written_ms[slots] + LEVEL_MS, _LATEST)

    def obey(self, table: StateTable, controls: Controls) -> None:
        """Let go of the assets for which operators have set something new since the last look."""
        columns = self.columns(table)
        if columns.controls is controls:
            return
        columns.controls = controls
        for slot in np.flatnonzero(columns.held).tolist():
            state = table.objects[slot]  # the columns leave what operators have set as it is
            if state is not None and not self._follows_orders(state, controls, table.names[slot]):
                table.release(slot)

    # One turn -------------------------------------------------------------------------------------------------------

    def take(self, table: StateTable, rows: Rows, left: Ints) -> Taken:
        """Decide the quiet windows at the front of each asset's.

        `left`: places of windows in the batch, sorted by slot, in the order they came.
        """
        if not (rows.in_order and len(left) == len(rows.slots)):
            rows = rows.at(left)
        columns, groups = self.columns(table), Groups(rows.slots)
        slots = run_of(rows.slots) if groups.single else rows.slots
        good = self._good(table, rows, slots)
        full = rows.due
        if full.any():
            full = full & (columns.blocks.count[slots] + groups.cumulated(full) == self._samples)
        audited = rows.end_ms >= columns.audit_ms[slots]
        stop = self._stops(columns, groups, good, full | audited)
        seen = self._conclude(columns, rows, groups, stop, full)
        taken = groups.before(stop)
        ranks, places = groups.ranks(taken), left
        if not taken.all():
            rows, seen, places, slots = rows.at(taken), seen[taken], left[taken], rows.slots[taken]
        level = np.array(columns.threshold.level[slots])  # learning moves it
        audits = self._apply(table, rows, slots, ranks, seen)
        return Taken(
            rows=places,
            level=level,
            audits=[(int(places[at]), audit) for at, audit in audits],
            left=left[~taken],
            chained=groups.blocked(stop, good),
        )

    def _good(self, table: StateTable, rows: Rows, slots: Ints | slice) -> Flags:
        """Return which windows are quiet as far as one comparison can say."""
        columns = self.columns(table)
        good: Flags = columns.held[slots] & (rows.score <= columns.limit[slots])
        good &= rows.serial == table.serial[slots]
        good &= rows.plain
        if self._rules.budget is not None:
            good &= rows.end_ms < columns.until_ms[slots]
        return good

    def _stops(self, columns: QuietColumns, groups: Groups, good: Flags, special: Flags) -> Ints:
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

    def _conclude(self, columns: QuietColumns, rows: Rows, groups: Groups, stop: Ints, full: Flags) -> Flags:
        """Work off the blocks that assets' first windows fill; return the windows that are left to be counted in one.

        `stop` becomes 0 where a full block is the chain's.
        """
        seen = rows.due
        fronts = np.flatnonzero((stop > 0) & full[groups.starts])
        if len(fronts):
            assert rows.offset is not None
            its = groups.starts[fronts]
            slots, score = rows.slots[its], rows.score[its]
            low = score <= columns.low[slots]
            chained = columns.blocks.conclude(slots, rows.offset[its], score, low, end_ms=rows.end_ms[its])
            stop[fronts[chained]] = 0
            seen = seen.copy()
            seen[its] = False
        return seen

    def _apply(
        self, table: StateTable, rows: Rows, slots: Ints | slice, ranks: Ints | None, seen: Flags
    ) -> list[tuple[int, Audit]]:
        """Change the columns by quiet windows; return the audit entries of their consequences, by place in `rows`.

        `ranks`: each window's place among its asset's; None where none has two. `seen`: whether it counts in a block.
        """
        if not len(rows.slots):
            return []
        columns = self.columns(table)
        table.judged[slots] = rows.end_ms  # of several windows of an asset the last one stays
        table.dirty[slots] = True
        self._fill(columns, rows, slots, seen, single=ranks is None)
        last = np.ones(len(rows.slots), np.bool_)
        if ranks is not None:
            np.not_equal(rows.slots[1:], rows.slots[:-1], out=last[:-1])
        learnt = np.zeros(len(last), np.bool_)
        if self._learns:
            self._queue(columns, rows, slots, ranks)
            learnt = last & (columns.queued[slots] == self._capacity)
            if learnt.any():
                self._learn(columns, rows.slots[learnt], rows.score[learnt])
        looked = np.flatnonzero(learnt | (last & (rows.end_ms >= columns.audit_ms[slots])))
        return self._audited(table, rows, looked, learnt[looked]) if len(looked) else []

    def _fill(self, columns: QuietColumns, rows: Rows, slots: Ints | slice, seen: Flags, *, single: bool) -> None:
        """Add windows to their assets' blocks. `single`: no asset has two."""
        if not seen.any():
            return
        if not seen.all():
            rows = rows.at(seen)
            slots = rows.slots
        assert rows.offset is not None
        low = rows.score <= columns.low[slots]
        if single:
            columns.blocks.fill(slots, rows.offset, rows.score, low)
        else:
            columns.blocks.fill_in_turn(rows.slots, rows.offset, rows.score, low)

    def _queue(self, columns: QuietColumns, rows: Rows, slots: Ints | slice, ranks: Ints | None) -> None:
        """Let scores wait to be learnt."""
        queued = columns.queued[slots] if ranks is None else columns.queued[slots] + ranks
        places = columns.oldest[slots] + queued
        places = np.where(places < self._capacity, places, places - self._capacity)
        columns.queue[rows.slots, places] = np.clip(rows.score, -LARGEST, LARGEST)
        columns.queued[slots] = queued + 1

    def _learn(self, columns: QuietColumns, slots: Ints, score: NDArray[np.float64]) -> None:
        """Learn what has waited for long enough, after windows (of these scores) that filled the queue."""
        wait, due = self._learn_after, self._capacity - self._learn_after
        places = columns.places(slots, due)
        # with no wait a score is learnt as it came, whatever float32 would make of it
        scores = columns.queue[slots[:, None], places].astype(np.float64) if wait else score[:, None]
        columns.threshold.learn(slots, scores)
        columns.has_learnt[slots] = True
        self._set_limits(columns, slots)
        columns.oldest[slots] = (places[:, -1] + 1) % self._capacity
        columns.queued[slots] = wait

    def _audited(self, table: StateTable, rows: Rows, ends: Ints, learnt: Flags) -> list[tuple[int, Audit]]:
        """Return entries for the levels that have moved, of windows that learnt or that are due by the hour."""
        columns, slots = self.columns(table), rows.slots[ends]
        level, written = columns.threshold.level[slots], columns.written[slots]
        moved = np.abs(level - written)
        hour = rows.end_ms[ends] - columns.written_ms[slots] >= LEVEL_MS
        due = np.isnan(written) | (moved > LEVEL_STEP * np.abs(written)) | (hour & (moved > 0.0))
        ends, slots, learnt = ends[due], slots[due], learnt[due]
        found = []
        if self._auditor.on and len(ends):
            few = np.where(learnt, self._capacity - self._learn_after, 0).tolist()
            places, written, models = slots.tolist(), written[due].tolist(), rows.model[ends].tolist()
            thresholds, ends_ms = columns.thresholds(slots), rows.end_ms[ends].tolist()
            adaptations = columns.blocks.learnt(slots)
            for at, slot in enumerate(places):
                found.append(
                    self._auditor.level_entry(
                        table.names[slot],
                        rows.models[models[at]],
                        ends_ms[at],
                        was=(written[at], thresholds[at].seen - few[at]),
                        threshold=thresholds[at],
                        adaptation=adaptations[at],
                    )
                )
        columns.written[slots], columns.written_ms[slots] = level[due], rows.end_ms[ends]
        self._set_audit(columns, slots)
        return list(zip(ends.tolist(), found, strict=False))
