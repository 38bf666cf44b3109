"""Scores as states keep them: float32, which holds the scorer's 20 bits of mantissa exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)


def packed(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the finite ones of `scores` (n,); those too large for float32 as the largest it holds."""
    scores = np.asarray(scores, np.float64)
    return np.clip(scores[np.isfinite(scores)], -LARGEST, LARGEST).astype(np.float32)


def appended(sample: NDArray[np.float32], score: float) -> NDArray[np.float32]:
    """Return a new sample with one more score at its end."""
    longer = np.empty(len(sample) + 1, np.float32)
    longer[:-1] = sample
    longer[-1] = min(max(score, -LARGEST), LARGEST)
    return longer
