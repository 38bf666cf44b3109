"""Readings -> windows per asset, by event time, on a grid.

        ts ──▶   │ 1 │ 2 │   │ 4 │ 5 │ 6 │ 7 │        cells; the gap at 3 is filled with 2's value and marked
    length 4     └───────────────┘                    windows end at whole multiples of `stride` cells since 1970,
    stride 2             └───────────────┘            so a replay cuts the same ones

An asset's clock is its newest event time; a cell is final once the clock is `lateness_ms` past its end. Everything is
decided from the messages in their order, never from the wall clock or from how polls cut the stream, so live runs,
replays and backtests agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count as numbers
from itertools import repeat

import numpy as np

from stream_detector.config import ChannelConfig, WindowConfig
from stream_detector.types import DeadLetter, NotJudged, ReadingBatch, WindowBatch
from stream_detector.windowing.completion import Completion, by_clock
from stream_detector.windowing.coverage import Coverage, Held
from stream_detector.windowing.grid import NEVER, Bools, Floats, Grid, Ints

_NOBODY = np.iinfo(np.int64).max // 2  # heard last in the far future: a row without an asset is never let go
_MOST_WITHOUT = 1_000  # assets let go without a window that are remembered
_MOST_CELLS = 2_000_000  # in one cut: bounds the memory of a batch, not its result


class Windower:
    """Open windows of one task. Pure: the same messages in the same order give the same windows."""

    def __init__(
        self, window: WindowConfig, channels: Mapping[str, ChannelConfig], task: int, topics: Sequence[str]
    ) -> None:
        """Make an empty windower for the partitions `task` of `topics`."""
        self._config = window
        self._task = task
        self._topics = {topic: index for index, topic in enumerate(topics)}
        self._grid = Grid(window, channels, len(topics))
        self._coverage = Coverage(window, channels)
        self._without: dict[str, NotJudged] = {}  # assets let go that never had a window
        self._rows: dict[str, int] = {}
        self._names: dict[int, str] = {}
        longest = float(self._grid.max_gap.max()) * window.cell_ms
        #: An asset is let go when the task has progressed this far in event time since its last reading. More than its
        #: windows can wait, so that letting go changes no window.
        self.hold_ms = int(2 * (longest + window.lateness_ms) + window.max_ahead_ms)
        # A step of the newest event time counts as progress only up to this: one asset whose clock jumps (back from a
        # long silence, or a recording of another year) must not let all the others go.
        self._stride_ms = max(1, self.hold_ms // 8)
        self._skew_ms = longest
        capacity = self._grid.capacity
        self._clocks: Floats = np.full((len(topics), capacity), -np.inf)  # (topics, A) newest event time by topic
        self._heard: Ints = np.full(capacity, _NOBODY)  # (A,) the task's progress at the last reading
        self._next: Ints = np.zeros(capacity, np.int64)  # (A,) end cell of the next window
        self._now = -np.inf  # newest event time of all assets
        self._progress = 0  # ms that it has moved on, large steps cut; whole, so that batches can't change the sum

    @property
    def event_ms(self) -> float:
        """Newest event time of the task's readings, UNIX ms; -inf before the first."""
        return float(self._now)

    @property
    def assets(self) -> int:
        """Number of assets held."""
        return len(self._rows)

    def last_readings(self) -> tuple[list[str], Floats]:
        """Return the assets held and their newest event times (A,), UNIX ms; -inf where all were late."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        return list(self._rows), self._clocks[:, rows].max(axis=0)

    def clock_of(self, asset: str) -> float:
        """Return the newest event time of an asset, UNIX ms; -inf where it is not held."""
        row = self._rows.get(asset)
        return -np.inf if row is None else float(self._clocks[:, row].max())

    def push(self, batch: ReadingBatch) -> tuple[WindowBatch | None, list[DeadLetter]]:
        """Add readings; return the windows they complete, oldest first per asset, and the readings refused.

        Each window names the reading that completed it. Never blocks, never looks at the clock.
        """
        dead: list[DeadLetter] = []
        parts: list[WindowBatch] = []
        rest: ReadingBatch | None = batch
        while rest is not None:
            done, start = len(parts), len(batch.assets) - len(rest.assets)
            rest = self._push(rest, parts, dead)
            if start:
                parts[done:] = [_moved(one, start) for one in parts[done:]]
        self._let_go()
        return _joined(parts), dead

    def oldest_offsets(self) -> dict[str, int | None]:
        """Return by topic the oldest offset an open window still needs; None when no window needs any."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        found = self._grid.oldest_offsets(rows)
        return {topic: found[index] for topic, index in self._topics.items()}

    def not_judged(self, final: bool = False) -> list[NotJudged]:
        """Return the assets that send readings which give no window, with the reason.

        `final`: no more readings come, so any asset without a window is one of them.
        """
        rows = np.flatnonzero(self._heard != _NOBODY)
        clocks = self._clocks[:, rows].max(axis=0)
        waiting = self._coverage.waiting(rows, clocks, final=final)
        return [*(self._without.values() if final else ()), *map(self._why, waiting.tolist())]

    def _why(self, row: int) -> NotJudged:
        clock_ms = float(self._clocks[:, row].max())
        newest = self._grid.newest_cells(row)
        return self._coverage.why(row, Held(self._names[row], clock_ms, newest, self._grid.channel_of_column))

    # One pass: refuse, hand out rows, insert, cut -------------------------------------------------------------------

    def _push(self, batch: ReadingBatch, parts: list[WindowBatch], dead: list[DeadLetter]) -> ReadingBatch | None:
        """Add one batch, or the part of it before an asset's return from silence; return what is left then."""
        topic = self._topics[batch.partition.topic]
        first_ms, last_ms = extent(batch)
        told = len(dead)
        kept = self._not_ahead(batch, first_ms, last_ms, dead)
        if not kept.size:
            return None
        now = np.maximum.accumulate(np.maximum(last_ms[kept], self._now))  # (M',) newest event time after each reading
        since = now[0] if self._now == -np.inf else self._now
        steps = np.diff(np.floor(now).astype(np.int64), prepend=math.floor(since))
        after = self._progress + np.cumsum(np.minimum(steps, self._stride_ms))  # (M',) progress after each reading
        before = np.concatenate([[self._progress], after[:-1]])
        rest: ReadingBatch | None = None
        cut = self._return_within(batch, kept, after, before) if after[-1] - before[0] > self.hold_ms else None
        if cut is not None:
            rest = _from_reading(batch, int(kept[cut]))
            del dead[told + int(kept[cut]) - cut :]  # those of the rest are told with it
            kept, now, after, before = kept[:cut], now[:cut], after[:cut], before[:cut]
        self._now, self._progress = float(now[-1]), int(after[-1])
        rows = self._rows_of(batch, kept, first_ms, before)
        self._heard[rows] = after  # late readings too: an asset whose clock is behind is not silent
        kept, rows, after = self._not_late(
            batch, topic, kept, rows, after, first_ms=first_ms, last_ms=last_ms, dead=dead
        )
        if kept.size:
            self._insert(batch, topic, kept, rows, parts)
        return rest

    def _not_ahead(self, batch: ReadingBatch, first_ms: Floats, last_ms: Floats, dead: list[DeadLetter]) -> Ints:
        ahead = (batch.ingest_ms >= 0) & (last_ms > batch.ingest_ms + self._config.max_ahead_ms)
        if not ahead.any():
            return np.arange(len(first_ms))
        for index in np.flatnonzero(ahead).tolist():
            lead = (last_ms[index] - batch.ingest_ms[index]) / 1000
            detail = f"{lead:.0f} s ahead of the broker's clock; window.max_ahead_ms is {self._config.max_ahead_ms:g}"
            asset = batch.assets[index]
            dead.append(DeadLetter(batch.partition, batch.messages[index], "too-far-ahead", detail, asset))
        return np.flatnonzero(~ahead)

    def _return_within(self, batch: ReadingBatch, kept: Ints, after: Ints, before: Ints) -> int | None:
        """Return where in the batch an asset first speaks again after it was let go within this batch, if one does."""
        assets = batch.assets if len(kept) == len(batch.assets) else [batch.assets[i] for i in kept.tolist()]
        seen: dict[str, int] = {}
        first = np.fromiter(map(seen.setdefault, assets, numbers()), np.int64, len(assets))  # (M',) of the same asset
        order = np.argsort(first, kind="stable")
        again = order[1:][first[order][1:] == first[order][:-1]]
        last = order[:-1][first[order][1:] == first[order][:-1]]
        returns = again[before[again] - after[last] > self.hold_ms]
        return int(returns.min()) if returns.size else None

    def _rows_of(self, batch: ReadingBatch, kept: Ints, first_ms: Floats, before: Ints) -> Ints:
        assets = batch.assets if len(kept) == len(batch.assets) else [batch.assets[i] for i in kept.tolist()]
        lookup = self._rows
        rows = np.fromiter(map(lookup.get, assets, repeat(-1)), np.int64, len(assets))
        known, first = np.unique(rows, return_index=True)
        new = known[0] < 0
        known, first = known[int(new) :], first[int(new) :]
        silent = first[before[first] - self._heard[known] > self.hold_ms]
        for position in silent.tolist():
            self._forget(assets[position])
        if silent.size or new:
            for position, asset in enumerate(assets):
                if asset not in lookup:
                    self._admit(asset, float(first_ms[kept[position]]))
            rows = np.fromiter(map(lookup.__getitem__, assets), np.int64, len(assets))
        return rows

    def _admit(self, asset: str, first_ms: float) -> None:
        closed = int(self._grid.cell_of(np.array([first_ms - self._config.lateness_ms]))[0])
        # The last end whose window could have begun by now: earlier windows would lack their first cells.
        end = (closed + self._config.length) // self._config.stride * self._config.stride
        row = self._grid.add(end - self._config.length)
        if (more := self._grid.capacity - len(self._heard)) > 0:
            self._clocks = np.concatenate([self._clocks, np.full((len(self._clocks), more), -np.inf)], axis=1)
            self._heard = np.concatenate([self._heard, np.full(more, _NOBODY)])
            self._next = np.concatenate([self._next, np.zeros(more, np.int64)])
        self._clocks[:, row] = -np.inf
        self._coverage.admit(row, self._grid.capacity)
        self._heard[row] = self._progress
        self._next[row] = end
        self._rows[asset] = row
        self._names[row] = asset

    def _forget(self, asset: str) -> None:
        row = self._rows[asset]
        if self._coverage.never(row) and len(self._without) < _MOST_WITHOUT:
            self._without[asset] = self._why(row)
        del self._rows[asset], self._names[row]
        self._heard[row] = _NOBODY
        self._grid.remove(row)

    def _let_go(self) -> None:
        """Forget assets silent for so long that none of their windows can still be completed."""
        for row in np.flatnonzero(self._heard < self._progress - self.hold_ms).tolist():
            self._forget(self._names[row])

    def _not_late(
        self,
        batch: ReadingBatch,
        topic: int,
        kept: Ints,
        rows: Ints,
        after: Ints,
        *,
        first_ms: Floats,
        last_ms: Floats,
        dead: list[DeadLetter],
    ) -> tuple[Ints, Ints, Ints]:
        """Refuse readings whose first cell is closed, by the clock their own topic had when they came."""
        order = np.argsort(rows, kind="stable")
        sorted_rows, first, last = rows[order], first_ms[kept][order], last_ms[kept][order]
        starts = np.flatnonzero(np.concatenate([[True], np.diff(sorted_rows) != 0]))
        clock = np.empty_like(last)  # the asset's clock before each reading, while all come in order
        clock[1:] = last[:-1]
        clock[starts] = self._clocks[topic][sorted_rows[starts]]
        late = np.zeros(len(order), bool)
        if (first < clock).any():
            ends = np.append(starts[1:], len(order))
            unordered = np.unique(np.searchsorted(starts, np.flatnonzero(first < clock), side="right") - 1)
            for start, end in zip(starts[unordered].tolist(), ends[unordered].tolist(), strict=True):
                late[start:end] = self._late_in_turn(first[start:end], last[start:end], float(clock[start]))
        if self._grid.topics > 1:  # the topics together may have closed more than this one's clock alone
            late |= self._grid.cell_of(first) < self._grid.base[sorted_rows]
        if late.any():
            clocks = {int(order[n]): self._clock_at(n, sorted_rows, last, late) for n in np.flatnonzero(late).tolist()}
            for position, newest in sorted(clocks.items()):
                index = int(kept[position])
                behind = (newest - first_ms[index]) / 1000
                allowed = f"window.lateness_ms is {self._config.lateness_ms:g}"
                detail = f"{behind:.3f} s behind its asset's newest reading; {allowed}"
                dead.append(DeadLetter(batch.partition, batch.messages[index], "too-late", detail, batch.assets[index]))
            fine = np.ones(len(order), bool)
            fine[order[late]] = False
            kept, rows, after = kept[fine], rows[fine], after[fine]
        return kept, rows, after

    def _late_in_turn(self, first: Floats, last: Floats, clock: float) -> Bools:
        late = np.zeros(len(first), bool)
        closed = self._grid.cell_of(np.array([clock - self._config.lateness_ms]))[0] if clock > -np.inf else NEVER
        for index, cell in enumerate(self._grid.cell_of(first).tolist()):
            if cell < closed:
                late[index] = True
            elif last[index] > clock:
                clock = float(last[index])
                closed = self._grid.cell_of(np.array([clock - self._config.lateness_ms]))[0]
        return late

    def _clock_at(self, place: int, rows: Ints, last_ms: Floats, late: Bools) -> float:
        """Return an asset's newest event time when the reading in `place` came; all sorted by row."""
        start = int(np.searchsorted(rows, rows[place]))
        before = last_ms[start:place][~late[start:place]]
        return float(max(self._clocks[:, rows[place]].max(), before.max(initial=-np.inf)))

    def _insert(self, batch: ReadingBatch, topic: int, kept: Ints, rows: Ints, parts: list[WindowBatch]) -> None:
        """Put samples into cells, cutting windows on the way whenever an asset's ring is full."""
        if batch.reading is None:
            samples, owner = kept, rows
        else:
            by_reading = np.full(len(batch.assets), -1, np.int64)
            by_reading[kept] = rows
            samples = np.flatnonzero(by_reading[batch.reading] >= 0)
            owner = by_reading[batch.reading[samples]]
        order = np.argsort(owner, kind="stable")
        samples, owner = samples[order], owner[order]
        ts, values = batch.ts_ms[samples], batch.values[samples]
        readings = samples if batch.reading is None else batch.reading[samples]
        cells = self._grid.cell_of(ts)
        base = self._grid.base[owner]
        if ((cells >= base) & (cells < base + self._grid.ring)).all():  # the usual case: all at once, nothing picked
            self._put(topic, owner, cells, ts=ts, values=values, readings=readings, batch=batch, parts=parts)
            return
        left = np.flatnonzero(cells >= base)  # a block's first samples may lie in a closed cell
        while left.size:
            waits = cells[left] >= self._grid.base[owner[left]] + self._grid.ring
            if waits.any():
                waits = _from_first(waits, owner[left])
            take, left = left[~waits], left[waits]
            if take.size:
                self._put(
                    topic,
                    owner[take],
                    cells[take],
                    ts=ts[take],
                    values=values[take],
                    readings=readings[take],
                    batch=batch,
                    parts=parts,
                )
            if left.size:
                first = left[np.concatenate([[True], np.diff(owner[left]) != 0])]
                by = Completion(owner[first], readings[first], batch.ingest_ms)
                self._make_room(topic, owner[first], cells[first], ts=ts[first], by=by, parts=parts)

    def _completion(
        self, topic: int, touched: Ints, owner: Ints, *, ts: Floats, readings: Ints, ingest_ms: Ints
    ) -> Completion:
        """Return what tells which of some samples, sorted by asset, closed the last cell of a window."""

        def closed() -> Ints:
            clocks = self._clocks[:, owner]
            clocks[topic] = ts
            return self._closed(clocks)

        return by_clock(touched, owner, readings, ingest_ms=ingest_ms, first=self._next[touched], closed=closed)

    def _put(
        self,
        topic: int,
        owner: Ints,
        cells: Ints,
        *,
        ts: Floats,
        values: Floats,
        readings: Ints,
        batch: ReadingBatch,
        parts: list[WindowBatch],
    ) -> None:
        """Put samples, for whose cells there is room, into them, and cut the windows that they complete."""
        self._grid.insert(topic, owner, cells, ts_ms=ts, values=values, offsets=batch.offsets[readings])
        touched = np.unique(owner)
        by = self._completion(topic, touched, owner, ts=ts, readings=readings, ingest_ms=batch.ingest_ms)
        self._coverage.heard(
            touched,
            owner,
            ts_ms=ts,
            values=values,
            clock_ms=self._clocks[:, touched].max(axis=0),
            ingest_ms=int(batch.ingest_ms[-1]),
        )
        np.maximum.at(self._clocks[topic], owner, ts)
        self._cut(touched, self._closed(self._clocks[:, touched]), by, parts)

    # Cutting --------------------------------------------------------------------------------------------------------

    def _closed(self, clocks: Floats) -> Ints:
        """Return the first open cell (S,) of assets with these clocks (topics, S).

        Of several topics the slowest counts, but none that is further behind than the longest gap filled: a sensor
        that has gone must not hold the others' windows up.
        """
        clock = clocks[0]
        if len(clocks) > 1:
            slowest = np.where(clocks == -np.inf, np.inf, clocks).min(axis=0)
            clock = np.maximum(slowest, clocks.max(axis=0) - self._skew_ms)
        return self._grid.cell_of(clock - self._config.lateness_ms)

    def _make_room(
        self, topic: int, rows: Ints, cells: Ints, *, ts: Floats, by: Completion, parts: list[WindowBatch]
    ) -> None:
        """Close all that the next reading of each asset closes, so that its cell fits into the ring."""
        clocks = self._clocks[:, rows]
        clocks[topic] = np.maximum(clocks[topic], ts)
        closed = self._closed(clocks)
        usable = self._grid.last[rows] + 1 + int(self._grid.max_gap.max())  # later windows lack their last cell
        self._cut(rows, np.minimum(closed, usable), by, parts)
        length, stride = self._config.length, self._config.stride
        stuck = cells >= self._grid.base[rows] + self._grid.ring
        for row, end in zip(rows[stuck].tolist(), closed[stuck].tolist(), strict=True):
            # A gap longer than any that is filled: start again, as with a new asset's first reading.
            next_end = (end + length) // stride * stride
            self._grid.restart(row, next_end - length)
            self._next[row] = next_end

    def _cut(self, rows: Ints, closed: Ints, by: Completion, parts: list[WindowBatch]) -> None:
        """Cut every window that ends at or before `closed`."""
        stride, length, ring = self._config.stride, self._config.length, self._grid.ring
        while True:
            due = (closed - self._next[rows]) // stride + 1
            due = np.minimum(due, (ring - length) // stride + 1)
            ready = due > 0
            if not ready.any():
                return
            for count in np.unique(due[ready]).tolist():
                group = rows[due == count]
                most = max(1, _MOST_CELLS // ((length + count * stride) * self._grid.width))
                for start in range(0, len(group), most):
                    self._take(group[start : start + most], count, by, parts)

    def _take(self, rows: Ints, count: int, by: Completion, parts: list[WindowBatch]) -> None:
        values, filled, valid = self._grid.take(rows, count, self._config.stride)
        ends = self._next[rows][:, None] + np.arange(count) * self._config.stride  # (S, count)
        self._next[rows] += count * self._config.stride
        if not valid.any():
            return
        owner = np.broadcast_to(rows[:, None], valid.shape)[valid]
        end_ms = np.rint(ends[valid] * self._config.cell_ms).astype(np.int64)
        self._coverage.windowed(owner)
        names = list(map(self._names.__getitem__, owner.tolist()))
        if valid.all():  # the usual case: windows are large, so they are not copied for it
            values, filled = values.reshape(-1, *values.shape[2:]), filled.reshape(-1, *filled.shape[2:])
        else:
            values, filled = values[valid], filled[valid]
        completed_by = by.readings_of(owner, ends[valid])
        ingest_ms = by.ingest_ms[completed_by]
        parts.append(WindowBatch(self._task, names, end_ms, values, filled, ingest_ms, completed_by))


def extent(batch: ReadingBatch) -> tuple[Floats, Floats]:
    """Return the event times (M,) of each reading's first and last sample."""
    if batch.reading is None:
        return batch.ts_ms, batch.ts_ms
    starts = np.searchsorted(batch.reading, np.arange(len(batch.assets)))
    return np.minimum.reduceat(batch.ts_ms, starts), np.maximum.reduceat(batch.ts_ms, starts)


def _from_reading(batch: ReadingBatch, start: int) -> ReadingBatch:
    """Return the batch from reading `start` on."""
    return part(batch, start, len(batch.assets))


def part(batch: ReadingBatch, start: int, stop: int) -> ReadingBatch:
    """Return readings `start` to `stop` (excluded) of a batch."""
    rows, reading = slice(start, stop), None
    if batch.reading is not None:
        low, high = np.searchsorted(batch.reading, [start, stop])
        rows, reading = slice(int(low), int(high)), batch.reading[low:high] - start
    return ReadingBatch(
        batch.partition,
        batch.messages[start:stop],
        batch.assets[start:stop],
        batch.offsets[start:stop],
        batch.ingest_ms[start:stop],
        reading,
        batch.ts_ms[rows],
        batch.values[rows],
        None if batch.interval_ms is None else batch.interval_ms[start:stop],
    )


def _from_first(flag: Bools, group: Ints) -> Bools:
    """Mark, within each run of equal `group`, all from the first flagged one on."""
    count = np.cumsum(flag)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(group) != 0]))
    lengths = np.diff(np.append(starts, len(group)))
    earlier = np.where(starts > 0, count[starts - 1], 0)
    return np.asarray(count - np.repeat(earlier, lengths) > 0)


def _moved(windows: WindowBatch, start: int) -> WindowBatch:
    """Return windows of readings from `start` on, with places among all readings."""
    assert windows.completed_by is not None
    return replace(windows, completed_by=windows.completed_by + start)


def _joined(parts: list[WindowBatch]) -> WindowBatch | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return WindowBatch(
        parts[0].task,
        [asset for one in parts for asset in one.assets],
        np.concatenate([one.end_ms for one in parts]),
        np.concatenate([one.values for one in parts]),
        np.concatenate([one.filled for one in parts]),
        np.concatenate([one.ingest_ms for one in parts]),
        np.concatenate([one.completed_by for one in parts if one.completed_by is not None]),
    )
