"""Rolling quantile: alarm above the (1 - risk) quantile of the last `memory` normal scores.

The empirical quantile is the order statistic at rank (1 - risk)(m + 1) of m scores (Weibull's plotting position: a
new score exceeds the k-th smallest of m with probability 1 - k/(m + 1)), interpolated between neighbours.

Alone it would fail in two ways. Risks below 1/(m + 1) lie beyond the largest score. And since a score that alarmed is
not learnt, the sample is cut off at the level: each turn of the memory would lower it by another `risk`, until
everything alarms. So above u, the quantile at p = max(.05, 10 risk) from the top, the tail is taken as exponential
with only its part below the cut c (the level, averaged over the scores kept) seen: its mean b solves

    mean excess = b - (c - u)/(exp((c - u)/b) - 1)

and tells how many scores are missing above c. The quantile is then taken at its rank among all, the missing included;
when it is itself among the missing, or beyond the largest score, the level is u + b log(p / risk). For tails lighter
than exponential that is cautious: fewer alarms than `risk`.

The level is recomputed every EVERY scores (rolling.py), by their count, so that it depends on their order alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold.rolling import Rolling

TAIL = 0.05


class Quantile(Rolling):
    """The method `quantile` under one configuration. Pure: every call returns a new state."""

    name = "quantile"

    def __init__(self, config: ThresholdConfig) -> None:
        """Take risk and memory from the settings."""
        super().__init__(config)
        self._tail = max(TAIL, min(10.0 * config.risk, 0.5))

    def level(self, scores: NDArray[np.float64], cut: float, share: float) -> float:
        """Return the level for the scores kept (m,), in any order, a `share` of them learnt under the level `cut`."""
        ranked = np.sort(scores)
        m = len(ranked)
        above = max(5, round(self._tail * m))
        u = float(ranked[m - above - 1])
        mean = float(ranked[m - above :].mean()) - u
        scale, missing = mean, 0.0
        if share > 0.0 and mean > 0.0 and cut > u:
            scale = _untruncated(mean, cut - u, share)
            missing = share * above / _expm1((cut - u) / scale)
        rank = (1.0 - self.risk) * (m + missing + 1.0)
        if rank < m:
            below = int(rank)
            part = rank - below
            return float(ranked[below - 1] * (1.0 - part) + ranked[below] * part)
        tail = u + scale * math.log((above + missing) / (m + missing) / self.risk)
        return max(tail, float(ranked[-1])) if self.risk * m < 1.0 else tail


def _untruncated(mean: float, width: float, share: float) -> float:
    """Return b of an exponential law, a `share` of whose excesses was cut off at `width`, from their mean.

    b - share · width/(exp(width/b) - 1) rises in b, so halving finds it.
    """
    low, high = mean, max(mean, width / math.log(2.0))  # at most half of the tail is believed to be missing
    for _ in range(24):
        middle = 0.5 * (low + high)
        if middle - share * width / _expm1(width / middle) < mean:
            low = middle
        else:
            high = middle
    return low


def _expm1(x: float) -> float:
    """Return exp(x) - 1, capped before it overflows: nothing is cut off of a tail so much shorter than the level."""
    return math.expm1(min(x, 700.0))
