"""VUS-PR: the volume under the range-based precision-recall surface (Paparrizos et al., PVLDB 15(11), 2022).

The ends of labelled ranges are never exact, so a score that rises slightly early or late should get part of the credit.
Therefore the label falls off gradually over a buffer of ℓ/2 rows on each side of an anomaly:

    label_ℓ(t) = 1 in the anomaly,  √(1 - d/ℓ) at a distance of d = 1..ℓ/2 rows from it,  at most 1 in total

For a threshold θ, with p(t) = 1 where score(t) ≥ θ, P anomalous rows and N rows:

    TP = Σ label_ℓ·p    FP = Σ p - TP    P_ℓ = P + ½ Σ_buffers label_ℓ·p
    existence = share of the anomalies (with their buffers, merged where these touch) in which any row has p = 1
    recall = min(TP/P_ℓ, 1)·existence    precision = TP/Σ p

The area for one ℓ is Σ (recall_k - recall_{k-1})·precision_k over 250 thresholds at evenly spaced ranks of the scores.
VUS-PR is the mean area over ℓ = 0..L, so no buffer length has to be chosen. Higher is better; 1 is best. The paper
leaves open the choice of thresholds and the label-weighted rows in P_ℓ; both follow the authors' code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.evaluate.pointwise import stretches

THRESHOLDS = 250
#: Default of L, the longest buffer, in rows: the leaderboards' default.
LONGEST = 100


def vus_pr(truth: NDArray[Any], score: NDArray[np.float64], longest: int = LONGEST) -> float | None:
    """Return VUS-PR of one recording; `truth`, `score`: (N,) in time order. None without an anomalous row.

    Don't concatenate recordings: a buffer must not extend from one into the next.
    """
    was = np.asarray(truth) > 0
    if not was.any():
        return None
    n, positives, anomalies = len(was), int(was.sum()), stretches(was)
    ranks = np.linspace(0, n - 1, THRESHOLDS).astype(int)
    rising = np.sort(score)
    thresholds = rising[::-1][ranks]  # (K,)
    alarms = n - np.searchsorted(rising, thresholds)  # (K,) rows at or above each
    inside = positives - np.searchsorted(np.sort(score[was]), thresholds)
    # The table contains only rows in buffers: a series may have a million other rows.
    near = np.flatnonzero(_label(was, anomalies, longest) * ~was)
    labels = np.stack([_label(was, anomalies, length)[near] for length in range(longest + 1)], axis=1)  # (B, L + 1)
    said = score[None, near] >= thresholds[:, None]  # (K, B)
    beside = said @ labels  # (K, L + 1) Σ label·p in the buffers
    areas = np.empty(longest + 1)
    for length in range(longest + 1):
        merged = _with_buffers(anomalies, length // 2, n)
        highest = np.array([score[start:stop].max() for start, stop in merged])
        found = (highest[:, None] >= thresholds).mean(axis=0)
        true = inside + beside[:, length]
        recall = np.minimum(true / (positives + beside[:, length] / 2), 1.0) * found
        precision = true / alarms
        areas[length] = float(np.diff(recall, prepend=0.0) @ precision)
    return float(areas.mean())


def _with_buffers(anomalies: list[tuple[int, int]], reach: int, n: int) -> list[tuple[int, int]]:
    """Return anomalies (start, stop) extended by `reach` rows on both sides; those that then overlap are merged."""
    merged: list[tuple[int, int]] = []
    for start, stop in anomalies:
        low, high = max(start - reach, 0), min(stop + reach, n)
        if merged and low < merged[-1][1]:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return merged


def _label(was: NDArray[np.bool_], anomalies: list[tuple[int, int]], length: int) -> NDArray[np.float64]:
    label = was.astype(np.float64)
    reach = length // 2
    for start, stop in anomalies:
        after = np.arange(stop, min(stop + reach, len(label)))
        label[after] += np.sqrt(1.0 - (after - stop + 1) / length) if length else 0.0
        before = np.arange(max(start - reach, 0), start)
        label[before] += np.sqrt(1.0 - (start - before) / length) if length else 0.0
    return np.minimum(label, 1.0)
