"""Principal component analysis: T² measures deviation within the components kept, Q the deviation outside them.

    d = x − μ,  Σ = V Λ Vᵀ,  P = the first p columns of V,  t = Pᵀ d,  r = d − P t
    T² = Σ_i t_i² / λ_i,   Q = |r|²,   score = ½ (T²/p + Q/q),   q = Σ_{i>p} λ_i: the mean of Q on normal data
    part_c = F/2 · sum over cells of (v² / p + r² / q),   v = P Λ_p^(−1/2) t with |v|² = T²
    expected = μ + P t

p is the smallest number of components that explain the share `variance` of the training variance.
Source: Jackson & Mudholkar, "Control procedures for residuals associated with principal component analysis",
Technometrics 21, 1979; contributions without negative parts as in Alcala & Qin, "Reconstruction-based contribution for
process monitoring", Automatica 45, 2009 (their T² contributions by the root of the quadratic form).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import PCAConfig
from stream_detector.models.closed_form import SMALLEST_DEVIATION, ClosedFormDetector, require
from stream_detector.models.mahalanobis import vector_size
from stream_detector.models.whitening import by_channel


class PCA(ClosedFormDetector):
    """T² + Q of the flattened window; score about 1 on normal data."""

    kind = "pca"
    center: Tensor
    components: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, config: PCAConfig, length: int, features: int) -> None:
        """Make an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        super().__init__()
        self.share, self.length, self.features = config.variance, length, features
        size = vector_size(length, features, self.kind)
        self.register_buffer("center", torch.zeros(size))  # (D,) μ
        self.register_buffer("components", torch.zeros(size, 0))  # (D, p) P
        self.register_buffer("variances", torch.zeros(0))  # (p,) λ
        self.register_buffer("rest", torch.ones(()))  # q

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        assert isinstance(config, PCAConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set μ, the components kept and the variances."""
        flat = x_train.flatten(1)
        center = flat.mean(dim=0)
        values, vectors = torch.linalg.eigh((flat - center).T.cov(correction=0).reshape(flat.shape[1], -1))
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        explained = values.cumsum(0) / values.sum().clamp_min(1e-12)
        kept = min(int((explained < self.share).sum()) + 1, len(values))
        floor = SMALLEST_DEVIATION**2
        rest = values[kept:].sum() + floor * (len(values) - kept)
        self.keep(
            center=center,
            components=vectors[:, :kept],
            variances=values[:kept] + floor,
            rest=rest if kept < len(values) else torch.ones(()),
        )

    def check(self) -> None:
        """Raise ValueError unless there is a positive variance for each component."""
        require(self.components.shape[1] == len(self.variances) > 0, "its components and variances differ in number")
        require(bool((self.variances > 0).all() and self.rest > 0), "a variance is not positive")

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the last cell of the projection (B, F)."""
        offset = x.flatten(1) - self.center
        along = offset @ self.components
        inside = along @ self.components.T
        pull = (along * self.variances.rsqrt()) @ self.components.T
        shares = pull.square() / len(self.variances) + (offset - inside).square() / self.rest
        parts = 0.5 * self.features * by_channel(shares, self.length, self.features)
        return parts, (self.center + inside)[:, -self.features :]
