"""Who is heard: silent assets, sensors that dropped out, readings refused in a row. Decided in the log's order. Pure.

Silent    an asset that has sent nothing while the task's event time progressed by `silent_after_ms`. Steps of the
          newest event time count only up to an eighth of that: one clock that leaps must not make all others silent,
          and after a pause of the whole plant nobody was. Only assets known before it was last heard are evidence
          against it: in recordings one after the other, the second's readings don't make the first silent. Where a
          whole partition falls silent, nothing progresses, and nothing is told.
Dropout   a channel without readings for longer than its longest gap by its asset's own clock; leaps of that clock
          count only up to a quarter of the gap.
Refused   so many readings in a row that could not be used: out of range, or times that no right clock gives.

What was told is part of the asset's state, and so are the counts of refused readings. When an asset was last heard is
not: a restarted worker reads it from the log again, so the committed offset lies before what can still be told of
(`oldest_offset`). An asset whose messages are not read again was told silent, or is nobody that could be.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stream_detector.config import ChannelConfig, SensorsConfig, WindowConfig
from stream_detector.liveness.refusals import Refusals, newest_ms
from stream_detector.types import AssetState, DeadLetter, LivenessEvent, Partition, ReadingBatch, Refused
from stream_detector.windowing.grid import Bools, Floats, Ints

#: A restarted worker reads again from so long before what must be read again, at most, so that others are known.
_MOST_MARGIN_MS = 600_000
_MARKS = 8  # places in the log that are remembered for each time in which an asset falls silent
#: Fewest cells without a reading that are a dropout or silence.
_LEAST_CELLS = 5


@dataclass(frozen=True, slots=True)
class _Heard:
    """Some messages of a batch, one entry a message, in the log's order."""

    offsets: Ints  # (M,)
    rows: Ints  # (M,) of the assets
    ts_ms: Floats  # (M,) newest event time in it; -inf where it doesn't count
    present: Bools  # (M, C)


class LivenessTracker:
    """When the assets and channels of one task were last heard."""

    def __init__(
        self,
        sensors: SensorsConfig,
        window: WindowConfig,
        channels: Mapping[str, ChannelConfig],
        states: Mapping[str, AssetState],
        usual_gap_ms: float = 0.0,
    ) -> None:
        """Take over assets' committed states. `usual_gap_ms`: longest pause in the training history."""
        self._names = list(channels)
        least = _LEAST_CELLS * window.cell_ms
        gaps = [window.max_gap_ms if c.max_gap_ms is None else c.max_gap_ms for c in channels.values()]
        self._limits: Floats = np.maximum(np.array(gaps), least)  # (C,) ms
        usual = max(2 * least, float(self._limits.max()), 5.0 * usual_gap_ms)
        self.silent_after_ms = math.ceil(usual if sensors.silent_after_ms is None else sensors.silent_after_ms)
        self._tells_silence = sensors.silent
        self._max_ahead_ms = window.max_ahead_ms
        self._most_ms = max(1, self.silent_after_ms // 8)  # progress a step
        self._leap_ms = float(self._limits.min()) / 4
        self._rows: dict[str, int] = {}
        self._assets: list[str] = []
        self._clock: Floats = np.empty(0)  # (A,) newest event time
        self._last: Floats = np.empty(0)  # (A,) time of the last message: its own, or of one refused the task's
        self._at: Ints = np.empty(0, np.int64)  # (A,) progress when last heard
        self._first: Ints = np.empty(0, np.int64)  # (A,) progress when first heard
        self._channels: Floats = np.empty((0, len(self._names)))  # (A, C) newest event time
        self._silent: set[int] = set()
        self._dropped: dict[int, set[int]] = {}
        self._refusals = Refusals(sensors.refused_after, states)
        self._now = -np.inf
        self._progress = 0
        self._marks: dict[Partition, deque[tuple[int, int]]] = {}  # progress before a batch, its first offset
        self._track: tuple[Ints, Floats] = (np.empty(0, np.int64), np.empty(0))  # newest event times in the last batch
        self._load(states)

    def _load(self, states: Mapping[str, AssetState]) -> None:
        for asset, state in states.items():
            told = [fault for fault in state.sensors.faults if fault.by_log]
            if told:
                row = self._admit(asset)
                self._at[row], self._first[row] = -(2**60), -(2**61)
            for fault in told:
                if fault.fault == "silent":
                    self._silent.add(row)
                    self._last[row] = fault.since_ms
                elif fault.fault == "dropout" and fault.channel in self._names:
                    column = self._names.index(fault.channel)
                    self._dropped.setdefault(row, set()).add(column)
                    self._channels[row, column] = fault.since_ms

    # Silence and dropouts -------------------------------------------------------------------------------------------

    def push(
        self, batch: ReadingBatch | None, letters: Iterable[DeadLetter] = (), processed: bool = False
    ) -> list[LivenessEvent]:
        """Hear a batch and the dead letters of its decoder; return what that tells, each with its place in the batch.

        `processed`: the states already know; only when who was heard is noted. No batch: letters alone.
        """
        heard, places = self._heard(batch, letters)
        if not len(heard.rows):
            return []
        now = np.maximum.accumulate(np.maximum(heard.ts_ms, self._now))
        since = now[0] if self._now == -np.inf else self._now
        with np.errstate(invalid="ignore"):
            steps = np.diff(np.floor(now), prepend=math.floor(since) if since > -np.inf else -np.inf)
        steps[~np.isfinite(steps)] = 0.0  # nobody's time was known
        after = self._progress + np.cumsum(np.minimum(steps, self._most_ms)).astype(np.int64)
        before = np.concatenate([[self._progress], after[:-1]])
        told: list[LivenessEvent] = []
        own = np.where(heard.ts_ms > -np.inf, heard.ts_ms, np.maximum(now, 0.0))
        self._mark(heard, batch)
        if not processed and self._tells_silence:
            told += self._returned(heard, before, after, places, own)
        told += self._channels_of(heard, places, processed)
        np.maximum.at(self._clock, heard.rows, heard.ts_ms)
        self._at[heard.rows] = after  # the last of an asset counts
        self._last[heard.rows] = own
        self._now, self._progress = float(now[-1]), int(after[-1])
        self._track = heard.offsets, now
        if not processed and self._tells_silence:
            told += self._fell_silent(0 if batch is None else len(batch.assets))
        return sorted(told, key=lambda one: one.place)

    def oldest_offset(self, partition: Partition) -> int | None:
        """Return the oldest offset to be read again after a restart, so that silences are told as without it.

        From before the last message of each asset that is not silent yet, and may be: far enough for others to be
        heard before it, too.
        """
        marks = self._marks.get(partition)
        if not marks or not self._tells_silence:
            return None
        may_be = self._at[: len(self._assets)]
        may_be = may_be[may_be >= self._progress - self.silent_after_ms]
        since = int(may_be.min(initial=self._progress)) - min(self.silent_after_ms, _MOST_MARGIN_MS)
        while len(marks) > 1 and marks[1][0] <= since:
            marks.popleft()
        return marks[0][1]

    def _mark(self, heard: _Heard, batch: ReadingBatch | None) -> None:
        """Note how far the task was before a batch, not for each of many small ones."""
        if batch is None:
            return
        marks = self._marks.setdefault(batch.partition, deque())
        if not marks or self._progress - marks[-1][0] >= self.silent_after_ms // _MARKS:
            marks.append((self._progress, int(heard.offsets[0])))

    def _heard(self, batch: ReadingBatch | None, letters: Iterable[DeadLetter]) -> tuple[_Heard, Ints]:
        """Return readings and letters in the log's order, and each one's place among the readings."""
        named = [letter for letter in letters if letter.asset]
        if batch is None:
            rows = np.fromiter((self._row(letter.asset) for letter in named), np.int64, len(named))
            offsets = np.array([letter.message.offset for letter in named], np.int64)
            nothing = np.zeros((len(named), len(self._names)), np.bool_)
            return _Heard(offsets, rows, np.full(len(named), -np.inf), nothing), np.zeros(len(named), np.int64)
        rows = np.fromiter(map(self._row, batch.assets), np.int64, len(batch.assets))
        last, present = newest_ms(batch), ~np.isnan(batch.values)
        if batch.reading is not None:
            starts = np.searchsorted(batch.reading, np.arange(len(batch.assets)))
            present = np.logical_or.reduceat(~np.isnan(batch.values), starts, axis=0)
        ahead = (batch.ingest_ms >= 0) & (last > batch.ingest_ms + self._max_ahead_ms)
        ts = np.where(ahead, -np.inf, last)
        places = np.arange(len(rows))
        if not named:
            return _Heard(batch.offsets, rows, ts, present), places
        offsets = np.array([letter.message.offset for letter in named], np.int64)
        whole = np.concatenate([batch.offsets, offsets])
        order = np.argsort(whole, kind="stable")
        count = len(named)
        rows = np.concatenate([rows, np.array([self._row(letter.asset) for letter in named], np.int64)])[order]
        ts = np.concatenate([ts, np.full(count, -np.inf)])[order]
        nothing = np.zeros((count, present.shape[1]), np.bool_)
        places = np.concatenate([places, np.searchsorted(batch.offsets, offsets)])[order]
        return _Heard(whole[order], rows, ts, np.concatenate([present, nothing])[order]), places

    def _returned(self, heard: _Heard, before: Ints, after: Ints, places: Ints, own: Floats) -> list[LivenessEvent]:
        """Return the silences that ended within this batch, and those that began in it and ended."""
        last = self._before(heard.rows, after)
        told: list[LivenessEvent] = []
        long = before - last > self.silent_after_ms
        if self._silent:
            first = np.unique(heard.rows, return_index=True)[1]
            back = first[np.isin(heard.rows[first], list(self._silent))]
            long[back] = True
        for index in np.flatnonzero(long).tolist():
            row, place = int(heard.rows[index]), int(places[index])
            mine = np.flatnonzero(heard.rows[:index] == row)
            since = float(own[mine[-1]] if mine.size else self._last[row])
            if row not in self._silent:
                due = last[index] + self.silent_after_ms
                others, known = heard.rows[:index], self._first <= last[index]
                within = (others != row) & known[others] & (after[:index] > due)
                earlier = known & (self._at > due)
                earlier[row] = False
                if not (within.any() or earlier.any()):
                    continue
                told.append(self._silence(row, place, True, since))
            self._silent.discard(row)
            told.append(self._silence(row, place, False, max(since, float(own[index]))))
        return told

    def _before(self, rows: Ints, after: Ints) -> Ints:
        """Return the progress at which each message's asset had been heard before it, (M,)."""
        order = np.argsort(rows, kind="stable")
        last = np.empty(len(rows), np.int64)
        ordered = rows[order]
        last[order[1:]] = after[order[:-1]]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        last[order[first]] = self._at[ordered[first]]
        return last

    def _fell_silent(self, place: int) -> list[LivenessEvent]:
        """Return the silences that others' progress has made certain by the end of the batch."""
        if self._progress - int(self._at.min()) <= self.silent_after_ms:
            return []
        late = np.flatnonzero(self._progress - self._at > self.silent_after_ms)
        late = late[~np.isin(late, list(self._silent))]
        if not late.size:
            return []
        order = np.argsort(self._first, kind="stable")
        newest = np.maximum.accumulate(self._at[order])  # of the assets known by then
        known = np.searchsorted(self._first[order], self._at[late], side="right") - 1
        sure = (known >= 0) & (newest[np.maximum(known, 0)] - self._at[late] > self.silent_after_ms)
        told = [self._silence(row, place, True, float(self._last[row])) for row in late[sure].tolist()]
        self._silent.update(late[sure].tolist())
        return told

    def _silence(self, row: int, place: int, begins: bool, time_ms: float) -> LivenessEvent:
        """Return the beginning or end of a silence; `time_ms`: when the asset was last heard, or is again."""
        at = time_ms + self.silent_after_ms if begins else time_ms
        limit = self.silent_after_ms / 1_000.0
        return LivenessEvent(place, self._assets[row], "", "silent", begins, round(at), round(time_ms), limit, limit)

    def _channels_of(self, heard: _Heard, places: Ints, processed: bool) -> list[LivenessEvent]:
        """Note which channels were heard; return their dropouts and returns."""
        rows = heard.rows
        suspects = self._suspects(heard)
        if self._dropped:
            suspects = np.union1d(suspects, np.intersect1d(rows, list(self._dropped)))
        told: list[LivenessEvent] = []
        slow = np.isin(rows, suspects)
        for row in suspects.tolist():
            told += self._follow(row, heard, np.flatnonzero(rows == row), places, processed)
        fast = np.flatnonzero(~slow)
        if fast.size:
            times = np.where(heard.present[fast], heard.ts_ms[fast, None], -np.inf)
            np.maximum.at(self._channels, rows[fast], times)
        return told

    def _suspects(self, heard: _Heard) -> Ints:
        """Return the rows of assets that lack a channel for long, or whose clock has leapt while they lacked one."""
        lacking = ~heard.present.all(axis=1) & (heard.ts_ms > -np.inf)
        if not lacking.any():
            return np.empty(0, np.int64)
        some = np.unique(heard.rows[lacking])
        mine = np.flatnonzero(np.isin(heard.rows, some) & (heard.ts_ms > -np.inf))
        mine = mine[np.argsort(heard.rows[mine], kind="stable")]
        place, ts = np.searchsorted(some, heard.rows[mine]), heard.ts_ms[mine]
        first = np.concatenate([[True], place[1:] != place[:-1]])
        before = np.concatenate([[-np.inf], ts[:-1]])
        before[first] = self._clock[some]
        leapt = (ts - before > self._leap_ms) & (before > -np.inf)
        end, present = self._clock[some], np.zeros((len(some), len(self._names)), np.bool_)
        np.maximum.at(end, place, ts)
        np.logical_or.at(present, place, heard.present[mine])
        with np.errstate(invalid="ignore"):
            lags = end[:, None] - self._channels[some]  # inf: never heard before this batch
            late = (lags > self._limits.min()) & ((lags < np.inf) | present)
        found = late.any(axis=1)
        found[place[leapt]] = True
        return np.asarray(some[found], np.int64)

    def _follow(self, row: int, heard: _Heard, mine: Ints, places: Ints, processed: bool) -> list[LivenessEvent]:
        """Take one asset's messages in turn."""
        told: list[LivenessEvent] = []
        clock, last = float(self._clock[row]), self._channels[row]
        dropped = self._dropped.get(row, set())
        for index in mine.tolist():
            ts = float(heard.ts_ms[index])
            if ts == -np.inf:
                continue
            if clock > -np.inf and ts - clock > self._leap_ms:
                quiet = [column for column in range(len(last)) if column not in dropped]
                last[quiet] += ts - clock - self._leap_ms  # a pause of the whole asset is nobody's dropout
            clock = max(clock, ts)
            present = heard.present[index]
            for column in np.flatnonzero(present).tolist():
                if column in dropped and ts > last[column]:
                    dropped.discard(column)
                    told.append(self._dropout(row, column, int(places[index]), False, clock))
            last[present] = np.maximum(last[present], ts)
            if processed:
                continue
            for column in np.flatnonzero((clock - last > self._limits) & (last > -np.inf)).tolist():
                if column not in dropped:
                    dropped.add(column)
                    told.append(self._dropout(row, column, int(places[index]), True, float(last[column])))
        self._channels[row] = last
        if dropped:
            self._dropped[row] = dropped
        else:
            self._dropped.pop(row, None)
        return [] if processed else told

    def _dropout(self, row: int, column: int, place: int, begins: bool, time_ms: float) -> LivenessEvent:
        limit = float(self._limits[column])
        at = time_ms + limit if begins else time_ms
        seconds = limit / 1_000.0
        name = self._names[column]
        return LivenessEvent(
            place, self._assets[row], name, "dropout", begins, round(at), round(time_ms), seconds, seconds
        )

    # Refused readings -----------------------------------------------------------------------------------------------

    def refused(self, batch: ReadingBatch | None, letters: Iterable[DeadLetter], known: int = 0) -> list[LivenessEvent]:
        """Count refused readings in a row; return what that tells (`Refusals.count`)."""
        return self._refusals.count(batch, letters, known, self._newest)

    def counts(self) -> dict[str, Refused]:
        """Return the counts of refused readings to be kept, by asset, and forget those that came to nothing."""
        return self._refusals.counts()

    def _newest(self, offset: int) -> int:
        """Return the task's newest event time when this message came."""
        offsets, now = self._track
        place = int(np.searchsorted(offsets, offset, side="right")) - 1
        newest = float(now[place]) if place >= 0 else self._now
        return round(newest) if newest > -np.inf else 0

    # Rows -----------------------------------------------------------------------------------------------------------

    def _row(self, asset: str) -> int:
        row = self._rows.get(asset)
        return self._admit(asset) if row is None else row

    def _admit(self, asset: str) -> int:
        row = self._rows[asset] = len(self._assets)
        self._assets.append(asset)
        if row >= len(self._clock):
            more = max(64, row)
            self._clock = np.concatenate([self._clock, np.full(more, -np.inf)])
            self._last = np.concatenate([self._last, np.zeros(more)])
            self._at = np.concatenate([self._at, np.full(more, 2**62, np.int64)])  # a free row is never silent
            self._first = np.concatenate([self._first, np.full(more, 2**62, np.int64)])
            nothing = np.full((more, len(self._names)), -np.inf)
            self._channels = np.concatenate([self._channels, nothing])
        self._at[row] = self._first[row] = self._progress
        return row
