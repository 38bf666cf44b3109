"""`femto`: bearings run to failure. Training on the first fifth of a bearing's life; when does a lasting alarm begin?

There are no labels. An alarm is lasting when its incident stays open for a share LASTING of the life, or to its end.
The life is the time from the first to the last reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_detector.datasets.ground_truth import incidents
from stream_detector.errors import DataError
from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case, mean_of
from stream_detector.evaluate.protocols.base import Protocol, Request, sweep
from stream_detector.evaluate.series import Outcome, Run

TRAIN_SHARE = 0.2
LASTING = 0.05
#: A first alarm before the share EARLY of a life counts as false; a lasting alarm after the share LATE counts as late.
EARLY, LATE = 0.30, 0.85


def run(request: Request) -> Outcome:
    """Evaluate on FEMTO's bearings. Raises DataError when a recording is too short."""
    share = TRAIN_SHARE if request.train is None else request.train
    cases = []
    for found in request.read(request.data, "femto"):
        recording = found.carrying(request.config.channels)
        if not len(recording):
            raise DataError(f"{found.source}: has no readings of {', '.join(request.config.channels)}")
        ts_ms = recording.ts_ms
        rows = int(share) if share >= 1 else int(np.searchsorted(ts_ms, ts_ms[0] + share * (ts_ms[-1] - ts_ms[0])))
        if not 0 < rows < len(recording):
            raise DataError(f"{recording.source}: {len(recording)} rows are too few for training and judging")
        train, test = recording.rows(0, rows), recording.rows(rows)
        cases.append(Case(recording.asset, train, test, request.config, rows))

    def judged(cases: Sequence[Case], seed: int) -> tuple[Run, dict[str, Any]]:
        one = series.run_seed(cases, seed)
        return one, _figures(one)

    outcome = sweep(request, "femto", cases, judged, ("first_alarm", "lasting_alarm", "early_alarm", "late"))
    outcome.figures["per_file"] = _lives(outcome.first)
    return outcome


def _figures(run: Run) -> dict[str, Any]:
    lives = _lives(run)
    return {
        "lasting_alarm": mean_of(lives, "lasting_alarm"),
        "first_alarm": mean_of(lives, "first_alarm"),
        "early_alarm": float(np.mean([first is not None and first < EARLY for first in _of(lives, "first_alarm")])),
        "late": float(np.mean([last is None or last > LATE for last in _of(lives, "lasting_alarm")])),
        "incidents_per_life": float(np.mean([life["incidents"] for life in lives])),
        "alarm_share": float(np.mean([life["alarm_share"] for life in lives])),
    }


def _of(lives: list[dict[str, Any]], key: str) -> list[Any]:
    return [life[key] for life in lives]


def _lives(run: Run) -> list[dict[str, Any]]:
    """Return for each bearing the share of its life at which the first alarm and the first lasting alarm opened."""
    found = []
    for case, track, rows in zip(run.cases, run.tracks, run.rows, strict=True):
        start, end = float(case.train.ts_ms[0]), float(case.test.ts_ms[-1])
        told = {alert.incident: float(alert.end_ms) for alert in track.alerts if alert.event == "open"}
        opened = [(told[one.id], min(one.end_ms, end)) for one in incidents(track.alerts)]
        lasting = [at for at, until in opened if until - at >= LASTING * (end - start) or until >= end]
        found.append(
            {
                "file": case.name,
                "hours": (end - start) / 3_600_000.0,
                "first_alarm": (min(at for at, _ in opened) - start) / (end - start) if opened else None,
                "lasting_alarm": (min(lasting) - start) / (end - start) if lasting else None,
                "incidents": len(opened),
                "alarm_share": float(rows.alarm.mean()),
            }
        )
    return found


PROTOCOL = Protocol(
    name="femto",
    about="bearings run to failure: at which share of life a lasting alarm begins (no labels)",
    layout="folders BearingX_Y of acc_*.csv, perhaps temp_*.csv",
    config="femto",
    columns=("lasting_alarm", "first_alarm", "early_alarm", "late", "incidents_per_life", "alarm_share"),
    run=run,
)
