"""The driver of the decision engine: windows and liveness events of a task in, alerts out, states written. Pure.

The one place in which a worker, a backtest and an evaluation feed the engine, and in which an asset's state is replaced
by what the engine returned. Quiet windows are decided a batch at a time (quiet.py), all others by the chain.

A window's score depends on its asset's shift after the window before it. Windows are scored in batches, though, so one
that a change of shift has overtaken within its batch is scored again, with the next ones of its asset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_detector.decision.columns import Ints, Rows
from stream_detector.decision.engine import Engine, Step
from stream_detector.decision.quiet import QuietPath
from stream_detector.decision.sensor_checks import Codes
from stream_detector.decision.table import StateTable
from stream_detector.decision.window import Floats, ScoredWindow
from stream_detector.types import (
    Alert,
    Audit,
    Controls,
    LivenessEvent,
    RemovalAction,
    ScoreBatch,
    Shifts,
    WindowBatch,
    windows_at,
)

T = TypeVar("T")
#: Scores windows under the shifts given. A pure function.
Rescore = Callable[[WindowBatch, Shifts], ScoreBatch]
_AGAIN = 64  # most windows scored again at once: another change may come


@dataclass(slots=True)
class Decided:
    """What some windows called for."""

    alerts: list[Alert] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    anomalies: int = 0
    """Scores judged anomalous."""
    promised: float = 0.0
    """Incidents that an alert budget allowed for the time that passed."""
    opened: int = 0
    """Incidents opened under a budget."""


class Trace:
    """What became of each of W windows, for evaluations."""

    def __init__(self, count: int) -> None:
        """Nothing was judged yet."""
        self.judged = np.zeros(count, np.bool_)
        """(W,) False where no detector scored."""
        self.score = np.full(count, -np.inf)
        """(W,) as judged: under the shift that its asset had then."""
        self.level = np.full(count, np.nan)
        """(W,) the adaptive level before the window; NaN for none."""
        self.anomalous = np.zeros(count, np.bool_)
        self.alarm = np.zeros(count, np.bool_)
        """(W,) whether an incident is open after the window."""


class Driver:
    """Feeds one engine. Holds the controls it saw last, and no state of any asset."""

    def __init__(self, engine: Engine, rescore: Rescore | None = None) -> None:
        """`rescore`: scores windows again; None: scores are used as they are, regardless of the shift."""
        self.engine = engine
        self.rescore = rescore
        self.quiet = QuietPath(engine)
        self.follows = engine.rules.follows

    def shifts(self, parts: Sequence[tuple[StateTable, Sequence[str]]]) -> Shifts | None:
        """Return the shifts to score windows of some assets under, in order; None while no asset has one."""
        slots = [table.slots_of(assets) for table, assets in parts]
        serials = [table.serial[of_task] for (table, _), of_task in zip(parts, slots, strict=True)]
        if not any(of_task.any() for of_task in serials):
            return None
        nowhere = self.engine.rules.adaptation.fresh().shift
        values = [
            table.shift(slot) if serial else nowhere
            for (table, _), of_task, its in zip(parts, slots, serials, strict=True)
            for slot, serial in zip(of_task.tolist(), its.tolist(), strict=True)
        ]
        return Shifts(np.array(values, np.float64), np.concatenate(serials).tolist())

    def on_liveness(self, table: StateTable, event: LivenessEvent, controls: Controls) -> Sequence[Alert]:
        """Take a sensor fault that shows in the messages; all windows before it are judged. Return its alerts."""
        step = self.engine.on_liveness(table.get(event.asset), event, controls)
        if step is None:
            return ()
        table[event.asset] = step.state
        return step.alerts

    def remove(self, table: StateTable, asset: str, action: RemovalAction) -> Decided:
        """Delete an asset's state; all windows before are judged. Return what its end calls for."""
        alerts, audits = self.engine.remove(asset, table[asset], action)
        table.remove(asset)
        return Decided(alerts=alerts, audits=audits)

    def judge(
        self,
        table: StateTable,
        windows: WindowBatch,
        scores: ScoreBatch,
        *,
        row: int = 0,
        controls: Controls,
        shifts: Shifts | None = None,
        trace: Trace | None = None,
    ) -> Decided:
        """Judge one task's windows, whose scores (and shifts) begin at `row`; return what they call for, in order.

        The table's states become those after the windows. Windows without a score (no detector) change nothing.
        `scores` are written to where windows are scored again. `trace` is filled.
        """
        batch = _Batch(self, table, windows, scores, row=row, controls=controls, shifts=shifts, trace=trace)
        return batch.judged()


class _Batch:
    """One call of `Driver.judge`."""

    def __init__(
        self,
        driver: Driver,
        table: StateTable,
        windows: WindowBatch,
        scores: ScoreBatch,
        *,
        row: int,
        controls: Controls,
        shifts: Shifts | None,
        trace: Trace | None,
    ) -> None:
        self.driver, self.table, self.windows, self.scores = driver, table, windows, scores
        self.row, self.controls, self.trace = row, controls, trace
        count = len(windows)
        mine = slice(row, row + count)
        rules = driver.engine.rules
        model = scores.model[mine]
        self.flags = rules.sensors.look(windows, model)
        due = np.zeros(count, np.bool_)
        if driver.follows and scores.offset is not None:
            due = rules.adaptation.due(windows.end_ms)
        slots = table.slots_of(windows.assets)
        self.rows = Rows(
            slots=slots,
            end_ms=windows.end_ms,
            score=scores.score[mine],
            serial=np.zeros(count, np.int64) if shifts is None else np.array(shifts.serials[mine], np.int64),
            offset=None if scores.offset is None else scores.offset[mine],
            due=due,
            plain=np.ones(count, np.bool_) if self.flags is None else np.asarray(~self.flags.any(axis=1)),
            model=model,
            models=scores.models,
            in_order=bool((slots[1:] >= slots[:-1]).all()),
        )
        self.rescores = driver.rescore is not None
        self.decided = Decided()
        self.alerts: list[tuple[int, Sequence[Alert]]] = []
        self.audits: list[tuple[int, Sequence[Audit]]] = []

    def judged(self) -> Decided:
        """Judge all windows."""
        slots = self.rows.slots
        left = np.flatnonzero(self.rows.model >= 0)
        if not self.rows.in_order:
            left = left[np.argsort(slots[left], kind="stable")]
        quiet = self.driver.quiet
        if quiet.on:
            quiet.obey(self.table, self.controls)
        while len(left):
            left, chained = self._take(quiet, left) if quiet.on else (left, slots[left])
            if len(chained):
                left = self._chain(left, chained)
        for alerts in in_order(self.alerts):
            self.decided.alerts += alerts
        for audits in in_order(self.audits):
            self.decided.audits += audits
        return self.decided

    def _take(self, quiet: QuietPath, left: Ints) -> tuple[Ints, Ints]:
        """Decide quiet windows; return those left, and the slots of which the first one is the chain's."""
        slots = self.rows.slots[left]
        if not quiet.columns(self.table).held[slots].any():
            return left, slots
        taken = quiet.take(self.table, self.rows, left)
        self.audits += [(place, (audit,)) for place, audit in taken.audits]
        of_taken = self.rows.slots[taken.rows]  # of several windows of an asset the last one stays
        self.table.score[of_taken], self.table.level[of_taken] = self.rows.score[taken.rows], taken.level
        if self.trace is not None and len(taken.rows):
            self.trace.judged[taken.rows] = True
            self.trace.score[taken.rows] = self.rows.score[taken.rows]
            self.trace.level[taken.rows] = taken.level
        return taken.left, taken.chained

    def _chain(self, left: Ints, chained: Ints) -> Ints:
        """Step the chain through the first windows of some assets, until they are quiet; return the windows left.

        `chained`: the slots of those assets.
        """
        table, objects, decided, controls = self.table, self.table.objects, self.decided, self.controls
        engine_step, holds = self.driver.engine.step, self.driver.quiet.on
        mine = self._of(left, chained)
        places = left[mine]
        table.release_all(self.rows.slots[places])
        windows, slots, places = self._scored(places), self.rows.slots[places].tolist(), places.tolist()
        waits: set[int] = set()  # assets with more windows: whether they are quiet is seen in a while
        skipped: list[int] = []
        levels: list[float | None] = []
        ready: list[int] = []  # assets whose next windows may be quiet
        for at, slot in enumerate(slots):
            if waits and slot in waits:
                skipped.append(at)
                continue
            before, place = objects[slot], places[at]
            step = engine_step(before, windows[at], controls)
            if step.rescore:
                self.audits.append((place, step.audits))
                self._score_again(place, slot, step)
                windows[at:] = self._scored(np.array(places[at:], np.intp))
                step = engine_step(step.state, windows[at], controls)
            state = objects[slot] = step.state
            if before is None or state.adaptation is not before.adaptation:
                table.serial[slot] = state.adaptation.serial
            levels.append(step.level)
            if step.alerts:
                self.alerts.append((place, step.alerts))
            if step.audits:
                self.audits.append((place, step.audits))
            if step.judgement.anomalous:
                decided.anomalies += 1
            if step.opened or step.promised:
                decided.promised += step.promised
                decided.opened += step.opened
            if self.trace is not None:
                self._trace(self.trace, place, step)
            incident = state.incident
            if holds and incident.opened_ms is None and incident.recent == 0 and incident.rearm is None:
                ready.append(slot)
                if slots[at + 1 : at + 2] == [slot]:
                    waits.add(slot)
        done = np.delete(mine, skipped) if skipped else mine
        self._note(left[done], levels)
        for slot in ready:
            self.driver.quiet.hold(table, slot, self.controls)
        return np.delete(left, done)

    def _of(self, left: Ints, chosen: Ints) -> Ints:
        """Return which of the windows `left` are of some assets' slots."""
        flags = np.zeros(len(self.table.judged), np.bool_)
        flags[chosen] = True
        return np.flatnonzero(flags[self.rows.slots[left]])

    def _note(self, places: Ints, levels: Sequence[float | None]) -> None:
        """Note in the table's columns that windows were stepped through; `levels`: those before each."""
        table, slots = self.table, self.rows.slots[places]
        table.judged[slots] = self.rows.end_ms[places]  # of several windows of an asset the last one stays
        table.score[slots], table.level[slots] = self.rows.score[places], np.array(levels, np.float64)
        table.dirty[slots] = True

    def _scored(self, places: Ints) -> list[ScoredWindow]:
        """Return windows as the engine takes them, with their scores as they are by now."""
        rows, scores, windows, row, rescores = self.rows, self.scores, self.windows, self.row, self.rescores
        flags: Sequence[Codes | None] = [None] * len(places)
        if self.flags is not None:
            flags = [
                None if plain else self.flags[place] for place, plain in zip(places, rows.plain[places], strict=True)
            ]
        serials: Sequence[int | None] = rows.serial[places].tolist() if rescores else [None] * len(places)
        columns = (rows.end_ms, rows.score, rows.model, windows.ingest_ms, rows.due)
        numbers = zip(places.tolist(), *(one[places].tolist() for one in columns), serials, flags, strict=True)
        assets, probe = windows.assets, self._probe if rescores else None
        return [
            ScoredWindow(
                asset=assets[place],
                end_ms=end_ms,
                score=score,
                scores=scores,
                row=row + place,
                model=model,
                ingest_ms=ingest_ms,
                due=due,
                serial=serial,
                flags=its,
                windows=windows,
                place=place,
                probe=probe,
            )
            for place, end_ms, score, model, ingest_ms, due, serial, its in numbers
        ]

    def _probe(self, window: ScoredWindow, shifts: NDArray[np.float64]) -> tuple[NDArray[np.float64], Floats]:
        assert self.driver.rescore is not None
        places = np.full(len(shifts), window.row - self.row)
        fresh = self.driver.rescore(windows_at(self.windows, places), Shifts(shifts, [0] * len(shifts)))
        assert fresh.offset is not None
        return fresh.score, fresh.offset

    def _score_again(self, place: int, slot: int, step: Step) -> None:
        """Score the asset's next windows from this one on under its present shift, in place."""
        assert self.driver.rescore is not None
        rows, scores, adaptation = self.rows, self.scores, step.state.adaptation
        places = np.flatnonzero(rows.slots == slot)
        places = places[places >= place][:_AGAIN]
        values = np.tile(adaptation.shift.astype(np.float64), (len(places), 1))
        fresh = self.driver.rescore(windows_at(self.windows, places), Shifts(values, [adaptation.serial] * len(places)))
        at = self.row + places
        scores.score[at], scores.channels[at] = fresh.score, fresh.channels
        scores.observed[at], scores.expected[at] = fresh.observed, fresh.expected
        if scores.offset is not None and fresh.offset is not None:
            scores.offset[at] = fresh.offset
        rows.serial[places] = adaptation.serial

    def _trace(self, trace: Trace, place: int, step: Step) -> None:
        level = step.level
        trace.judged[place] = True
        trace.score[place] = self.rows.score[place]
        trace.level[place] = np.nan if level is None else level
        trace.anomalous[place] = step.judgement.anomalous
        trace.alarm[place] = step.state.incident.opened_ms is not None


def in_order(found: list[tuple[int, Sequence[T]]]) -> Iterator[Sequence[T]]:
    """Yield what windows called for in the order of the windows."""
    return (one for _, one in sorted(found, key=itemgetter(0)))
