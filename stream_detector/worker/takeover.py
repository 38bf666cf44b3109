"""Taking over tasks: load their states, and resume reading the log at their positions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.decision.controls import reset_pending
from stream_detector.decision.engine import NEVER_MS
from stream_detector.errors import StoreError
from stream_detector.ports import Source, StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import AssetState, Partition
from stream_detector.types import replace as replace_state
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.delivery import CommitStrategy
from stream_detector.worker.resuming import Resumption, set_back
from stream_detector.worker.saving import Saver
from stream_detector.worker.slices import Scoring
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)

_HOW_AGAIN = (
    "To have them judged again: stop the workers, run `stream-detector thresholds reset CONFIG --all`, set the offsets "
    "back, and start the workers"
)


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
        committed = self._source.committed(partitions)
        found = self._delivery.resume(self._store, index, committed)
        again = self._report_moved(partitions, found)
        engine = self._scoring.engine
        assets = {asset: engine.adopt(state) for asset, state in found.loaded.assets.items()}
        if again:
            assets, found = self._judge_again(assets, found)
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
        for asset, state in assets.items():
            if state.judged_ms == NEVER_MS:  # also for the next owner: the offset tells it nothing any more
                task.states[asset] = state
        if found.lost:
            self._report_lost(task)
        for partition in partitions:
            self._source.seek(partition, task.start[partition])
        self._assignment.resume(partitions)
        self._assignment.tasks[index] = task
        self._report_taken_over(task, found)
        self._report_models(index, assets)

    def _report_moved(self, partitions: Iterable[Partition], found: Resumption) -> bool:
        """Report offsets that are not where the states were left; return whether messages are read again by that."""
        again = False
        for (topic, index), unused in found.unused.items():
            log.warning(
                "task %d: the group has no offset of %s (a topic made again, or expired offsets), so stored states, "
                "judged up to offset %d, don't count: reading starts as for a new group, and alerts of messages read "
                "again are published again",
                index,
                topic,
                unused.read,
                extra=event("offsets-missing", task=index, topic=topic, judged=unused.read),
            )
        for partition in partitions:
            stored, at = found.loaded.positions.get(partition), found.committed.get(partition)
            if stored is None or (at is not None and at.epoch):
                continue
            topic, index = partition
            fields = {"task": index, "topic": topic, "judged": stored.read}
            if at is None and stored.read:
                again = True
                log.warning(
                    "task %d: the group has no offset of %s (a topic made again, or expired offsets), and the states "
                    "are judged up to offset %d: windows that end before what their asset was judged up to are not "
                    "judged. %s",
                    index,
                    topic,
                    stored.read,
                    _HOW_AGAIN,
                    extra=event("offsets-missing", **fields),
                )
            elif at is not None and set_back(at, stored, self._config.delivery == "exactly_once"):
                again = True
                log.warning(
                    "task %d: the offset of %s was set back to %d, and the states are judged up to offset %d: messages "
                    "between are read, and not judged again. %s",
                    index,
                    topic,
                    at.offset,
                    stored.read,
                    _HOW_AGAIN,
                    extra=event("offsets-set-back", offset=at.offset, **fields),
                )
            elif at is not None and found.starts[partition].offset > stored.read:
                self._metrics.messages_skipped_total.labels(topic).inc(at.offset - stored.read)
                log.warning(
                    "task %d: the offset of %s was set forward to %d: messages from %d on are skipped",
                    index,
                    topic,
                    at.offset,
                    stored.read,
                    extra=event("offsets-set-forward", offset=at.offset, **fields),
                )
        return again

    def _judge_again(
        self, assets: Mapping[str, AssetState], found: Resumption
    ) -> tuple[dict[str, AssetState], Resumption]:
        """Return states that judge any window where an operator has reset the asset since its last one.

        Where all were reset, no message counts as processed, either.
        """
        controls, stored = self._store.controls(), found.loaded.assets  # before another method hid the token applied
        reset = {asset for asset in assets if reset_pending(controls, asset, stored[asset].applied.reset)}
        again = {
            asset: replace_state(state, judged_ms=NEVER_MS) if asset in reset else state
            for asset, state in assets.items()
        }
        removed = {
            asset: one._replace(judged_ms=NEVER_MS) if one.token < controls.reset_all else one
            for asset, one in found.loaded.removed.items()
        }
        found = replace(found, loaded=replace(found.loaded, removed=removed))
        if len(reset) == len(assets):
            found = replace(found, loaded=replace(found.loaded, positions={}))
        return again, found

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

    def _report_models(self, index: int, assets: Mapping[str, AssetState]) -> None:
        """Tell of states that another model's scores made, and of those that name no model."""
        engine = self._scoring.engine
        others = [state for asset, state in assets.items() if engine.is_of_other_model(asset, state)]
        if others:
            pinned = sum(state.applied.pinned is not None for state in others)
            opened = sum(state.incident.opened_ms is not None for state in others)
            self._metrics.model_changes_total.inc(len(others))
            log.warning(
                "task %d: another model judges %d of %d assets by now; their thresholds start again from its "
                "calibration (%d stay pinned to a level of the model before, %d have an open incident, which goes on)",
                index,
                len(others),
                len(assets),
                pinned,
                opened,
                extra=event("new-model", task=index, assets=len(others), pinned=pinned, open=opened),
            )
        if unknown := sum(not state.model for state in assets.values()):
            log.info(
                "task %d: the states of %d assets are of a version before 0.3 and name no model; they are taken for "
                "those of today's artifact",
                index,
                unknown,
                extra=event("model-unknown", task=index, assets=unknown),
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
                silent_messages=task.replayed_messages,
            ),
        )
