"""Exactly once: alerts, dead letters and positions are one transaction, and Kafka says which states count."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stream_detector.errors import BrokerError
from stream_detector.ports import StateStore, TaskState
from stream_detector.telemetry.logs import event
from stream_detector.types import Partition, Position
from stream_detector.worker.delivery.strategy import CommitStrategy
from stream_detector.worker.resuming import Resumption, Start, newest_epoch
from stream_detector.worker.saving import Saved
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)


class ExactlyOnce(CommitStrategy):
    """Steps 1 and 3 of a commit are one transaction of all tasks, so nothing is readable before step 3.

    Step 2 doesn't count before step 3: a worker that takes a task over loads the states of the epoch that Kafka has.

    | fails           | what becomes of it                                                                    |
    |-----------------|---------------------------------------------------------------------------------------|
    | any step        | the transaction is aborted, all tasks are dropped and loaded again                    |
    | 2 save, missed  | `on_store_outage: continue`: no failure, the states are saved by a later commit       |
    | 3 commit        | it is in doubt until the abort has returned: then Kafka's epoch says what came of it  |
    | no commit       | the same: alerts of partitions that go must not become readable with others' commit   |
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As every strategy."""
        super().__init__(*args, **kwargs)
        self._since_ms: list[float] = []  # since when the windows of alerts not readable yet were complete
        self._oldest_alert_ms: float | None = None  # when the oldest of them was written
        self._abort_pending = False

    @property
    def due_ms(self) -> float:
        """At the interval, or `alert_delay_ms` after the oldest alert, which can't be read before."""
        if self._oldest_alert_ms is None:
            return super().due_ms
        return min(super().due_ms, self._oldest_alert_ms + self._config.alert_delay_ms)

    def note_alerts(self, since_ms: Sequence[float]) -> None:
        """Keep them until the commit makes them readable."""
        self._since_ms += since_ms
        if self._oldest_alert_ms is None:
            self._oldest_alert_ms = self._clock()

    def commit(self) -> None:
        """Commit; the alerts so far are in it, or are taken back."""
        self._oldest_alert_ms = None
        super().commit()

    def _finish(self, tasks: list[Task], saved: Mapping[int, Saved]) -> None:
        self._note_readable(self._since_ms)
        self._since_ms.clear()
        super()._finish(tasks, saved)

    # What fails -----------------------------------------------------------------------------------------------------

    def flush_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Take all back."""
        self.give_up(tasks, why)

    def commit_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Take all back, and go by what Kafka then says was committed."""
        self.give_up(tasks, why)

    def give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop all tasks, whichever failed: their alerts are in one transaction, which is aborted."""
        self._abort_pending, self._oldest_alert_ms = True, None
        self._since_ms.clear()
        self._metrics.aborts_total.inc()
        self._assignment.drop(list(self._assignment.tasks.values()), why)
        try:
            self.take_back()
        except BrokerError as error:
            log.warning(
                "taking back what was written goes on before the tasks are loaded again: %s",
                error,
                extra=event("abort-pending"),
            )

    def leave_uncommitted(self, why: str) -> None:
        """Take all back: alerts of partitions that go must not become readable with the next commit of the others."""
        self.give_up((), why)

    @property
    def abort_pending(self) -> bool:
        """Whether an abort failed, and has to be tried again."""
        return self._abort_pending

    def take_back(self) -> None:
        """Abort the transaction, if that is pending. Raises BrokerError while it can't be."""
        if self._abort_pending:
            self._sink.abort()
            self._abort_pending = False

    # Where a task goes on -------------------------------------------------------------------------------------------

    def resume(self, store: StateStore, index: int, committed: Mapping[Partition, Position]) -> Resumption:
        """Return the states of the epoch that Kafka has committed, and read the log from where they were saved."""
        epoch = _committed_epoch(committed)
        loaded, lost = self.counting_state(store, index, committed)
        starts = {partition: self._start(partition, position, loaded) for partition, position in committed.items()}
        return Resumption(loaded, starts, newest_epoch(loaded, committed) if epoch is None else epoch, lost)

    def counting_state(
        self, store: StateStore, index: int, committed: Mapping[Partition, Position]
    ) -> tuple[TaskState, bool]:
        """Return the states that count for a task, and whether there should be some and are none. Raises StoreError.

        States newer than the committed epoch belong to a commit that never came to be.
        """
        epoch = _committed_epoch(committed)
        loaded = store.load(index, epoch)
        if epoch is None:
            return loaded, False
        # A save of this epoch may be of a first try that came to nothing, while the commit that counts missed the
        # store. It had read further then, or not as far, which is as good as any older state.
        while loaded.positions and any(
            stored.read > (committed[partition].read if partition in committed else 0)
            for partition, stored in loaded.positions.items()
        ):
            loaded = store.load(index, loaded.epoch - 1)
        if loaded.positions:
            return loaded, False
        return TaskState({}, 0, {}), epoch > 0

    def _start(self, partition: Partition, position: Position, loaded: TaskState) -> Start:
        """Return where to read a committed partition from: the states may be older than its position."""
        if not position.epoch:  # set by an operator
            return Start(position.offset, position.offset)
        if (stored := loaded.positions.get(partition)) is not None:
            return Start(stored.offset, position.read)
        config = self._config
        missed = config.on_state_lost == "replay" if not loaded.positions else config.kafka.start_from == "earliest"
        return Start(0 if missed else position.offset, position.read)


def _committed_epoch(committed: Mapping[Partition, Position]) -> int | None:
    """Return the newest epoch of states that count for a task with these committed positions; None: all count.

    Offsets without an epoch were set by an operator, who wants the newest states.
    """
    epoch = max((position.epoch for position in committed.values()), default=0)
    return None if committed and not epoch else epoch
