"""Readings of one task's topics, merged by event time.

Topics are read at whatever pace the broker serves them: catching up, one may be hours ahead of another, and its asset's
cells would be closed before the other's readings come. So readings wait here until every topic that still has unread
messages has come as far, and are passed on a turn at a time: some cells, all of one topic's readings in them, then all
of the next one's. Turns don't depend on how far each topic was read when. A topic without unread messages holds nobody
up: live, all pass at once.

    vibrations  ──1──2──3──4──5──6──7──        read up to 7
    currents    ──1──2──3──┤ unread …          read up to 3, which may not be all of it:  passed: v1 c1 v2 c2

Single readings with a time far ahead (a clock gone wrong) are passed with their neighbours and hold nobody up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from stream_detector.config import WindowConfig
from stream_detector.types import Partition, ReadingBatch
from stream_detector.windowing.grid import Floats, Ints, cells_of
from stream_detector.windowing.windower import part

#: Readings of one partition waiting here from which on it should not be read further.
FULL = 20_000
#: This many readings after it say whether a reading's time is to be believed.
_NEXT = 9

_Stretch = tuple[ReadingBatch, int, int]  # readings of a batch, from and to (excluded)


class _Queue:
    """The readings of one partition that wait."""

    def __init__(self, turns_of: Callable[[Floats], Ints]) -> None:
        self._turns_of = turns_of
        self._batches: deque[_Stretch] = deque()
        self._ts: Floats = np.empty(0)  # (M,) of each reading's last sample: when it could be sent
        self._turns: Ints = np.empty(0, np.int64)  # of the first readings: those that no later one can change

    def __len__(self) -> int:
        return len(self._ts)

    @property
    def oldest_offset(self) -> int | None:
        """Offset of the first reading."""
        return int(self._batches[0][0].offsets[self._batches[0][1]]) if self._batches else None

    def push(self, batch: ReadingBatch) -> None:
        """Add readings."""
        ts = batch.ts_ms
        if batch.reading is not None:
            ts = ts[np.searchsorted(batch.reading, np.arange(len(batch.assets)), side="right") - 1]
        self._batches.append((batch, 0, len(batch.assets)))
        self._ts = np.concatenate([self._ts, ts])
        known = len(self._turns)
        self._turns = np.concatenate([self._turns, self._due(known, len(self._ts) - _NEXT)])

    def turns(self, ended: bool) -> Ints:
        """Return the turns of the first readings, of all where the partition has `ended`."""
        if not ended or len(self._turns) == len(self._ts):
            return self._turns
        return np.concatenate([self._turns, self._due(len(self._turns), len(self._ts))])

    def _due(self, start: int, stop: int) -> Ints:
        """Return the turns of readings `start` to `stop` (excluded) by those after them, as far as these tell.

        A reading whose time lies past most of the next ones' has the turn of the next one whose time does not.
        """
        if stop <= start:
            return np.empty(0, np.int64)
        ts = self._ts[start:]
        count, ended = stop - start, stop == len(self._ts)
        if (ts[1:] >= ts[:-1]).all():
            return self._turns_of(ts[:count])
        padded = np.concatenate([ts, np.full(_NEXT, np.inf)])
        after = np.sort(np.lib.stride_tricks.sliding_window_view(padded[1:], _NEXT), axis=1)[:count]
        known = np.minimum(len(ts) - 1 - np.arange(count), _NEXT)
        believed = np.flatnonzero(ts[:count] <= after[np.arange(count), np.maximum(known - 1, 0) // 2])
        due = np.append(ts[believed], ts[-1:] if ended else [])
        turn = np.searchsorted(believed, np.arange(count))  # the next one believed
        return self._turns_of(due[turn[turn < len(due)]])

    def pop(self, count: int, passed: list[_Stretch]) -> None:
        """Pass on the first readings."""
        self._ts, self._turns = self._ts[count:], self._turns[count:]
        while count:
            batch, start, stop = self._batches.popleft()
            end = min(stop, start + count)
            count -= end - start
            if end < stop:
                self._batches.appendleft((batch, end, stop))
            if passed and passed[-1][0] is batch:  # nobody else's turn came in between
                passed[-1] = (batch, passed[-1][1], end)
            else:
                passed.append((batch, start, end))


class Join:
    """The waiting readings of one task. Passes everything straight on where there is one topic only."""

    def __init__(self, partitions: Sequence[Partition], window: WindowConfig) -> None:
        """`partitions`: one of each input topic, in the order in which they take turns."""
        # No topic may close a cell that another's readings have yet to come to, even one not heard of before.
        cells = 1 + int(window.lateness_ms // window.cell_ms)
        self._queues = {partition: _Queue(lambda ts: cells_of(ts, window.cell_ms) // cells) for partition in partitions}

    def push(self, batch: ReadingBatch) -> list[ReadingBatch]:
        """Add readings; return them where there is one topic only. Of several topics they wait for `release`."""
        if len(self._queues) == 1:
            return [batch]
        self._queues[batch.partition].push(batch)
        return []

    def release(self, has_more: Callable[[Partition], bool]) -> list[ReadingBatch]:
        """Return the readings that need not wait any more, by event time; each partition's in its order.

        `has_more` says whether a partition has messages not read yet. Call it when all that was read is pushed.
        """
        ended = {partition: not has_more(partition) for partition in self._queues}
        passed: list[_Stretch] = []
        while counts := self._turn(ended):
            for partition, count in counts.items():
                self._queues[partition].pop(count, passed)
        return [part(batch, start, stop) for batch, start, stop in passed]

    def _turn(self, ended: dict[Partition, bool]) -> dict[Partition, int]:
        """Return how many readings of each partition have the next turn; of none when it is not known yet."""
        turns = {
            partition: queue.turns(ended[partition] or self.full(partition))
            for partition, queue in self._queues.items()
        }
        if not all(len(turns[partition]) or ended[partition] for partition in turns):
            return {}  # one may come before all others
        turn = min((int(mine[0]) for mine in turns.values() if len(mine)), default=0)
        counts: dict[Partition, int] = {}
        for partition, mine in turns.items():
            counts[partition] = _until_later(mine, turn)
            if counts[partition] == len(mine) and not (ended[partition] or self.full(partition)):
                return {}  # more of it may come
        return counts if any(counts.values()) else {}

    def full(self, partition: Partition) -> bool:
        """Whether so much of a partition waits that it should be paused."""
        return len(self._queues[partition]) >= FULL

    def oldest_offset(self, partition: Partition) -> int | None:
        """Return the offset of the first reading of a partition that still waits; None when none does."""
        return self._queues[partition].oldest_offset


def _until_later(turns: Ints, turn: int) -> int:
    """Return how many come before the first later turn."""
    size = 256
    while True:
        later = turns[:size] > turn
        if later.any():
            return int(np.argmax(later))
        if size >= len(turns):
            return len(turns)
        size *= 4
