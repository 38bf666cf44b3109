"""Autoencoder: what can't be squeezed through a narrow middle and restored was not in the training data.

    z = f(x),  x̂ = g(z),  loss = mean over t, c of (x − x̂)²
    part_c  = w_c · mean over t of (x_tc − x̂_tc)²,   w_c = 1 / max(r_c, r_min)²
    score   = mean over c of part_c

r_c is the root mean square residual of channel c on the training windows: a channel the network restores well counts
its small errors as much as a noisy channel its large ones, so the score is about 1 on normal data.
Source: Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006;
as a detector: Sakurada & Yairi, "Anomaly detection using autoencoders with nonlinear dimensionality reduction", 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import AEConfig, ModelConfig
from stream_detector.errors import ConfigError
from stream_detector.models.base import Detector

#: r_min, in units of a channel's normal spread. Residuals below it are the network's own wobble; without it a channel
#: constant in training would have a near-infinite weight.
SMALLEST_RESIDUAL = 0.05


class AE(Detector):
    """Autoencoder with a dense or a convolutional body; score = channel-weighted mean square error."""

    kind = "ae"
    weight: Tensor

    def __init__(self, body: nn.Module, features: int) -> None:
        """Wrap a body (B, T, F) -> (B, T, F)."""
        super().__init__()
        self.body = body
        self.register_buffer("weight", torch.ones(features))  # (F,) w_c

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted autoencoder. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, AEConfig)
        if config.body == "dense":
            return cls(DenseBody(length, features, config.hidden, config.latent), features)
        if config.kernel % 2 == 0:
            raise ConfigError(f"model.kernel must be odd, so that windows keep their length; got {config.kernel}")
        return cls(ConvBody(length, features, config.hidden, config.latent, config.kernel), features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction x̂, (B, T, F) -> (B, T, F)."""
        restored: Tensor = self.body(x)
        return restored

    def training_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean square reconstruction error of a minibatch."""
        loss: Tensor = (x - self(x)).square().mean()
        return loss

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the last cell of the reconstruction (B, F)."""
        restored = self(x)
        return self.weight * (x - restored).square().mean(dim=1), restored[:, -1]

    def finalise(self, x_train: Tensor) -> None:
        """Set w_c from the residuals of the training windows."""
        square = torch.zeros(x_train.shape[-1], dtype=torch.float64)
        for chunk in torch.split(x_train, 4096):
            square += (chunk - self(chunk)).square().sum(dim=(0, 1)).double()
        residual = (square / (x_train.shape[0] * x_train.shape[1])).sqrt().clamp_min(SMALLEST_RESIDUAL)
        self.weight.copy_(residual.pow(-2))


class DenseBody(nn.Sequential):
    """T·F - hidden - latent - hidden reversed - T·F on the flattened window, ELU between the layers."""

    def __init__(self, length: int, features: int, hidden: Sequence[int], latent: int) -> None:
        """Build for windows (B, length, features)."""
        widths = [length * features, *hidden, latent, *reversed(hidden), length * features]
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(before, after))
            # linear into the bottleneck and out of the last layer: neither code nor signal is bounded
            if index not in (len(hidden), len(widths) - 2):
                layers.append(nn.ELU())
        super().__init__(*layers, nn.Unflatten(1, (length, features)))


class ConvBody(nn.Module):
    """Convolutions of stride 2 along time, a dense bottleneck, and the mirror image back.

    Each level halves the length (rounded up) and has `hidden[i]` channels; what is left is mapped to `latent` numbers.
    The bottleneck is one vector for the whole window, so the network can't become the identity however long or narrow
    the window is. Any length works: the decoder's transposed convolutions restore each level's own length.
    """

    def __init__(self, length: int, features: int, hidden: Sequence[int], latent: int, kernel: int) -> None:
        """Build for windows (B, length, features); `kernel` is odd."""
        super().__init__()
        widths = [features, *hidden]
        lengths = [length]
        down: list[nn.Module] = []
        for before, after in pairwise(widths):
            down += [nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2), nn.ELU()]
            lengths.append((lengths[-1] + 1) // 2)
        up: list[nn.Module] = []
        for level in range(len(hidden), 0, -1):
            surplus = lengths[level - 1] - (2 * lengths[level] - 1)  # 0 or 1: which of the two lengths was halved
            up += [
                nn.ELU(),
                nn.ConvTranspose1d(
                    widths[level], widths[level - 1], kernel, stride=2, padding=kernel // 2, output_padding=surplus
                ),
            ]
        flat = widths[-1] * lengths[-1]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, flat), nn.Unflatten(1, (widths[-1], lengths[-1])), *up)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction, (B, T, F) -> (B, T, F)."""
        restored: Tensor = self.decoder(self.encoder(x.transpose(1, 2)))  # convolutions want (B, F, T)
        return restored.transpose(1, 2)
