"""`skab`: a water pump on a test bench. Training on the first 400 rows of each file; the rest is judged and pooled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stream_detector.errors import DataError
from stream_detector.evaluate import series, skab
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.protocols.base import Protocol, Request, cut, file_of, sweep
from stream_detector.evaluate.series import Outcome

HEALTHY = Path("anomaly-free", "anomaly-free.csv")
#: Time at the start of the fault-free recording's live part that is not judged, in which the detector may settle.
SETTLE_MS = 600_000.0


def run(request: Request) -> Outcome:
    """Evaluate on SKAB. Raises DataError when there is no labelled file."""
    cases = _cases(request)
    healthy = _healthy(request)

    def judged(cases: Sequence[Case], seed: int) -> tuple[series.Run, dict[str, Any]]:
        one = series.run_seed(cases, seed)
        far = None if healthy is None else _healthy_far(healthy.under(cases[0].config), seed)
        return one, {**series.figures(one), "healthy_far": far}

    outcome = sweep(request, "skab", cases, judged)
    figures = outcome.figures
    figures["baselines"] = {"always-alarm": series.always(cases), **figures["baselines"]}
    figures["published"] = _published(request, cases)
    figures["per_file"] = series.per_file(outcome.first)
    return outcome


def _cases(request: Request) -> list[Case]:
    recordings = request.read(request.data, "skab")
    labelled = [one for one in recordings if one.labels is not None]
    if not labelled:
        raise DataError(f"{request.data}: no SKAB file with labels; expected valve1/, valve2/ and other/ of *.csv")
    return [cut(one, skab.TRAIN_ROWS, file_of(one), request.config) for one in labelled]


def _healthy(request: Request) -> Case | None:
    for folder in (request.data, request.data.resolve().parent):
        if (folder / HEALTHY).is_file():
            (recording,) = request.read(folder / HEALTHY, "skab")
            return cut(recording, skab.TRAIN_ROWS, HEALTHY.as_posix(), request.config)
    return None


def _healthy_far(case: Case, seed: int) -> float | None:
    rows = series.run_seed([case], seed).rows[0]
    judged = case.test.ts_ms >= case.test.ts_ms[0] + SETTLE_MS
    return float(rows.alarm[judged].mean()) if judged.any() else None


def _published(request: Request, cases: list[Case]) -> dict[str, Any]:
    """Recompute the published detectors' figures on these files, if their predictions are in the data folder."""
    for folder in (request.data, request.data.resolve().parent):
        if (folder / skab.PREDICTIONS).is_file():
            return skab.published(folder / skab.PREDICTIONS, {case.name: case.labels for case in cases})
    return {}


PROTOCOL = Protocol(
    name="skab",
    about="water pump on a test bench: training on the first 400 rows of each file, the rest is pooled",
    layout="valve1/, valve2/, other/ of *.csv; anomaly-free/ beside them for healthy_far",
    config="skab",
    columns=("f1", "far", "mar", "f1_at_far10", "ap", "vus_pr", "healthy_far"),
    run=run,
)
