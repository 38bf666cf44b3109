"""Variational autoencoder: how improbable is the window under what the network makes of its own idea of it?

    q(z|x) = N(μ(x), diag σ²(x)),   p(x|z) = N(m(z), diag s²(z)),   p(z) = N(0, I)
    loss   = E_q [−log p(x|z)] + β · KL(q(z|x) ‖ p(z)),   KL = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)
    score  = 1/L Σ_l −log p(x|z_l),  z_l = μ + σ ε_l,  per value: divided by T·F

The score is the reconstruction probability of An & Cho, as a negative logarithm in nats. β rises from 0 to its value
in the first passes (warm-up), so that the code is in use before the prior pulls at it. The decoder's log-variance is
at least v_min, else one feature restored well would outweigh all others, and at most v_max, else the decoder could
explain a fault as noise. s² is learnt for each feature (`variance: feature`), or is a second output of the decoder
(`variance: value`), which suits noise that depends on the state, but lets the decoder call strange windows noisy.

ε comes from the window's seed (see noise.py): the same window has the same score in every batch and every replay.

    part_c = mean over l, t of ½ (log s² − v_min + (x − m)² / s²) >= 0
    score  = mean over c of part_c + ½ (log 2π + v_min)

A part is what the channel adds to the lowest score there can be, ½ (log 2π + v_min) = 0.169.
Source: Kingma & Welling, "Auto-encoding variational Bayes", ICLR 2014; An & Cho, "Variational autoencoder based
anomaly detection using reconstruction probability", SNU 2015; one variance a feature: Rybkin, Daniilidis & Levine,
"Simple and effective VAE training with calibrated decoders", ICML 2021; warm-up: Sønderby et al., "Ladder variational
autoencoders", NeurIPS 2016.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config_model import VAEConfig
from stream_detector.models.base import Detector, Judged
from stream_detector.models.bodies import make_decoder, make_encoder
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient
from stream_detector.models.noise import seeded_normal

#: v_min, log-variance of a value in units of its channel's normal variance.
LOG_VARIANCE_MIN = -1.5
#: v_max.
LOG_VARIANCE_MAX = 2.0
#: Bounds of log σ²: beyond them exp() has no meaning any more.
CODE_LOG_VARIANCE = (-12.0, 6.0)
#: The lowest score there can be.
LOWEST = 0.5 * (math.log(2 * math.pi) + LOG_VARIANCE_MIN)


class VAE(Detector):
    """Variational autoencoder; score = mean of −log p(x|z) over draws of z, per value."""

    kind = "vae"
    draws = True

    def __init__(self, encoder: nn.Module, decoder: nn.Module, features: int, config: VAEConfig) -> None:
        """Join an encoder (B, T, F) -> (B, 2·latent) and a decoder (B, latent) -> (B, T, F or, by value, 2·F)."""
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.log_variance = nn.Parameter(torch.zeros(features)) if config.variance == "feature" else None
        self.beta, self.warm_up, self.samples = config.beta, config.warm_up, config.samples
        self._beta_now = self.beta

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, VAEConfig)
        encoder = make_encoder(config, length, features, 2 * config.latent)
        outputs = features if config.variance == "feature" else 2 * features
        return cls(encoder, make_decoder(config, length, outputs, config.latent), features, config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), each (B, latent), for x (B, T, F)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(*CODE_LOG_VARIANCE)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of p(x|z), each (B, T, F), for z (B, latent)."""
        if self.log_variance is not None:
            mean = self.decoder(z)
            log_variance = self.log_variance.expand_as(mean)
        else:
            mean, log_variance = self.decoder(z).chunk(2, dim=2)
        return mean, log_variance.clamp(LOG_VARIANCE_MIN, LOG_VARIANCE_MAX)

    def training_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a minibatch per value, with one draw of z a window."""
        mean, log_variance = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        excess = _excess(x, *self.decode(mean + (0.5 * log_variance).exp() * noise)).sum(dim=(1, 2))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        beta = self._beta_now if self.training else self.beta  # passes are compared by one and the same loss
        return (excess + beta * divergence).mean() / x[0].numel()

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Minimise the loss with warm-up."""

        def warm(done: float) -> None:
            self._beta_now = self.beta * min(1.0, done / self.warm_up) if self.warm_up else self.beta

        return fit_by_gradient(self, self.training_loss, x_train, x_val, config, progress, warm)

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), parts (B, F) and expectation in one pass."""
        parts, expected = self.channel_errors(x, seeds)
        return Judged(parts.mean(dim=1) + LOWEST, parts, expected)

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the last cell of the decoder's mean over the draws (B, F)."""
        if seeds is None:
            raise ValueError("a VAE draws samples: it needs a seed for each window")
        mean, log_variance = self.encode(x)
        noise = seeded_normal(seeds, self.samples * mean.shape[1]).to(mean).reshape(len(x), self.samples, -1)
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * noise  # (B, L, latent)
        restored, spread = self.decode(z.flatten(0, 1))  # (B·L, T, F)
        drawn = (len(x), self.samples, *x.shape[1:])
        restored = restored.reshape(drawn)
        parts = _excess(x[:, None], restored, spread.reshape(drawn)).mean(dim=(1, 2))
        return parts, restored[:, :, -1].mean(dim=1)


def _excess(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return −log N(x; mean, variance) − LOWEST of each value."""
    return 0.5 * (log_variance - LOG_VARIANCE_MIN + (x - mean).square() * (-log_variance).exp())
