"""Which assets are silent. Pure: the same messages in the same order give the same, however batches cut them.

An asset is silent when others have gone on for `silent_after_ms` of the task's progress since its last message. Only
assets that were heard before that message, and have not been away for as long since, are evidence: in recordings one
after the other, the second's readings don't make the first silent. An asset that comes back after so long starts again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stream_detector.liveness.messages import Messages
from stream_detector.liveness.progress import Steps
from stream_detector.windowing.grid import Bools, Floats, Ints

_AWAY = 2**62  # instead of a progress: an asset never heard, silent, or away for so long that nothing reports it


class Silence(NamedTuple):
    """The beginning or end of a silence."""

    at: int  # the message that shows it
    row: int
    begins: bool
    time_ms: float  # event time when the asset was last heard, or is again


class _Absence(NamedTuple):
    """A stretch of a batch without an asset."""

    row: int
    since: int  # progress when it was last heard
    number: int  # of the message with which it was
    start: int  # messages in which it wasn't, from here
    stop: int  # … up to here (excluded)
    last_ms: float


class Silences:
    """When each asset of a task was last heard. Rows are those of the assets."""

    def __init__(self, silent_after_ms: int, reports: bool, silent: Iterable[tuple[int, float]]) -> None:
        """`silent`: assets that were reported silent, and when each was last heard."""
        self._after_ms = silent_after_ms
        self._reports = reports
        self._at: Ints = np.empty(0, np.int64)  # (A,) progress when last heard, or _AWAY
        self._last: Ints = np.empty(0, np.int64)  # (A,) number of the last message
        self._since: Ints = np.empty(0, np.int64)  # (A,) number of the first message since it was last away
        self._gap: Ints = np.empty(0, np.int64)  # (A,) longest absence since then; not less, at most `silent_after_ms`
        self._time: Floats = np.empty(0)  # (A,) event time of the last message, the task's of one without
        self._silent: set[int] = set()
        for row, time_ms in silent:
            self.grow(row + 1)
            self._silent.add(row)
            self._time[row] = time_ms

    def grow(self, count: int) -> None:
        """Make room for this number of assets."""
        if (more := count - len(self._at)) <= 0:
            return
        more = max(64, more, len(self._at))
        self._at = np.concatenate([self._at, np.full(more, _AWAY, np.int64)])
        self._last, self._since, self._gap = (
            np.concatenate([array, np.zeros(more, np.int64)]) for array in (self._last, self._since, self._gap)
        )
        self._time = np.concatenate([self._time, np.zeros(more)])

    @property
    def active(self) -> Ints:
        """The rows of assets that are heard, or that may yet be reported silent."""
        return np.flatnonzero(self._at != _AWAY)

    @property
    def needed(self) -> int:
        """As far back in progress as messages must be heard again, so that silences are reported as without a restart.

        The last message of each asset that may yet be silent, and one before it of each that would be evidence.
        """
        active = self.active
        return int(self._at[active].min() - self._gap[active].max()) if active.size else _AWAY

    def push(self, messages: Messages, steps: Steps, processed: bool) -> tuple[list[Silence], Bools | None]:
        """Hear messages; return the silences, and where an asset starts again (M,), None where none does.

        `processed`: what they report is known; a silence lasts as it did.
        """
        rows, after = messages.rows, steps.after
        at, end = self._at[rows], int(steps.after[-1])
        numbers = np.arange(steps.number, steps.number + len(rows))
        times = messages.ts_ms
        if (unknown := times == -np.inf).any():
            times = np.where(unknown, np.maximum(steps.now_ms, 0.0), times)
        events: list[Silence] = []
        begins: Bools | None = None
        eventful = int(at.max()) == _AWAY or end - int(self._at.min()) > self._after_ms
        if eventful:
            absences, begins, since = self._look(rows, steps, numbers, times)
            if self._reports and not processed:
                events = self._ended(rows, after, absences, since, times)
            self._since[rows] = since
        gaps = end - np.where(at == _AWAY, steps.before[0], at)
        self._gap[rows] = np.minimum(np.maximum(self._gap[rows], gaps), self._after_ms)
        self._at[rows], self._last[rows], self._time[rows] = after, numbers, times  # the last message of each counts
        if eventful:
            events += self._end(steps, since, processed)
        return events, begins

    # A batch in which something may happen --------------------------------------------------------------------------

    def _look(self, rows: Ints, steps: Steps, numbers: Ints, times: Floats) -> tuple[list[_Absence], Bools, Ints]:
        """Return absences that ended in the batch, where assets start again (M,), and since which message (M,)."""
        order = np.argsort(rows, kind="stable")
        mine = rows[order]
        first = np.concatenate([[True], mine[1:] != mine[:-1]])

        def previous(of_messages: Ints, of_assets: Ints) -> Ints:
            """Return what was so with the asset's message before each, sorted by asset."""
            shifted = np.concatenate([of_messages[:1], of_messages[order][:-1]])
            return np.where(first, of_assets[mine], shifted)

        at, last = previous(steps.after, self._at), previous(numbers, self._last)
        again = (at == _AWAY) | (steps.before[order] - at > self._after_ms)
        start = np.maximum.accumulate(np.where(again | first, np.arange(len(order)), 0))
        since = np.where(again, numbers[order], self._since[mine])[start]
        absences = [
            _Absence(
                int(mine[n]),
                int(at[n]),
                int(last[n]),
                max(0, int(last[n]) - int(numbers[0]) + 1),
                int(order[n]),
                float(self._time[mine[n]] if first[n] else times[order[n - 1]]),
            )
            for n in np.flatnonzero(again & (at != _AWAY)).tolist()
        ]
        begins, since_of = np.empty(len(rows), np.bool_), np.empty(len(rows), np.int64)
        begins[order], since_of[order] = again, since
        return absences, begins, since_of

    def _ended(
        self, rows: Ints, after: Ints, absences: Iterable[_Absence], since: Ints, times: Floats
    ) -> list[Silence]:
        """Return the silences that ended in the batch, with the beginnings of those that began in it."""
        events: list[Silence] = []
        for one in absences:
            if (at := self._evidence(one, after, since)) is not None:
                events.append(Silence(at, one.row, True, one.last_ms))
                events.append(Silence(one.stop, one.row, False, max(one.last_ms, float(times[one.stop]))))
        if self._silent:
            for row in np.intersect1d(rows, list(self._silent)).tolist():
                at = int(np.argmax(rows == row))
                events.append(Silence(at, row, False, max(float(self._time[row]), float(times[at]))))
                self._silent.discard(row)
        return events

    def _evidence(self, absence: _Absence, after: Ints, since: Ints) -> int | None:
        """Return the first message that makes an absence a silence, if one does."""
        due = int(np.searchsorted(after, absence.since + self._after_ms, side="right"))
        start = max(absence.start, due)
        sure = since[start : absence.stop] < absence.number
        return start + int(np.argmax(sure)) if sure.any() else None

    def _end(self, steps: Steps, since: Ints, processed: bool) -> list[Silence]:
        """Return the silences that began in the batch and last; forget assets that can no longer be reported."""
        end = int(steps.after[-1])
        events: list[Silence] = []
        for row in np.flatnonzero(end - self._at > self._after_ms).tolist():
            start = max(0, int(self._last[row]) - steps.number + 1)
            absence = _Absence(row, int(self._at[row]), int(self._last[row]), start, len(since), float(self._time[row]))
            at = self._evidence(absence, steps.after, since) if self._reports and not processed else None
            if at is not None:
                events.append(Silence(at, row, True, absence.last_ms))
                self._silent.add(row)
                self._away(row)
        late = np.flatnonzero(end - self._at > self._after_ms)
        if late.size:
            here = self._at != _AWAY
            here[late] = False
            oldest = self._since[here].min(initial=_AWAY)
            self._away(late[~(oldest < self._last[late])] if self._reports else late)
        if processed and self._silent:
            self._away(np.array(sorted(self._silent), np.int64))
        return events

    def _away(self, rows: int | Ints) -> None:
        self._at[rows], self._gap[rows] = _AWAY, 0
