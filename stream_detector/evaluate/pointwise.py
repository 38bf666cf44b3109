"""Figures by row: alarmed or not, anomalous or not. Shares, not percentages.

    TP anomalous and alarmed      FN anomalous, not alarmed
    FP normal, but alarmed        TN normal, not alarmed

    precision = TP/(TP+FP)   recall = TP/(TP+FN)   F1 = TP/(TP+(FN+FP)/2)   FAR = FPR = FP/(FP+TN)   MAR = FN/(FN+TP)

F1 has no meaning without FAR: where most rows are anomalous, a permanent alarm has a high F1. No point adjustment.
A figure whose denominator is 0 is None; F1 is 0 when there are anomalous rows and none of them is alarmed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import ConfigError

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of rows: true and false positives, true and false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, truth: NDArray[Any], alarm: NDArray[Any]) -> Counts:
        """Count rows; `truth`, `alarm`: (N,) of 0 and 1."""
        was, said = np.asarray(truth) > 0, np.asarray(alarm) > 0
        tp, fp = int((was & said).sum()), int((~was & said).sum())
        return cls(tp, fp, int((~was).sum()) - fp, int(was.sum()) - tp)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _share(self.tp, self.tp + (self.fn + self.fp) / 2)

    @property
    def far(self) -> float | None:
        """False alarm rate: the share of normal rows alarmed; also called FPR."""
        return _share(self.fp, self.fp + self.tn)

    @property
    def mar(self) -> float | None:
        """Missed alarm rate: the share of anomalous rows not alarmed."""
        return _share(self.fn, self.fn + self.tp)

    @property
    def precision(self) -> float | None:
        """Share of alarmed rows that are anomalous."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of anomalous rows alarmed."""
        return _share(self.tp, self.tp + self.fn)

    def figures(self) -> dict[str, float | None]:
        """Return all figures by name."""
        return {
            "f1": self.f1,
            "far": self.far,
            "mar": self.mar,
            "precision": self.precision,
            "recall": self.recall,
        }


def average_precision(truth: NDArray[Any], score: NDArray[np.float64]) -> float | None:
    """Return the area under the precision-recall curve, Σ (R_k - R_{k-1}) P_k over falling thresholds.

    `truth`, `score`: (N,), higher is more anomalous; infinities are allowed. None without an anomalous row. A random
    score has about the share of anomalous rows.
    """
    was = np.asarray(truth) > 0
    # the sum may exceed 1 by a rounding error
    return min(float(_sklearn().average_precision_score(was, _ranked(score))), 1.0) if was.any() else None


def roc_auc(truth: NDArray[Any], score: NDArray[np.float64]) -> float | None:
    """Return the probability that an anomalous row scores above a normal one; ties count half.

    None unless there are anomalous and normal rows. It is too optimistic where anomalies are rare: a small share of a
    great many normal rows above the anomalous ones hardly lowers it, but ruins the precision.
    """
    was = np.asarray(truth) > 0
    return float(_sklearn().roc_auc_score(was, _ranked(score))) if was.any() and not was.all() else None


def point_adjusted(truth: NDArray[Any], alarm: NDArray[Any]) -> NDArray[np.bool_]:
    """Return alarms after point adjustment (Xu et al. 2018): one alarmed row marks its whole anomaly as found.

    It makes random alarms look good: the longer the anomalies, the closer to 1 is their F1 (Kim et al. 2022). Use it
    only for comparison with papers that report it.
    """
    was, said = np.asarray(truth) > 0, np.array(alarm) > 0
    for start, stop in stretches(was):
        if said[start:stop].any():
            said[start:stop] = True
    return said


def stretches(flags: NDArray[Any]) -> list[tuple[int, int]]:
    """Return (start, stop) of every run of ones.

    >>> stretches(np.array([0, 1, 1, 0, 1]))
    [(1, 3), (4, 5)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.asarray(flags) > 0, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _ranked(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the ranks of the scores: both areas depend only on the order, and ranks have no infinities."""
    ranks: NDArray[np.int64] = np.unique(score, return_inverse=True)[1]
    return ranks


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sklearn() -> Any:
    try:
        return importlib.import_module("sklearn.metrics")  # untyped and slow to import
    except ImportError as error:
        raise ConfigError("AUC-PR and AUC-ROC need scikit-learn; install stream-detector[evaluate]") from error
