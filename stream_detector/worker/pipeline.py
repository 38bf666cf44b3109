"""The loop: messages in, alerts out, and the commit that ties them together.

One step: poll, decode and cut windows, score what is due, judge, write alerts, commit when due. The steps of a commit,
and how its failures are handled, are in `delivery.CommitStrategy`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from stream_detector.config import Config
from stream_detector.errors import DetectorError, StoreError
from stream_detector.ports import Sink, Skipped, Source, StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import Controls, MessageBatch, ModelRef, NotJudged, Partition
from stream_detector.windowing.channel_profile import ChannelProfile
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.coverage import Coverage
from stream_detector.worker.delivery import make_strategy
from stream_detector.worker.homes import Homes
from stream_detector.worker.reporting import Reporter
from stream_detector.worker.saving import Saver
from stream_detector.worker.slices import Found, Scores, Scoring, Watch
from stream_detector.worker.takeover import Takeover
from stream_detector.worker.task import Task, WindowingResult

log = logging.getLogger(__name__)

COVERAGE_EVERY_MS = 1_000.0  # interval of looking for assets that are not judged: linear in their number
CONTROLS_EVERY_MS = 500.0  # interval of polling operators' settings: a pin takes effect within a second
SETTLE_MS = 10_000.0  # longest a stopping worker waits for a rebalance to end before it leaves uncommitted


class Pipeline:
    """One worker. Single-threaded: every method is called from the thread that calls `step`."""

    def __init__(
        self,
        config: Config,
        source: Source,
        sink: Sink,
        store: StateStore,
        scorer: Scores,
        *,
        calibrations: Sequence[np.ndarray],
        metrics: Metrics | None = None,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_ms: Callable[[], float] = lambda: time.time() * 1000,
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
        watch: Watch | None = None,
    ) -> None:
        """`calibrations`: by the scorer's model index, scores (n,) of normal windows it wasn't trained on.

        `profiles`: channel profiles by the same index; without any, no sensor faults are found in windows.
        `model_of`: returns an asset's detector, for sensor faults found from messages, which have no score.
        `watch` is called with each window that is judged.
        """
        self._config = config
        self._source, self._sink, self._store = source, sink, store
        self._metrics = metrics = metrics or Metrics()
        self._clock, self._wall = clock_ms, wall_ms
        self._scoring = Scoring(
            config,
            scorer,
            calibrations=calibrations,
            metrics=metrics,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
            profiles=profiles,
            model_of=model_of,
            watch=watch,
        )
        self._saver = Saver(store, clock_ms, self._look_soon)
        self._reporter = Reporter(store, self._saver, clock_ms)
        self._assignment = Assignment(source, clock_ms)
        self._coverage = Coverage(metrics)
        self._delivery = make_strategy(
            config, self._assignment, sink, saver=self._saver, metrics=metrics, clock_ms=clock_ms
        )
        self._takeover = Takeover(
            config,
            self._assignment,
            self._delivery,
            source=source,
            store=store,
            saver=self._saver,
            scoring=self._scoring,
            metrics=metrics,
        )
        self._homes = Homes(
            config,
            store,
            saver=self._saver,
            metrics=metrics,
            clock_ms=clock_ms,
            away_ms=self._scoring.away_ms,
            tasks=self._assignment.tasks,
            lag=source.lag,
        )
        self._scoring.left = self._homes.left
        self._controls = Controls()
        self._lag: dict[Partition, int] = {}
        self._removals_due = False  # operators have asked for removals since the last commit
        self._covered_ms = -math.inf  # when assets that are not judged were last looked for
        self._controls_ms = -math.inf  # when operators' settings were last polled
        self._heard_ms = dict.fromkeys((entry.topic for entry in config.inputs), clock_ms())
        self._show_gauges()
        self.messages = 0  # processed so far, including those read again
        self.alerts = 0

    def _show_gauges(self) -> None:
        metrics, saver, assignment = self._metrics, self._saver, self._assignment
        metrics.waiting_windows.set_function(lambda: self._scoring.waiting)
        metrics.paused_partitions.set_function(lambda: len(assignment.paused))
        metrics.unsent_bytes.set_function(self._sink.waiting_bytes)
        for topic in self._heard_ms:
            metrics.silence_seconds.labels(topic).set_function(partial(self._silent_s, topic))
        metrics.store_behind_seconds.set_function(lambda: (saver.behind_ms or 0.0) / 1000)

    # The loop -------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Join the group; partitions arrive during steps."""
        self._look_at_controls()
        self._source.open(self)

    def step(self, timeout_ms: float = 200.0) -> bool:
        """Take one poll through all stages; return whether it brought messages or the queue is full.

        Waits at most `timeout_ms`, less when windows or a commit are due earlier. Raises BrokerError when Kafka can't
        be reached; nothing is lost, so call `step` again.
        """
        self._takeover.load_waiting()
        self._hold_back()
        most = self._scoring.room(self._config.kafka.max_poll_records)
        batches = self._source.poll(self._patience(timeout_ms), most)
        self._take(batches)
        self._scoring.accept_left(self._homes.look())
        now = self._clock()
        due = now >= self._commit_due_ms()
        if due or now >= self._scoring.due_ms:
            self._score()
        if now - self._controls_ms >= CONTROLS_EVERY_MS:
            self._look_at_controls()
        if due and not self._scoring.pending:  # else score first; `_hold_back` pauses reading until the commit
            self.commit()
        return bool(batches) or self._scoring.full

    def _take(self, batches: Sequence[MessageBatch]) -> None:
        """Cut the windows that the messages complete, and queue them for scoring."""
        for range_ in self._source.skipped():
            self._report_skipped(range_)
        several = len(self._config.inputs) > 1
        if several:
            self._lag = self._source.lag()
        for batch in batches:
            task = self._tasks.get(batch.partition.index)
            if task is None:  # its state isn't loaded, or it was fenced: its messages are read again
                continue
            self.messages += len(batch.messages)
            self._heard_ms[batch.partition.topic] = self._clock()
            self._accept(task, task.take(batch), len(batch.messages))
        if several:
            for task in self._tasks.values():
                self._accept(task, task.release(self._has_more), 0)

    def _report_skipped(self, range_: Skipped) -> None:
        """Report messages that were deleted before they were read; those published already were processed once."""
        (topic, index), start, stop = range_
        task = self._tasks.get(index)
        new = max(0, stop - max(start, 0 if task is None else task.published(range_.partition)))
        self._metrics.messages_skipped_total.labels(topic).inc(new)
        text = (
            f"{new} of them were never processed"
            if new
            else "all were processed before; windows that were open then are incomplete now"
        )
        log.log(
            logging.ERROR if new else logging.WARNING,
            "task %d: messages %d to %d of %s were deleted before they were read (retention, or by hand); %s",
            index,
            start,
            stop - 1,
            topic,
            text,
            extra=event("messages-skipped", task=index, topic=topic, start=start, stop=stop, new=new),
        )

    def close(self) -> None:
        """Commit everything processed and leave the group."""
        deadline = self._clock() + SETTLE_MS
        try:
            while not self._source.settled() and self._clock() < deadline:
                self._source.poll(100, 1)  # result dropped: the next owner reads these messages
            self.commit()
        finally:
            self._source.close()
            self._sink.close()

    def ready(self) -> tuple[bool, str]:
        """Whether this worker is ready, and if not, why."""
        if trouble := self._source.trouble():
            return False, trouble
        if waiting := sorted(self._assignment.waiting):
            return False, f"waiting for the state of task {waiting[0]} ({len(waiting)} in all)"
        if (left := self._replayed_messages()) and (any(self._lag.values()) or not self._lag):
            return False, f"replaying: {left} messages are read again"
        if (behind := self._saver.behind_ms) is not None:
            return True, f"the store is behind for {behind / 1000:.0f} s"
        if not self._tasks:
            return True, "no task: there are enough workers for all"
        said = [f"{len(self._tasks)} tasks", self._silence_text(), self._homes.trouble, self._coverage.text]
        return True, "; ".join(filter(None, said))

    def _silent_s(self, topic: str) -> float:
        return (self._clock() - self._heard_ms[topic]) / 1000

    def _silence_text(self) -> str:
        """Return which topics have brought nothing for long. Only a wall clock can tell; no alert depends on it."""
        silent = {topic: self._silent_s(topic) / 60 for topic in self._heard_ms}
        return ", ".join(
            f"no message of {topic} for {minutes:.0f} min" for topic, minutes in silent.items() if minutes >= 5
        )

    def _replayed_messages(self) -> int:
        return sum(task.replayed_messages for task in list(self._tasks.values()))

    def not_judged(self, final: bool = False) -> list[NotJudged]:
        """Return the assets whose readings come and give no window that is judged; `final`: no more readings come."""
        found = [one for task in self._tasks.values() for one in task.not_judged(final)]
        return found + self._scoring.without_detector

    @property
    def windows(self) -> int:
        """Windows completed so far."""
        return self._scoring.windows

    @property
    def commits(self) -> int:
        """Commits so far that made something durable."""
        return self._delivery.commits

    @property
    def trouble(self) -> str | None:
        """Why no messages can arrive; None when they can."""
        return self._source.trouble()

    @property
    def task_count(self) -> int:
        """Number of tasks this worker processes."""
        return len(self._tasks)

    @property
    def _tasks(self) -> dict[int, Task]:
        return self._assignment.tasks

    def _patience(self, timeout_ms: float) -> int:
        due = min(self._scoring.due_ms, self._commit_due_ms()) - self._clock()
        return max(0, math.ceil(min(timeout_ms, max(due, 0.0))))

    def _commit_due_ms(self) -> float:
        """When to commit: as the delivery decides, immediately when the unsent alerts exceed `kafka.max_unsent_mb`.

        Never while the group is rebalancing: the commit could be refused at any moment.
        """
        if not self._source.settled():
            return math.inf
        return -math.inf if self._overfull or self._removals_due else self._delivery.due_ms

    @property
    def _overfull(self) -> bool:
        return self._sink.waiting_bytes() >= self._config.kafka.max_unsent_mb * 2**20

    def _has_more(self, partition: Partition) -> bool:
        return self._lag.get(partition, 1) > 0  # unknown: not fetched yet

    def _hold_back(self) -> None:
        """Pause the partitions that should not be read for now, and resume the others.

        Pauses all partitions while the scoring queue is full, or while a due commit waits for it or for the group; with
        several topics, also the partitions far ahead of the others of their task. Polling continues, which keeps the
        membership.
        """
        due = self._clock() >= self._commit_due_ms()
        all_of_them = self._scoring.full or self._overfull or (self._scoring.pending and due)
        tasks = self._tasks.values()
        full = {p for task in tasks for p in task.partitions if all_of_them or task.full(p)}
        self._assignment.pause_only(full)

    def _accept(self, task: Task, cut: WindowingResult, messages: int) -> None:
        if cut.dead:
            for code, count in Counter(letter.code for letter in cut.dead).items():
                self._metrics.dead_letters_total.labels(code).inc(count)
            self._sink.write((), cut.dead)
        self._metrics.readings_total.inc(cut.readings)
        self._scoring.accept(task, cut, messages)

    def _score(self) -> None:
        """Score and judge one slice, and write its alerts and audit entries."""
        self._publish(self._scoring.slice(self._tasks, self._controls))

    def _publish(self, found: Found) -> None:
        if found.audits:
            self._sink.write((), (), found.audits)
        if found.alerts:
            self._sink.write(found.alerts, ())
            self.alerts += len(found.alerts)
            self._delivery.note_alerts(found.since_ms)

    # Commit ---------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything processed so far durable. Raises BrokerError when Kafka can't be reached.

        Does nothing while the group is rebalancing.
        """
        if not self._source.settled():
            return
        self._delivery.begin()
        while self._scoring.pending:
            self._score()
        self._remove_assets()
        self._note_progress()
        self._delivery.commit()
        self._reporter.report(self._tasks.values(), self._scoring.without_detector)

    def _note_progress(self) -> None:
        for task in self._tasks.values():
            for topic, count in task.messages.items():
                if count:
                    self._metrics.messages_total.labels(topic).inc(count)
                    task.messages[topic] = 0
        if (now := self._clock()) - self._covered_ms >= COVERAGE_EVERY_MS:
            self._covered_ms = now
            self._coverage.update(self.not_judged())
        self._lag = self._source.lag()
        self._metrics.set_lag(self._lag)
        self._metrics.catching_up_messages.set(self._replayed_messages())
        self._metrics.set_watermark_delay(
            {
                index: (self._wall() - task.windower.event_ms) / 1000
                for index, task in self._tasks.items()
                if task.windower.event_ms > -np.inf
            }
        )

    # Operators ------------------------------------------------------------------------------------------------------

    def _look_soon(self, version: int) -> None:
        """Read the controls in the next step when a save returned another version than the one in use."""
        if version != self._controls.version:
            self._controls_ms = -math.inf

    def _look_at_controls(self) -> None:
        self._controls_ms = self._clock()
        if self._saver.rests:
            return
        with suppress(StoreError), self._saver.asking():
            if self._store.controls_version() != self._controls.version:
                found, before = self._store.controls(), self._controls
                self._controls = found
                self._removals_due = found.removals != before.removals
                if found.version < before.version and (before.pins or before.accepts or before.rollbacks):
                    log.error(
                        "the store has lost operators' settings: %d pins are left of %d; set them again",
                        len(found.pins),
                        len(before.pins),
                        extra=event("controls-lost", pins=len(before.pins)),
                    )

    def _remove_assets(self) -> None:
        """Remove the assets that operators have asked to; all their windows so far are judged.

        Not of a task that replays its log: its state is not yet the one that the removal met before.
        """
        self._removals_due = False
        for asset, removal in self._controls.removals.items():
            for task in self._tasks.values():
                state = task.states.get(asset)
                if state is None or state.applied.removed >= removal.token:
                    continue
                if not task.replayed_messages or not any(self._has_more(partition) for partition in task.partitions):
                    self._publish(self._scoring.remove(task, asset, removal))

    # Partitions come and go -----------------------------------------------------------------------------------------

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        """Take over tasks: load their states and resume reading at their positions."""
        self._assignment.add(partitions)
        self._takeover.load_waiting()

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """Commit, then drop the tasks."""
        try:
            if self._scoring.ahead_ms >= self._config.kafka.max_poll_interval_ms / 4:  # longer than the group waits
                self._delivery.give_up(
                    list(self._tasks.values()), "its partitions go, and there is too much left to score"
                )
            elif not self._source.settled():
                self._delivery.leave_uncommitted("its partitions go in the middle of a join")
            else:
                self.commit()
        except DetectorError as error:
            log.warning(
                "the last commit before handing partitions over failed; their new owner repeats it: %s",
                error,
                extra=event("hand-over-uncommitted"),
            )
        self._assignment.remove(partitions)

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """Drop tasks that other workers already own."""
        self._delivery.leave_uncommitted("its worker was put out of the group")
        self._assignment.remove(partitions)
