"""Judge recordings as a worker does: the same windows, scorer, thresholds and incidents, in the same order.

The decision for row t uses only rows up to t. It is the decision after the newest window whose rows are all at or
before t: the window that ends with the row's own grid cell if no later row shares that cell, else the window that ends
where the cell begins. Rows before the first window (warm-up) are not in alarm and have no score. After a gap without
windows the last decision remains, like an open incident in live operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config, WindowConfig
from stream_detector.decision.driver import Driver, Trace
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.evaluate.data import Recording, encoded
from stream_detector.evaluate.offline import followed, offline
from stream_detector.scoring.scorer import Scorer
from stream_detector.types import Alert, Controls, LivenessEvent, ScoreBatch, WindowBatch


@dataclass(frozen=True, slots=True)
class Scored:
    """The windows of one recording with their scores, before any threshold."""

    recording: Recording
    parts: tuple[tuple[WindowBatch, ScoreBatch], ...]
    events: tuple[Sequence[LivenessEvent], ...]
    """For each part, the liveness events before its windows."""
    after: Sequence[LivenessEvent] = ()
    """The liveness events after the last window."""


@dataclass(frozen=True, slots=True)
class Track:
    """Scores and decisions for one recording's W windows, in event-time order, and its alerts."""

    asset: str
    end_ms: NDArray[np.int64]  # (W,)
    score: NDArray[np.float64]  # (W,) higher is more anomalous; -inf without a detector
    level: NDArray[np.float64]  # (W,) alarm level with which the score was compared; NaN if there was none yet
    anomalous: NDArray[np.bool_]  # (W,) the judgement of the window
    alarm: NDArray[np.bool_]  # (W,) whether an incident is open after the window
    alerts: tuple[Alert, ...]  # as published


@dataclass(frozen=True, slots=True)
class Rows:
    """The decisions for one recording's N rows."""

    alarm: NDArray[np.bool_]  # (N,) an incident is open
    verdict: NDArray[np.bool_]  # (N,) judgement of the newest window: its score was above its alarm level
    score: NDArray[np.float64]  # (N,) -inf during the warm-up
    ratio: NDArray[np.float64]  # (N,) score relative to the alarm level, comparable between assets; -inf in warm-up
    level: NDArray[np.float64]  # (N,) NaN during the warm-up


class Live:
    """Trained detectors and the decision stages after them. Every recording is judged from a new state."""

    def __init__(self, config: Config, models: ModelSet) -> None:
        """Load the detectors; raises ConfigError when the configured device is absent."""
        self.asked = config  # the configuration for live operation
        self.config = offline(config)
        self.models = models
        self.scorer = Scorer(models, config.scorer)
        self._profiles = [artifact.profile for artifact in models.artifacts]

    def score(self, recording: Recording) -> Scored:
        """Cut a recording into windows and score them."""
        stride, usual = self.config.window.stride, Engine.usual_gap(self.config, self._profiles)
        parts: list[tuple[WindowBatch, ScoreBatch]] = []
        events: list[Sequence[LivenessEvent]] = []
        for windows, before in followed(self.config, encoded(recording), usual):
            if len(windows):
                parts.append((overlaid(windows, stride), self.scorer.score(windows)))
            events.append(before)
        after = events.pop() if len(events) > len(parts) else ()
        return Scored(recording, tuple(parts), tuple(events), after)

    def judges(self, margin_factor: float = 1.0) -> Judges:
        """Return the decision stages, with `threshold.margin` multiplied by a factor."""
        threshold = self.config.threshold
        margin = {"margin": threshold.margin * margin_factor}
        config = self.config.model_copy(update={"threshold": threshold.model_copy(update=margin)})
        return Judges(config, self.models, self.scorer)


class Judges:
    """Threshold and incidents, window by window. Keeps no state of a recording."""

    def __init__(self, config: Config, models: ModelSet, scorer: Scorer) -> None:
        """Prepare the stages for scores of `models`."""
        calibrations = [artifact.calibration for artifact in models.artifacts]
        profiles = [artifact.profile for artifact in models.artifacts]
        self._margin = config.threshold.alarm_margin
        self._driver = Driver(Engine(config, calibrations, profiles, models.ref_of), scorer.score)

    def follow(self, scored: Scored) -> Track:
        """Judge a recording's windows one after the other, from a new state, by the same stages as a worker."""
        table, controls = StateTable(), Controls()
        traces: list[Trace] = []
        alerts: list[Alert] = []
        for (batch, scores), events in zip(scored.parts, scored.events, strict=True):
            for event in events:
                alerts += self._driver.on_liveness(table, event, controls)
            mine = copied(scores)  # scores without relocation; the driver scores relocated windows again
            trace = Trace(len(batch))
            alerts += self._driver.judge(table, batch, mine, controls=controls, trace=trace).alerts
            traces.append(trace)
        for event in scored.after:
            alerts += self._driver.on_liveness(table, event, controls)
        level = np.concatenate([np.empty(0), *(one.level for one in traces)])
        return Track(
            asset=scored.recording.asset,
            end_ms=np.concatenate([np.empty(0, np.int64), *(batch.end_ms for batch, _ in scored.parts)]),
            score=np.concatenate([np.empty(0), *(one.score for one in traces)]),
            level=level + (self._margin - 1.0) * np.abs(level),  # alarm_level
            anomalous=np.concatenate([np.empty(0, np.bool_), *(one.anomalous for one in traces)]),
            alarm=np.concatenate([np.empty(0, np.bool_), *(one.alarm for one in traces)]),
            alerts=tuple(alerts),
        )


def decide(track: Track, ts_ms: NDArray[np.float64], window: WindowConfig) -> Rows:
    """Return the decisions for rows at `ts_ms` (N,), in event-time order, from the windows up to each."""
    if window.mode == "records":
        known_ms = np.rint(ts_ms)  # a record's window ends at the record
    else:
        cell = np.floor(ts_ms / window.cell_ms + 1e-9)
        last_of_cell = np.append(cell[1:] > cell[:-1], True)
        known_ms = (cell + last_of_cell) * window.cell_ms  # end of the newest cell without later rows
    newest = np.searchsorted(track.end_ms, known_ms + 0.5, side="right") - 1  # ends are rounded to whole ms
    warm = newest >= 0
    at = np.maximum(newest, 0)

    def spread(values: NDArray[Any], cold: float) -> NDArray[Any]:
        return np.where(warm, values[at], cold) if len(values) else np.full(len(ts_ms), cold)

    return Rows(
        alarm=spread(track.alarm, False).astype(np.bool_),
        verdict=spread(track.anomalous, False).astype(np.bool_),
        score=spread(strangeness(track.score), -np.inf),
        ratio=spread(ratio(track.score, track.level), -np.inf),
        level=spread(track.level, np.nan),
    )


def ratio(score: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores relative to their alarm levels, as in the severity: 1 + (score - level)/|level|, 1 at the level.

    This makes scores of different assets comparable. Where there is no level, the score itself is returned.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1.0 + (score - level) / np.abs(level)
    return strangeness(np.where(np.isnan(level), score, np.where(level == 0.0, score, found)))


def strangeness(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores with NaN replaced by infinity, the most anomalous score, as the threshold treats NaN."""
    return np.where(np.isnan(score), np.inf, score)


def overlaid(batch: WindowBatch, stride: int) -> WindowBatch:
    """Return one asset's windows as overlapping, read-only views of one array of cells.

    An evaluation keeps the windows of all files in memory; without views, each cell would be stored once per window
    that contains it. Windows that don't overlap by all but `stride` cells, because of a gap, are returned unchanged.
    """
    length = batch.values.shape[1]
    if len(batch) < 2 or stride >= length:
        return batch
    found = []
    for table in (batch.values, batch.filled):
        if not np.array_equal(table[1:, :-stride], table[:-1, stride:]):
            return batch
        cells = np.concatenate([table[0], table[1:, -stride:].reshape(-1, table.shape[2])])
        found.append(np.lib.stride_tricks.sliding_window_view(cells, length, axis=0)[::stride].transpose(0, 2, 1))
    values, filled = found
    return replace(batch, values=values, filled=filled)


def copied(scores: ScoreBatch) -> ScoreBatch:
    """Return a copy whose arrays can be modified without changing `scores`."""
    return replace(
        scores,
        score=scores.score.copy(),
        channels=scores.channels.copy(),
        observed=scores.observed.copy(),
        expected=scores.expected.copy(),
        offset=None if scores.offset is None else scores.offset.copy(),
    )
