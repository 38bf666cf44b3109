"""VUS-PR against a slow reading of the paper's formulas, and what it must be at the ends."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.evaluate.vus import THRESHOLDS, vus_pr


def slow(truth: np.ndarray, score: np.ndarray, longest: int) -> float:
    """Every row, threshold and buffer length in turn."""
    n = len(truth)
    anomalies, start = [], None
    for t in range(n + 1):
        if t < n and truth[t] and start is None:
            start = t
        elif (t == n or not truth[t]) and start is not None:
            anomalies.append((start, t - 1))
            start = None
    ordered = np.sort(score)[::-1]
    areas = []
    for length in range(longest + 1):
        label = np.zeros(n)
        for t in range(n):
            for first, last in anomalies:
                distance = max(first - t, t - last, 0)
                if distance == 0:
                    label[t] += 1
                elif distance <= length // 2:
                    label[t] += np.sqrt(1 - distance / length)
        label = np.minimum(label, 1)
        ranges = []
        for first, last in anomalies:
            low, high = max(first - length // 2, 0), min(last + length // 2, n - 1)
            if ranges and low <= ranges[-1][1]:
                ranges[-1][1] = high
            else:
                ranges.append([low, high])
        area = recall_before = 0.0
        for rank in np.linspace(0, n - 1, THRESHOLDS).astype(int):
            said = score >= ordered[rank]
            true = sum(label[t] for t in range(n) if said[t])
            buffers = sum(label[t] for t in range(n) if said[t] and not truth[t])
            existence = np.mean([said[low : high + 1].any() for low, high in ranges])
            recall = min(true / (truth.sum() + buffers / 2), 1) * existence
            area += (recall - recall_before) * true / said.sum()
            recall_before = recall
        areas.append(area)
    return float(np.mean(areas))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_papers(seed):
    """Two anomalies near enough for their buffers to meet, one at the very end, scores with ties."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(60, int)
    truth[10:14] = truth[20:25] = truth[57:] = 1
    score = np.round(rng.normal(size=60) + truth, 1)
    assert vus_pr(truth, score, longest=12) == pytest.approx(slow(truth, score, 12), rel=1e-9)


def test_a_score_that_follows_the_buffers_beats_one_that_misses_them():
    """A few rows early still earns, far away does not."""
    truth = np.zeros(300, int)
    truth[150:170] = 1
    at = {
        name: np.isin(np.arange(300), range(150 + by, 170 + by)).astype(float)
        for name, by in {"exact": 0, "early": -5, "far": -100}.items()
    }
    exact, early, far = (vus_pr(truth, at[name]) for name in ("exact", "early", "far"))
    assert exact > early > far
    assert far < early / 2


def test_without_an_anomaly_there_is_no_volume():
    """Nothing to be found."""
    assert vus_pr(np.zeros(10), np.arange(10.0)) is None
