"""The loop: messages in, alerts out, and the commit that ties them together.

One step: poll, decode and cut windows, score what is due, judge, write alerts, commit when due. A commit is:

    1. flush    alerts and dead letters are acknowledged
    2. save     changed states, tagged with the next epoch, fenced by the task's token
    3. commit   positions, with that epoch

At least once, a crash after 1 or 2 repeats alerts with the ids they had. Exactly once, 1 and 3 are one transaction, so
nothing is readable before it, and 2 doesn't count before it: what fails is taken back and the tasks are loaded anew.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.decision.engine import Watch
from stream_detector.errors import BrokerError, DetectorError, FencedError, StoreError
from stream_detector.ports import Sink, Source, StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import Controls, ModelRef, Partition
from stream_detector.windowing.channel_profile import ChannelProfile
from stream_detector.worker.resuming import counting_state
from stream_detector.worker.saving import Saved, Saver
from stream_detector.worker.slices import Scores, Scoring
from stream_detector.worker.task import Task, WindowingResult

log = logging.getLogger(__name__)

CONTROLS_EVERY_MS = 500.0  # operators' settings are looked for this often: a pin takes effect within a second
SETTLE_MS = 10_000.0  # longest wait for the group, when a worker stops, before it leaves uncommitted
RETRY_EVERY_MS = 1_000.0  # how often a task whose state could not be loaded is tried again


class Pipeline:
    """One worker. Single-threaded: every method is called from the thread that calls `step`."""

    def __init__(
        self,
        config: Config,
        source: Source,
        sink: Sink,
        store: StateStore,
        scorer: Scores,
        calibrations: Sequence[np.ndarray],
        metrics: Metrics | None = None,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_ms: Callable[[], float] = lambda: time.time() * 1000,
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
        watch: Watch | None = None,
    ) -> None:
        """`calibrations`: by the scorer's model index, scores (n,) of normal windows it wasn't trained on.

        `norms`: by the same index, what is usual for its channels; sensor faults are told where there are any.
        `model_of`: an asset's detector, for sensor faults that show in the messages only.
        `watch` is called with each window that is judged.
        """
        self._config = config
        self._source, self._sink, self._store = source, sink, store
        self._metrics = metrics or Metrics()
        self._clock, self._wall = clock_ms, wall_ms
        self._scoring = Scoring(
            config, scorer, calibrations, self._metrics, clock_ms, wall_ms, profiles, model_of, watch
        )
        self._metrics.waiting_windows.set_function(lambda: self._scoring.waiting)
        self._metrics.paused_partitions.set_function(lambda: len(self._paused))
        self._metrics.unsent_bytes.set_function(sink.waiting_bytes)
        self._unread: list[float] = []  # exactly-once: since when the windows of alerts not readable yet were complete
        self._saver = saver = Saver(store, clock_ms)
        self._metrics.store_behind_seconds.set_function(lambda: (saver.behind_ms or 0.0) / 1000)
        self._decoders = {entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs}
        self._exact = config.delivery == "exactly_once"
        self._alerted_ms: float | None = None  # exactly-once: the oldest alert not committed yet
        self._undone = False  # exactly-once: what was written since the last commit has to be taken back
        self._tasks: dict[int, Task] = {}
        self._wanted: dict[int, set[Partition]] = {}  # assigned, by task
        self._paused: set[Partition] = set()
        self._controls = Controls()
        self._lag: dict[Partition, int] = {}
        now = clock_ms()
        self._committed_ms, self._controls_ms, self._retry_ms = now, -np.inf, -np.inf
        self.messages = 0  # taken so far, those read again included
        self.alerts = 0

    # The loop -------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Join the group; partitions arrive during steps."""
        self._look_at_controls()
        self._source.open(self)

    def step(self, timeout_ms: float = 200.0) -> bool:
        """Take one poll through all stages; return whether it brought any message, or had enough to do without.

        Waits at most `timeout_ms`, less when windows or a commit are due earlier. Raises BrokerError when Kafka can't
        be reached: nothing is lost, step again.
        """
        self._take_over_waiting()
        self._hold_back()
        most = self._scoring.room(self._config.kafka.max_poll_records)
        batches = self._source.poll(self._patience(timeout_ms), most)
        several = len(self._config.inputs) > 1
        if several:
            self._lag = self._source.lag()
        for batch in batches:
            task = self._tasks.get(batch.partition.index)
            if task is None:  # its state isn't loaded, or it was fenced: its messages come again
                continue
            self.messages += len(batch.messages)
            self._accept(task, task.take(batch), len(batch.messages))
        if several:
            for task in self._tasks.values():
                self._accept(task, task.release(self._has_more), 0)
        now = self._clock()
        due = now >= self._commit_due_ms()
        if due or now >= self._scoring.due_ms:
            self._score()
        if now - self._controls_ms >= CONTROLS_EVERY_MS:
            self._look_at_controls()
        if due and not self._scoring.pending:  # else the loop turns on, and reads nothing more before the commit
            self.commit()
        return bool(batches) or self._scoring.full

    def close(self) -> None:
        """Commit what there is and leave the group."""
        deadline = self._clock() + SETTLE_MS
        try:
            while not self._source.settled() and self._clock() < deadline:
                self._source.poll(100, 1)  # not taken: the next owner reads it
            self.commit()
        finally:
            self._source.close()
            self._sink.close()

    def ready(self) -> tuple[bool, str]:
        """Whether this worker does its job, and if not, why."""
        if trouble := self._source.trouble():
            return False, trouble
        if missing := sorted(set(self._wanted) - set(self._tasks)):
            return False, f"waiting for the state of task {missing[0]} ({len(missing)} in all)"
        if (left := self._replayed_messages()) and (any(self._lag.values()) or not self._lag):
            return False, f"catching up in silence: {left} messages are read again"
        if (behind := self._saver.behind_ms) is not None:
            return True, f"the store is behind for {behind / 1000:.0f} s"
        return True, f"{len(self._tasks)} tasks" if self._tasks else "no task: there are enough workers for all"

    def _replayed_messages(self) -> int:
        return sum(task.replayed_messages for task in list(self._tasks.values()))

    @property
    def windows(self) -> int:
        """Windows completed so far."""
        return self._scoring.windows

    @property
    def task_count(self) -> int:
        """Number of tasks this worker processes."""
        return len(self._tasks)

    def _patience(self, timeout_ms: float) -> int:
        due = min(self._scoring.due_ms, self._commit_due_ms()) - self._clock()
        return max(0, math.ceil(min(timeout_ms, max(due, 0.0))))

    def _commit_due_ms(self) -> float:
        """When to commit: exactly-once, alerts can't be read before; at once when too much waits for it.

        Not while the group hands out partitions anew: it would be refused at any moment.
        """
        if not self._source.settled():
            return np.inf
        if self._overfull:
            return -np.inf
        alerted = np.inf if self._alerted_ms is None else self._alerted_ms + self._config.alert_delay_ms
        return float(min(self._committed_ms + self._config.commit_interval_ms, alerted))

    @property
    def _overfull(self) -> bool:
        return self._sink.waiting_bytes() >= self._config.kafka.max_unsent_mb * 2**20

    def _has_more(self, partition: Partition) -> bool:
        return self._lag.get(partition, 1) > 0  # unknown: not fetched yet

    def _hold_back(self) -> None:
        """Pause what should not be read on for now, and resume what should.

        All partitions while the scorer has enough to do, or a commit is due that must wait for it or for the group; of
        several topics those far ahead of their task's others. Polls go on and keep the membership.
        """
        due = self._clock() >= self._commit_due_ms()
        all_of_them = self._scoring.full or self._overfull or (self._scoring.pending and due)
        tasks = self._tasks.values()
        full = {p for task in tasks for p in task.partitions if all_of_them or task.full(p)}
        if full == self._paused:
            return
        if start := full - self._paused:
            self._source.pause(start)
        if stop := {p for p in self._paused - full if p.index in self._tasks}:  # others wait for their state
            self._source.resume(stop)
        self._paused = (self._paused - stop) | full

    def _accept(self, task: Task, cut: WindowingResult, messages: int) -> None:
        if cut.dead:
            for code, count in Counter(letter.code for letter in cut.dead).items():
                self._metrics.dead_letters_total.labels(code).inc(count)
            self._sink.write((), cut.dead)
        self._metrics.readings_total.inc(cut.readings)
        self._scoring.accept(task, cut, messages)

    def _score(self) -> None:
        """Score and judge what fits into a slice, and write the alerts it calls for."""
        found = self._scoring.slice(self._tasks, self._controls)
        if found.audits:
            self._sink.write((), (), found.audits)
        if found.alerts:
            self._sink.write(found.alerts, ())
            self.alerts += len(found.alerts)
            self._unread += found.since_ms
            if not self._exact:
                self._readable()
            elif self._alerted_ms is None:
                self._alerted_ms = self._clock()

    def _readable(self) -> None:
        now = self._clock()
        for since in self._unread:
            self._metrics.window_to_alert_seconds.observe((now - since) / 1000)
        self._unread.clear()

    # Commit ---------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything processed so far durable. Raises BrokerError when Kafka can't be reached.

        Nothing is done while the group hands out partitions anew.
        """
        if not self._source.settled():
            return
        self._committed_ms = self._clock()
        while self._scoring.pending:
            self._score()
        self._alerted_ms = None
        self._note_progress()
        due = [task for task in self._tasks.values() if task.moved or task.changed]
        if not due:
            if self._wanted.keys() <= self._tasks.keys():  # what it missed was of tasks that others have now
                self._saver.caught_up()
            return
        try:
            self._sink.flush()  # 1
        except BrokerError as error:
            self._give_up(due, f"alerts could not be sent, so the log is read again: {error}")
            if not self._exact:
                self._sink.abort()  # they are made again: kept, they would add up while Kafka is away
            raise
        saved = self._saver.save(due)  # 2
        if self._saver.controls_version != self._controls.version:
            self._controls_ms = -np.inf
        if fenced := [task for task in due if saved[task.index] is Saved.FENCED]:
            self._metrics.fencings_total.inc(len(fenced))
            self._give_up(fenced, "another worker owns it, or a task whose alerts are in the same transaction")
            if self._exact:
                return
            due = [task for task in due if task not in fenced]
        if self._config.on_store_outage == "pause" and Saved.MISSED in saved.values():
            self._give_up(due, "it waits for the store")
            return
        try:
            self._sink.commit({partition: at for task in due for partition, at in task.positions().items()})  # 3
        except FencedError as error:
            self._metrics.fencings_total.inc(len(due))
            self._give_up(due, str(error))
            return
        except BrokerError as error:
            if self._exact:  # in doubt: what Kafka says after it was taken back, counts
                self._give_up(due, str(error))
            raise
        for task in due:
            task.committed(saved=saved[task.index] is Saved.DONE)
        if all(saved[task.index] is Saved.DONE for task in due):
            self._saver.caught_up()
        self._readable()
        self._metrics.commits_total.inc()
        self._metrics.commit_seconds.observe((self._clock() - self._committed_ms) / 1000)

    def _note_progress(self) -> None:
        for task in self._tasks.values():
            for topic, count in task.messages.items():
                if count:
                    self._metrics.messages_total.labels(topic).inc(count)
                    task.messages[topic] = 0
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

    def _look_at_controls(self) -> None:
        self._controls_ms = self._clock()
        if self._saver.rests:
            return
        with suppress(StoreError), self._saver.asking():
            if self._store.controls_version() != self._controls.version:
                self._controls = self._store.controls()

    # Partitions come and go -----------------------------------------------------------------------------------------

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        """Take over tasks: load their state and read on from where they stand."""
        for partition in partitions:
            self._wanted.setdefault(partition.index, set()).add(partition)
        self._retry_ms = -np.inf
        self._take_over_waiting()

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """Commit, then let the tasks go."""
        try:
            if self._scoring.ahead_ms >= self._config.kafka.max_poll_interval_ms / 4:  # the group won't wait so long
                self._give_up(list(self._tasks.values()), "its partitions go, and there is too much left to score")
            elif self._exact and not self._source.settled():  # their alerts must not go with others' next commit
                self._give_up((), "its partitions go in the middle of a join")
            else:
                self.commit()
        except DetectorError as error:
            log.warning(
                "the last commit before handing partitions over failed; their new owner repeats it: %s",
                error,
                extra=event("hand-over-uncommitted"),
            )
        self._let_go(partitions)

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """Drop tasks that others own already."""
        if self._exact:
            self._give_up((), "its worker was put out of the group")
        self._let_go(partitions)

    def _let_go(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            if self._tasks.pop(partition.index, None) is not None:
                log.info("task %d: let go", partition.index, extra=event("task-let-go", task=partition.index))
            self._paused.discard(partition)
            if partition.index in self._wanted:
                self._wanted[partition.index].discard(partition)
                if not self._wanted[partition.index]:
                    del self._wanted[partition.index]

    def _take_over_waiting(self) -> None:
        """Load the tasks assigned and not loaded yet; those whose state can't be read stay paused and are retried."""
        waiting = [index for index in self._wanted if index not in self._tasks]
        if not (waiting or self._undone) or self._clock() - self._retry_ms < RETRY_EVERY_MS:
            return
        self._retry_ms = self._clock()
        self._take_back()
        failed = self._saver.rests
        for index in waiting:
            partitions = self._wanted[index]
            if not failed:
                try:
                    with self._saver.asking():
                        self._take_over(index, partitions)
                    continue
                except StoreError:
                    failed = True  # it would fail the others too, each after a time-out
            log.debug("task %d waits for its state", index, extra=event("task-waits", task=index))
            self._source.pause(partitions)
            self._paused |= partitions

    def _take_over(self, index: int, partitions: set[Partition]) -> None:
        token = self._store.acquire(index)
        committed = self._source.committed(partitions)
        loaded, lost = counting_state(self._config, self._store, index, committed)
        self._scoring.judging.adopt(loaded.assets)
        task = Task(self._config, index, token, loaded, committed, self._decoders, self._scoring.judging.usual_gap_ms)
        if lost:
            self._metrics.states_lost_total.inc()
            log.error(
                "task %d: the store holds no state of epoch %d or before; by on_state_lost: %s it is made anew",
                index,
                task.epoch,
                self._config.on_state_lost,
                extra=event("state-lost", task=index, epoch=task.epoch),
            )
        for partition in partitions:
            self._source.seek(partition, task.start[partition])
        self._source.resume(partitions)
        self._paused -= partitions
        self._tasks[index] = task
        self._metrics.restores_total.inc()
        log.info(
            "task %d: %d assets of epoch %d, committed is %d",
            index,
            len(loaded.assets),
            loaded.epoch,
            task.epoch,
            extra=event(
                "task-taken-over",
                task=index,
                assets=len(loaded.assets),
                stored_epoch=loaded.epoch,
                epoch=task.epoch,
                replayed_messages=task.replayed_messages,
            ),
        )

    def _give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop tasks whose commit failed; exactly-once, all of them: their alerts are one transaction."""
        if self._exact:
            tasks = self._tasks.values()
            self._undone, self._alerted_ms = True, None
            self._unread.clear()
            self._metrics.aborts_total.inc()
        self._drop([task for task in tasks if self._tasks.get(task.index) is task], why)
        try:
            self._take_back()
        except BrokerError as error:
            log.warning(
                "taking back what was written goes on before the tasks are loaded again: %s",
                error,
                extra=event("abort-pending"),
            )

    def _take_back(self) -> None:
        """Make sure that nothing written for dropped tasks becomes readable. Raises BrokerError while it can't be."""
        if self._undone:
            self._sink.abort()
            self._undone = False

    def _drop(self, tasks: list[Task], why: str) -> None:
        """Forget tasks whose state in memory is no longer what was committed.

        While the group still assigns them to this worker they are loaded again after a while: a zombie that took the
        store's token learns from the group that it has no say, and must not keep the rightful owner out.
        """
        for task in tasks:
            del self._tasks[task.index]
            log.error("task %d is dropped: %s", task.index, why, extra=event("task-dropped", task=task.index))
        self._retry_ms = self._clock()
