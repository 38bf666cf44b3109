"""Taking over tasks: load their states, and resume reading the log at their positions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.errors import StoreError
from stream_detector.ports import Source, StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.delivery import CommitStrategy
from stream_detector.worker.resuming import Resumption
from stream_detector.worker.saving import Saver
from stream_detector.worker.slices import Scoring
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)


class Takeover:
    """Loads the tasks that are assigned but not loaded yet."""

    def __init__(
        self,
        config: Config,
        assignment: Assignment,
        delivery: CommitStrategy,
        *,
        source: Source,
        store: StateStore,
        saver: Saver,
        scoring: Scoring,
        metrics: Metrics,
    ) -> None:
        """`saver`: decides whether the store is left alone for now."""
        self._config = config
        self._assignment = assignment
        self._delivery = delivery
        self._source, self._store, self._saver = source, store, saver
        self._scoring = scoring
        self._metrics = metrics
        self._decoders: Mapping[str, ReadingDecoder] = {
            entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs
        }

    def load_waiting(self) -> None:
        """Load the waiting tasks when a retry is due; those whose state can't be read stay paused and are retried.

        Raises BrokerError when their committed positions can't be read from Kafka.
        """
        waiting = self._assignment.waiting
        if not (waiting or self._delivery.abort_pending) or not self._assignment.retry_due:
            return
        self._assignment.note_try()
        self._delivery.take_back()
        away = self._saver.rests
        for index in waiting:
            away = away or not self._load(index)  # after one failure skip the others: each would time out
            if away:
                log.debug("task %d waits for its state", index, extra=event("task-waits", task=index))
                self._assignment.pause(self._assignment.assigned[index])

    def _load(self, index: int) -> bool:
        """Load a task; return False when the store can't be read."""
        try:
            with self._saver.asking(writes=True):
                self._take_over(index)
        except StoreError:
            return False
        return True

    def _take_over(self, index: int) -> None:
        partitions = self._assignment.assigned[index]
        token = self._store.acquire(index)  # before reading Kafka's positions: fences any other writer
        found = self._delivery.resume(self._store, index, self._source.committed(partitions))
        engine = self._scoring.engine
        assets = {asset: engine.adopt(state) for asset, state in found.loaded.assets.items()}
        task = Task(
            self._config,
            index,
            token,
            replace(found.loaded, assets=assets),
            found.starts,
            decoders=self._decoders,
            usual_gap_ms=engine.usual_gap_ms,
            epoch=found.epoch,
        )
        if found.lost:
            self._report_lost(task)
        for partition in partitions:
            self._source.seek(partition, task.start[partition])
        self._assignment.resume(partitions)
        self._assignment.tasks[index] = task
        self._report_taken_over(task, found)

    def _report_lost(self, task: Task) -> None:
        self._metrics.states_lost_total.inc()
        rebuilt = self._config.delivery == "exactly_once" and self._config.on_state_lost == "replay"
        log.error(
            "task %d: the store has lost the state of epoch %d and before; %s",
            task.index,
            task.epoch,
            "it is rebuilt from the topics, without publishing" if rebuilt else "thresholds start from the calibration",
            extra=event("state-lost", task=task.index, epoch=task.epoch),
        )

    def _report_taken_over(self, task: Task, found: Resumption) -> None:
        self._metrics.restores_total.inc()
        log.info(
            "task %d: %d assets of epoch %d, committed is %d",
            task.index,
            len(found.loaded.assets),
            found.loaded.epoch,
            task.epoch,
            extra=event(
                "task-taken-over",
                task=task.index,
                assets=len(found.loaded.assets),
                stored_epoch=found.loaded.epoch,
                epoch=task.epoch,
                replayed_messages=task.replayed_messages,
            ),
        )
