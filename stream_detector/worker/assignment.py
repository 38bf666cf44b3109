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

RETRY_EVERY_MS = 1_000.0  # how often a task whose state could not be loaded is tried again


class Assignment:
    """What the group assigned, by task. A task is assigned first, and loaded once its state could be read."""

    def __init__(self, source: Source, clock_ms: Callable[[], float]) -> None:
        """Nothing is assigned yet."""
        self._source = source
        self._clock = clock_ms
        self._tried_ms = -math.inf
        self.assigned: dict[int, set[Partition]] = {}
        """The partitions of each assigned task, by its number."""
        self.tasks: dict[int, Task] = {}
        """Those that are loaded, by number."""
        self.paused: set[Partition] = set()

    @property
    def waiting(self) -> list[int]:
        """Numbers of the tasks that are assigned and not loaded."""
        return [index for index in self.assigned if index not in self.tasks]

    @property
    def retry_due(self) -> bool:
        """Whether to try to load the waiting tasks now."""
        return self._clock() - self._tried_ms >= RETRY_EVERY_MS

    def note_try(self) -> None:
        """Note that waiting tasks are tried now: they are tried again RETRY_EVERY_MS later."""
        self._tried_ms = self._clock()

    def add(self, partitions: Iterable[Partition]) -> None:
        """Note partitions that the group assigned; their tasks can be loaded at once."""
        for partition in partitions:
            self.assigned.setdefault(partition.index, set()).add(partition)
        self._tried_ms = -math.inf

    def remove(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that belong to another worker now, and the tasks they are of."""
        for partition in partitions:
            if self.tasks.pop(partition.index, None) is not None:
                log.info("task %d: let go", partition.index, extra=event("task-let-go", task=partition.index))
            self.paused.discard(partition)
            if partition.index in self.assigned:
                self.assigned[partition.index].discard(partition)
                if not self.assigned[partition.index]:
                    del self.assigned[partition.index]

    def drop(self, tasks: Iterable[Task], why: str) -> None:
        """Forget loaded tasks whose state in memory is no longer what was committed.

        While the group still assigns them to this worker they are loaded again after a while: a zombie that took the
        store's token learns from the group that it has no say, and must not keep the rightful owner out.
        """
        for task in [task for task in tasks if self.tasks.get(task.index) is task]:
            del self.tasks[task.index]
            log.error("task %d is dropped: %s", task.index, why, extra=event("task-dropped", task=task.index))
        self.note_try()

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Read these no further until `resume`."""
        partitions = set(partitions)
        self._source.pause(partitions)
        self.paused |= partitions

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Read these on."""
        partitions = set(partitions)
        self._source.resume(partitions)
        self.paused -= partitions

    def pause_only(self, partitions: set[Partition]) -> None:
        """Pause exactly these partitions of the loaded tasks; those that wait for their state stay paused."""
        if start := partitions - self.paused:
            self.pause(start)
        if stop := {p for p in self.paused - partitions if p.index in self.tasks}:
            self.resume(stop)
