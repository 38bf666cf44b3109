"""The settings of the detectors: one section a family, chosen by `model.kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from stream_detector.config.base import Section
from stream_detector.config.baselines import BaselineConfig

Width = Annotated[int, Field(ge=1)]

#: `kind` has a default, so that the classes can be made without it, but a file must say which family it means.
NAMED = ConfigDict(json_schema_extra={"required": ["kind"]})


class NetworkConfig(Section):
    """What the families made of an encoder and a decoder share."""

    kind: str
    """Family of the detector."""
    body: Literal["dense", "conv", "recurrent", "mixer"] = "dense"
    """`dense`: fully connected on the flattened window; `conv`: 1-d convolutions along time; `recurrent`: GRU;
    `mixer`: patches of the window mixed over time and over features in turn, for long windows."""
    hidden: list[Width] = Field(default=[16], min_length=1)
    """Widths of the encoder's hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a
    patch's code in each block); the decoder mirrors them."""
    latent: int = Field(default=3, ge=1)
    """Width of the bottleneck: so many numbers stand for the whole window."""
    kernel: int = Field(default=5, ge=1)
    """`conv` only: kernel width, odd."""
    patch: int = Field(default=8, ge=1)
    """`mixer` only: cells in a patch."""


class AEConfig(NetworkConfig):
    """Autoencoder: score = mean square reconstruction error, each feature weighted by its residual in training."""

    kind: Literal["ae"] = "ae"
    """Family of the detector."""


class VAEConfig(NetworkConfig):
    """Variational autoencoder: score = reconstruction probability, the mean of -log p(x|z) over draws of z."""

    model_config = NAMED

    kind: Literal["vae"] = "vae"
    """Family of the detector."""
    latent: int = Field(default=4, ge=1)
    """Width of the bottleneck: so many numbers stand for the whole window."""
    beta: float = Field(default=0.3, ge=0)
    """Weight of the divergence from the prior in the loss, reached after `warm_up`. 1 is the evidence lower bound."""
    warm_up: float = Field(default=0.3, ge=0, lt=1)
    """Share of the passes in which that weight rises from 0 to `beta`."""
    variance: Literal["feature", "value"] = "feature"
    """Variance that the decoder gives the values: one for each feature, or one for each value, a function of z."""
    samples: int = Field(default=16, ge=1, le=1024)
    """Draws of z for a score."""


class GANConfig(Section):
    """Generative adversarial network with an encoder (f-AnoGAN): score = distance to what the generator can make."""

    model_config = NAMED

    kind: Literal["gan"] = "gan"
    """Family of the detector."""
    body: Literal["dense", "conv", "recurrent", "mixer"] = "dense"
    """`dense`: fully connected on the flattened window; `conv`: 1-d convolutions along time; `recurrent`: GRU;
    `mixer`: patches of the window mixed over time and over features in turn, for long windows."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers of discriminator and encoder (`conv`: channels, `recurrent`: units of each layer,
    `mixer`: width of a patch's code in each block); the generator mirrors them."""
    latent: int = Field(default=4, ge=1)
    """Width of the noise that windows are made from."""
    kernel: int = Field(default=5, ge=1)
    """`conv` only: kernel width, odd."""
    patch: int = Field(default=8, ge=1)
    """`mixer` only: cells in a patch."""
    score: Literal["encoder", "encoder+features", "discriminator"] = "encoder"
    """`encoder`: residual of G(E(x)); `encoder+features`: the same, and the residual of the discriminator's features;
    `discriminator`: -log D(x), as the literature has it, but weak and sometimes inverted: for comparison."""
    r1: float = Field(default=1.0, ge=0)
    """Weight of the penalty on the discriminator's gradient at training windows."""
    restore: float = Field(default=0.0, ge=0)
    """Weight of (x - G(E(x)))² in the generator's loss: the generator must be able to make rare windows, too. 1 suits
    records; 0: the game alone, and the encoder after it."""


class MetricConfig(Section):
    """Metric learning on patches: score = distance to the nearest training windows in a space learnt for it."""

    model_config = NAMED

    kind: Literal["metric"] = "metric"
    """Family of the detector."""
    hidden: list[Width] = Field(default=[32, 64], min_length=1)
    """Channels of the convolutions, each of which halves the window's length."""
    kernel: int = Field(default=7, ge=1)
    """Kernel width of the convolutions, odd."""
    embedding: int = Field(default=32, ge=2)
    """Numbers that a window becomes."""
    normalise: Literal["instance", "none"] = "instance"
    """`instance`: of each window only its shape counts, not its level and its size; `none`: all of it."""
    radius: int = Field(default=4, ge=1)
    """Windows so near in time are taught to be alike."""
    neighbours: int = Field(default=3, ge=1, le=100)
    """Windows of the bank that the distance is averaged over."""
    references: int = Field(default=500, ge=10, le=20_000)
    """Most training windows kept in the bank; they make up the artifact's size."""


class ClassifierConfig(NetworkConfig):
    """Supervised: the log-odds of the faults that training labels name. Finds those; of others it promises nothing."""

    model_config = NAMED

    kind: Literal["classifier"] = "classifier"
    """Family of the detector."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a patch's
    code in each block)."""
    latent: int = Field(default=16, ge=1)
    """Width of the representation that the last layer decides on."""
    fault_weight: float | None = Field(default=None, gt=0)
    """Weight of a faulty window in the loss, in normal ones; left out: both kinds weigh the same altogether."""
    noise: float = Field(default=0.1, ge=0)
    """Noise added to the inputs in training, in spreads: differences smaller than it are not learnt."""


class DeepSADConfig(NetworkConfig):
    """Semi-supervised (Deep SAD): score = distance from the centre of the normal codes, which faults are kept off."""

    model_config = NAMED

    kind: Literal["deep-sad"] = "deep-sad"
    """Family of the detector."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a patch's
    code in each block)."""
    latent: int = Field(default=8, ge=1)
    """Width of the code."""
    eta: float = Field(default=1.0, ge=0)
    """Weight of the term that pushes labelled faults away from the centre. 0: labels are without effect."""
    pretrain: float = Field(default=0.3, ge=0, lt=1)
    """Share of the passes in which encoder and a decoder learn to restore normal windows, before the centre is set."""


ModelConfig = Annotated[
    AEConfig | VAEConfig | GANConfig | MetricConfig | ClassifierConfig | DeepSADConfig | BaselineConfig,
    Field(discriminator="kind"),
]
