"""The tasks that the group assigned to a worker: which of them are loaded, and which partitions are paused."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

from stream_detector.ports import Source
from stream_detector.telemetry.logs import event
from stream_detector.types import Partition
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)

RETRY_EVERY_MS = 1_000.0  # interval at which loading a task's state is retried


class Assignment:
    """The assigned partitions, by task. A task is assigned first, and loaded once its state could be read."""

    def __init__(self, source: Source, clock_ms: Callable[[], float]) -> None:
        """Start without any assignment."""
        self._source = source
        self._clock = clock_ms
        self._tried_ms = -math.inf
        self.assigned: dict[int, set[Partition]] = {}
        """The partitions of each assigned task, by its number."""
        self.tasks: dict[int, Task] = {}
        """Those that are loaded, by number."""
        self.paused: set[Partition] = set()
        self._told: dict[int, str] = {}  # why tasks were dropped, since their last commit

    @property
    def waiting(self) -> list[int]:
        """Numbers of the tasks that are assigned but not loaded."""
        return [index for index in self.assigned if index not in self.tasks]

    @property
    def retry_due(self) -> bool:
        """Whether it is time to try to load the waiting tasks."""
        return self._clock() - self._tried_ms >= RETRY_EVERY_MS

    def note_try(self) -> None:
        """Record an attempt to load the waiting tasks; the next one is due RETRY_EVERY_MS later."""
        self._tried_ms = self._clock()

    def add(self, partitions: Iterable[Partition]) -> None:
        """Add partitions that the group assigned; their tasks can be loaded at once."""
        for partition in partitions:
            self.assigned.setdefault(partition.index, set()).add(partition)
        self._tried_ms = -math.inf

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Remove partitions that belong to another worker now, and their tasks."""
        for partition in partitions:
            if self.tasks.pop(partition.index, None) is not None:
                log.info("task %d: let go", partition.index, extra=event("task-let-go", task=partition.index))
            self.paused.discard(partition)
            if partition.index in self.assigned:
                self.assigned[partition.index].discard(partition)
                if not self.assigned[partition.index]:
                    del self.assigned[partition.index]

    def drop(self, tasks: Iterable[Task], why: str) -> None:
        """Unload tasks whose state in memory may differ from what was committed.

        While the group still assigns them to this worker, they are loaded again after RETRY_EVERY_MS. The delay
        matters for a zombie that took the store's token: by then the group has reported that it lost the partitions,
        so it does not lock out their owner by taking the token again. A reason that repeats is logged once.
        """
        for task in [task for task in tasks if self.tasks.get(task.index) is task]:
            del self.tasks[task.index]
            level = logging.DEBUG if self._told.get(task.index) == why else logging.ERROR
            self._told[task.index] = why
            log.log(level, "task %d is dropped: %s", task.index, why, extra=event("task-dropped", task=task.index))
        self.note_try()

    def note_commit(self, tasks: Iterable[Task]) -> None:
        """Record that these were committed: when they are dropped again, the reason is logged again."""
        for task in tasks:
            self._told.pop(task.index, None)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop reading these until `resume`."""
        partitions = set(partitions)
        self._source.pause(partitions)
        self.paused |= partitions

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Continue reading these."""
        partitions = set(partitions)
        self._source.resume(partitions)
        self.paused -= partitions

    def pause_only(self, partitions: set[Partition]) -> None:
        """Pause exactly these partitions of the loaded tasks; tasks that wait for their state stay paused."""
        if start := partitions - self.paused:
            self.pause(start)
        if stop := {p for p in self.paused - partitions if p.index in self.tasks}:
            self.resume(stop)
