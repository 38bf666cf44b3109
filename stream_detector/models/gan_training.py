"""The fit of a GAN: adversarial training of generator and discriminator, then training of the encoder.

    passes 1 … a        generator (with the encoder if `restore` > 0) against discriminator, a = 70 % of train.epochs
    passes a + 1 … n    encoder, G and D fixed; the weights of its best pass on the held-out windows are kept, and
                        `train.patience` stops it early

The loss reported for the held-out windows is the same quantity in all passes: their mean square distance from the
generator's output. In the adversarial passes this output is the nearest of several hundred samples, afterwards G(E(x)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_detector.config import TrainConfig
from stream_detector.errors import ConfigError
from stream_detector.models.fitting import FitReport, Progress, check_finite, fit_by_gradient

if TYPE_CHECKING:
    from stream_detector.models.gan import GAN

#: Share of the passes for adversarial training.
GAME_SHARE = 0.7
#: The gradient penalty costs as much as the rest of a step: it is applied in every LAZY-th step, LAZY times as strong.
#: Source: Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020.
LAZY = 4
#: Adam's first moment: with .9 generator and discriminator oscillate around each other.
BETAS = (0.5, 0.9)
#: Decay of the moving average of the generator's weights.
AVERAGE = 0.99
#: Number of samples, and approximate number of held-out windows, in the search for the nearest sample.
NEAREST = 512


def play(gan: GAN, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None) -> FitReport:
    """Fit generator, discriminator and encoder to windows (N, T, F); return the report.

    Raises ConfigError when train.epochs is less than 2, DataError when training diverges.
    """
    if config.epochs < 2:
        raise ConfigError(
            f"train.epochs must be at least 2 for a GAN (adversarial training, then the encoder's), got {config.epochs}"
        )
    game_passes = min(max(1, round(GAME_SHARE * config.epochs)), config.epochs - 1)
    gan.train()
    game = _Game(gan, config)
    losses, val_losses = [], []
    for epoch in range(1, game_passes + 1):
        losses.append(game.one_pass(x_train))
        val_losses.append(game.distance(x_val))
        if progress is not None:
            progress(epoch, config.epochs, losses[-1], val_losses[-1])
        check_finite(epoch, losses[-1] + val_losses[-1], config)
    game.end()

    def later(epoch: int, of: int, loss: float, val_loss: float) -> None:
        if progress is not None:
            progress(game_passes + epoch, config.epochs, loss, val_loss)

    rest = config.model_copy(update={"epochs": config.epochs - game_passes})
    encoder = _train_encoder(gan, x_train, x_val, rest, later)
    gan.eval()
    return FitReport(
        epochs=game_passes + encoder.epochs,
        best_epoch=game_passes + encoder.best_epoch,
        losses=(*losses, *encoder.losses),
        val_losses=(*val_losses, *encoder.val_losses),
        first_choice=game_passes + 1,
    )


class _Game:
    """The adversarial training: generator, discriminator, their optimisers and the generator's moving average."""

    def __init__(self, gan: GAN, config: TrainConfig) -> None:
        self.generator, self.discriminator, self.config = gan.generator, gan.discriminator, config
        self.latent, self.r1 = gan.config.latent, gan.config.r1
        self.draws = torch.Generator().manual_seed(config.seed)
        self.makers: list[Tensor] = list(self.generator.parameters())
        self.judges: list[Tensor] = list(self.discriminator.parameters())
        self.encoder, self.restore = gan.encoder, gan.config.restore
        playing = [*self.makers, *gan.encoder.parameters()] if self.restore else self.makers
        self.adam_g = torch.optim.Adam(playing, lr=config.learning_rate, betas=BETAS, fused=True)
        self.adam_d = torch.optim.Adam(self.judges, lr=config.learning_rate, betas=BETAS, fused=True)
        self.average = [p.detach().clone() for p in self.makers]
        self.steps = 0

    def one_pass(self, x_train: Tensor) -> float:
        """Update both networks once per minibatch; return the discriminator's mean loss (2 log 2 at chance level)."""
        order = torch.randperm(len(x_train), generator=self.draws).to(x_train.device)
        total = torch.zeros((), dtype=torch.float64, device=x_train.device)
        for real in torch.split(x_train[order], self.config.batch):
            total += self._discriminate(real) * len(real)
            self._generate(real)
            self.steps += 1
            decay = min(AVERAGE, self.steps / (self.steps + 10))  # an early average must forget the initial weights
            torch._foreach_lerp_(self.average, [p.detach() for p in self.makers], 1 - decay)
        return float(total) / len(x_train)

    @torch.no_grad()
    def distance(self, x: Tensor) -> float:
        """Return the windows' mean square distance, per value, to the nearest of NEAREST averaged-generator samples."""
        some = x[:: max(1, len(x) // NEAREST)].flatten(1)
        playing = [p.detach().clone() for p in self.makers]
        torch._foreach_copy_(self.makers, self.average)
        fixed = torch.Generator().manual_seed(self.config.seed)  # the same draws after each pass
        made = self.generator(torch.randn(NEAREST, self.latent, generator=fixed).to(x)).flatten(1)
        torch._foreach_copy_(self.makers, playing)
        return float(torch.cdist(some, made).min(dim=1).values.square().mean() / some.shape[1])

    @torch.no_grad()
    def end(self) -> None:
        """Set the generator's weights to their moving average."""
        torch._foreach_copy_(self.makers, self.average)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(len(like), self.latent, generator=self.draws).to(like)

    def _discriminate(self, real: Tensor) -> Tensor:
        with torch.no_grad():
            made = self.generator(self._noise(real))
        self.adam_d.zero_grad(set_to_none=True)
        penalty = torch.zeros((), device=real.device)
        if self.r1 and self.steps % LAZY == 0:
            real = real.detach().requires_grad_(True)
            with torch.backends.cudnn.flags(enabled=False):  # cuDNN's GRU has no second derivative, needed here
                of_real, of_made = self.discriminator(real), self.discriminator(made)
            (slope,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
            penalty = 0.5 * self.r1 * LAZY * slope.square().sum(dim=(1, 2)).mean()
        else:
            of_real, of_made = self.discriminator(torch.cat((real, made))).split(len(real))
        loss = F.softplus(-of_real).mean() + F.softplus(of_made).mean()
        (loss + penalty).backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        self.adam_d.step()
        return loss.detach()

    def _generate(self, real: Tensor) -> None:
        self.adam_g.zero_grad(set_to_none=True)
        for p in self.judges:  # gradients of fixed weights would take a third of the time
            p.requires_grad_(False)
        loss = F.softplus(-self.discriminator(self.generator(self._noise(real)))).mean()
        if self.restore:
            loss = loss + self.restore * (real - self.generator(self.encoder(real))).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        for p in self.judges:
            p.requires_grad_(True)
        self.adam_g.step()


def _train_encoder(gan: GAN, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress) -> FitReport:
    """Fit E to windows and to D's features of them (izi_f of f-AnoGAN), G and D fixed."""
    features = gan.discriminator.features

    def loss(x: Tensor, draws: torch.Generator) -> Tensor:
        made = gan(x)
        residual: Tensor = (x - made).square().mean()
        if not gan.encoder.training:  # validation uses the same quantity as the adversarial passes
            return residual
        return residual + (features(x) - features(made)).square().mean()

    fixed = [*gan.generator.parameters(), *gan.discriminator.parameters()]
    for p in fixed:
        p.requires_grad_(False)
    try:
        return fit_by_gradient(gan.encoder, loss, x_train, x_val, config, progress=progress)
    finally:
        for p in fixed:
            p.requires_grad_(True)
