"""NAB's score: by hand, by brute force, and to the published scores of two detectors."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import defaultdict

import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.evaluate import nab
from stream_detector.evaluate.nab import PROFILES, FileScore, Profile, Series
from tests.producers import files

STANDARD = PROFILES["standard"]


def sigmoid(y: float) -> float:
    """As the benchmark has it."""
    return 2 / (1 + math.exp(5 * y)) - 1


def test_a_file_by_hand():
    """
    row     0-14 probation    20───29 window    35 a false detection, 5 rows after it
    hits                        24, 26
    """
    detected = np.zeros(100, bool)
    detected[[3, 24, 26, 35, 10]] = True
    score = Series(100, [(20, 29)], STANDARD).score(detected)
    found = sigmoid(-6 / 10) / sigmoid(-1)  # rows 24 to 29 are six of ten
    false = 0.11 * sigmoid((35 - 29) / 9)
    assert score == FileScore(pytest.approx(found + false), tp=2, tn=74, fp=1, fn=8)


def test_before_the_first_window_a_false_detection_costs_all_of_its_weight():
    """There is no window that it could belong to."""
    detected = np.zeros(100, bool)
    detected[16] = True
    assert Series(100, [(80, 89)], STANDARD).score(detected).score == pytest.approx(-0.11 - 1)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_nothing_is_0_and_perfect_is_100(profile):
    """NAB's scale."""
    series = Series(200, [(50, 59), (120, 139)], profile)
    first = np.isin(np.arange(200), [50, 120])
    assert nab.normalised(series.score(np.zeros(200, bool)).score, 2, profile) == pytest.approx(0)
    assert nab.normalised(series.score(first).score, 2, profile) == pytest.approx(100)


def test_the_best_threshold_is_the_best_of_all():
    """Against trying every score of two files."""
    rng = np.random.default_rng(5)
    series = [Series(80, [(30, 39)], STANDARD), Series(60, [(20, 24), (50, 53)], STANDARD)]
    scores = [np.round(rng.normal(size=80), 1), np.round(rng.normal(size=60), 1)]
    scores[0][33] = scores[1][52] = 3.0

    def total(threshold: float) -> float:
        return sum(one.score(score >= threshold).score for one, score in zip(series, scores, strict=True))

    tried = {threshold: total(threshold) for threshold in [math.inf, *np.unique(np.concatenate(scores))]}
    threshold, best = nab.best_threshold(series, scores)
    assert best == pytest.approx(max(tried.values()))
    assert tried[threshold] == pytest.approx(best)


@pytest.mark.parametrize("detector", ["numenta", "windowedGaussian"])
def test_published_scores_are_reproduced(detector):
    """Every file, every profile, and the counts of rows, at the published thresholds."""
    root = files.real("nab")
    windows = json.loads((root / "labels" / "combined_windows.json").read_text())
    rows: dict[str, list[tuple[str, float]]] = defaultdict(list)
    with gzip.open(root / "published_scores" / f"{detector}.csv.gz", "rt") as table:
        for row in csv.DictReader(table):
            rows[row["file"]].append((row["timestamp"], float(row["anomaly_score"])))
    compared = 0
    for name, profile in nab.load_profiles(root / "config" / "profiles.json").items():
        with (root / "published_scores" / f"{detector}_{name}_scores.csv").open() as table:
            published = [row for row in csv.DictReader(table) if row["File"] in rows]
        for row in published:
            times = [time for time, _ in rows[row["File"]]]
            limits = [(times.index(a[:19]), times.index(b[:19])) for a, b in windows[row["File"]]]
            scores = np.array([score for _, score in rows[row["File"]]])
            found = Series(len(times), limits, profile).score(scores >= float(row["Threshold"]))
            counts = {key: int(row[key.upper()]) for key in ("tp", "tn", "fp", "fn")}
            assert found == FileScore(pytest.approx(float(row["Score"]), abs=1e-10), **counts), row["File"]
            compared += 1
    assert compared == 3 * 21


def test_the_profiles_file_is_read(tmp_path):
    """The benchmark's own layout; anything else is refused."""
    weights = {"tpWeight": 1.0, "fnWeight": 2.0, "fpWeight": 0.1, "tnWeight": 1.0}
    path = files.write(tmp_path / "profiles.json", json.dumps({"mine": {"CostMatrix": weights}}))
    assert {"mine": Profile(tp=1.0, fp=0.1, fn=2.0)} == nab.load_profiles(path)
    with pytest.raises(DataError, match="not NAB's profiles"):
        nab.load_profiles(files.write(tmp_path / "x.json", '{"mine": 1}'))
