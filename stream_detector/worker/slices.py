"""From windows to alerts: windows are queued, scored in slices of bounded time, and judged.

Scoring must not keep the loop from polling, or the group removes the worker as dead. So one call scores only as many
windows as fit into `SLICE_MS`, and the queue is bounded in bytes and in expected scoring time: while it is full the
loop reads nothing more.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.decision.driver import Decided, Driver, Trace
from stream_detector.decision.engine import MOVED, Engine
from stream_detector.liveness.tracker import LivenessTracker
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import (
    Alert,
    Audit,
    Controls,
    LivenessEvent,
    ModelRef,
    NotJudged,
    Removal,
    ScoreBatch,
    Shifts,
    WindowBatch,
)
from stream_detector.windowing.channel_profile import ChannelProfile
from stream_detector.worker.batching import Queue, merged, no_windows
from stream_detector.worker.task import Task, WindowingResult
from stream_detector.worker.throughput import Throughput

log = logging.getLogger(__name__)

SLICE_MS = 500.0  # longest a slice should take: the loop polls, and looks for pins, in between
AHEAD_MS = 2_000.0  # expected scoring time of the queue above which nothing more is read
_FIRST_POLL = 1_000  # messages, before anything was scored
_DENSITY = 0.3  # weight of the newest poll in the estimate of windows per message
_THINNEST = 1 / 16  # least windows per message that the estimate assumes
_UNKNOWN_TOLD = 1_000  # assets without a detector that are logged individually


#: Called with windows that were judged, and the trace of their judgements.
Watch = Callable[[WindowBatch, Trace], None]


class Scores(Protocol):
    """What this module needs of a scorer (scorer.Scorer)."""

    def score(self, batch: WindowBatch, shifts: Shifts | None = None) -> ScoreBatch:
        """Score all windows, less their assets' shifts; model -1 and NaN for an asset without a detector."""


@dataclass
class Found:
    """A slice's alerts, when their windows were complete (the loop's clock, ms), and its audit entries."""

    alerts: list[Alert] = field(default_factory=list)
    since_ms: list[float] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)


class Scoring:
    """The queue of windows, their scoring, and the alerts that result."""

    def __init__(
        self,
        config: Config,
        scorer: Scores,
        *,
        calibrations: Sequence[NDArray[np.float64]],
        metrics: Metrics,
        clock_ms: Callable[[], float],
        wall_ms: Callable[[], float],
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
        watch: Watch | None = None,
    ) -> None:
        """`calibrations`, `profiles`, `model_of`, `watch`: as for a `Pipeline`."""
        self._config = config
        self._scorer = scorer
        self._metrics = metrics
        self._clock, self._wall = clock_ms, wall_ms
        self.engine = Engine(config, calibrations, profiles, model_of)
        self._driver = Driver(self.engine, scorer.score)
        self._watch = watch
        self._queue = Queue(config.scorer)
        self._throughput = Throughput()
        self._density = 0.0  # windows per message
        self._scored = False  # whether anything was scored yet
        self._unknown: set[str] = set()
        self.windows = 0
        """Taken so far."""
        self.away_ms = away_after_ms(config, self.engine.usual_gap_ms)
        """After how long without a message an asset that is read in another task has left."""
        self.left: Callable[[Task, LivenessEvent], bool] = lambda task, found: False
        """Whether an asset that has fallen silent in a task was read in another one since."""

    def accept(self, task: Task, cut: WindowingResult, messages: int) -> None:
        """Queue the windows that `messages` messages completed."""
        now = self._clock()
        count = 0
        for place, (batch, replayed) in enumerate(cut.windows):
            count += len(batch)
            self._queue.add(
                task,
                batch,
                replayed,
                now,
                [(one, replayed_too) for at, one, replayed_too in cut.liveness if at == place],
            )
        if after := [(one, replayed_too) for at, one, replayed_too in cut.liveness if at == len(cut.windows)]:
            self._queue.add(task, no_windows(task.index), False, now, after)
        self.windows += count
        self._metrics.windows_total.inc(count)
        if messages:
            self._density = max(self._density + _DENSITY * (count / messages - self._density), count / messages / 2)

    def accept_left(self, found: Sequence[tuple[Task, LivenessEvent]]) -> None:
        """Queue that assets have left tasks, after all that was queued."""
        for task, one in found:
            self._queue.add(task, no_windows(task.index), False, self._clock(), [(one, False)])

    @property
    def without_detector(self) -> list[NotJudged]:
        """The assets seen that no detector is for."""
        return [NotJudged(asset, 0, "no-detector", "no detector of the artifact is for it") for asset in self._unknown]

    @property
    def due_ms(self) -> float:
        """When to score; immediately while reading is paused because the queue is full."""
        return -math.inf if self.full else self._queue.due_ms

    @property
    def waiting(self) -> int:
        """Number of windows that wait."""
        return self._queue.count

    @property
    def pending(self) -> bool:
        """Whether anything waits that a commit must not skip: windows or liveness events."""
        return bool(self._queue)

    @property
    def ahead_ms(self) -> float:
        """Expected time to score the queue, ms."""
        return self._throughput.takes_ms(self._queue.count)

    @property
    def full(self) -> bool:
        """Whether to read nothing more until part of the queue is scored."""
        return self._queue.size >= self._config.scorer.max_waiting_mb * 2**20 or self.ahead_ms >= AHEAD_MS

    def room(self, most: int) -> int:
        """Return how many messages to read, 1 to `most`, so that scoring their windows takes a bounded time."""
        each_ms = self._throughput.takes_ms(1)
        if each_ms == 0:
            return most if self._scored else min(most, _FIRST_POLL)
        left = AHEAD_MS / each_ms - self._queue.count
        return max(1, int(min(most, left / max(self._density, _THINNEST))))

    def slice(self, tasks: dict[int, Task], controls: Controls) -> Found:
        """Score and judge the oldest windows of these tasks in one batch; those of other tasks are discarded."""
        found = Found()
        pending = self._queue.take(tasks, self._throughput.fit(SLICE_MS))
        if not pending:
            return found
        started = self._clock()
        scores: ScoreBatch | None = None
        shifts: Shifts | None = None
        if filled := [one for one in pending if len(one.windows)]:
            batch = merged([one.windows for one in filled])
            shifts = self._driver.shifts([(one.task.states, one.windows.assets) for one in filled])
            scores = self._scorer.score(batch, shifts)
            self._count(batch, scores, (self._clock() - started) / 1000)
        scored_ms = int(self._wall())
        row = 0
        for one in pending:
            alerts: list[Alert] = []
            for liveness_event, replayed_too in one.liveness:
                if liveness_event.fault == "silent" and liveness_event.begins and self.left(one.task, liveness_event):
                    liveness_event = liveness_event._replace(fault=MOVED)
                reported = self._driver.on_liveness(one.task.states, liveness_event, controls)
                if reported and liveness_event.fault == MOVED:
                    self._tell_left(one.task, liveness_event)
                alerts += [] if replayed_too else reported
            if scores is not None and len(one.windows):
                trace = None if self._watch is None else Trace(len(one.windows))
                decided = self._driver.judge(
                    one.task.states, one.windows, scores, row=row, controls=controls, shifts=shifts, trace=trace
                )
                if self._watch is not None and trace is not None:
                    self._watch(one.windows, trace)
                row += len(one.windows)
                self._note(decided)
                if not one.replayed:
                    alerts += decided.alerts
                    found.audits += decided.audits
            if alerts:
                found.alerts += [replace(alert, scored_ms=scored_ms) for alert in alerts]
                found.since_ms += [one.since_ms] * len(alerts)
                self._tell(one.task, alerts)
        if row:
            self._throughput.note(row, self._clock() - started)
            self._scored = True
        return found

    def remove(self, task: Task, asset: str, removal: Removal) -> Found:
        """Remove an asset, of which no window waits; return what its end calls for."""
        judged_ms = int(task.states.judged[task.states.slots[asset]])
        decided = self._driver.remove(task.states, asset, removal.action)
        task.remove(asset, judged_ms, removal.token)
        self._tell(task, decided.alerts)
        log.info(
            "task %d: %s is removed (%s), %d incidents closed",
            task.index,
            asset,
            removal.action,
            len(decided.alerts),
            extra=event("asset-removed", task=task.index, asset=asset, action=removal.action),
        )
        alerts = [replace(alert, scored_ms=int(self._wall())) for alert in decided.alerts]
        return Found(alerts, [self._clock()] * len(alerts), decided.audits)

    def _note(self, decided: Decided) -> None:
        """Add to the counters of anomalies and of the alert budget."""
        self._metrics.anomalies_total.inc(decided.anomalies)
        self._metrics.budget_promised_total.inc(decided.promised)
        self._metrics.budget_opened_total.inc(decided.opened)

    def _count(self, batch: WindowBatch, scores: ScoreBatch, seconds: float) -> None:
        metrics = self._metrics
        metrics.score_seconds.observe(seconds)
        metrics.batches_total.inc()
        metrics.batch_size.observe(len(batch))
        unscored = np.flatnonzero(scores.model < 0)
        metrics.scores_total.inc(len(batch) - len(unscored))
        if len(unscored):
            metrics.windows_unscored_total.labels("no-model").inc(len(unscored))
            for asset in {batch.assets[row] for row in unscored.tolist()} - self._unknown:
                if len(self._unknown) < _UNKNOWN_TOLD:
                    self._unknown.add(asset)
                    log.warning(
                        "asset %s has no detector: its windows are not scored",
                        asset,
                        extra=event("no-model", asset=asset),
                    )

    def _tell_left(self, task: Task, found: LivenessEvent) -> None:
        log.info(
            "asset %s has left partition %d for another one: its incidents there are closed",
            found.asset,
            task.index,
            extra=event("asset-moved", task=task.index, asset=found.asset),
        )

    def _tell(self, task: Task, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._metrics.alerts_total.labels(alert.event, alert.severity).inc()
        if log.isEnabledFor(logging.DEBUG):
            for alert in alerts:
                log.debug(
                    "task %d: %s of %s, %s",
                    task.index,
                    alert.event,
                    alert.asset,
                    alert.severity,
                    extra=event(
                        "alert",
                        task=task.index,
                        asset=alert.asset,
                        alert=alert.id,
                        what=alert.event,
                        severity=alert.severity,
                        score=alert.score,
                    ),
                )


def away_after_ms(config: Config, usual_gap_ms: float) -> int:
    """Return after how long without a message an asset is away: as long as it takes to fall silent."""
    return LivenessTracker(config.sensors, config.window, config.channels, {}, usual_gap_ms).silent_after_ms
