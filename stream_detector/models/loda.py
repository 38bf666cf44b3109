"""LODA: mean negative log-density over the histograms of many sparse random projections of the window.

    z_k = w_k · x,  w_k sparse: about √D of the D inputs, Gaussian weights
    r      = mean over k of −log max(p_k(z_k), 1e-12),   p_k: a histogram's density
    part_c = mean of −log p_k over the projections that use channel c, less the mean over those that don't, if positive

The score is r on the scale of Gauged (closed_form.py). expected: the median of the training windows' last cells.
River fits the histograms one window at a time, with at most `bins` bins of adaptive width. Then they are frozen, so
that replayed windows get the same scores; to learn more, fit again. They are stored as arrays and scored here; tests
compare the scores with river's.
Source: Pevný, "Loda: Lightweight on-line detector of anomalies", Machine Learning 102, 2016.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import LODAConfig
from stream_detector.models.closed_form import Gauged, require

#: Density where there is no training window.
FLOOR = 1e-12


class LODA(Gauged):
    """Histograms of random projections of the flattened window."""

    kind = "loda"
    weights: Tensor
    left: Tensor
    right: Tensor
    density: Tensor

    def __init__(self, config: LODAConfig, length: int, features: int) -> None:
        """Make an unfitted detector."""
        super().__init__(features)
        self.config, self.length, self.features = config, length, features
        count, bins = config.projections, config.bins
        self.register_buffer("weights", torch.zeros(count, length * features))  # (K, D) w_k
        # (K, bins) a bin's ends and density; a histogram with fewer bins is padded with its last end and density 0
        self.register_buffer("left", torch.zeros(count, bins))
        self.register_buffer("right", torch.zeros(count, bins))
        self.register_buffer("density", torch.zeros(count, bins))

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, LODAConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Fit river's detector window by window, then copy its projections and histograms."""
        from river import anomaly  # deferred: slow to import

        flat = x_train.flatten(1)
        learner = anomaly.LODA(n_bins=self.config.bins, n_random_cuts=self.config.projections, seed=config.seed)
        for row in flat.tolist():
            learner.learn_one(dict(enumerate(row)))  # type: ignore[no-untyped-call]  # river declares none
        weights = torch.zeros(self.weights.shape, dtype=torch.float64)
        for index, projection in enumerate(learner.projections_):
            weights[index, list(projection)] = torch.tensor(list(projection.values()), dtype=torch.float64)
        laid = [_laid_out(histogram, self.config.bins) for histogram in learner.histograms_]
        left, right, density = (torch.tensor([bins[i] for bins in laid], dtype=torch.float64) for i in range(3))
        self.keep(weights=weights, left=left, right=right, density=density)
        self.gauge(x_train)

    def check(self) -> None:
        """Raise ValueError unless every histogram's bins are in order."""
        require(bool((self.right[:, 1:] >= self.right[:, :-1]).all()), "a histogram's bins are not in order")

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return r (B,) and, per feature, the mean with it less the mean without it, of either sign (B, F)."""
        surprise = self._surprise(x.flatten(1))  # (B, K)
        used = (self.weights.reshape(len(self.weights), self.length, self.features) != 0).any(dim=1).to(x.dtype)
        with_it = surprise @ used / used.sum(dim=0).clamp_min(1.0)
        without = surprise @ (1.0 - used) / (1.0 - used).sum(dim=0).clamp_min(1.0)
        return surprise.mean(dim=1), torch.where(used.sum(dim=0) > 0, with_it - without, 0.0)

    def _surprise(self, flat: Tensor) -> Tensor:
        """Return −log p_k (B, K)."""
        projected = (flat @ self.weights.T).T.contiguous()  # (K, B)
        place = torch.searchsorted(self.right, projected).clamp_max(self.right.shape[1] - 1)
        inside = (projected >= self.left.gather(1, place)) & (projected <= self.right.gather(1, place))
        density = torch.where(inside, self.density.gather(1, place), 0.0)
        return -density.clamp_min(FLOOR).log().T


def _laid_out(histogram: Any, most: int) -> tuple[list[float], list[float], list[float]]:
    """Return left ends, right ends and densities of one of river's histograms, padded to `most` bins."""
    bins, total = list(histogram.data), histogram.n
    left, right = [float(one.left) for one in bins], [float(one.right) for one in bins]
    density = []
    for i, one in enumerate(bins):
        width = right[i] - left[i]
        if width <= 0.0:  # a bin of a single value: use the distance to its nearest neighbour as its width
            before = left[i] - right[i - 1] if i > 0 else math.inf
            after = left[i + 1] - right[i] if i + 1 < len(bins) else math.inf
            width = min(before, after)
        density.append(one.count / total / (width if 0.0 < width < math.inf else 1.0))
    lack = most - len(bins)
    return left + [right[-1]] * lack, right + [right[-1]] * lack, density + [0.0] * lack
