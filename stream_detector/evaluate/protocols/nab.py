"""`nab`: Numenta Anomaly Benchmark. Training on each file's probation (15 %, at most 750 rows); the rest is judged."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.evaluate import nab, series
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.pointwise import stretches
from stream_detector.evaluate.protocols.base import Protocol, Request, cut, file_of, on_own_grid, sweep
from stream_detector.evaluate.series import Outcome, Run

Windows = dict[str, tuple[int, list[tuple[int, int]]]]  # file -> its rows, and first and last row of each window


def run(request: Request) -> Outcome:
    """Evaluate on NAB. Raises DataError when there is no labelled file."""
    recordings = [one for one in request.read(request.data, "nab") if one.labels is not None]
    if not recordings:
        raise DataError(
            f"{request.data}: no NAB file with labels; expected data/*/*.csv and labels/combined_windows.json"
        )
    cases, windows = [], {}
    for recording in recordings:
        name, rows = file_of(recording), len(recording)
        assert recording.labels is not None
        windows[name] = (rows, [(start, stop - 1) for start, stop in stretches(recording.labels)])
        train_rows = nab.probation(rows)
        fit = on_own_grid(recording.rows(0, train_rows))
        cases.append(cut(recording, train_rows, name, request.config, fit))
    profiles = _profiles(request)

    def judged(cases: Sequence[Case], seed: int) -> tuple[Run, dict[str, Any]]:
        one = series.run_seed(cases, seed)
        return one, {**series.figures(one), **_scores(one, windows, profiles)}

    outcome = sweep(request, "nab", cases, judged)
    outcome.figures["published"] = _published(request, windows, profiles)
    outcome.figures["per_file"] = [
        {**row, **{f"nab_{name}": score for name, score in _per_file(outcome.first, case, windows, profiles).items()}}
        for row, case in zip(series.per_file(outcome.first), cases, strict=True)
    ]
    return outcome


def _profiles(request: Request) -> Mapping[str, nab.Profile]:
    for folder in (request.data, *request.data.resolve().parents):
        if (folder / "config" / "profiles.json").is_file() and (folder / "labels").is_dir():
            return nab.load_profiles(folder / "config" / "profiles.json")
    return nab.PROFILES


def _scores(run: Run, windows: Windows, profiles: Mapping[str, nab.Profile]) -> dict[str, Any]:
    """Return the corpus scores of the live alarms, and of the threshold on the scores that is best in hindsight.

    A live detection is the row at which an incident opened, because the alert is published then.
    """
    found: dict[str, Any] = {}
    files = [windows[case.name] for case in run.cases]
    count = sum(len(mine) for _, mine in files)
    detections = [_detections(run, index) for index in range(len(run.cases))]
    scores = [
        np.concatenate([np.full(case.first_row, -np.inf), rows.ratio])
        for case, rows in zip(run.cases, run.rows, strict=True)
    ]
    for name, profile in profiles.items():
        files_of = [nab.Series(length, mine, profile) for length, mine in files]
        live = sum(one.score(hit).score for one, hit in zip(files_of, detections, strict=True))
        found[f"nab_{name}"] = nab.normalised(live, count, profile)
        found[f"nab_{name}_best_threshold"] = nab.normalised(nab.best_threshold(files_of, scores)[1], count, profile)
    return found


def _per_file(run: Run, case: Case, windows: Windows, profiles: Mapping[str, nab.Profile]) -> dict[str, float]:
    rows, mine = windows[case.name]
    hit = _detections(run, list(run.cases).index(case))
    return {name: nab.Series(rows, mine, profile).score(hit).score for name, profile in profiles.items()}


def _detections(run: Run, index: int) -> NDArray[np.bool_]:
    alarm = run.rows[index].alarm
    opened = alarm & ~np.concatenate([[False], alarm[:-1]])
    return np.concatenate([np.zeros(run.cases[index].first_row, np.bool_), opened])


def _published(request: Request, windows: Windows, profiles: Mapping[str, nab.Profile]) -> dict[str, Any]:
    """Recompute the scores of the published detectors whose row scores are in `published_scores/`."""
    for folder in (request.data, *request.data.resolve().parents):
        if (folder / "published_scores").is_dir():
            found: dict[str, Any] = {}
            for table in sorted((folder / "published_scores").glob("*.csv.gz")):
                detector = table.name.removesuffix(".csv.gz")
                scores = _row_scores(table)
                for name, profile in profiles.items():
                    beside = table.with_name(f"{detector}_{name}_scores.csv")
                    if beside.is_file():
                        files, score, worst = _recomputed(beside, scores, windows, profile)
                        row = found.setdefault(detector, {"files": files, "largest_difference": 0.0})
                        row[f"nab_{name}"] = score
                        row["largest_difference"] = max(row["largest_difference"], worst)
            return found
    return {}


def _recomputed(
    table: Path, scores: Mapping[str, NDArray[np.float64]], windows: Windows, profile: nab.Profile
) -> tuple[int, float | None, float]:
    """Return the number of files, their corpus score, and the largest difference from a published file score."""
    total = worst = 0.0
    count = files = 0
    for row in _rows(table, ("File", "Threshold", "Score")):
        name = row["File"]
        if name not in windows or name not in scores:
            continue
        rows, mine = windows[name]
        if len(scores[name]) != rows:
            raise DataError(f"{table}: {len(scores[name])} row scores of {name}, the file has {rows} rows")
        score = nab.Series(rows, mine, profile).score(scores[name] >= float(row["Threshold"])).score
        total, count, files = total + score, count + len(mine), files + 1
        worst = max(worst, abs(score - float(row["Score"])))
    return files, nab.normalised(total, count, profile), worst


def _row_scores(table: Path) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[float]] = {}
    for row in _rows(table, ("file", "anomaly_score")):
        found.setdefault(row["file"], []).append(float(row["anomaly_score"]))
    return {name: np.array(scores) for name, scores in found.items()}


def _rows(table: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with gzip.open(table, "rt") if table.suffix == ".gz" else table.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: can't be read: {error}") from error
    if rows and (missing := [name for name in needed if rows[0].get(name) is None]):
        raise DataError(f"{table}, line 1: no column {missing[0]!r}; it has: {', '.join(rows[0])}")
    return rows


PROTOCOL = Protocol(
    name="nab",
    about="Numenta's benchmark: training on the first 15 % of each file; also NAB's own score",
    layout="data/*/*.csv, labels/combined_windows.json, perhaps config/profiles.json and published_scores/",
    config="kpi",
    columns=("nab_standard", "nab_reward_low_FP_rate", "nab_reward_low_FN_rate", "f1", "far", "ap", "vus_pr"),
    run=run,
)
