"""Figures of runs and of seeds."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.pointwise import Counts
from tests.evaluate.test_live import config, recording


@pytest.fixture(scope="module")
def run() -> series.Run:
    """Two machines, a fault each, one seed."""
    cases = []
    for name, fault, seed in (("a", range(500, 560), 0), ("b", range(600, 680), 1)):
        whole = recording(800, fault, seed, name)
        cases.append(Case(name, whole.head(400), whole.rows(400), config(), 400))
    return series.run_seed(cases, 0)


def test_rows_of_all_recordings_are_pooled(run):
    """F1 is of all rows together, not a mean over files."""
    found = series.figures(run)
    truth = np.concatenate([case.labels for case in run.cases])
    alarm = np.concatenate([rows.alarm for rows in run.rows])
    assert Counts.of(truth, alarm).figures() == {key: found[key] for key in ("f1", "far", "mar", "precision", "recall")}
    assert (found["incidents"]["faults"], found["incidents"]["caught"]) == (2, 2)
    assert [row["rows"] for row in series.per_file(run)] == [400, 400]


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5])
def test_f1_at_a_far_is_that_of_the_smallest_margin_that_reaches_it(run, limit):
    """Against trying every margin."""
    truth = np.concatenate([case.labels for case in run.cases])
    margin = run.lives[0].config.threshold.margin
    tried = []
    for k in range(-40, series.MOST_STEPS + 1):
        if margin * series.MARGIN_STEP**k >= 1:
            rows = series._judged(run.cases, run.lives, run.scored, series.MARGIN_STEP**k)[1]
            tried.append(Counts.of(truth, np.concatenate([one.alarm for one in rows])))
    reached = [counts.f1 for counts in tried if counts.far <= limit]
    assert series.f1_at_far(run, limit) == (reached[0] if reached else None)


def test_seeds_give_mean_sd_worst_and_best():
    """Of a rate of false alarms the worst is the highest; nested figures are means too."""
    seeds = [
        {"seed": 0, "f1": 0.8, "far": 0.1, "incidents": {"caught": 3}, "none": None},
        {"seed": 1, "f1": 0.6, "far": 0.2, "incidents": {"caught": 4}, "none": None},
    ]
    assert series.over_seeds(seeds) == {
        "f1": pytest.approx(0.7),
        "far": pytest.approx(0.15),
        "incidents": {"caught": 3.5},
        "none": None,
        "spread": {
            "f1": {"sd": pytest.approx(0.1414, abs=1e-4), "worst": 0.6, "best": 0.8},
            "far": {"sd": pytest.approx(0.0707, abs=1e-4), "worst": 0.2, "best": 0.1},
        },
    }


def test_alarming_always_finds_everything():
    """And its rate of false alarms is 1."""
    whole = recording(100, range(50, 75))
    found = series.always([Case("a", whole.head(0), whole, config())])
    assert (found["far"], found["mar"], found["f1"], found["ap"]) == (1, 0, pytest.approx(0.4), 0.25)
