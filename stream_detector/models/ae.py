"""Autoencoder: windows unlike the training data can't be reconstructed from a narrow code, so their error is large.

    z = f(Wx + b),  x̂ = g(W'z + b'),  loss = mean over t, c of (x − x̂)²
    part_c  = w_c · mean over t of (x_tc − x̂_tc)²,   w_c = 1 / max(r_c, r_min)²
    score   = mean over c of part_c

The equations show one layer for the encoder and one for the decoder; the body may have more (see bodies.py).
r_c is the root mean square residual of channel c on the training windows. Division by it gives small errors of a
well reconstructed channel the same weight as large errors of a noisy one, and a mean score of about 1 in training.
Source: Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006;
as a detector: Sakurada & Yairi, "Anomaly detection using autoencoders with nonlinear dimensionality reduction", 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig
from stream_detector.config.model import AEConfig
from stream_detector.models.base import Detector
from stream_detector.models.bodies import make_decoder, make_encoder

#: r_min, in units of a channel's normal spread. Residuals below it come from the network, not from the signal; without
#: this floor a channel that is constant in training would have a near-infinite weight.
SMALLEST_RESIDUAL = 0.05


class AE(Detector):
    """Autoencoder; score = channel-weighted mean square error."""

    kind = "ae"
    stacks = True
    weight: Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module, features: int) -> None:
        """Join an encoder (B, T, F) -> (B, latent) and a decoder (B, latent) -> (B, T, F)."""
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("weight", torch.ones(features))  # (F,) w_c

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted autoencoder. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, AEConfig)
        encoder = make_encoder(config, length, features, config.latent)
        return cls(encoder, make_decoder(config, length, features, config.latent), features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction x̂, (B, T, F) -> (B, T, F)."""
        restored: Tensor = self.decoder(self.encoder(x))
        return restored

    def training_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean square reconstruction error of a minibatch."""
        loss: Tensor = (x - self(x)).square().mean()
        return loss

    def weighted_loss(self, x: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted mean of the windows' mean square errors."""
        return (weight * (x - self(x)).square().mean(dim=(1, 2))).sum(), {}

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the last cell of the reconstruction (B, F)."""
        restored = self(x)
        return self.weight * (x - restored).square().mean(dim=1), restored[:, -1]

    def finalise(self, x_train: Tensor) -> None:
        """Set w_c from the residuals of the training windows."""
        self.weight.copy_(residual_weights(x_train, lambda chunk: chunk - self(chunk)))


def residual_weights(x_train: Tensor, residual: Callable[[Tensor], Tensor]) -> Tensor:
    """Return w_c = 1 / max(r_c, r_min)², (K,) float64, of `residual` (n, T, F) -> (n, T, K) over windows (N, T, F)."""
    sums = [residual(chunk).square().mean(dim=1).sum(dim=0).double() for chunk in torch.split(x_train, 4096)]
    mean = torch.stack(sums).sum(dim=0) / len(x_train)
    return mean.sqrt().clamp_min(SMALLEST_RESIDUAL).pow(-2)
