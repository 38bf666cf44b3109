"""Row by row: was it alarmed, was it anomalous. Shares, not percentages.

    TP anomalous and alarmed      FN anomalous, not alarmed
    FP normal, but alarmed        TN normal, not alarmed

    precision = TP/(TP+FP)   recall = TP/(TP+FN)   F1 = TP/(TP+(FN+FP)/2)   FAR = FPR = FP/(FP+TN)   MAR = FN/(FN+TP)

F1 says nothing without FAR: where most rows are anomalous, alarming always scores high. No point adjustment.
A figure whose denominator is 0 is None; but F1, which is 0 when nothing was found that was there.
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
    """How many rows of each kind."""

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
        """All of them by name."""
        return {
            "f1": self.f1,
            "far": self.far,
            "mar": self.mar,
            "precision": self.precision,
            "recall": self.recall,
        }


def average_precision(truth: NDArray[Any], score: NDArray[np.float64]) -> float | None:
    """Return the area under the precision-recall curve, Σ (R_k - R_{k-1}) P_k over falling thresholds.

    `truth`, `score`: (N,), higher is stranger; infinities are allowed. None without an anomalous row. A score without
    sense has the share of anomalous rows.
    """
    was = np.asarray(truth) > 0
    # a sum of shares may end a rounding above 1
    return min(float(_sklearn().average_precision_score(was, _ranked(score))), 1.0) if was.any() else None


def roc_auc(truth: NDArray[Any], score: NDArray[np.float64]) -> float | None:
    """Return the chance that an anomalous row scores above a normal one, ties counting half.

    None unless both kinds are there. It flatters where anomalies are rare: 1 % of very many normal rows above them
    hardly shows here and ruins the precision.
    """
    was = np.asarray(truth) > 0
    return float(_sklearn().roc_auc_score(was, _ranked(score))) if was.any() and not was.all() else None


def point_adjusted(truth: NDArray[Any], alarm: NDArray[Any]) -> NDArray[np.bool_]:
    """Return alarms as point adjustment (Xu et al. 2018) has it: one alarmed row marks its whole anomaly as found.

    It makes chance look good: the longer the anomalies, the nearer to 1 comes the F1 of random alarms (Kim et al.
    2022). Only for comparison with papers that report it.
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
    """Both areas depend on the order alone; ranks carry infinities through."""
    ranks: NDArray[np.int64] = np.unique(score, return_inverse=True)[1]
    return ranks


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sklearn() -> Any:
    try:
        return importlib.import_module("sklearn.metrics")  # untyped and slow to load: only where needed
    except ImportError as error:
        raise ConfigError("AUC-PR and AUC-ROC need scikit-learn; install stream-detector[evaluate]") from error
