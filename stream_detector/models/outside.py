"""How far a window lies outside the range of the training windows: what bounded scores can't tell.

    o_c = mean over t of max(0, x_tc − high_c, low_c − x_tc)²,   low_c, high_c: range of feature c in training

Trees and histograms end with the values that they have seen, and points on a sphere are never further apart than its
diameter. Their score of 5 spreads may be that of 500, and lie below any level that extreme values of normal scores
lead to. Multiplied by 1 + Σ_c o_c it goes on outside the range, and stays as it is inside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: No value is beyond it; artifacts hold finite numbers only.
NO_BOUND = float(torch.finfo(torch.float32).max)


class Outside(nn.Module):
    """o of windows (B, T, F); 0 until `learn` has set a range."""

    low: Tensor
    high: Tensor

    def __init__(self, features: int) -> None:
        """Begin with no bounds."""
        super().__init__()
        self.register_buffer("low", torch.full((features,), -NO_BOUND))
        self.register_buffer("high", torch.full((features,), NO_BOUND))

    def learn(self, x_train: Tensor) -> None:
        """Set the range of training windows (N, T, F)."""
        self.low = x_train.amin(dim=(0, 1)).to(self.low.dtype).contiguous()
        self.high = x_train.amax(dim=(0, 1)).to(self.high.dtype).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Return o (B, F) of windows (B, T, F)."""
        return torch.maximum(x - self.high, self.low - x).clamp_min(0.0).square().mean(dim=1)


def with_range(tensors: Mapping[str, Tensor], features: int, prefix: str = "outside.") -> dict[str, Tensor]:
    """Return an artifact's tensors with a range without bounds where they have none: those of versions before 0.3."""
    bounds = {f"{prefix}low": -NO_BOUND, f"{prefix}high": NO_BOUND}
    if tensors.keys() & bounds.keys():
        return dict(tensors)
    return {**tensors, **{name: torch.full((features,), bound) for name, bound in bounds.items()}}
