"""Deep SAD: training moves the codes of normal windows towards a centre and those of labelled faults away from it.

    d²(x) = ‖φ(x) − c‖²                                     φ: a body (bodies.py), c: the centre, fixed
    loss  = 1/N · ( Σ over normal of d²  +  η Σ over faulty of 1/(d² + ε) )
    score = d² / mean of d² over the normal training windows

φ starts as the encoder of an autoencoder that the first passes (`pretrain`) train on the normal training windows; the
decoder is then discarded. c is the mean of φ over these windows after that, with each coordinate moved to at least 0.1
from zero, so that φ can't reach it with all units at zero. The score is about 1 on the normal training windows and has
no upper bound.

Unlike a classifier, the detector models normal windows, independent of the labelled faults: nothing pulls a fault of an
unlabelled kind towards c. So a few labelled faults are enough, and they improve on a fit to normal windows alone.
With η = 0 it is Deep SVDD. The inverse of a fault's distance makes the trivial solution φ = c expensive, so layers may
keep their biases.
Source: Ruff et al., "Deep semi-supervised anomaly detection", ICLR 2020, equation 7 (all windows here are labelled or
taken as normal: n counts the normal, m the faulty ones).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from stream_detector.config import TrainConfig
from stream_detector.config.model import DeepSADConfig
from stream_detector.models.bodies import make_decoder
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient
from stream_detector.models.labelled import Labelled

#: ε: keeps the loss of a fault at the centre finite.
EPSILON = 1e-6
#: Minimum distance of each coordinate of the centre from zero.
OFF_ZERO = 0.1


class DeepSAD(Labelled):
    """Squared distance of a window's code from the centre of the normal ones."""

    kind = "deep-sad"
    center: Tensor
    spread: Tensor

    def __init__(self, config: DeepSADConfig, length: int, features: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__(config, length, features)
        self._config, self._length, self._features = config, length, features
        self.register_buffer("center", torch.zeros(config.latent))  # c
        self.register_buffer("spread", torch.ones(()))  # mean of d² over the normal training windows

    def forward(self, x: Tensor) -> Tensor:
        """Return d², (B, T, F) -> (B,)."""
        distance: Tensor = (self.body(x) - self.center).square().sum(dim=1)
        return distance

    def raw(self, x: Tensor) -> Tensor:
        """Return d² over its mean, (B, T, F) -> (B,)."""
        found: Tensor = self(x) / self.spread
        return found

    def scaled(self, raw: Tensor) -> Tensor:
        """Return the raw score with a floor just above zero; it needs no other scaling."""
        return raw.clamp_min(torch.finfo(raw.dtype).tiny)

    def fit_labelled(
        self,
        x_train: Tensor,
        faulty_train: Tensor,
        x_val: Tensor,
        faulty_val: Tensor,
        config: TrainConfig,
        *,
        progress: Progress | None = None,
    ) -> FitReport:
        """Train the autoencoder, fix the centre, then minimise the loss; see Labelled."""
        normal = x_train[~faulty_train]
        passes = int(self._config.pretrain * config.epochs)
        before = self._pretrain(normal, x_val[~faulty_val], config, passes, progress) if passes else None
        done = 0 if before is None else before.epochs
        with torch.no_grad():
            self.learn_usual(normal)
            center = self.of_all(self.body, normal).mean(dim=0)
            off_zero = torch.where(center < 0, -OFF_ZERO, OFF_ZERO)
            self.center.copy_(torch.where(center.abs() < OFF_ZERO, off_zero, center))

        def loss(x: Tensor, faulty: Tensor, generator: torch.Generator) -> Tensor:
            distance = self(x)
            return torch.where(faulty > 0, self._config.eta / (distance + EPSILON), distance).mean()

        def later(epoch: int, _: int, loss: float, validation: float) -> None:
            if progress is not None:
                progress(done + epoch, config.epochs, loss, validation)

        rest = config.model_copy(update={"epochs": config.epochs - passes})
        report = self.minimise(loss, x_train, faulty_train, x_val, faulty_val, config=rest, progress=later)
        with torch.no_grad():
            found = self.of_all(self, normal).double().mean()
            self.spread.copy_(found.clamp_min(EPSILON))
        if before is None:
            return report
        return replace(
            report,
            epochs=done + report.epochs,
            best_epoch=done + report.best_epoch,
            losses=before.losses + report.losses,
            val_losses=before.val_losses + report.val_losses,
            first_choice=done + 1,
        )

    def _pretrain(
        self, normal: Tensor, val: Tensor, config: TrainConfig, passes: int, progress: Progress | None
    ) -> FitReport:
        """Train the body with a temporary decoder to reconstruct normal windows (N, T, F)."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            decoder = make_decoder(self._config, self._length, self._features, self._config.latent)
        pair = nn.Sequential(self.body, decoder.to(normal.device))

        def loss(x: Tensor, generator: torch.Generator) -> Tensor:
            error: Tensor = (x - pair(x)).square().mean()
            return error

        def told(epoch: int, _: int, loss: float, validation: float) -> None:
            if progress is not None:
                progress(epoch, config.epochs, loss, validation)

        few = config.model_copy(update={"epochs": passes})
        return fit_by_gradient(pair, loss, normal, val if len(val) else normal, few, progress=told)
