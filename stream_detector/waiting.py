"""Windows that wait to share a batch with others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_detector.config import ScorerConfig
from stream_detector.records import WindowBatch
from stream_detector.task import Task


@dataclass
class Waiting:
    """Some windows of one task."""

    task: Task
    windows: WindowBatch
    silent: bool  # their alerts were published before
    since_ms: float


class Queue:
    """Windows of all tasks, in the order they were completed."""

    def __init__(self, config: ScorerConfig) -> None:
        """Nothing waits."""
        self._config = config
        self._waiting: list[Waiting] = []

    def add(self, task: Task, windows: WindowBatch, silent: bool, now_ms: float) -> None:
        """Let windows wait from now on."""
        self._waiting.append(Waiting(task, windows, silent, now_ms))

    @property
    def due_ms(self) -> float:
        """When to score: `scorer.max_wait_ms` after the oldest came, at once when a batch is full."""
        if not self._waiting:
            return np.inf
        if sum(len(one.windows) for one in self._waiting) >= self._config.max_batch:
            return -np.inf
        return self._waiting[0].since_ms + self._config.max_wait_ms

    def take(self, tasks: dict[int, Task]) -> list[Waiting]:
        """Return what waits of these tasks; nothing waits then, of others neither."""
        taken, self._waiting = self._waiting, []
        return [one for one in taken if tasks.get(one.task.index) is one.task]


def merged(batches: list[WindowBatch]) -> WindowBatch:
    """Return one batch of all windows, in order."""
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
