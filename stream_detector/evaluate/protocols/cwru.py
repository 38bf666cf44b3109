"""`cwru`: bearing vibration. Training on the first halves of fault-free recordings; do windows of faults score higher?

Windows are judged, not rows: each fault's windows are compared with those of the second halves of the fault-free
recordings. There is one detector per sample rate. The fault-free recordings are at 48 kHz; for comparison with faults
recorded at 12 kHz they are decimated by 4 (FIR low-pass, no phase shift). So differences between the two recorders may
make the faults at 12 kHz easier to detect.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.errors import ConfigError, DataError
from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case, Recording
from stream_detector.evaluate.fitting import fit_all, seeded
from stream_detector.evaluate.live import Live, strangeness
from stream_detector.evaluate.pointwise import Counts, average_precision, roc_auc
from stream_detector.evaluate.protocols.base import Protocol, Request, file_of, sweep
from stream_detector.evaluate.series import Outcome, Run

FAST_HZ, SLOW_HZ = 48_000, 12_000


@dataclass(frozen=True, slots=True)
class _Rate:
    """The recordings compared at one sample rate."""

    hz: int
    train: list[Recording]  # first halves of fault-free recordings
    normal: list[Recording]  # their second halves
    faults: list[Recording]


def run(request: Request) -> Outcome:
    """Evaluate on CWRU. Raises DataError when fault-free or faulty recordings are missing."""
    rates = _rates(request)
    cases = [
        Case.of(file_of(one), rate.train[0], one, request.config, fit=_Grid(rate.hz))
        for rate in rates
        for one in (*rate.normal, *rate.faults)
    ]

    def judged(cases: Sequence[Case], seed: int) -> tuple[Run, dict[str, Any]]:
        lives: list[Live] = []
        taken = 0
        for rate in rates:
            count = len(rate.normal) + len(rate.faults)
            config = seeded(cases[taken].config, seed)
            lives += [Live(config, ModelSet(default=fit_all(config, rate.train)))] * count
            taken += count
        run = series.follow(cases, lives, seed)
        return run, _figures(run, rates)

    outcome = sweep(request, "cwru", cases, judged, ("fpr",))
    outcome.figures["files"] = sum(len(rate.faults) for rate in rates)
    outcome.figures["windows"] = sum(len(track.end_ms) for track in outcome.first.tracks)
    return outcome


def _figures(run: Run, rates: Sequence[_Rate]) -> dict[str, Any]:
    """Return the AUC of each fault, their mean and minimum, and the figures at the live threshold over all windows."""
    per_fault: dict[str, float] = {}
    truth: list[NDArray[np.bool_]] = []
    said: list[NDArray[np.bool_]] = []
    score: list[NDArray[np.float64]] = []
    taken = 0
    for rate in rates:
        normal = run.tracks[taken : taken + len(rate.normal)]
        faults = run.tracks[taken + len(normal) : taken + len(normal) + len(rate.faults)]
        taken += len(normal) + len(faults)
        healthy = np.concatenate([strangeness(track.score) for track in normal])
        for recording, track in zip(rate.faults, faults, strict=True):
            both = np.concatenate([healthy, strangeness(track.score)])
            auc = roc_auc(np.arange(len(both)) >= len(healthy), both)
            if auc is None:
                raise DataError(f"{recording.source}: too short for a window; leave the file out")
            per_fault[recording.asset] = auc
        for track, faulty in [(one, False) for one in normal] + [(one, True) for one in faults]:
            truth.append(np.full(len(track.score), faulty))
            said.append(track.anomalous)
            # scores of different detectors have no common unit: divide each by its own calibrated level
            score.append(strangeness(track.score) / abs(track.level[0]) if len(track.level) else track.score)
    was = np.concatenate(truth)
    counts = Counts.of(was, np.concatenate(said))
    return {
        "auc": float(np.mean(list(per_fault.values()))),
        "auc_min": min(per_fault.values()),
        "ap": average_precision(was, np.concatenate(score)),
        "f1": counts.f1,
        "fpr": counts.far,
        "precision": counts.precision,
        "recall": counts.recall,
        "per_fault": per_fault,
    }


def _rates(request: Request) -> list[_Rate]:
    found = request.read(request.data, "cwru", columns=[_channel(request.config)])
    normal = [one for one in found if one.labels is not None and not one.labels.any()]
    faults = [one for one in found if one.labels is not None and one.labels.any()]
    if not normal or not faults:
        missing = "fault-free" if not normal else "faulty"
        raise DataError(f"{request.data}: no {missing} recording; expected 97.mat to 100.mat and some with faults")
    for one in faults:
        if _hz(one) not in (FAST_HZ, SLOW_HZ):
            raise DataError(f"{one.source}: recorded at {_hz(one)} Hz; expected 12000 or 48000")
    rates = []
    for hz in (FAST_HZ, SLOW_HZ):
        mine = [one for one in faults if _hz(one) == hz]
        if not mine:
            continue
        healthy = [_at(one, hz) for one in normal]
        halves = [len(one) // 2 for one in healthy]
        rates.append(
            _Rate(
                hz,
                [one.rows(0, half) for one, half in zip(healthy, halves, strict=True)],
                [one.rows(half) for one, half in zip(healthy, halves, strict=True)],
                mine,
            )
        )
    return rates


def _channel(config: Config) -> str:
    if len(config.channels) != 1:
        raise ConfigError(f"channels: cwru is judged on one sensor, DE, FE or BA; got {list(config.channels)}")
    return next(iter(config.channels))


def _hz(recording: Recording) -> int:
    return round(1_000.0 / recording.interval_ms) if recording.interval_ms else 0


def _at(recording: Recording, hz: int) -> Recording:
    """Return a recording decimated to `hz`, in blocks of the same number of samples. Raises DataError if impossible."""
    factor, rest = divmod(_hz(recording), hz)
    if rest or factor < 1:
        raise DataError(
            f"{recording.source}: fault-free, recorded at {_hz(recording)} Hz, can't be compared with faults at {hz} "
            "Hz; leave one of them out"
        )
    if factor == 1:
        return recording
    try:
        signal = importlib.import_module("scipy.signal")  # untyped and slow to import
    except ImportError as error:
        raise ConfigError("decimation needs scipy; install stream-detector[evaluate]") from error
    taps = signal.firwin(20 * factor + 1, 1.0 / factor)
    return recording.decimated(factor, lambda wave: np.asarray(signal.filtfilt(taps, 1.0, wave)))


class _Grid:
    """Adapts a configuration to a sample rate: one cell per sample."""

    def __init__(self, hz: int) -> None:
        self.hz = hz

    def __call__(self, config: Config) -> Config:
        window = config.window.model_copy(update={"cell_ms": 1_000.0 / self.hz})
        return config.model_copy(update={"window": window})


PROTOCOL = Protocol(
    name="cwru",
    about="bearing vibration: windows of every fault compared with fault-free ones, lowest AUC over the faults",
    layout="the public *.mat files in their folders (or *.npz and files.csv)",
    config="cwru",
    columns=("auc_min", "auc", "ap", "f1", "fpr"),
    run=run,
)
