"""Variational autoencoder: negative log-likelihood of the window under the decoder, averaged over draws of its code.

    q(z|x) = N(μ(x), diag σ²(x)),   p(x|z) = N(m(z), diag s²),   p(z) = N(0, I)
    loss   = E_q [−log p(x|z)] + β · KL(q(z|x) ‖ p(z)),   KL = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)
    score  = 1/L Σ_l −log p(x|z_l) per value (divided by T·F), less its lower bound,   z_l = μ + σ ε_l
    part_c = mean over l, t of ½ (log s² − v_c + (x − m)² / s²) >= 0,   score = mean over c of part_c

The score is the reconstruction probability of An & Cho, as a negative logarithm in nats. A density can exceed 1, so
−log p can be negative. Therefore its lower bound ½ (log 2π + v_c), a constant of the trained detector, is subtracted:
the order of scores does not change, no score is below 0, and the ratio of a score to a threshold has a meaning.

β rises from 0 to its value in the first passes (warm-up), so that the code carries information before the prior
constrains it.

`variance: feature`: s² is one number per feature, the mean square of x − m, which minimises the loss. It is a running
mean during training and is measured on all training windows at the end. v_c = log s_c².
`variance: value`: log s² is a second output of the decoder, a function of z. This suits noise that depends on the
machine's state, but lets the decoder explain anomalous windows as noise. v_c = v_min.
In both cases s² has a floor; without it a feature that is reconstructed almost perfectly would outweigh all others.

ε comes from the window's seed (see noise.py): the same window has the same score in every batch and when replayed.
Source: Kingma & Welling, "Auto-encoding variational Bayes", ICLR 2014; An & Cho, "Variational autoencoder based
anomaly detection using reconstruction probability", SNU 2015; the best variance: Rybkin, Daniilidis & Levine, "Simple
and effective VAE training with calibrated decoders", ICML 2021; warm-up: Sønderby et al., "Ladder variational
autoencoders", NeurIPS 2016.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.model import VAEConfig
from stream_detector.models.base import Detector
from stream_detector.models.bodies import make_decoder, make_encoder
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient
from stream_detector.models.noise import seeded_normal

#: Lowest log s² of a feature, in units of its normal variance: a residual of 8 % of the normal spread.
FEATURE_FLOOR = -5.0
#: v_min and v_max, the bounds of log s² as the decoder's output. The lower bound is above FEATURE_FLOOR because the
#: decoder soon predicts too small a variance for training windows.
VALUE_BOUNDS = (-1.5, 2.0)
#: Bounds of log σ²: beyond them exp() is numerically useless.
CODE_BOUNDS = (-12.0, 6.0)
#: Weight of a minibatch in the running mean of s².
MOMENTUM = 0.05


class VAE(Detector):
    """Variational autoencoder; score = mean of −log p(x|z) over draws of z, per value, above its lowest."""

    kind = "vae"
    stochastic = True
    usual_part = 0.5
    stacks = True
    log_variance: Tensor | None

    def __init__(self, encoder: nn.Module, decoder: nn.Module, features: int, config: VAEConfig) -> None:
        """Join an encoder (B, T, F) -> (B, 2·latent) and a decoder (B, latent) -> (B, T, F or, by value, 2·F)."""
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("log_variance", torch.zeros(features) if config.variance == "feature" else None)
        self.beta, self.warm_up, self.samples = config.beta, config.warm_up, config.samples
        self._beta_now = self.beta
        self.noise_width = config.latent

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
        return mean, log_variance.clamp(*CODE_BOUNDS)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (B, T, F) and log-variance, (B, T, F) or (F,), of p(x|z) for z (B, latent)."""
        if self.log_variance is not None:
            return self.decoder(z), self.log_variance
        mean, log_variance = self.decoder(z).chunk(2, dim=2)
        return mean, log_variance.clamp(*VALUE_BOUNDS)

    def training_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a minibatch per value, without the constant ½ log 2π, with one draw of z per window."""
        mean, log_variance = self.encode(x)
        restored, spread = self.decode(_drawn(mean, log_variance, generator))
        if self.training and self.log_variance is not None:
            batch = (x - restored).detach().square().mean(dim=(0, 1))
            self._set_variance(self.log_variance.exp().lerp(batch, MOMENTUM))
        density = 0.5 * (spread + (x - restored).square() * (-spread).exp())  # −log p(x|z)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        beta = self._beta_now if self.training else self.beta  # the validation losses of all passes are comparable
        return (density.sum(dim=(1, 2)) + beta * divergence).mean() / x[0].numel()

    def weighted_loss(self, x: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with one draw of z per window, from `noise`, and the new running mean of s²."""
        mean, log_variance = self.encode(x)
        restored, spread = self.decode(mean + (0.5 * log_variance).exp() * noise)
        after = {}
        if self.training and self.log_variance is not None:
            batch = (weight[:, None] * (x - restored).detach().square().mean(dim=1)).sum(dim=0)
            after["log_variance"] = _bounded(self.log_variance.exp().lerp(batch, MOMENTUM))
        density = 0.5 * (spread + (x - restored).square() * (-spread).exp())
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        beta = self._beta_now if self.training else self.beta
        return (weight * (density.sum(dim=(1, 2)) + beta * divergence)).sum() / x[0].numel(), after

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Minimise the loss with warm-up, then measure s² on all training windows."""
        report = fit_by_gradient(
            self, self.training_loss, x_train, x_val, config, progress=progress, begin=self.begin_epoch
        )
        with torch.no_grad():
            self.complete(x_train, config)
        return report

    def begin_epoch(self, done: float) -> None:
        """Set β for this epoch of the warm-up."""
        self._beta_now = self.beta * min(1.0, done / self.warm_up) if self.warm_up else self.beta

    def complete(self, x_train: Tensor, config: TrainConfig) -> None:
        """Measure s² on the training windows."""
        if self.log_variance is not None:
            draws = torch.Generator().manual_seed(config.seed)
            self._set_variance(self._mean_square_residuals(x_train, draws))

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
        if self.log_variance is not None:
            excess = (x[:, None] - restored).square() * (-spread).exp()
        else:
            spread = spread.reshape(drawn)
            excess = spread - VALUE_BOUNDS[0] + (x[:, None] - restored).square() * (-spread).exp()
        return 0.5 * excess.mean(dim=(1, 2)), restored[:, :, -1].mean(dim=1)

    def _mean_square_residuals(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """Return the mean square of x − m over windows and cells, (F,) float64, with one draw of z per window."""
        sums = []
        for chunk in torch.split(x, 4096):
            restored, _ = self.decode(_drawn(*self.encode(chunk), draws))
            sums.append((chunk - restored).square().mean(dim=1).sum(dim=0).double())
        return torch.stack(sums).sum(dim=0) / len(x)

    def _set_variance(self, variance: Tensor) -> None:
        assert self.log_variance is not None
        # a new tensor: the loss of this minibatch still needs the old one
        self.log_variance = _bounded(variance).to(self.log_variance)


def _bounded(variance: Tensor) -> Tensor:
    return variance.log().clamp_min(FEATURE_FLOOR)


def _drawn(mean: Tensor, log_variance: Tensor, draws: torch.Generator) -> Tensor:
    """Return one draw of z per window, (B, latent)."""
    return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=draws).to(mean)
