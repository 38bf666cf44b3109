"""Nearest neighbours: mean square distance of the window from the training windows most like it.

    score  = mean over the k nearest training windows r, over t and c, of (x_tc − r_tc)²
    part_c = mean over these r and over t of (x_tc − r_tc)²,   expected = mean of their last cells

Source: Ramaswamy, Rastogi & Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000; the
mean instead of the k-th distance: Angiulli & Pizzuti, "Fast outlier detection in high dimensional spaces", PKDD 2002.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import KNNConfig
from stream_detector.models.closed_form import ClosedFormDetector, require

#: Maximum number of values in all training windows kept: 64 MiB.
MOST_NUMBERS = 1 << 24
#: Number of extra candidates, besides the neighbours, that the fast but less exact distance selects.
SPARE = 8


class KNN(ClosedFormDetector):
    """Mean square distance to the nearest training windows."""

    kind = "knn"
    reference: Tensor

    def __init__(self, config: KNNConfig, length: int, features: int) -> None:
        """Make an unfitted detector."""
        super().__init__()
        self.neighbours, self.most = config.neighbours, config.references
        self.register_buffer("reference", torch.zeros(0, length, features))  # (R, T, F)

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, KNNConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Keep evenly spaced training windows."""
        count = max(1, min(len(x_train), self.most, MOST_NUMBERS // x_train[0].numel()))
        chosen = (torch.arange(count, dtype=torch.float64) + 0.5) * (len(x_train) / count)
        self.keep(reference=x_train[chosen.long()])

    def check(self) -> None:
        """Raise ValueError when there is no window to compare with."""
        require(len(self.reference) > 0, "it holds no reference windows")

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the mean of the neighbours' last cells (B, F)."""
        flat, known = x.flatten(1), self.reference.flatten(1)
        # One matrix product selects the candidates. Its cancellation errors depend on the batch, so the candidates'
        # distances are then computed exactly.
        rough = known.square().sum(dim=1) - 2.0 * flat @ known.T
        count = min(self.neighbours, len(known))
        candidates = rough.topk(min(count + SPARE, len(known)), dim=1, largest=False).indices
        squares = (x[:, None] - self.reference[candidates]).square()  # (B, candidates, T, F)
        nearest = squares.mean(dim=(2, 3)).topk(count, dim=1, largest=False).indices
        picked = nearest[:, :, None, None].expand(-1, -1, *squares.shape[2:])
        parts = squares.gather(1, picked).mean(dim=(1, 2))
        chosen = candidates.gather(1, nearest)
        return parts, self.reference[:, -1][chosen].mean(dim=1)
