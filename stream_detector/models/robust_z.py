"""Robust z-scores with control charts: each channel is compared with its own median and spread.

    z = (x − median) / s,   s = (q90 − q10)/2.563
    last    y = z_T
    ewma    y = Σ_k λ(1−λ)^k z_{T−k} / Σ_k λ(1−λ)^k                                    Roberts 1959
    cusum   y = max(C⁺_T, C⁻_T),  C±_t = max(0, C±_{t−1} ± z_t − drift),  C±_0 = 0     Page 1954
    part_c  = (y_c / s_c)²,   score = mean over c of part_c

s_c is the root mean square of y_c on the training windows. So the score is about 1 on normal data even for strongly
autocorrelated channels; the textbook limits assume independent values, which sensor readings are not.
A chart restarts in every window, so that a window's score depends on no other window.
Source: Roberts, "Control chart tests based on geometric moving averages", Technometrics 1, 1959; Page, "Continuous
inspection schemes", Biometrika 41, 1954; both in Montgomery, "Introduction to statistical quality control".
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import RobustZConfig
from stream_detector.models.closed_form import SMALLEST_DEVIATION, ClosedFormDetector, require

#: (q90 - q10) of a Gaussian is 2.563 standard deviations.
GAUSSIAN_DECILES = 2.563


class RobustZ(ClosedFormDetector):
    """Control chart of each channel; score = mean of the squared chart statistics."""

    kind = "robust-z"
    center: Tensor
    spread: Tensor
    usual: Tensor

    def __init__(self, config: RobustZConfig, features: int) -> None:
        """Make an unfitted detector of any window length."""
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(features))  # (F,) median
        self.register_buffer("spread", torch.ones(features))  # (F,) s
        self.register_buffer("usual", torch.ones(features))  # (F,) s_c

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, RobustZConfig)
        return cls(config, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set median and spread from all cells, then the root mean square of the chart's statistic."""
        cells = x_train.reshape(-1, x_train.shape[-1])
        ranked = cells.sort(dim=0).values
        low, middle, high = (ranked[round(share * (len(cells) - 1))] for share in (0.1, 0.5, 0.9))
        spread = (high - low) / GAUSSIAN_DECILES
        spread = torch.where(spread > SMALLEST_DEVIATION, spread, cells.std(dim=0, correction=0))
        self.keep(center=middle, spread=spread.clamp_min(SMALLEST_DEVIATION))
        charted = self._chart(x_train)
        self.keep(usual=charted.square().mean(dim=0).sqrt().clamp_min(SMALLEST_DEVIATION))

    def check(self) -> None:
        """Raise ValueError unless the spreads are positive: they are divisors."""
        require(bool((self.spread > 0).all() and (self.usual > 0).all()), "a spread is not positive")

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the medians (B, F)."""
        return (self._chart(x) / self.usual).square(), self.center.expand(len(x), -1)

    def _chart(self, x: Tensor) -> Tensor:
        """Return y (B, F)."""
        z = (x - self.center) / self.spread
        length = z.shape[1]
        if self.config.chart == "ewma":
            age = torch.arange(length - 1, -1, -1, device=x.device, dtype=x.dtype)
            weight = (1.0 - self.config.weight) ** age
            return (z * (weight / weight.sum())[:, None]).sum(dim=1)
        if self.config.chart == "cusum":
            up, down = torch.zeros_like(z[:, 0]), torch.zeros_like(z[:, 0])
            for cell in range(length):
                up = (up + z[:, cell] - self.config.drift).clamp_min(0.0)
                down = (down - z[:, cell] - self.config.drift).clamp_min(0.0)
            return torch.maximum(up, down)
        return z[:, -1]
