"""The queue of windows that wait to be scored in one batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_detector.config import ScorerConfig
from stream_detector.types import LivenessEvent, WindowBatch, windows_between
from stream_detector.worker.task import Task


@dataclass(frozen=True)
class PendingWindows:
    """Consecutive windows of one task that wait to be scored."""

    task: Task
    windows: WindowBatch
    replayed: bool  # their alerts are already published
    since_ms: float
    liveness: Sequence[tuple[LivenessEvent, bool]] = ()  # from the messages before them; True: replayed

    def parted(self, count: int) -> tuple[PendingWindows, PendingWindows]:
        """Split into the first `count` windows and the others."""
        return replace(self, windows=windows_between(self.windows, 0, count)), replace(
            self, windows=windows_between(self.windows, count, len(self.windows)), liveness=()
        )


class Queue:
    """Windows of all tasks, in the order they were completed."""

    def __init__(self, config: ScorerConfig) -> None:
        """Start empty."""
        self._config = config
        self._waiting: deque[PendingWindows] = deque()
        self.count = 0
        """Windows that wait."""
        self.size = 0
        """Their bytes."""

    def add(
        self,
        task: Task,
        windows: WindowBatch,
        replayed: bool,
        now_ms: float,
        liveness: Sequence[tuple[LivenessEvent, bool]] = (),
    ) -> None:
        """Append windows, and the liveness events of the messages before them."""
        self._waiting.append(PendingWindows(task, windows, replayed, now_ms, liveness))
        self._count(windows, 1)

    def _count(self, windows: WindowBatch, sign: int) -> None:
        self.count += sign * len(windows)
        self.size += sign * int(windows.values.nbytes + windows.filled.nbytes)

    def __bool__(self) -> bool:
        """Whether anything waits: windows, or only liveness events."""
        return bool(self._waiting)

    @property
    def due_ms(self) -> float:
        """When to score: `scorer.max_wait_ms` after the oldest arrived, immediately when a batch is full."""
        if not self._waiting:
            return np.inf
        if self.count >= self._config.max_batch:
            return -np.inf
        return self._waiting[0].since_ms + self._config.max_wait_ms

    def take(self, tasks: dict[int, Task], limit: int) -> list[PendingWindows]:
        """Return the oldest windows of these tasks, at most `limit` (1 or more); those of others are discarded."""
        taken: list[PendingWindows] = []
        # liveness events after the last window are taken with it, or a commit would skip them
        while self._waiting and (limit or not len(self._waiting[0].windows)):
            one = self._waiting.popleft()
            self._count(one.windows, -1)
            if tasks.get(one.task.index) is not one.task:
                continue
            if len(one.windows) > limit:
                one, rest = one.parted(limit)
                self._waiting.appendleft(rest)
                self._count(rest.windows, 1)
            taken.append(one)
            limit -= len(one.windows)
        return taken


def no_windows(task: int) -> WindowBatch:
    """Return an empty batch, for liveness events after the last window."""
    nothing = np.empty((0, 1, 1))
    times = np.empty(0, np.int64)
    return WindowBatch(task, [], times, nothing.astype(np.float32), nothing.astype(np.bool_), times)


def merged(batches: list[WindowBatch]) -> WindowBatch:
    """Concatenate batches, in order."""
    if len(batches) == 1:
        return batches[0]
    return WindowBatch(
        -1,
        [asset for batch in batches for asset in batch.assets],
        np.concatenate([batch.end_ms for batch in batches]),
        np.concatenate([batch.values for batch in batches]),
        np.concatenate([batch.filled for batch in batches]),
        np.concatenate([batch.ingest_ms for batch in batches]),
    )
