"""A recording judged as a worker would judge it: the same windows, scorer, thresholds and incidents, in the same order.

The decision for row t uses rows up to t and no others. A row's decision is what stood after the newest window whose
rows all lie at or before it: the window that ends with the row's own grid cell when no later row shares that cell, else
the one that ends where the cell begins. Rows before the first window (warm-up) are not alarmed and have no score; after
a gap that cut the windows the last decision stands, as the incident does live.
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
    """Of each part, what the messages before it say of who is heard."""
    after: Sequence[LivenessEvent] = ()
    """The same, after the last window."""


@dataclass(frozen=True, slots=True)
class Track:
    """What became of one recording's W windows, in event-time order."""

    asset: str
    end_ms: NDArray[np.int64]  # (W,)
    score: NDArray[np.float64]  # (W,) higher is stranger; -inf where no detector scored
    level: NDArray[np.float64]  # (W,) alarm level the score was compared with; NaN where there was none yet
    anomalous: NDArray[np.bool_]  # (W,) the verdict on the window
    alarm: NDArray[np.bool_]  # (W,) an incident is open after the window
    alerts: tuple[Alert, ...]  # as published


@dataclass(frozen=True, slots=True)
class Rows:
    """The decisions for one recording's N rows."""

    alarm: NDArray[np.bool_]  # (N,) an incident is open
    verdict: NDArray[np.bool_]  # (N,) the newest window's score was above its level
    score: NDArray[np.float64]  # (N,) -inf during the warm-up
    ratio: NDArray[np.float64]  # (N,) score over alarm level, comparable between assets; -inf in warm-up
    level: NDArray[np.float64]  # (N,) NaN during the warm-up


class Live:
    """Trained detectors and the stages behind them. Every recording is judged from a fresh state."""

    def __init__(self, config: Config, models: ModelSet) -> None:
        """Load the detectors; raises ConfigError when the device asked for is absent."""
        self.asked = config  # as it would run live
        self.config = offline(config)
        self.models = models
        self.scorer = Scorer(models, config.scorer)
        self._profiles = [artifact.profile for artifact in models.artifacts]

    def score(self, recording: Recording) -> Scored:
        """Cut a recording's windows and score them."""
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
        """Return the stages behind the scorer, `threshold.margin` multiplied by a factor."""
        threshold = self.config.threshold
        margin = {"margin": threshold.margin * margin_factor}
        config = self.config.model_copy(update={"threshold": threshold.model_copy(update=margin)})
        return Judges(config, self.models, self.scorer)


class Judges:
    """Threshold and incidents, window by window. Holds no state of any recording."""

    def __init__(self, config: Config, models: ModelSet, scorer: Scorer) -> None:
        """Judge scores of these models."""
        calibrations = [artifact.calibration for artifact in models.artifacts]
        profiles = [artifact.profile for artifact in models.artifacts]
        self._margin = config.threshold.alarm_margin
        self._driver = Driver(Engine(config, calibrations, profiles, models.ref_of), scorer.score)

    def follow(self, scored: Scored) -> Track:
        """Judge a recording's windows one after the other, from a fresh state, as the worker's own stage does."""
        table, controls = StateTable(), Controls()
        traces: list[Trace] = []
        alerts: list[Alert] = []
        for (batch, scores), events in zip(scored.parts, scored.events, strict=True):
            for event in events:
                alerts += self._driver.on_liveness(table, event, controls)
            mine = copied(scores)  # of windows that nothing has moved; what something has moved is scored again
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
        known_ms = np.rint(ts_ms)  # a record's window ends with it
    else:
        cell = np.floor(ts_ms / window.cell_ms + 1e-9)
        last_of_cell = np.append(cell[1:] > cell[:-1], True)
        known_ms = (cell + last_of_cell) * window.cell_ms  # end of the newest cell whose rows lie at or before the row
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
    """Return scores relative to their alarm levels, 1 at the level: 1 + (score - level)/|level|, as severity has it.

    So scores of different assets can be pooled. Without a level the plain score stands.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1.0 + (score - level) / np.abs(level)
    return strangeness(np.where(np.isnan(level), score, np.where(level == 0.0, score, found)))


def strangeness(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores with infinity where they are not a number: as strange as can be, as the threshold takes it."""
    return np.where(np.isnan(score), np.inf, score)


def overlaid(batch: WindowBatch, stride: int) -> WindowBatch:
    """Return one asset's windows as views of one row of cells, where each repeats all but `stride` cells of the last.

    An evaluation holds the windows of all files at once: written out, each cell would be there as often as windows hold
    it. Where a gap cut the windows they stay as they are. The views can't be written to.
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
    """Return scores whose arrays can be written to without changing those given."""
    return replace(
        scores,
        score=scores.score.copy(),
        channels=scores.channels.copy(),
        observed=scores.observed.copy(),
        expected=scores.expected.copy(),
        offset=None if scores.offset is None else scores.offset.copy(),
    )
