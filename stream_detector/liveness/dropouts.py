"""Which channels have dropped out. Pure: the same messages in the same order give the same, however batches cut them.

A channel has dropped out when a message lacks it and its asset's own clock has come further than the channel's longest
gap since its last reading. Leaps of that clock count only up to a quarter of the gap: a pause of the whole asset is no
channel's dropout. An asset that starts again (silence.py) is expected to bring all channels from its first message on.
All that holds from an asset's first window on: before, it has no state, and nothing is reported of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stream_detector.liveness.messages import Messages
from stream_detector.liveness.progress import Steps
from stream_detector.windowing.grid import Bools, Floats, Ints

_NOT_NEEDED = 2**62
NO_WINDOW = 2**62
"""Instead of the number of the message that completed an asset's first window: there was none yet."""


class Dropout(NamedTuple):
    """The beginning or end of a dropout."""

    at: int  # the message that shows it
    row: int
    column: int
    begins: bool
    time_ms: float  # event time when the channel was last heard, or is again


class Dropouts:
    """When the channels of each asset of a task were last heard. Rows are those of the assets."""

    def __init__(self, limits_ms: Floats, reach_ms: float, dropped: Iterable[tuple[int, int, float]]) -> None:
        """`limits_ms` (C,); `dropped`: row and column of channels that were reported, and when each was last heard.

        `reach_ms`: a window is cut at most so long after its last cell.
        """
        self._limits = limits_ms
        self._reach_ms = reach_ms
        self._leap_ms = float(limits_ms.min()) / 4
        self._clock: Floats = np.empty(0)  # (A,) newest event time since the asset began; -inf: none yet
        self._whole: Floats = np.empty(0)  # (A,) … of a message with all channels
        self._heard: Floats = np.empty((0, len(limits_ms)))  # (A, C) … with this channel, where that is newer
        self._begun: Floats = np.empty(0)  # (A,) what stands for a channel not heard since it began
        self._dropped: Bools = np.empty((0, len(limits_ms)), np.bool_)
        # progress of the task from which on messages must be heard again to know these: not more than when their
        # asset's clock was what it was then
        self._clock_at: Ints = np.empty(0, np.int64)
        self._whole_at: Ints = np.empty(0, np.int64)
        self._heard_at: Ints = np.empty((0, len(limits_ms)), np.int64)
        self._begun_at: Ints = np.empty(0, np.int64)
        self._count = 0  # dropouts that last
        for row, column, time_ms in dropped:
            self.grow(row + 1)
            self._dropped[row, column], self._heard[row, column] = True, time_ms
            self._count += 1

    def grow(self, count: int) -> None:
        """Make room for this number of assets."""
        if (more := count - len(self._clock)) <= 0:
            return
        more = max(64, more, len(self._clock))
        unheard, none = np.full(more, -np.inf), np.zeros(more, np.int64)
        wide = (more, len(self._limits))
        self._clock, self._whole, self._begun = (
            np.concatenate([array, unheard]) for array in (self._clock, self._whole, self._begun)
        )
        self._clock_at, self._whole_at, self._begun_at = (
            np.concatenate([array, none]) for array in (self._clock_at, self._whole_at, self._begun_at)
        )
        self._heard = np.concatenate([self._heard, np.full(wide, -np.inf)])
        self._heard_at = np.concatenate([self._heard_at, np.zeros(wide, np.int64)])
        self._dropped = np.concatenate([self._dropped, np.zeros(wide, np.bool_)])

    def needed(self, rows: Ints, windowed: Bools) -> int:
        """As far back in progress as messages must be heard again, to know the channels of these assets.

        `windowed`: which of them have had a window. Of others a channel is not needed when it has been away for longer
        than any window that is still to come could reach back.
        """
        whole, heard = self._whole[rows, None], self._heard[rows]
        at = np.where(heard > whole, self._heard_at[rows], self._whole_at[rows, None])
        at = np.where(np.maximum(whole, heard) > -np.inf, at, self._begun_at[rows, None])
        with np.errstate(invalid="ignore"):
            lags = self._clock[rows, None] - self._newest(rows, self._begun[rows])
        of_no_use = ~windowed[:, None] & (lags > self._limits + self._reach_ms)
        at[self._dropped[rows] | of_no_use | (self._clock[rows] == -np.inf)[:, None]] = _NOT_NEEDED
        return int(at.min(initial=_NOT_NEEDED))

    def push(
        self, messages: Messages, steps: Steps, begins: Bools | None, first_window: Ints, processed: bool
    ) -> list[Dropout]:
        """Hear messages; return the dropouts that begin or end.

        `begins` (M,): where an asset starts again. `first_window` (A,): number of the message that completed the first
        window of each asset. `processed`: what the messages report is known; a dropout lasts as it did.
        """
        start = int(steps.before[0])
        timed: Bools = messages.ts_ms > -np.inf
        whole: Bools = np.logical_and.reduce(messages.present, axis=1)
        again = self._begin(messages.rows, begins)
        self._expect(messages, timed, start)
        slow = self._suspects(messages, timed, whole, first_window, processed) | again
        events: list[Dropout] = []
        if slow:
            timed &= ~np.isin(messages.rows, list(slow))
            for row in sorted(slow):
                events += self._follow(
                    row,
                    messages,
                    start,
                    begins=begins,
                    first_window=int(first_window[row]) - steps.number,
                    processed=processed,
                )
        self._hear(messages, timed, whole, start)
        return events

    def _begin(self, rows: Ints, begins: Bools | None) -> set[int]:
        """Forget assets that start again with their first message here; return those that do so with another."""
        if begins is None or not begins.any():
            return set()
        first = np.zeros(len(rows), np.bool_)
        first[np.unique(rows, return_index=True)[1]] = True
        fresh = rows[begins & first]
        self._clock[fresh] = self._begun[fresh] = -np.inf
        newest = np.maximum(self._whole[fresh, None], self._heard[fresh])
        self._heard[fresh] = np.where(self._dropped[fresh], newest, -np.inf)
        self._whole[fresh] = -np.inf
        return set(rows[begins & ~first].tolist())

    def _expect(self, messages: Messages, timed: Bools, start: int) -> None:
        """Expect all channels of assets that begin, from their first message with a time on."""
        young = np.flatnonzero(timed & (self._clock[messages.rows] == -np.inf))
        if not young.size:
            return
        rows, first = np.unique(messages.rows[young], return_index=True)
        self._begun[rows] = messages.ts_ms[young[first]] - self._leap_ms
        self._begun_at[rows] = self._clock_at[rows] = start

    def _hear(self, messages: Messages, which: Bools, whole: Bools, start: int) -> None:
        """Note what was heard in some messages whose assets have no dropout that begins or ends here."""
        rows, times, present = messages.rows, messages.ts_ms, messages.present
        if not which.all():
            rows, times, present, whole = rows[which], times[which], present[which], whole[which]
        full = slice(None) if whole.all() else whole
        newer = _raise(self._whole, rows[full], times[full])
        self._whole_at[newer] = self._clock_at[newer]
        if full is whole:
            some = rows[~whole]
            heard = self._heard[some]
            np.maximum.at(self._heard, some, np.where(present[~whole], times[~whole, None], -np.inf))
            place, column = np.nonzero(self._heard[some] > heard)
            self._heard_at[some[place], column] = self._clock_at[some[place]]
        self._clock_at[_raise(self._clock, rows, times)] = start

    def _suspects(
        self, messages: Messages, timed: Bools, whole: Bools, first_window: Ints, processed: bool
    ) -> set[int]:
        """Return assets that lack a channel for long, whose clock leaps while they do, or of which one is back."""
        rows, present = messages.rows, messages.present
        found: set[int] = set()
        if self._count and not processed:
            found.update(rows[timed & (present & self._dropped[rows]).any(axis=1)].tolist())
        lacking = timed & ~whole
        if not lacking.any():
            return found
        some = np.unique(rows[lacking])
        mine = np.flatnonzero(timed & np.isin(rows, some))
        mine = mine[np.argsort(rows[mine], kind="stable")]
        place, ts = np.searchsorted(some, rows[mine]), messages.ts_ms[mine]
        first = np.concatenate([[True], place[1:] != place[:-1]])
        before = np.concatenate([[-np.inf], ts[:-1]])
        before[first] = self._clock[some]
        leaps = (ts - before > self._leap_ms) & (before > -np.inf)
        end, least = self._clock[some], self._begun[some]
        np.maximum.at(end, place, ts)
        np.minimum.at(least, place, ts)  # a channel not heard yet may be heard with an old reading
        late = (end[:, None] - self._newest(some, least) > self._limits) & ~self._dropped[some]
        suspect: Bools = late.any(axis=1) & (first_window[some] < NO_WINDOW)
        suspect[place[leaps]] = True
        return found | set(some[suspect].tolist())

    def _newest(self, rows: Ints, begun: Floats) -> Floats:
        """Return when channels (A, C) were last heard, or what stands for it (A,)."""
        newest = np.maximum(self._whole[rows, None], self._heard[rows])
        return np.where(newest > -np.inf, newest, begun[:, None])

    def _follow(
        self,
        row: int,
        messages: Messages,
        start: int,
        *,
        begins: Bools | None,
        first_window: int,
        processed: bool,
    ) -> list[Dropout]:
        """Take one asset's messages in turn; `first_window`: its first one was completed by this message."""
        events: list[Dropout] = []
        clock, begun, clock_at = float(self._clock[row]), float(self._begun[row]), int(self._clock_at[row])
        heard_at = np.where(self._heard[row] > self._whole[row], self._heard_at[row], self._whole_at[row])
        last = np.maximum(self._whole[row], self._heard[row])
        dropped = self._dropped[row].copy()
        for at in np.flatnonzero(messages.rows == row).tolist():
            if begins is not None and begins[at]:
                clock = -np.inf
                last[~dropped] = -np.inf
            ts = float(messages.ts_ms[at])
            if ts == -np.inf:
                continue
            if clock == -np.inf:
                begun = ts - self._leap_ms
                self._begun_at[row] = clock_at = start
            elif ts - clock > self._leap_ms:
                pause = ts - clock - self._leap_ms  # of the whole asset: it is no channel's dropout
                last[~dropped] += pause
                begun += pause
            before, clock = clock, max(clock, ts)
            newer = messages.present[at] & (ts > last)
            if not processed:
                back = newer & dropped & (clock - ts <= self._limits)
                events += [Dropout(at, row, column, False, clock) for column in np.flatnonzero(back).tolist()]
                dropped[back] = False
            last[newer], heard_at[newer] = ts, clock_at
            clock_at = start if clock > before else clock_at
            if processed or at <= first_window:
                continue
            known = np.where(last > -np.inf, last, begun)
            late = (clock - known > self._limits) & ~dropped & ~messages.present[at]
            for column in np.flatnonzero(late).tolist():
                dropped[column], last[column] = True, known[column]
                events.append(Dropout(at, row, column, True, float(known[column])))
        self._count += sum(1 if one.begins else -1 for one in events)
        self._clock[row], self._begun[row], self._clock_at[row] = clock, begun, clock_at
        self._whole[row], self._heard[row], self._heard_at[row] = -np.inf, last, heard_at
        self._dropped[row] = dropped
        return events


def _raise(newest: Floats, rows: Ints, times: Floats) -> Ints:
    """Raise entries to the times given; return the rows that were raised."""
    before = newest[rows]
    np.maximum.at(newest, rows, times)
    return rows[newest[rows] > before]
