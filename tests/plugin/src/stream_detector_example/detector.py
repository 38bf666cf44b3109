"""Each channel's exponential moving average over the window, less its mean, in standard deviations.

y = Σ_k λ(1−λ)^k x_{T−k} / Σ_k λ(1−λ)^k,   part_c = ((y_c − mean y_c) / sd y_c)²,   score = mean over c of part_c
"""

from __future__ import annotations

from typing import Self

import torch
from stream_detector_example.settings import EwmaZConfig
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.models import Detector, FitReport, Progress

#: Smallest standard deviation, in spreads of the training data: a constant channel must not divide by 0.
SMALLEST = 0.05


class EwmaZ(Detector):
    """Control chart of each channel by itself."""

    kind = "ewma-z"
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: EwmaZConfig, features: int) -> None:
        """Make an unfitted detector of windows of any length."""
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(features))  # (F,)
        self.register_buffer("deviation", torch.ones(features))  # (F,)

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, EwmaZConfig)
        return cls(config, features)

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Set mean and deviation from windows (N, T, F); later ones are left for the calibration."""
        charted = self._chart(x_train.double())
        self.mean = charted.mean(dim=0).float()
        self.deviation = charted.std(dim=0, correction=0).clamp_min(SMALLEST).float()
        self.eval()
        return FitReport(epochs=0, best_epoch=0, losses=(), val_losses=())

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the means (B, F)."""
        return ((self._chart(x) - self.mean) / self.deviation).square(), self.mean.expand(len(x), -1)

    def _chart(self, x: Tensor) -> Tensor:
        """Return y, (B, T, F) -> (B, F)."""
        age = torch.arange(x.shape[1] - 1, -1, -1, device=x.device, dtype=x.dtype)
        weight = (1.0 - self.config.weight) ** age
        return (x * (weight / weight.sum())[:, None]).sum(dim=1)
