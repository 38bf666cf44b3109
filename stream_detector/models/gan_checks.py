"""Whether a fitted GAN can be trusted: does it make all it was shown, and do its scores point the right way?

Collapse: the generator makes a few kinds of windows only. Its samples then vary less than the training windows, in all
or along one of the directions in which these vary most.
Inversion: disturbed windows score lower than the undisturbed. Held-out windows are compared with copies of themselves,
so that a drift between training and held-out part plays no role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stream_detector.errors import DataError

if TYPE_CHECKING:
    from stream_detector.models.gan import GAN

#: Windows looked at.
MOST = 1024
#: Spread of the generator's windows over that of the training windows below which it has collapsed: in all ...
LEAST_SPREAD = 0.5
#: ... and along one of the main directions, each of which has at least this share of all variance.
LEAST_ALONG = 0.15
MAIN_SHARE = 0.1
#: Below this the generator makes one and the same window.
NO_SPREAD = 0.01
#: Share of disturbed copies that score higher: half by chance, all of them for a good detector.
LEAST_RIGHT = 0.6
#: Strength of the disturbances in units of a feature's normal spread.
STRENGTH = 3.0


@torch.no_grad()
def troubles(gan: GAN, x_train: Tensor, x_val: Tensor, seed: int) -> tuple[str, ...]:
    """Return what the user must know, a sentence each; nothing when all is well. Windows are (N, T, F), scaled.

    Raises DataError when the generator makes one and the same window always: no score means anything then.
    """
    draws = torch.Generator().manual_seed(seed)
    return (*_collapse(gan, _some(x_train), draws), *_inversion(gan, _some(x_val), draws))


def _collapse(gan: GAN, x: Tensor, draws: torch.Generator) -> list[str]:
    made = gan.generator(torch.randn(MOST, gan.config.latent, generator=draws).to(x)).flatten(1)
    real = x.flatten(1)
    spread = float(made.std(dim=0).norm() / real.std(dim=0).norm().clamp_min(1e-12))
    if spread < NO_SPREAD:
        raise DataError(
            "the GAN's generator makes one and the same window: it can't be used. "
            "Raise train.epochs, lower train.learning_rate or model.r1, or use kind: ae or vae"
        )
    _, along, directions = torch.linalg.svd(real - real.mean(dim=0), full_matrices=False)
    main = directions[along.square() > MAIN_SHARE * along.square().sum()]
    narrowest = min([float((made @ d).std() / (real @ d).std()) for d in main], default=1.0)
    if spread >= LEAST_SPREAD and narrowest >= LEAST_ALONG:
        return []
    return [
        f"the GAN's generator has collapsed: its windows spread {spread:.0%} as wide as the training windows, "
        f"{narrowest:.0%} along the narrowest main direction; normal windows it can't make will score high. "
        "Raise train.epochs, lower train.learning_rate, or use another seed"
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
                f"the GAN's scores (model.score: {gan.config.score}) are {word}: of held-out windows with {name} only "
                f"{right:.0%} score higher than without; {other}raise train.epochs, or use another seed"
            )
    return found


def _some(x: Tensor) -> Tensor:
    """Return at most MOST windows, evenly taken."""
    return x[:: -(-len(x) // MOST)]
