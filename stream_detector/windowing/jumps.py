"""Readings whose time jumps ahead of all others wait until their asset's next reading confirms it. Pure.

One reading with a time in the future would close its asset's cells up to there: all that follow come too late, and
nobody's event time moves on. The broker's clock tells such a reading only where the record's time is the broker's own.
So a reading that is further ahead of the task's newest event time than open windows reach is held back:

    next reading of its asset   the one held back
    as far ahead                is read, before it
    back at the others' times   is a dead letter
    none, while others go on    is read where the others have come near its time, else it is a dead letter

A first reading after a pause of the whole plant is held back for a moment, too. Held readings keep their place in the
committed offset (`oldest_offset`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

from stream_detector.config import WindowConfig
from stream_detector.types import DeadLetter, ReadingBatch
from stream_detector.windowing.grid import Floats
from stream_detector.windowing.windower import extent, part


class Piece(NamedTuple):
    """Readings that are to be used next, or the dead letter of one that never will be."""

    what: ReadingBatch | DeadLetter
    before: int  # messages of the batch's partition below this offset come before it


class _Held(NamedTuple):
    readings: ReadingBatch  # one
    ts_ms: float
    until_ms: float  # newest event time from which on it is not waited for
    since: tuple[str, int]  # topic and offset of the reading that had the newest event time then

    def lone(self, newest_ms: float) -> DeadLetter:
        """Return its dead letter; `newest_ms`: of the other readings."""
        lead = (self.ts_ms - newest_ms) / 1_000
        detail = f"{lead:.0f} s ahead of all other readings, and its asset's next reading was not"
        one = self.readings
        return DeadLetter(one.partition, one.messages[0], "too-far-ahead", detail, one.assets[0])


class Jumps:
    """The readings of one task that wait."""

    def __init__(self, window: WindowConfig, limit_ms: float, clock_of: Callable[[str], float]) -> None:
        """`limit_ms`: a time further ahead of the newest one is confirmed first.

        `clock_of`: returns the newest event time of an asset's readings that were used; -inf before the first.
        """
        self._clock_of = clock_of
        self._max_ahead_ms = window.max_ahead_ms
        self._limit_ms = limit_ms + 2 * window.cell_ms  # a reading a cell is no leap
        self._newest = -np.inf
        self._newest_at = ("", 0)  # a restarted worker reads it again, so that it finds the same leaps
        self._held: dict[str, _Held] = {}

    def push(self, batch: ReadingBatch) -> Iterator[Piece]:
        """Yield the readings that need not wait, in the order in which they are to be used, and lone ones' letters."""
        _, ts = extent(batch)
        ahead = (batch.ingest_ms >= 0) & (ts > batch.ingest_ms + self._max_ahead_ms)  # the windower refuses them
        if ahead.any():
            ts = np.where(ahead, -np.inf, ts)
        highest = float(ts.max())
        base = self._newest if self._newest > -np.inf else float(ts[np.argmax(ts > -np.inf)])
        if not self._held and highest <= base + self._limit_ms:
            self._raise(highest, batch, int(np.argmax(ts)))
            yield Piece(batch, int(batch.offsets[-1]))
        else:
            yield from self._in_turn(batch, ts)

    def oldest_offset(self, topic: str) -> int | None:
        """Return the oldest offset of a topic that is needed to find the same leaps again; None when none is."""
        needed = [self._newest_at, *(one.since for one in self._held.values())]
        needed += [(one.readings.partition.topic, int(one.readings.offsets[0])) for one in self._held.values()]
        return min((offset for name, offset in needed if name == topic), default=None)

    def _raise(self, ts_ms: float, batch: ReadingBatch, place: int) -> None:
        if ts_ms > self._newest:
            self._newest, self._newest_at = ts_ms, (batch.partition.topic, int(batch.offsets[place]))

    def _in_turn(self, batch: ReadingBatch, ts_ms: Floats) -> Iterator[Piece]:
        start = 0
        for place, (asset, ts) in enumerate(zip(batch.assets, ts_ms.tolist(), strict=True)):
            waits = self._held.get(asset) if ts > -np.inf else None
            if waits is not None and ts <= self._clock_of(asset):  # sent again, or late: tells nothing of the clock
                waits = None
            if waits is None and ts <= self._newest:
                continue
            if waits is not None:
                if place > start:
                    yield _piece(batch, start, place)
                start = place
                yield Piece(self._decided(asset, waits, ts >= waits.ts_ms - self._limit_ms), int(batch.offsets[place]))
            if ts > self._newest + self._limit_ms > -np.inf:
                if place > start:
                    yield _piece(batch, start, place)
                start = place + 1
                self._held[asset] = _Held(part(batch, place, start), ts, self._newest + self._limit_ms, self._newest_at)
                continue
            self._raise(ts, batch, place)
            if over := [(name, one) for name, one in self._held.items() if one.until_ms < self._newest]:
                yield _piece(batch, start, place + 1)
                start = place + 1
                decided = [self._decided(name, one, one.ts_ms <= self._newest + self._limit_ms) for name, one in over]
                for what in _together(decided):
                    yield Piece(what, int(batch.offsets[place]) + 1)
        if start < len(batch.assets):
            yield _piece(batch, start, len(batch.assets))

    def _decided(self, asset: str, one: _Held, believed: bool) -> ReadingBatch | DeadLetter:
        del self._held[asset]
        if not believed:
            return one.lone(self._newest)
        self._raise(one.ts_ms, one.readings, 0)
        return one.readings


def _piece(batch: ReadingBatch, start: int, stop: int) -> Piece:
    return Piece(part(batch, start, stop), int(batch.offsets[stop - 1]))


def _together(decided: Iterable[ReadingBatch | DeadLetter]) -> Iterator[ReadingBatch | DeadLetter]:
    """Join successive readings of one partition: after a pause of the plant there is one of each asset."""
    for partition, group in groupby(decided, lambda one: one.partition if isinstance(one, ReadingBatch) else None):
        some = list(group)
        readings = [one for one in some if isinstance(one, ReadingBatch)]
        if partition is None or len(readings) == 1:
            yield from some
            continue
        blocks = any(one.reading is not None for one in readings)
        intervals = [np.full(1, np.nan) if one.interval_ms is None else one.interval_ms for one in readings]
        yield ReadingBatch(
            partition,
            [one.messages[0] for one in readings],
            [one.assets[0] for one in readings],
            np.concatenate([one.offsets for one in readings]),
            np.concatenate([one.ingest_ms for one in readings]),
            np.concatenate([np.full(len(one.ts_ms), n) for n, one in enumerate(readings)]) if blocks else None,
            np.concatenate([one.ts_ms for one in readings]),
            np.concatenate([one.values for one in readings]),
            np.concatenate(intervals) if any(one.interval_ms is not None for one in readings) else None,
        )
