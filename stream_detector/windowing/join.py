"""Readings of one task's topics, merged by event time.

Topics are read at whatever pace the broker serves them: catching up, one may be hours ahead of another, and its asset's
cells would be closed before the other's readings come. So readings wait here until every topic that still has unread
messages has come as far, and are passed on a cell's time at a time, the topics in turn. A topic without unread messages
holds nobody up: live, all pass at once.

    vibrations  ──1──2──3──4──5──6──7──        newest read: 7
    currents    ──1──2──3──┤ unread …          newest read: 3, so 4 to 7 wait;  passed: v1 c1 v2 c2 v3 c3

Single readings with a time far ahead (a clock gone wrong) are passed with their neighbours and hold nobody up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import WindowConfig
from stream_detector.types import Partition, ReadingBatch
from stream_detector.windowing.windower import part

#: Readings of one partition waiting here from which on it should not be read further.
FULL = 20_000
#: So many readings after it say whether a reading's time is to be believed.
_NEXT = 9


class _Waiting:
    """A batch, and the first of its readings that was not passed on yet."""

    def __init__(self, batch: ReadingBatch) -> None:
        self.batch = batch
        self.start = 0
        self.ts_ms: NDArray[np.float64] = batch.ts_ms  # (M,) of each reading's last sample: when it could be sent
        if batch.reading is not None:
            self.ts_ms = batch.ts_ms[np.searchsorted(batch.reading, np.arange(len(batch.assets)), side="right") - 1]
        self.due_ms: NDArray[np.float64] = self.ts_ms  # (M,) when it is its turn
        self.look_ahead(np.empty(0))

    def look_ahead(self, following: NDArray[np.float64]) -> None:
        """Make readings whose time lies past most of the next ones' due with the next one whose time does not.

        `following`: times of the readings of this partition after this batch, as far as they are known.
        """
        ts = np.concatenate([self.ts_ms, following[:_NEXT]])
        if (ts[1:] >= ts[:-1]).all():
            return
        padded = np.concatenate([ts, np.full(len(self.ts_ms) + _NEXT - len(ts), np.inf)])
        after = np.sort(np.lib.stride_tricks.sliding_window_view(padded[1:], _NEXT), axis=1)  # (M, _NEXT)
        known = np.minimum(len(ts) - 1 - np.arange(len(after)), _NEXT)
        believed = self.ts_ms <= after[np.arange(len(after)), np.maximum(known - 1, 0) // 2]
        right = np.flatnonzero(believed)
        turn = np.searchsorted(right, np.arange(len(after)))  # the next one believed
        last = ts[-1] if len(ts) > len(after) else self.ts_ms[-1]
        self.due_ms = np.append(self.ts_ms[right], last)[turn]


class Join:
    """The waiting readings of one task. Passes everything straight on where there is one topic only."""

    def __init__(self, partitions: Sequence[Partition], window: WindowConfig) -> None:
        """`partitions`: one of each input topic."""
        self._window = window
        self._queues: dict[Partition, deque[_Waiting]] = {partition: deque() for partition in partitions}
        self._waiting = dict.fromkeys(partitions, 0)
        self._last: dict[Partition, NDArray[np.float64]] = {partition: np.empty(0) for partition in partitions}
        self._newest = dict.fromkeys(partitions, -math.inf)  # how far each was read, by most of its last readings

    def push(self, batch: ReadingBatch) -> list[ReadingBatch]:
        """Add readings; return them where there is one topic only. Of several topics they wait for `release`."""
        if len(self._queues) == 1:
            return [batch]
        partition, waiting = batch.partition, _Waiting(batch)
        queue = self._queues[partition]
        if queue:
            queue[-1].look_ahead(waiting.ts_ms)
        queue.append(waiting)
        self._waiting[partition] += len(batch.assets)
        last = np.concatenate([self._last[partition], waiting.ts_ms[-_NEXT:]])[-_NEXT:]
        self._last[partition] = last
        self._newest[partition] = max(self._newest[partition], float(np.sort(last)[(len(last) - 1) // 2]))
        return []

    def release(self, has_more: Callable[[Partition], bool]) -> list[ReadingBatch]:
        """Return the readings that need not wait any more, by event time; each partition's in its order.

        `has_more` says whether a partition has messages not read yet. Call it when all that was read is pushed.
        """
        bound = min((newest for partition, newest in self._newest.items() if has_more(partition)), default=math.inf)
        passed: list[tuple[ReadingBatch, int, int]] = []
        while heads := sorted((float(q[0].due_ms[q[0].start]), at) for at, q in self._queues.items() if q):
            earliest = heads[0][0]
            if earliest > bound:
                break
            # No topic may close a cell that another's readings have yet to come to, even one not heard of before.
            cell_end = (math.floor(earliest / self._window.cell_ms) + 1) * self._window.cell_ms
            before = max(cell_end + self._window.lateness_ms, math.nextafter(earliest, math.inf))
            for _, partition in heads:
                self._pass(partition, before, bound, passed)
        return [part(batch, start, stop) for batch, start, stop in passed]

    def _pass(
        self, partition: Partition, before_ms: float, bound_ms: float, passed: list[tuple[ReadingBatch, int, int]]
    ) -> None:
        """Pass on a partition's readings up to the first one that lies too far ahead."""
        queue = self._queues[partition]
        while queue:
            batch, start = queue[0].batch, queue[0].start
            due = queue[0].due_ms[start:]
            ahead = (due >= before_ms) | (due > bound_ms)
            count = int(np.argmax(ahead))
            stop = start + count if ahead[count] else len(batch.assets)
            if stop > start:
                self._waiting[partition] -= stop - start
                if passed and passed[-1][0] is batch:  # nobody else's turn came in between
                    passed[-1] = (batch, passed[-1][1], stop)
                else:
                    passed.append((batch, start, stop))
            if stop < len(batch.assets):
                queue[0].start = stop
                return
            queue.popleft()

    def full(self, partition: Partition) -> bool:
        """Whether so much of a partition waits that it should be paused."""
        return self._waiting[partition] >= FULL

    def oldest_offset(self, partition: Partition) -> int | None:
        """Return the offset of the first reading of a partition that still waits; None when none does."""
        queue = self._queues[partition]
        return int(queue[0].batch.offsets[queue[0].start]) if queue else None
