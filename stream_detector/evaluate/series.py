"""Evaluation of labelled series: train per recording or once, judge every test recording, count rows and incidents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_detector.config import Config
from stream_detector.errors import DataError
from stream_detector.evaluate import events
from stream_detector.evaluate.data import Case, mean_of
from stream_detector.evaluate.fitting import fit_each, seeded
from stream_detector.evaluate.live import Live, Rows, Scored, Track, decide
from stream_detector.evaluate.pointwise import Counts, average_precision, point_adjusted, roc_auc
from stream_detector.evaluate.vus import vus_pr

#: Maximum FAR of `f1_at_far10`, the F1 at the smallest alarm margin that reaches it.
FAR_LIMIT = 0.10
#: Margins tried are the configured one times MARGIN_STEP^k, with k up to MOST_STEPS: a factor of about 100.
MARGIN_STEP = 1.1
MOST_STEPS = 48
#: Figures for which lower is better.
LOWER_IS_BETTER = ("far", "mar", "fpr", "healthy_far")


@dataclass(frozen=True, slots=True)
class Run:
    """One seed's run over all cases; each sequence has one entry per case."""

    seed: int
    cases: Sequence[Case]
    lives: Sequence[Live]  # shared by cases with the same configuration
    scored: Sequence[Scored]
    tracks: Sequence[Track]
    rows: Sequence[Rows]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an evaluation: the figures, and the first seed's run for the report."""

    protocol: str
    detector: str
    figures: dict[str, Any]
    first: Run


def run_seed(cases: Sequence[Case], seed: int) -> Run:
    """Train a detector for each case and judge its test rows. Raises DataError when none has enough training rows."""
    lives: list[Live | None] = [None] * len(cases)
    for config, members in _grouped(cases):
        config = seeded(config, seed)
        live = Live(config, fit_each(config, [cases[index] for index in members], refuse=len(cases) == 1))
        for index in members:
            lives[index] = live
    found = [live for live in lives if live is not None]
    if not any(len(live.models) for live in found):
        raise DataError(f"none of the {len(cases)} files has enough rows to train on; the log has the reasons")
    return follow(cases, found, seed)


def follow(cases: Sequence[Case], lives: Sequence[Live], seed: int) -> Run:
    """Judge the test recordings with trained detectors; `lives` has one entry per case."""
    scored = [live.score(case.test) for case, live in zip(cases, lives, strict=True)]
    tracks, rows = _judged(cases, lives, scored)
    return Run(seed, cases, lives, scored, tracks, rows)


def figures(run: Run) -> dict[str, Any]:
    """Return a run's figures over the rows of all recordings; VUS-PR is a mean over recordings with an anomaly.

    Scores are pooled as ratios to their alarm levels (`live.ratio`), since scores of different detectors have no common
    unit.
    """
    truth = np.concatenate([case.labels for case in run.cases])
    ratio = np.concatenate([rows.ratio for rows in run.rows])
    alarm = np.concatenate([rows.alarm for rows in run.rows])
    adjusted = np.concatenate(
        [point_adjusted(case.labels, rows.alarm) for case, rows in zip(run.cases, run.rows, strict=True)]
    )
    volumes = [vus_pr(case.labels, rows.score) for case, rows in zip(run.cases, run.rows, strict=True)]
    known = [volume for volume in volumes if volume is not None]
    return {
        **Counts.of(truth, alarm).figures(),
        "ap": average_precision(truth, ratio),
        "auc": roc_auc(truth, ratio),
        "vus_pr": float(np.mean(known)) if known else None,
        "f1_at_far10": f1_at_far(run),
        "f1_point_adjusted": Counts.of(truth, adjusted).f1,
        "incidents": events.summary(_watches(run), run.rows),
    }


def _watches(run: Run) -> list[events.Watch]:
    """Return each recording's figures by incident."""
    return [
        events.watch(case, track, rows, case.config.window.length * case.config.window.cell_ms)
        for case, track, rows in zip(run.cases, run.tracks, run.rows, strict=True)
    ]


def f1_at_far(run: Run, limit: float = FAR_LIMIT) -> float | None:
    """Return F1 at the smallest margin whose FAR is at most `limit`.

    Margins are the configured one times MARGIN_STEP^k, at least 1. Only the margin changes; adaptive levels and the
    rules for opening and closing incidents are those of the run. k is found by bisection, because FAR decreases with
    the margin. None when no margin reaches the limit.
    """
    truth = np.concatenate([case.labels for case in run.cases])
    least = min(live.config.threshold.margin for live in run.lives)

    def at(k: int) -> Counts:
        rows = run.rows if k == 0 else _judged(run.cases, run.lives, run.scored, MARGIN_STEP**k)[1]
        return Counts.of(truth, np.concatenate([one.alarm for one in rows]))

    def reached(counts: Counts) -> bool:
        return counts.far is None or counts.far <= limit

    low = -math.floor(math.log(least) / math.log(MARGIN_STEP)) - 1  # below the smallest possible margin
    high, best = 0, at(0)
    while not reached(best):
        if high >= MOST_STEPS:
            return None
        low, high = high, min(2 * high + 1, MOST_STEPS)
        best = at(high)
    while high - low > 1:
        middle = (low + high) // 2
        counts = at(middle)
        if reached(counts):
            high, best = middle, counts
        else:
            low = middle
    return best.f1


def per_file(run: Run) -> list[dict[str, Any]]:
    """Return the figures of each recording."""
    found = []
    for case, rows, watched in zip(run.cases, run.rows, _watches(run), strict=True):
        counts = Counts.of(case.labels, rows.alarm)
        found.append(
            {
                "file": case.name,
                "rows": len(case.test),
                "anomalous": int((case.labels > 0).sum()),
                **counts.figures(),
                "ap": average_precision(case.labels, rows.score),
                "vus_pr": vus_pr(case.labels, rows.score),
                "faults": len(watched.faults),
                "caught": sum(delay is not None for delay in watched.delays_ms),
                "false_incidents": len(watched.false),
            }
        )
    return found


def always(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the figures of an alarm at every row: a baseline for any F1."""
    truth = np.concatenate([case.labels for case in cases])
    share = float((truth > 0).mean()) if len(truth) else None
    return {**Counts.of(truth, np.ones(len(truth))).figures(), "ap": share, "vus_pr": None, "f1_at_far10": None}


def over_seeds(seeds: Sequence[Mapping[str, Any]], lower_is_better: Sequence[str] = LOWER_IS_BETTER) -> dict[str, Any]:
    """Return the mean of every figure over seeds, nested ones included, and `spread`: sd, worst and best of each."""
    spread: dict[str, dict[str, float]] = {}
    for key in seeds[0]:
        known = np.array([row[key] for row in seeds if isinstance(row.get(key), int | float)])
        if key != "seed" and len(known):
            low, high = float(known.min()), float(known.max())
            worst, best = (high, low) if key in lower_is_better else (low, high)
            spread[key] = {"sd": float(known.std(ddof=1)) if len(known) > 1 else 0.0, "worst": worst, "best": best}
    means = _means(seeds)
    means.pop("seed", None)
    return {**means, "spread": spread}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        if nested := [value for value in values if isinstance(value, Mapping)]:
            found[key] = _means(nested)
        else:
            found[key] = mean_of(rows, key)
    return found


def _grouped(cases: Sequence[Case]) -> list[tuple[Config, list[int]]]:
    """Return the configurations, each with the indices of its cases."""
    groups: list[tuple[Config, list[int]]] = []
    for index, case in enumerate(cases):
        for config, members in groups:
            if config is case.config or config == case.config:
                members.append(index)
                break
        else:
            groups.append((case.config, [index]))
    return groups


def _judged(
    cases: Sequence[Case], lives: Sequence[Live], scored: Sequence[Scored], margin_factor: float = 1.0
) -> tuple[list[Track], list[Rows]]:
    judges = {id(live): live.judges(margin_factor) for live in lives}
    tracks = [judges[id(live)].follow(one) for live, one in zip(lives, scored, strict=True)]
    rows = [
        decide(track, case.test.ts_ms, live.config.window)
        for case, live, track in zip(cases, lives, tracks, strict=True)
    ]
    return tracks, rows
