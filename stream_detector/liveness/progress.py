"""How far a task has come in event time, and from where in its log a restarted worker finds that out again. Pure.

Progress is what the newest event time moves on, in whole ms, so that batches can't change the sum. A step of it counts
only up to a limit: one clock that leaps must not age all others, and after a pause of the whole plant nobody is late.

Marks are places in the log at which the newest event time moved on. A worker that reads from one of them has the same
newest event time from its first message on, whatever came before, and so the same progress between any two messages.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from stream_detector.liveness.messages import Messages
from stream_detector.types import Partition
from stream_detector.windowing.grid import Floats, Ints


class Steps(NamedTuple):
    """Where the task stood around each of M messages."""

    now_ms: Floats  # (M,) newest event time after it; -inf: none was known yet
    before: Ints  # (M,) progress before it
    after: Ints  # (M,) progress after it
    number: int  # of the first of them, in the task


class Progress:
    """The progress of one task, ms, counted from its first message."""

    def __init__(self, most_ms: int) -> None:
        """`most_ms`: as far as one step counts; marks lie as far apart."""
        self._most_ms = most_ms
        self.now_ms = -np.inf
        """Newest event time."""
        self.total = 0
        self._number = 0  # messages so far
        self._marks: deque[tuple[int, dict[Partition, int]]] = deque()  # progress before it, where partitions stood
        self._read: dict[Partition, int] = {}  # one past the last message of each

    def advance(self, partition: Partition, messages: Messages) -> Steps:
        """Take messages; return where the task stood around each of them."""
        was = self.now_ms
        now = np.maximum.accumulate(np.maximum(messages.ts_ms, was))
        since = float(now[0]) if was == -np.inf else was
        with np.errstate(invalid="ignore"):
            steps = np.diff(np.floor(now), prepend=math.floor(since) if since > -np.inf else -np.inf)
        if not now[0] > -np.inf:
            steps[~np.isfinite(steps)] = 0.0  # nobody's time was known
        after = self.total + np.cumsum(np.minimum(steps, self._most_ms)).astype(np.int64)
        before = np.concatenate([[self.total], after[:-1]])
        self._mark(partition, messages.offsets, now, before)
        self.now_ms, self.total = float(now[-1]), int(after[-1])
        number, self._number = self._number, self._number + len(messages)
        return Steps(now, before, after, number)

    def _mark(self, partition: Partition, offsets: Ints, now_ms: Floats, before: Ints) -> None:
        """Mark messages with which the newest event time moves on, `most_ms` of progress apart."""
        if partition not in self._read:
            for _, read in self._marks:
                read[partition] = int(offsets[0])
        moves = np.flatnonzero(now_ms > np.concatenate([[self.now_ms], now_ms[:-1]]))
        totals = before[moves]
        place = 0
        while place < len(moves):
            if self._marks:
                place = int(np.searchsorted(totals, self._marks[-1][0] + self._most_ms))
                if place == len(moves):
                    break
            self._marks.append((int(totals[place]), {**self._read, partition: int(offsets[moves[place]])}))
        self._read[partition] = int(offsets[-1]) + 1

    def oldest_offsets(self, needed: int, offsets: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """Return from where to read the partitions again: all after which progress was `needed` or more, and `offsets`.

        Also where nothing is needed: without a mark, the newest event time would be lost.
        """
        while len(self._marks) > 1:
            total, read = self._marks[1]
            if total >= needed or any(read.get(partition, 0) > offset for partition, offset in offsets.items()):
                break
            self._marks.popleft()
        return self._marks[0][1] if self._marks else {}
