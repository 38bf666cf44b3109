"""A recording judged as a worker would judge it: the same windows, scorer, thresholds and incidents, in the same order.

The decision for row t uses rows up to t and no others. A row's decision is what stood after the newest window whose
rows all lie at or before it: the window that ends with the row's own grid cell when no later row shares that cell, else
the one that ends where the cell begins. Rows before the first window (warm-up) are not alarmed and have no score; after
a gap that cut the windows the last decision stands, as the incident does live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.evaluate.data import Recording, encoded
from stream_detector.judging import Judging
from stream_detector.offline import offline, windows
from stream_detector.ports import TaskState
from stream_detector.records import Alert, Controls, ScoreBatch, WindowBatch
from stream_detector.scorer import Scorer
from stream_detector.task import Task
from stream_detector.threshold import alarm_level


@dataclass(frozen=True, slots=True)
class Scored:
    """The windows of one recording with their scores, before any threshold."""

    recording: Recording
    parts: tuple[tuple[WindowBatch, ScoreBatch], ...]


@dataclass(frozen=True, slots=True)
class Track:
    """What became of one recording's W windows, in event-time order."""

    asset: str
    end_ms: NDArray[np.int64]    # (W,)
    score: NDArray[np.float64]   # (W,) higher is stranger; NaN where no detector scored
    level: NDArray[np.float64]   # (W,) alarm level the score was held against; NaN where there was none yet
    anomalous: NDArray[np.bool_]  # (W,) the verdict on the window
    alarm: NDArray[np.bool_]     # (W,) an incident is open after the window
    alerts: tuple[Alert, ...]    # as published


@dataclass(frozen=True, slots=True)
class Rows:
    """The decisions for one recording's N rows."""

    alarm: NDArray[np.bool_]    # (N,)
    score: NDArray[np.float64]  # (N,) -inf during the warm-up
    ratio: NDArray[np.float64]  # (N,) score over alarm level, which can be held against other assets'; -inf in warm-up
    level: NDArray[np.float64]  # (N,) NaN during the warm-up


def score(config: Config, scorer: Scorer, recording: Recording) -> Scored:
    """Cut a recording's windows and score them."""
    return Scored(recording, tuple((part, scorer.score(part)) for part in windows(config, encoded(recording))))


def follow(config: Config, calibrations: Sequence[NDArray[np.float64]], scored: Scored) -> Track:
    """Judge a recording's windows one after the other, from a fresh state, as the worker's own stage does.

    `calibrations` are by the scorer's model index.
    """
    config = offline(config)
    judging = Judging(config, calibrations)
    decoders = {entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs}
    task = Task(config, 0, 0, TaskState({}, 0, {}), {}, decoders)
    margin, controls = config.threshold.margin, Controls()
    fresh = [Judging(config, [scores]).fresh_level(0) for scores in calibrations]
    levels: list[float | None] = []
    anomalous: list[bool] = []
    alarms: list[bool] = []
    alerts: list[Alert] = []
    for batch, scores in scored.parts:
        for row, (asset, model) in enumerate(zip(batch.assets, scores.model.tolist(), strict=True)):
            state = task.states.get(asset)
            level = state.threshold.level if state is not None else fresh[model] if model >= 0 else None
            before = judging.anomalies
            alerts += judging.judge(task, _one(batch, row), scores, row, controls)
            levels.append(alarm_level(level, margin))
            anomalous.append(judging.anomalies > before)
            after = task.states.get(asset)
            alarms.append(after is not None and after.incident.opened_ms is not None)
    return Track(
        asset=scored.recording.asset,
        end_ms=_joined([batch.end_ms for batch, _ in scored.parts], np.int64),
        score=_joined([scores.score for _, scores in scored.parts], np.float64),
        level=np.array([np.nan if level is None else level for level in levels], np.float64),
        anomalous=np.array(anomalous, np.bool_),
        alarm=np.array(alarms, np.bool_),
        alerts=tuple(alerts),
    )
