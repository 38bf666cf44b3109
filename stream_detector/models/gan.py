"""Generative adversarial network: a window far from everything the generator can produce is anomalous.

    min_G max_D  E_x[log D(x)] + E_z[log(1 − D(G(z)))],   z ~ N(0, I),   D = sigmoid of its last layer
    generator     minimises −log D(G(z)) instead (non-saturating: the gradient does not vanish while D wins)
                  + λ · mean (x − G(E(x)))², together with E (λ: `restore`, 0 by default)
    discriminator adds r1/2 · E_x ‖∇_x log(D/(1 − D))‖², which keeps the training stable near its equilibrium (R1)
    encoder       trained afterwards, G and D fixed:  min_E  mean (x − G(E(x)))² + mean (f(x) − f(G(E(x))))²

f is the discriminator's last hidden layer. The generator kept is the moving average of its weights. Scores:

    residual_c = w_c · mean over t of (x_tc − G(E(x))_tc)²,   w_c as in ae.py
    encoder            mean over c of residual_c
    encoder+features   ½ of it + ½ mean over k of v_k · (f_k(x) − f_k(G(E(x))))², v_k like w_c
    discriminator      −log D(x)

The adversarial loss alone lets the generator miss rare normal windows, because D seldom notices. Rare normal windows
then score as high as faults, and a threshold set on held-out windows is far too high (on NSL-KDD F1 was .74 at λ = 0,
.92 at λ = 1, while AUC hardly changed). The term of λ requires a z for every training window. For short histories of
slow sensors it has no benefit (SKAB: F1 .855 with it, .864 without).

`encoder` is the default: on SKAB and CWRU it ranks as well as `encoder+features` at its best, and it does not degrade
when the discriminator's features are poor. `discriminator` is offered because the literature describes it. At the end
of a good training D can't separate real from generated windows, and it is never trained on windows far from the data,
so its score is weak and sometimes inverted. `fit` tests the detector on disturbed windows and warns (gan_checks.py).

The contributions of all three are the residuals, scaled so that their mean is the score.
Source: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014; Mescheder, Geiger & Nowozin, "Which training
methods for GANs do actually converge?", ICML 2018 (R1); the term of λ: Che et al., "Mode regularized generative
adversarial networks", ICLR 2017; Schlegl et al., "f-AnoGAN", Medical Image Analysis 54, 2019;
moving average: Yazıcı et al., "The unusual effectiveness of averaging in GAN training", ICLR 2019.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.model import GANConfig
from stream_detector.models.ae import residual_weights
from stream_detector.models.base import Detector, Judged
from stream_detector.models.bodies import make_decoder, make_encoder
from stream_detector.models.fitting import FitReport, Progress
from stream_detector.models.gan_checks import troubles
from stream_detector.models.gan_training import play

#: Added to residuals when contributions are scaled: a perfectly reconstructed window would give 0/0.
TINY = 1e-12


class Discriminator(nn.Module):
    """A body, whose output are the features f, and a linear layer that maps them to one number."""

    def __init__(self, config: GANConfig, length: int, features: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__()
        self.body = make_encoder(config, length, features, config.hidden[-1])
        self.head = nn.Linear(config.hidden[-1], 1)

    def features(self, x: Tensor) -> Tensor:
        """Return f, (B, T, F) -> (B, hidden[-1])."""
        return F.elu(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return log D/(1 − D), (B, T, F) -> (B,): positive for windows that look real."""
        logit: Tensor = self.head(self.features(x))
        return logit[:, 0]


class GAN(Detector):
    """Generator, discriminator and encoder; score by `config.score`."""

    kind = "gan"
    stacks = True
    weight: Tensor
    feature_weight: Tensor

    def __init__(self, config: GANConfig, length: int, features: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__()
        self.config = config
        self.generator = make_decoder(config, length, features, config.latent)
        self.discriminator = Discriminator(config, length, features)
        self.encoder = make_encoder(config, length, features, config.latent)
        self.register_buffer("weight", torch.ones(features))  # (F,) w_c
        self.register_buffer("feature_weight", torch.ones(config.hidden[-1]))  # (K,) v_k

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, GANConfig)
        return cls(config, length, features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the generator's approximation of a window, G(E(x)), (B, T, F) -> (B, T, F)."""
        made: Tensor = self.generator(self.encoder(x))
        return made

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Run adversarial training for most of the passes, then train the encoder (see gan_training.py).

        Raises ConfigError when `train.epochs` is 1, DataError when training diverges or the generator always produces
        the same window; less severe problems are listed in the report's warnings.
        """
        report = play(self, x_train, x_val, config, progress)
        with torch.no_grad():
            self.finalise(x_train)
            return replace(report, warnings=troubles(self, x_train, x_val, config.seed))

    def finalise(self, x_train: Tensor) -> None:
        """Set w_c and v_k from the residuals of the training windows."""
        weight, feature_weight = self._weights(x_train)
        self.weight.copy_(weight)
        self.feature_weight.copy_(feature_weight)

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the last cell of G(E(x)) (B, F)."""
        made = self(x)
        residual = self.weight * (x - made).square().mean(dim=1)  # (B, F)
        whole = residual.mean(dim=1)
        score = self._score(x, made, whole)
        parts = (residual + TINY) * (score / (whole + TINY))[:, None]
        return Judged(score, parts, made[:, -1])

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the contributions (B, F) and the last cell of G(E(x)) (B, F)."""
        judged = self.judge(x, seeds)
        return judged.parts, judged.expected

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.discriminator.features
        return (
            residual_weights(x, lambda x: x - self(x)),
            residual_weights(x, lambda x: (features(x) - features(self(x)))[:, None]),
        )

    def _score(self, x: Tensor, made: Tensor, residual: Tensor) -> Tensor:
        if self.config.score == "encoder":
            return residual
        if self.config.score == "discriminator":
            return F.softplus(-self.discriminator(x))  # −log D(x)
        apart = self.discriminator.features(x) - self.discriminator.features(made)
        return 0.5 * (residual + (self.feature_weight * apart.square()).mean(dim=1))
