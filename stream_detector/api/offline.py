"""Train and backtest in memory: the stages that `stream-detector train` and `backtest` run, with arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.api.readings import Readings, take
from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import decode_alert, decode_audit
from stream_detector.config import Config
from stream_detector.datasets.recording import Recording
from stream_detector.decision.driver import Trace
from stream_detector.evaluate.offline import Backtest, windows
from stream_detector.models import Progress
from stream_detector.scoring.scorer import Scorer
from stream_detector.training import train as training
from stream_detector.training.labels import from_rows
from stream_detector.types import Alert, Audit, DeadLetter, Partition, PlainMessage, WindowBatch


def train(
    config: Config,
    readings: Readings | Recording,
    *,
    times: ArrayLike | None = None,
    asset: str = "asset",
    labels: ArrayLike | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Train the set-up's detector on readings of normal operation; the same input gives the same artifact.

    `readings` may be

    - an array (n, channels), its columns in the order of `config.channels`; NaN where a value is missing
    - a table with a column for each channel: a mapping of names to arrays (n,), or a pandas DataFrame
    - one `Recording`, or several of them, one per asset
    - an iterable of `Reading`, in the order they would lie on a topic

    Arrays and tables are one asset's, named by `asset`. `times` (n,) are UNIX ms or dates (UTC without an offset);
    left out, a DataFrame's index of dates is taken, else rows follow each other at `window.cell_ms`. `labels` (n,),
    not 0 where a row is faulty, are for detectors that learn from labelled faults. `progress` is called after each
    pass over the data with (passes done, most passes, loss, loss on the part held out).

    Raises DataError when the readings can't be used or are too few, ConfigError when the detector can't be built.
    """
    given = take(config, readings, times=times, asset=asset, labels=labels)
    known = from_rows(given.recordings, config)
    return training.train(config, windows(config, given.messages), progress=progress, labels=known)


@dataclass(frozen=True, slots=True)
class WindowScores:
    """The W windows that were judged, in the order they were judged."""

    asset: NDArray[np.object_]  # (W,) names
    end_ms: NDArray[np.int64]  # (W,) event time at which the window ends, UNIX ms
    score: NDArray[np.float64]  # (W,) higher is more anomalous
    level: NDArray[np.float64]  # (W,) alarm above it; NaN while the threshold has seen too few scores
    anomalous: NDArray[np.bool_]  # (W,) the score was above the level
    alarm: NDArray[np.bool_]  # (W,) an incident is open after the window

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.score)


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What a worker would have published for some readings, and every window's score."""

    alerts: Sequence[Alert]
    """Alerts in the order of publication."""
    alert_bytes: Sequence[bytes]
    """The same as the bytes that a worker publishes."""
    scores: WindowScores
    """Each window's score and level."""
    audits: Sequence[Audit]
    """Entries of the audit topic; empty with `audit: false`."""
    audit_bytes: Sequence[bytes]
    """The same as the bytes that a worker publishes."""
    dead_letters: Sequence[DeadLetter]
    """Readings that can't be used, each with its reason; their offsets count the readings from 0."""
    readings: int
    """Number of readings given."""


def backtest(
    config: Config,
    artifact: Artifact | ModelSet,
    readings: Readings | Recording,
    *,
    times: ArrayLike | None = None,
    asset: str = "asset",
) -> BacktestResult:
    """Run readings through all stages of a worker, in memory, and return what it would have published.

    `artifact`: the trained detector, or a `ModelSet` with one per asset. `readings`, `times`, `asset`: as for `train`.
    Raises ArtifactError when the detector was trained for other windows than the set-up asks for, DataError when the
    readings can't be used.
    """
    models = artifact if isinstance(artifact, ModelSet) else ModelSet(artifact)
    for one in models.artifacts:
        one.check_compatible(config)
    given = take(config, readings, times=times, asset=asset)
    judged = _Judged(config.threshold.alarm_margin)
    worker = Backtest(
        config,
        Scorer(models, config.scorer),
        [one.calibration for one in models.artifacts],
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
        watch=judged,
    )
    alerts = list(worker.run(given.messages))
    audits = list(worker.audits)
    return BacktestResult(
        alerts=[decode_alert(alert) for alert in alerts],
        alert_bytes=alerts,
        scores=judged.scores(),
        audits=[decode_audit(entry) for entry in audits],
        audit_bytes=audits,
        dead_letters=[_letter(message) for message in worker.refused],
        readings=worker.pipeline.messages,
    )


class _Judged:
    """Keeps what became of the windows that were judged."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._asset: list[str] = []
        self._end_ms: list[NDArray[np.int64]] = []
        self._traces: list[Trace] = []

    def __call__(self, windows: WindowBatch, trace: Trace) -> None:
        self._asset += [windows.assets[place] for place in np.flatnonzero(trace.judged).tolist()]
        self._end_ms.append(windows.end_ms[trace.judged])
        self._traces.append(trace)

    def scores(self) -> WindowScores:
        traces = self._traces
        level = np.concatenate([np.empty(0), *(one.level[one.judged] for one in traces)])
        return WindowScores(
            np.array(self._asset, object),
            np.concatenate([np.empty(0, np.int64), *self._end_ms]),
            np.concatenate([np.empty(0), *(one.score[one.judged] for one in traces)]),
            level + (self._margin - 1.0) * np.abs(level),  # alarm_level
            np.concatenate([np.empty(0, np.bool_), *(one.anomalous[one.judged] for one in traces)]),
            np.concatenate([np.empty(0, np.bool_), *(one.alarm[one.judged] for one in traces)]),
        )


def _letter(message: PlainMessage) -> DeadLetter:
    headers = {name: value.decode() for name, value in message.headers}
    where = Partition(headers["topic"], int(headers["partition"]))
    original = PlainMessage(int(headers["offset"]), message.timestamp, message.key, message.value)
    return DeadLetter(where, original, headers["error"], headers["detail"])
