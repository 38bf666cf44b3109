"""Division of Mahalanobis distances into contributions of the variables."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_detector.models.closed_form import SMALLEST_DEVIATION


def corr_max(covariance: Tensor) -> Tensor:
    """Return W (D, D) with |W d|² = dᵀ Σ⁻¹ d and each (W d)_j correlated with d_j as much as possible, for Σ (D, D).

    W = P^(−1/2) diag(Σ)^(−1/2), P: the correlation matrix; this is the corr-max transformation. The squares (W d)_j²
    divide a squared Mahalanobis distance into non-negative contributions. Source: Garthwaite & Koch, "Evaluating the
    contributions of individual variables to a quadratic form", Australian & New Zealand Journal of Statistics 58, 2016.
    """
    deviation = covariance.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(covariance / deviation[:, None] / deviation[None, :])
    root = vectors * values.clamp_min(1e-9).rsqrt() @ vectors.T
    whiten: Tensor = root / deviation[None, :]
    return whiten


def floored(covariance: Tensor) -> Tensor:
    """Return Σ + SMALLEST_DEVIATION² I, which is invertible and gives constant channels a spread."""
    return covariance + SMALLEST_DEVIATION**2 * torch.eye(len(covariance), dtype=covariance.dtype)


def by_channel(squares: Tensor, length: int, features: int) -> Tensor:
    """Sum squares (B, T·F) over time -> (B, F)."""
    return squares.reshape(len(squares), length, features).sum(dim=1)
