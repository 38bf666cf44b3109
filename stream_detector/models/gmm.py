"""Mixture of Gaussians: negative log-likelihood of the window, for machines with several normal operating states.

    p(x) = Σ_k π_k N(x; μ_k, Σ_k),   c_k = log π_k − ½ log det Σ_k,   d_k² = (x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)
    score = 2/D · (log Σ_k exp c_k − log Σ_k exp(c_k − ½ d_k²)) >= 0

That is −log p less its lower bound, times 2/D: with one Gaussian d²/D, with several about d_k²/D of the nearest.
part_c = mean over t of Σ_k ρ_k (W_k (x − μ_k))²_tc, scaled so that its mean over c is the score; ρ_k: responsibility of
Gaussian k, W_k: the corr-max root of Σ_k⁻¹ (whitening.py). expected: last cell of Σ_k ρ_k μ_k.
Fitted by scikit-learn: expectation maximisation from k-means. Source: Dempster, Laird & Rubin, "Maximum likelihood from
incomplete data via the EM algorithm", Journal of the Royal Statistical Society B 39, 1977.
"""

from __future__ import annotations

import warnings
from typing import Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import GMMConfig
from stream_detector.models.base import Judged
from stream_detector.models.closed_form import SMALLEST_DEVIATION, ClosedFormDetector, require
from stream_detector.models.mahalanobis import vector_size
from stream_detector.models.whitening import by_channel, corr_max

#: Minimum number of training windows per Gaussian.
FEWEST = 10


class GMM(ClosedFormDetector):
    """Gaussian mixture of the flattened window; score about 1 on normal data of one cluster."""

    kind = "gmm"
    height: Tensor
    center: Tensor
    whiten: Tensor

    def __init__(self, config: GMMConfig, length: int, features: int) -> None:
        """Make an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        super().__init__()
        self.config, self.length, self.features = config, length, features
        full = config.covariance == "full"
        size = vector_size(length, features, self.kind) if full else length * features
        self.register_buffer("height", torch.zeros(0))  # (K,) c_k
        self.register_buffer("center", torch.zeros(0, size))  # (K, D) μ_k
        self.register_buffer("whiten", torch.zeros((0, size, size) if full else (0, size)))  # W_k, or its diagonal

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when windows are too wide for a covariance."""
        assert isinstance(config, GMMConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set weights, means and whitening matrices."""
        from sklearn.exceptions import ConvergenceWarning  # deferred: slow to import
        from sklearn.mixture import GaussianMixture

        flat = x_train.flatten(1)
        mixture = GaussianMixture(
            n_components=max(1, min(self.config.clusters, len(flat) // FEWEST)),
            covariance_type=self.config.covariance,
            reg_covar=SMALLEST_DEVIATION**2,
            random_state=config.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that has not fully converged is usable
            mixture.fit(flat.numpy())
        covariances = torch.from_numpy(mixture.covariances_)
        if self.config.covariance == "full":
            whiten = torch.stack([corr_max(covariance) for covariance in covariances])
            volume = torch.logdet(covariances)
        else:
            whiten = covariances.rsqrt()
            volume = covariances.log().sum(dim=1)
        height = torch.from_numpy(mixture.weights_).log() - 0.5 * volume
        self.keep(height=height, center=torch.from_numpy(mixture.means_), whiten=whiten)

    def check(self) -> None:
        """Raise ValueError unless each Gaussian has a weight, a mean and a matrix."""
        require(
            len(self.height) == len(self.center) == len(self.whiten) > 0, "its Gaussians lack a weight, mean or matrix"
        )

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the expected last cell (B, F) in one pass."""
        squares = self._squares(x.flatten(1))
        joint = self.height - 0.5 * squares.sum(dim=2)  # (B, K)
        score = 2.0 / squares.shape[2] * (self.height.logsumexp(dim=0) - joint.logsumexp(dim=1))
        share = joint.softmax(dim=1)
        parts = by_channel((share[:, :, None] * squares).sum(dim=1), self.length, self.features)
        mean = parts.mean(dim=1, keepdim=True)
        parts = torch.where(mean > 0, parts / mean * score[:, None], parts)
        return Judged(score, parts.clamp_min(0.0), (share @ self.center)[:, -self.features :])

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the expected last cell (B, F)."""
        judged = self.judge(x, seeds)
        return judged.parts, judged.expected

    def _squares(self, flat: Tensor) -> Tensor:
        """Return (W_k (x − μ_k))², (B, K, D)."""
        if self.whiten.ndim == 2:
            return ((flat[:, None, :] - self.center) * self.whiten).square()
        found = [(flat - mean) @ root.T for mean, root in zip(self.center, self.whiten, strict=True)]
        return torch.stack(found, dim=1).square()
