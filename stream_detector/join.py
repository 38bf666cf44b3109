"""Readings of one task's topics, side by side in event time.

Topics are read at whatever pace the broker serves them: catching up, one may be hours ahead of another, and its asset's
cells would be closed before the other's readings come. So readings wait here until every topic that still has unread
messages has come as far. A topic without unread messages holds nobody up: live, all pass at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from stream_detector.records import Partition, ReadingBatch
from stream_detector.window import part

#: Readings of one partition waiting here from which on it should not be read further.
FULL = 20_000


class Join:
    """The waiting readings of one task. Passes everything straight on where there is one topic only."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        """`partitions`: one of each input topic."""
        self._queues: dict[Partition, deque[ReadingBatch]] = {partition: deque() for partition in partitions}
        self._newest = dict.fromkeys(partitions, -np.inf)
        self._waiting = dict.fromkeys(partitions, 0)

    def push(self, batch: ReadingBatch, has_more: Callable[[Partition], bool]) -> list[ReadingBatch]:
        """Add readings; return those that need not wait, each partition's in its order.

        `has_more` says whether a partition has messages not read yet.
        """
        if len(self._queues) == 1:
            return [batch]
        self._queues[batch.partition].append(batch)
        self._waiting[batch.partition] += len(batch.assets)
        self._newest[batch.partition] = max(self._newest[batch.partition], float(batch.ts_ms.max()))
        return self.release(has_more)

    def release(self, has_more: Callable[[Partition], bool]) -> list[ReadingBatch]:
        """Return the readings that need not wait any more."""
        behind = [newest for partition, newest in self._newest.items() if has_more(partition)]
        bound = min(behind, default=np.inf)
        passed: list[ReadingBatch] = []
        for partition, queue in self._queues.items():
            while queue:
                batch = queue.popleft()
                passing = self._passing(batch, bound)
                if passing:
                    passed.append(part(batch, 0, passing) if passing < len(batch.assets) else batch)
                    self._waiting[partition] -= passing
                if passing < len(batch.assets):
                    queue.appendleft(part(batch, passing, len(batch.assets)))
                    break
        return sorted(passed, key=lambda batch: float(batch.ts_ms[0]))

    def full(self, partition: Partition) -> bool:
        """Whether so much of a partition waits that it should be paused."""
        return self._waiting[partition] >= FULL

    def oldest_offset(self, partition: Partition) -> int | None:
        """Return the offset of the first reading of a partition that still waits; None when none does."""
        queue = self._queues[partition]
        return int(queue[0].offsets[0]) if queue else None

    @staticmethod
    def _passing(batch: ReadingBatch, bound: float) -> int:
        """Return how many readings lie before the first one past the bound."""
        ahead = batch.ts_ms > bound
        if not ahead.any():
            return len(batch.assets)
        row = int(np.argmax(ahead))
        return row if batch.reading is None else int(batch.reading[row])
