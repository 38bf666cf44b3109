"""What a worker saw of its assets, written to the store for `stream-detector assets`.

States are a function of the log; when an asset was last read, and its last score, are not part of them. They are
written beside them, seldom and in parts, and only where they changed. A store that can't take them changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import StoreError
from stream_detector.ports import StateStore
from stream_detector.types import AssetReport, NotJudged
from stream_detector.worker.saving import Saver
from stream_detector.worker.task import Task

EVERY_MS = 15_000.0  # interval of looking at a task's assets
AT_ONCE = 1_000  # most assets written in one call, which bounds the time it takes

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Reporter:
    """Writes what the tasks of one worker saw."""

    def __init__(self, store: StateStore, saver: Saver, clock_ms: Callable[[], float]) -> None:
        """`saver`: decides whether the store is left alone for now."""
        self._store, self._saver, self._clock = store, saver, clock_ms
        self._noted: dict[int, _Noted] = {}

    def report(self, tasks: Iterable[Task], without_detector: Sequence[NotJudged] = ()) -> None:
        """Write at most AT_ONCE assets. Costs next to nothing when nothing is due; never raises StoreError.

        `without_detector`: of all tasks, the assets that no detector is for.
        """
        now, room = self._clock(), AT_ONCE
        for task in tasks:
            noted = self._noted.get(task.index)
            if noted is None or noted.task is not task:
                noted = self._noted[task.index] = _Noted(task)
            if now - noted.looked_ms >= EVERY_MS and not len(noted.waiting):
                noted.look(without_detector)
                noted.looked_ms = now
            if room > 0 and len(noted.waiting) and not self._saver.rests:
                room -= self._write(noted, room)

    def _write(self, noted: _Noted, most: int) -> int:
        reports = noted.reports(most)
        with suppress(StoreError):
            with self._saver.asking(writes=True):
                self._store.report(noted.task.index, noted.task.token, reports)
            noted.written(len(reports))
        return len(reports)


class _Noted:
    """What was seen of one task's assets, and what of it was written. Each asset has a row."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.looked_ms = -math.inf
        self.waiting: Ints = np.empty(0, np.intp)
        """Rows to be written, in order."""
        self._token = task.token
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._seen: Floats = np.empty((3, 0))  # (read, score, level; A)
        self._written: Floats = np.empty((3, 0))
        self._why: dict[int, tuple[str, str]] = {}  # reason and detail of the assets that are not judged
        self._why_written: dict[int, tuple[str, str]] = {}

    def look(self, without_detector: Sequence[NotJudged]) -> None:
        """Find the assets that have changed since they were written."""
        task = self.task
        if task.token != self._token:  # the store had lost its data
            self._token = task.token
            self._written[:] = np.nan
            self._why_written.clear()
        names, read_ms = task.windower.last_readings()
        rows = self._rows_of(names)
        why = {self._rows_of([one.asset])[0]: (one.reason, one.detail) for one in task.not_judged()}
        for one in without_detector:
            if one.asset in self._rows:
                why.setdefault(self._rows[one.asset], (one.reason, one.detail))
        removed = {self._rows_of([asset])[0]: read for asset, read in task.removed.read_ms.items()}
        seen = self._seen
        seen[0, rows] = np.where(np.isfinite(read_ms), np.rint(read_ms), np.nan)
        slots = np.fromiter((task.states.slots.get(name, -1) for name in self._names), np.intp, len(self._names))
        known = np.flatnonzero(slots >= 0)
        seen[1, known], seen[2, known] = task.states.score[slots[known]], task.states.level[slots[known]]
        changed = ((seen != self._written) & ~(np.isnan(seen) & np.isnan(self._written))).any(axis=0)
        # After a takeover the score of a judged asset is unknown until its next window: what was written before stays.
        loaded = np.zeros(len(changed), np.bool_)
        loaded[known] = (task.states.judged[slots[known]] > -(2**62)) & np.isnan(seen[1, known])
        changed &= ~loaded
        for row, read in removed.items():
            if not seen[0, row] > read:  # nothing came since
                seen[:, row] = np.nan
                why.pop(row, None)
                changed[row] = not np.isnan(self._written[:, row]).all()
        for row in self._why.keys() | why.keys():
            changed[row] |= self._why_written.get(row) != why.get(row)
        self._why = why
        self.waiting = np.flatnonzero(changed)

    def reports(self, most: int) -> dict[str, AssetReport | None]:
        """Return what is to be written of the first waiting assets."""
        found: dict[str, AssetReport | None] = {}
        for row in self.waiting[:most].tolist():
            read, score, level = self._seen[:, row].tolist()
            reason, detail = self._why.get(row, ("", ""))
            if not math.isfinite(read) and not reason:
                found[self._names[row]] = None
                continue
            found[self._names[row]] = AssetReport(
                read_ms=int(read) if math.isfinite(read) else None,
                score=score if math.isfinite(score) else None,
                level=level if math.isfinite(level) else None,
                reason=reason,
                detail=detail,
            )
        return found

    def written(self, count: int) -> None:
        """Note that the first `count` waiting assets were written."""
        rows, self.waiting = self.waiting[:count], self.waiting[count:]
        self._written[:, rows] = self._seen[:, rows]
        for row in rows.tolist() if self._why or self._why_written else ():
            self._why_written.pop(row, None)
            if row in self._why:
                self._why_written[row] = self._why[row]

    def _rows_of(self, names: list[str]) -> list[int]:
        found = [self._rows.setdefault(name, len(self._rows)) for name in names]
        if more := len(self._rows) - len(self._names):
            self._names = list(self._rows)
            self._seen, self._written = (
                np.concatenate([array, np.full((3, more), np.nan)], axis=1) for array in (self._seen, self._written)
            )
        return found
