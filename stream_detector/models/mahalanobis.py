"""Mahalanobis distance: distance from the mean of normal windows in units of their joint spread.

    d = x − μ,   score = dᵀ Σ⁻¹ d / D,   D = T·F: the length of the flattened window
    part_c = mean over t of (W d)²_tc,   W = Σ^(−1/2) in its corr-max form (whitening.py)
    expected_j = x_j − (Σ⁻¹ d)_j / (Σ⁻¹)_jj: the value predicted from the rest of the window

Σ is the covariance of the training windows, shrunk towards a multiple of the identity, more so for few windows (Ledoit
& Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
Analysis 88, 2004). Source: Mahalanobis, "On the generalised distance in statistics", 1936.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import MahalanobisConfig
from stream_detector.errors import ConfigError
from stream_detector.models.closed_form import ClosedFormDetector
from stream_detector.models.whitening import by_channel, corr_max, floored

#: Maximum number of values per window (T·F): the matrices have its square.
MOST_INPUTS = 2048


class Mahalanobis(ClosedFormDetector):
    """Mahalanobis distance of the flattened window; score about 1 on normal data."""

    kind = "mahalanobis"
    center: Tensor
    whiten: Tensor

    def __init__(self, length: int, features: int) -> None:
        """Make an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        super().__init__()
        self.length, self.features = length, features
        size = vector_size(length, features, self.kind)
        self.register_buffer("center", torch.zeros(size))  # (D,) μ
        self.register_buffer("whiten", torch.zeros(size, size))  # (D, D) W

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        assert isinstance(config, MahalanobisConfig)
        return cls(length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set μ and W."""
        from sklearn.covariance import LedoitWolf  # deferred: slow to import

        flat = x_train.flatten(1)
        estimate = LedoitWolf().fit(flat.numpy())
        covariance = torch.from_numpy(estimate.covariance_).double()
        self.keep(center=flat.mean(dim=0), whiten=corr_max(floored(covariance)))

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the last cell predicted from the rest of the window (B, F)."""
        offset = x.flatten(1) - self.center
        white = offset @ self.whiten.T
        parts = by_channel(white.square(), self.length, self.features) / self.length
        last = slice(-self.features, None)
        pull = white @ self.whiten[:, last]  # (Σ⁻¹ d) of the last cell
        own = self.whiten[:, last].square().sum(dim=0)  # its (Σ⁻¹)_jj
        return parts, x[:, -1] - pull / own


def vector_size(length: int, features: int, kind: str) -> int:
    """Return T·F. Raises ConfigError when it exceeds MOST_INPUTS."""
    if length * features > MOST_INPUTS:
        raise ConfigError(
            f"model.kind {kind} takes windows of at most {MOST_INPUTS} values, got {length} cells of {features}; "
            "lower window.length or set features.keep"
        )
    return length * features
