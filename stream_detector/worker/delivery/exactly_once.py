"""Exactly-once delivery: alerts, dead letters and positions are one transaction, whose epoch selects the states."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stream_detector.errors import BrokerError
from stream_detector.ports import StateStore, TaskState
from stream_detector.telemetry.logs import event
from stream_detector.types import Partition, Position
from stream_detector.worker.delivery.strategy import CommitStrategy
from stream_detector.worker.resuming import Resumption, Start, as_set, newest_epoch
from stream_detector.worker.saving import Saved
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)


class ExactlyOnce(CommitStrategy):
    """Steps 1 and 3 of a commit are one transaction of all tasks, so nothing is readable before step 3.

    States saved in step 2 are valid only after step 3: a takeover loads the states of the epoch committed in Kafka.

    | fails           | effect                                                                                |
    |-----------------|---------------------------------------------------------------------------------------|
    | any step        | the transaction is aborted, all tasks are dropped and reloaded                        |
    | 2 save, missed  | `on_store_outage: continue`: not a failure, a later commit saves the states           |
    | 3 commit        | its outcome is unknown until the abort returns; then Kafka's epoch shows it           |
    | no commit       | as any step: alerts of revoked partitions must not become readable with other tasks'  |
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Same arguments as every strategy."""
        super().__init__(*args, **kwargs)
        self._since_ms: list[float] = []  # when the windows of the alerts not yet readable were complete
        self._oldest_alert_ms: float | None = None  # when the oldest of them was written
        self._abort_pending = False

    @property
    def due_ms(self) -> float:
        """At the interval, or `alert_delay_ms` after the oldest alert, which is not readable before the commit."""
        if self._oldest_alert_ms is None:
            return super().due_ms
        return min(super().due_ms, self._oldest_alert_ms + self._config.alert_delay_ms)

    def note_alerts(self, since_ms: Sequence[float]) -> None:
        """Keep the times until the commit makes the alerts readable."""
        self._since_ms += since_ms
        if self._oldest_alert_ms is None:
            self._oldest_alert_ms = self._clock()

    def commit(self) -> None:
        """Commit; the alerts written so far are part of it, or are aborted."""
        self._oldest_alert_ms = None
        super().commit()

    def _finish(self, tasks: list[Task], saved: Mapping[int, Saved]) -> None:
        self._note_readable(self._since_ms)
        self._since_ms.clear()
        super()._finish(tasks, saved)

    # What fails -----------------------------------------------------------------------------------------------------

    def flush_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Abort the transaction and drop all tasks."""
        self.give_up(tasks, why)

    def commit_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Abort, drop all tasks, and reload them by the epoch that Kafka reports as committed."""
        self.give_up(tasks, why)

    def give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop all tasks, not only those that failed: their alerts are in one transaction, which is aborted."""
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
        """Abort: alerts of revoked partitions must not become readable with the next commit of the others."""
        self.give_up((), why)

    @property
    def abort_pending(self) -> bool:
        """Whether an abort failed and has to be retried."""
        return self._abort_pending

    def take_back(self) -> None:
        """Abort the transaction if an abort is pending. Raises BrokerError when that fails."""
        if self._abort_pending:
            self._sink.abort()
            self._abort_pending = False

    # Resuming a task ------------------------------------------------------------------------------------------------

    def resume(self, store: StateStore, index: int, committed: Mapping[Partition, Position]) -> Resumption:
        """Return the states of the epoch that Kafka has committed, and read the log from where they were saved."""
        epoch = _committed_epoch(committed)
        loaded, lost = self.counting_state(store, index, committed)
        if (moved := as_set(committed, loaded)) != committed:
            committed, epoch = moved, _committed_epoch(moved)
            loaded, lost = self.counting_state(store, index, committed)
        starts = {partition: self._start(partition, position, loaded) for partition, position in committed.items()}
        unused = {} if committed else store.load(index).positions
        epoch = newest_epoch(loaded, committed) if epoch is None else epoch
        return Resumption(loaded, starts, epoch, lost, unused, committed)

    def counting_state(
        self, store: StateStore, index: int, committed: Mapping[Partition, Position]
    ) -> tuple[TaskState, bool]:
        """Return a task's valid states, and whether they are lost: expected, and not stored. Raises StoreError.

        States newer than the committed epoch belong to a commit that never completed.
        """
        epoch = _committed_epoch(committed)
        loaded = store.load(index, epoch)
        if epoch is None:
            return loaded, loaded.lost
        # The states stored for this epoch may come from an earlier attempt that failed, when the attempt that was
        # committed missed the store. States that have read beyond the committed position are then invalid; those that
        # have read less are as good as any older state.
        while loaded.positions and any(
            stored.read > (committed[partition].read if partition in committed else 0)
            for partition, stored in loaded.positions.items()
        ):
            loaded = store.load(index, loaded.epoch - 1)
        if loaded.positions:
            return loaded, False
        return TaskState({}, 0, {}), epoch > 0

    def _start(self, partition: Partition, position: Position, loaded: TaskState) -> Start:
        """Return where to read a committed partition from: its states may be older than its position."""
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
