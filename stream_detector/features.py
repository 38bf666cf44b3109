"""From an unscaled window to what a model sees: small steps in a row, part of the artifact.

    x (B, T, C) ─ Difference ─▶ ─ Smooth, keep last K ─▶ physical units (B, K, C) ─ Scale ─▶ z (B, K, C)

All of it runs in float64, whatever the model's precision: a small change on a large offset must survive.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.config import FeatureConfig
from stream_detector.errors import ConfigError

#: (q90 - q10) of a Gaussian is 2.563 standard deviations.
GAUSSIAN_DECILES = 2.563
#: A spread below this share of a column's center is the rounding of smoothing a constant, not a signal.
NOISE_SHARE = 1e-12
#: Scale of a column that is constant in training, as a share of its magnitude.
CONSTANT_SHARE = 0.01
#: Smoothing is one matrix product while the matrix has at most so many entries, else log2(T) shifted sums.
MATRIX_ENTRIES = 1 << 20


class Difference(nn.Module):
    """Change from cell to cell: (B, T, C) -> (B, T-1, C), in units per cell."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x[t] - x[t-1]."""
        return x[:, 1:] - x[:, :-1]


class Smooth(nn.Module):
    """Causal exponential moving average along the window, last `keep` cells: (B, T, C) -> (B, keep, C).

    y[t] = Σ_k w_k x[t-k] / Σ_k w_k with w_k = α(1-α)^k, k = 0..t: the weights of what the window holds sum to 1, so
    the first cells are averages of few cells rather than biased to zero. α is the weight of the newest cell.
    """

    weights: Tensor

    def __init__(self, alpha: float, length: int, keep: int) -> None:
        """Prepare for windows of `length` cells. The weights follow from the config, so they are not saved."""
        super().__init__()
        self.decay, self.length, self.keep = 1.0 - alpha, length, keep
        self.by_matrix = keep * length <= MATRIX_ENTRIES
        if self.by_matrix:
            age = np.arange(length - keep, length)[:, None] - np.arange(length)[None, :]
            matrix = np.where(age >= 0, self.decay ** np.maximum(age, 0), 0.0)
            weights = matrix / matrix.sum(axis=1, keepdims=True)  # (keep, T)
        else:
            weights = np.cumsum(self.decay ** np.arange(length))[length - keep :, None]  # (keep, 1) Σ_k w_k / α
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smoothed last `keep` cells."""
        if self.by_matrix:
            return torch.matmul(self.weights, x)  # one small product a window: no window's value depends on the others
        reach = 1
        while reach < self.length:  # after this x[t] holds the weighted sum of the last 2·reach cells
            x = torch.cat((x[:, :reach], x[:, reach:] + self.decay**reach * x[:, :-reach]), dim=1)
            reach *= 2
        return x[:, -self.keep :] / self.weights


class Keep(nn.Module):
    """Last `keep` cells: (B, T, C) -> (B, keep, C)."""

    def __init__(self, keep: int) -> None:
        """Keep so many."""
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """Return the last cells."""
        return x[:, -self.keep :]


class Scale(nn.Module):
    """z = (x - center) / scale per column, clipped to ±clip; both learnt from the training part by `fit`.

    `robust`: median and (q90 - q10)/2.563, which a few outliers in training can't move. `standard`: mean and standard
    deviation. Where the robust spread is nil because a column sits on one value most of the time, its standard
    deviation is used. A column that is truly constant in training has no spread to measure: one "unit" is then 1 % of
    its magnitude (1 when it is zero throughout), so that it neither divides by zero nor turns rounding into an alarm,
    but a sensor that leaves its constant by more than a few percent stands out.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, columns: int, scaling: Literal["robust", "standard"], clip: float | None) -> None:
        """Start as the identity."""
        super().__init__()
        self.scaling, self.clip = scaling, clip
        self.register_buffer("center", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))

    def fit(self, x: Tensor) -> None:
        """Learn center and scale from (N, K, C) values in physical units."""
        columns = x.reshape(-1, x.shape[-1])
        for index in range(x.shape[-1]):  # column by column: a sorted copy of the whole history may not fit
            center, scale = self._measure(columns[:, index].double().cpu().numpy())
            self.center[index], self.scale[index] = center, scale

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., C) values in physical units."""
        z = (x - self.center) / self.scale
        return z if self.clip is None else z.clamp(-self.clip, self.clip)

    def inverse(self, z: Tensor) -> Tensor:
        """Return scaled values (..., C) to physical units; what was clipped stays clipped."""
        return z.to(self.center.dtype) * self.scale + self.center

    def _measure(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
        deviation = float(values.std())
        if self.scaling == "robust":
            low, center, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
            spread = (high - low) / GAUSSIAN_DECILES
        else:
            center, spread = float(values.mean()), deviation
        noise = NOISE_SHARE * abs(center)
        if spread <= noise:
            spread = deviation
        if spread <= noise:
            spread = CONSTANT_SHARE * abs(center) or 1.0
        return center, spread


class Preprocess(nn.Module):
    """Window (B, T, C) in physical units -> model input (B, `length`, `columns`), by the steps of a FeatureConfig."""

    def __init__(self, config: FeatureConfig, length: int, columns: int) -> None:
        """Prepare for windows of `length` cells and `columns` columns.

        Raises ConfigError when the window is too short for differences, or `features.keep` for what they leave.
        """
        super().__init__()
        steps: list[nn.Module] = []
        if config.difference:
            if length < 2:
                raise ConfigError(f"features.difference needs window.length of at least 2, got {length}")
            steps.append(Difference())
            length -= 1
        keep = length if config.keep is None else config.keep
        if keep > length:
            raise ConfigError(
                f"features.keep must be in 1..{length} (window.length, less 1 for features.difference), got {keep}"
            )
        if config.smoothing is not None:
            steps.append(Smooth(config.smoothing, length, keep))
        elif keep < length:
            steps.append(Keep(keep))
        self.length = keep
        """Cells of the model's input."""
        self.columns = columns
        """Columns of the model's input."""
        self.physical = nn.Sequential(*steps)
        """The steps before scaling: (B, T, C) float64 -> (B, length, C), still in physical units."""
        self.scaler = Scale(columns, config.scaling, config.clip)
        """The last step."""

    def fit(self, x: Tensor) -> None:
        """Learn center and scale from training windows (N, T, C), from nothing else."""
        self.scaler.fit(self.physical(x.double()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's input (B, length, columns) in float64."""
        scaled: Tensor = self.scaler(self.physical(x.double()))
        return scaled

    def inverse(self, z: Tensor) -> Tensor:
        """Return one scaled cell (B, columns) to physical units; with `difference`, to units per cell."""
        return self.scaler.inverse(z)
