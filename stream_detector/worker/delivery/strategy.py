"""The interface of a delivery: when a commit is due, its steps, its failures, and where a task resumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from stream_detector.config import Config
from stream_detector.errors import BrokerError, FencedError
from stream_detector.ports import Sink, StateStore
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import Partition, Position
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.resuming import Resumption
from stream_detector.worker.saving import Saved, Saver
from stream_detector.worker.task import Task


class CommitStrategy(ABC):
    """Makes durable what a worker has processed. A commit is:

        1. flush    alerts and dead letters are acknowledged
        2. save     changed states, tagged with the next epoch, fenced by the task's token
        3. commit   positions, with that epoch

    The steps and their order are the same for all strategies. They differ in when alerts can be read, in what they do
    when a step fails or partitions leave uncommitted, and in which stored states are valid at a takeover.
    """

    def __init__(
        self,
        config: Config,
        assignment: Assignment,
        sink: Sink,
        *,
        saver: Saver,
        metrics: Metrics,
        clock_ms: Callable[[], float],
    ) -> None:
        """`assignment`: its loaded tasks are committed, and dropped when their commit fails."""
        self._config = config
        self._assignment = assignment
        self._sink = sink
        self._saver = saver
        self._metrics = metrics
        self._clock = clock_ms
        self._begun_ms = clock_ms()
        self.commits = 0
        """Commits so far that made something durable."""

    # When it is due -------------------------------------------------------------------------------------------------

    @property
    def due_ms(self) -> float:
        """When the next commit is due, by the worker's clock."""
        return self._begun_ms + self._config.commit_interval_ms

    @abstractmethod
    def note_alerts(self, since_ms: Sequence[float]) -> None:
        """Record that alerts were written to the sink; `since_ms`: when the window of each was complete."""

    def _note_readable(self, since_ms: Iterable[float]) -> None:
        now = self._clock()
        for since in since_ms:
            self._metrics.window_to_alert_seconds.observe((now - since) / 1000)

    # The commit -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Record that a commit begins: the next is due one interval from now. The caller scores what waits, then calls
        `commit`.
        """
        self._begun_ms = self._clock()

    def commit(self) -> None:
        """Make durable everything that the loaded tasks have processed. Raises BrokerError when Kafka can't be reached.

        Tasks whose commit failed are dropped, and loaded again while they are assigned.
        """
        due = [task for task in self._assignment.tasks.values() if task.changed]
        if not due:
            if not self._assignment.waiting:  # what the store missed belonged to tasks of other workers now
                self._saver.caught_up()
            return
        self._flush(due)  # 1
        saved = self._saver.save(due)  # 2
        kept = self._keep_saved(due, saved)
        if kept and self._commit_positions(kept):  # 3
            self._finish(kept, saved)

    def _flush(self, due: list[Task]) -> None:
        try:
            self._sink.flush()
        except BrokerError as error:
            self.flush_failed(due, f"alerts could not be sent, so the log is read again: {error}")
            raise

    def _keep_saved(self, due: list[Task], saved: Mapping[int, Saved]) -> list[Task]:
        """Give up fenced tasks and, by `on_store_outage`, those not saved; return the others."""
        if fenced := [task for task in due if saved[task.index] is Saved.FENCED]:
            self._metrics.fencings_total.inc(len(fenced))
            self.give_up(fenced, "another worker owns it, or a task whose alerts are in the same transaction")
        kept = [task for task in due if self._assignment.tasks.get(task.index) is task]
        # A removal is repeated by whoever finds the asset's state, so with exactly-once delivery it needs the store.
        needs = self._config.on_store_outage == "pause" or (
            self._config.delivery == "exactly_once" and any(task.removed.unsaved for task in kept)
        )
        if kept and needs and Saved.MISSED in saved.values():
            self.give_up(kept, "it waits for the store")
            return []
        return kept

    def _commit_positions(self, tasks: list[Task]) -> bool:
        """Return whether the positions were committed; if not, the tasks are given up."""
        try:
            self._sink.commit({partition: at for task in tasks for partition, at in task.positions().items()})
        except FencedError as error:
            self._metrics.fencings_total.inc(len(tasks))
            self.give_up(tasks, str(error))
            return False
        except BrokerError as error:
            self.commit_failed(tasks, str(error))
            raise
        return True

    def _finish(self, tasks: list[Task], saved: Mapping[int, Saved]) -> None:
        for task in tasks:
            task.committed(saved=saved[task.index] is Saved.DONE)
        if all(saved[task.index] is Saved.DONE for task in tasks):
            self._saver.caught_up()
        self.commits += 1
        self._assignment.note_commit(tasks)
        self._metrics.commits_total.inc()
        self._metrics.commit_seconds.observe((self._clock() - self._begun_ms) / 1000)

    # What fails -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def flush_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Step 1 failed: it is unknown which alerts arrived."""

    @abstractmethod
    def commit_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Step 3 failed with no answer, or an error that doesn't say whether the positions were committed."""

    @abstractmethod
    def give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop tasks that can't be committed, with all others whose alerts would become readable with theirs."""

    @abstractmethod
    def leave_uncommitted(self, why: str) -> None:
        """Partitions leave this worker uncommitted: alerts written for them must not become readable later."""

    @property
    @abstractmethod
    def abort_pending(self) -> bool:
        """Whether written alerts have still to be aborted."""

    @abstractmethod
    def take_back(self) -> None:
        """Ensure that nothing written for dropped tasks becomes readable. Raises BrokerError when that fails.

        Call it before a task is loaded.
        """

    # Resuming a task ------------------------------------------------------------------------------------------------

    @abstractmethod
    def resume(self, store: StateStore, index: int, committed: Mapping[Partition, Position]) -> Resumption:
        """Return the states and positions to resume from, given the committed positions. Raises StoreError."""
