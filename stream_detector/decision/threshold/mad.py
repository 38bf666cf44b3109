"""Median and MAD: alarm above median + k · 1.4826 · MAD of the last `memory` normal scores, k = Φ⁻¹(1 - risk).

1.4826 · MAD estimates a Gaussian's deviation; both parts bear up to half of the sample being anything (Hampel 1974).
The risk is met for Gaussian scores; skewed ones, such as squared errors, exceed the level more often: `spot` suits
them better. When more than half of the scores are equal, MAD is 0 and 1.2533 times the mean absolute deviation stands
in (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold.rolling import Rolling

MAD_TO_DEVIATION = 1.4826
MEAN_TO_DEVIATION = 1.2533


class Mad(Rolling):
    """The method `mad` under one configuration. Pure: every call returns a new state."""

    name = "mad"

    def __init__(self, config: ThresholdConfig) -> None:
        """Take risk and memory from the settings."""
        super().__init__(config)
        self._k = NormalDist().inv_cdf(1.0 - config.risk)

    def level(self, scores: NDArray[np.float64], cut: float, share: float) -> float:
        """Return the level for the scores kept (m,), in any order.

        That those learnt lay below `cut` is left out of account: medians hardly move by a few missing extremes.
        """
        median = _median(scores)
        distances = np.abs(scores - median)
        deviation = MAD_TO_DEVIATION * _median(distances)
        if deviation == 0.0:
            deviation = MEAN_TO_DEVIATION * float(distances.mean())
        return median + self._k * deviation


def _median(values: NDArray[np.float64]) -> float:
    """Return the median; several times faster than numpy's on so few values."""
    ranked = np.sort(values)
    half = len(ranked) // 2
    return float(ranked[half]) if len(ranked) % 2 else 0.5 * (float(ranked[half - 1]) + float(ranked[half]))
