"""Series judged only by rows and incidents: `smap-msl`, `ucr`, `yahoo-s5`, and `csv` for a user's own tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stream_detector.errors import DataError
from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case, Recording
from stream_detector.evaluate.protocols.base import Protocol, Request, cut, file_of, on_own_grid, sweep
from stream_detector.evaluate.series import Outcome, Run

#: `ucr`: the highest score must lie within this many values of the anomaly.
UCR_SLACK = 100
#: `yahoo-s5`, `csv`: default share of training rows, at the beginning of a file.
TRAIN_SHARE = 0.4


def run_marked(request: Request) -> Outcome:
    """Evaluate on SMAP and MSL, whose training rows are marked in the data set."""
    cases = [_marked(request, one) for one in _labelled(request, "smap-msl")]
    return _run(request, "smap-msl", cases)


def run_ucr(request: Request) -> Outcome:
    """Evaluate on the UCR archive; `accuracy` is the share of files whose highest score is at the anomaly."""
    cases = [_marked(request, one) for one in _labelled(request, "ucr")]

    def more(run: Run) -> dict[str, Any]:
        right = [_hits(case, rows.score) for case, rows in zip(run.cases, run.rows, strict=True)]
        return {"accuracy": float(np.mean(right))}

    outcome = _run(request, "ucr", cases, more)
    for row, case, rows in zip(outcome.figures["per_file"], cases, outcome.first.rows, strict=True):
        row["right"] = _hits(case, rows.score)
    return outcome


def run_share(request: Request) -> Outcome:
    """Evaluate on Yahoo S5; the first rows of each file are for training, without using their labels."""
    return _run(request, "yahoo-s5", _shared(request, "yahoo-s5", True))


def run_csv(request: Request) -> Outcome:
    """Evaluate on tables with a label column. A user's own configuration keeps its grid and channels."""
    return _run(request, "csv", _shared(request, "csv", not request.own_config))


def _run(
    request: Request, name: str, cases: Sequence[Case], more: Callable[[Run], dict[str, Any]] | None = None
) -> Outcome:
    def judged(cases: Sequence[Case], seed: int) -> tuple[Run, dict[str, Any]]:
        one = series.run_seed(cases, seed)
        return one, {**series.figures(one), **(more(one) if more else {})}

    outcome = sweep(request, name, cases, judged)
    outcome.figures["baselines"] = {"always-alarm": series.always(cases), **outcome.figures["baselines"]}
    outcome.figures["per_file"] = series.per_file(outcome.first)
    return outcome


def _labelled(request: Request, format: str) -> list[Recording]:
    format = request.format if format == "csv" else format
    found = [one for one in request.read(request.data, format, **request.options) if one.labels is not None]
    if not found:
        raise DataError(f"{request.data}: no labelled file of format {format} to compare alarms with")
    return found


def _marked(request: Request, recording: Recording) -> Case:
    rows = int(recording.marks["training"].sum())
    fit = on_own_grid(recording.rows(0, rows))
    return cut(recording, rows, file_of(recording), request.config, fit)


def _shared(request: Request, format: str, own_grid: bool) -> list[Case]:
    amount = TRAIN_SHARE if request.train is None else request.train
    cases = []
    for one in _labelled(request, format):
        rows = int(amount) if amount >= 1 else int(amount * len(one))
        fit = on_own_grid(one.rows(0, rows), every_channel=format == "csv") if own_grid else None
        cases.append(cut(one, rows, file_of(one) if format != "csv" else one.asset, request.config, fit))
    return cases


def _hits(case: Case, score: Any) -> bool:
    """Return whether the (first) highest score is at the anomaly, within UCR_SLACK values."""
    anomalous = np.flatnonzero(case.labels)
    place = int(np.argmax(score))
    return bool(len(anomalous) and anomalous[0] - UCR_SLACK <= place <= anomalous[-1] + UCR_SLACK)


_COLUMNS = ("f1", "far", "mar", "f1_at_far10", "ap", "auc", "vus_pr")
SMAP_MSL = Protocol(
    name="smap-msl",
    about="spacecraft telemetry: training on the train part of each channel, its test part is judged",
    layout="train/*.npy and test/*.npy, or *.npz with both; labeled_anomalies.csv",
    config="telemetry",
    columns=_COLUMNS,
    run=run_marked,
)
UCR = Protocol(
    name="ucr",
    about="UCR archive: training on the first TRAIN values of each file; is the highest score at the anomaly?",
    layout="NNN_UCR_Anomaly_NAME_TRAIN_BEGIN_END.txt",
    config="pulse",
    columns=("accuracy", *_COLUMNS),
    run=run_ucr,
)
YAHOO_S5 = Protocol(
    name="yahoo-s5",
    about="Yahoo's traffic series: training on the first 40 % of each file (--train), the rest is judged",
    layout="A1Benchmark/ to A4Benchmark/ of *.csv",
    config="kpi",
    columns=_COLUMNS,
    run=run_share,
)
CSV = Protocol(
    name="csv",
    about="your own tables with a label column: training on the first 40 % of each asset's rows (--train)",
    layout="*.csv with a header, a time column and a label column (anomaly, is_anomaly, label, or --label-column)",
    config="table",
    columns=_COLUMNS,
    run=run_csv,
)
