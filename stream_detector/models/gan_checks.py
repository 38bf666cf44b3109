"""Checks of a fitted GAN: whether the generator covers the training windows and disturbed windows score higher.

Collapse: the generator produces only a few kinds of windows. Its samples then vary less than the training windows, in
total or along one of the directions in which the training windows vary most.
Inversion: disturbed windows score lower than undisturbed ones. Held-out windows are compared with disturbed copies of
themselves, so that drift between the training and the held-out part has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stream_detector.errors import DataError

if TYPE_CHECKING:
    from stream_detector.models.gan import GAN

#: Maximum number of windows in a check.
MOST = 1024
#: The generator has collapsed when its windows' total spread is below this share of the training windows' spread ...
LEAST_SPREAD = 0.5
#: ... or their spread along one of the main directions is below this share.
LEAST_ALONG = 0.15
#: Directions with more than this share of the total variance are main directions.
MAIN_SHARE = 0.1
#: Below this share of the spread all windows of the generator are the same.
NO_SPREAD = 0.01
#: Minimum share of disturbed copies that must score higher: it is half by chance, and 1 for a good detector.
LEAST_RIGHT = 0.6
#: Strength of the disturbances in units of a feature's normal spread.
STRENGTH = 3.0


@torch.no_grad()
def troubles(gan: GAN, x_train: Tensor, x_val: Tensor, seed: int) -> tuple[str, ...]:
    """Return warnings for the user, one sentence each; empty if both checks pass. Windows are (N, T, F), scaled.

    Raises DataError when the generator always produces the same window: the scores are useless then.
    """
    draws = torch.Generator().manual_seed(seed)
    return (*_collapse(gan, _some(x_train), draws), *_inversion(gan, _some(x_val), draws))


def _collapse(gan: GAN, x: Tensor, draws: torch.Generator) -> list[str]:
    made = gan.generator(torch.randn(MOST, gan.config.latent, generator=draws).to(x)).flatten(1)
    real = x.flatten(1)
    spread = float(made.std(dim=0).norm() / real.std(dim=0).norm().clamp_min(1e-12))
    if spread < NO_SPREAD:
        raise DataError(
            "the GAN's generator always produces the same window, so its scores are useless; raise train.epochs, lower "
            "train.learning_rate or model.r1, or use model.kind: ae or vae"
        )
    _, along, directions = torch.linalg.svd(real - real.mean(dim=0), full_matrices=False)
    main = directions[along.square() > MAIN_SHARE * along.square().sum()]
    narrowest = min([float((made @ d).std() / (real @ d).std()) for d in main], default=1.0)
    if spread >= LEAST_SPREAD and narrowest >= LEAST_ALONG:
        return []
    return [
        f"the GAN's generator has collapsed: the spread of its windows is {spread:.0%} of the training windows', "
        f"{narrowest:.0%} along the narrowest main direction, so normal windows that it can't produce will score high; "
        "raise train.epochs, lower train.learning_rate, or use another seed"
    ]


def _inversion(gan: GAN, x: Tensor, draws: torch.Generator) -> list[str]:
    usual = gan.score(x)
    signs = 2.0 * torch.randint(2, (len(x), 1, 1), generator=draws) - 1
    chosen = torch.nn.functional.one_hot(torch.randint(x.shape[2], (len(x), 1), generator=draws), x.shape[2])
    disturbed = {
        "noise on every value": torch.randn(x.shape, generator=draws) * STRENGTH,
        "one feature off its level": signs * chosen * STRENGTH,
    }
    found = []
    for name, change in disturbed.items():
        right = float((gan.score(x + change.to(x)) > usual).double().mean())
        if right < LEAST_RIGHT:
            word = "inverted" if right < 0.5 else "weak"
            other = "" if gan.config.score == "encoder" else "use model.score: encoder, "
            found.append(
                f"the GAN's scores (model.score: {gan.config.score}) are {word}: only {right:.0%} of held-out windows "
                f"score higher with {name} than without; {other}raise train.epochs, or use another seed"
            )
    return found


def _some(x: Tensor) -> Tensor:
    """Return at most MOST windows, evenly spaced."""
    return x[:: -(-len(x) // MOST)]
