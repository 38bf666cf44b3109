"""The settings of the detectors: one section per family, chosen by `model.kind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from stream_detector.config.base import Section
from stream_detector.config.baselines import BaselineConfig
from stream_detector.config.pluggable import Pluggable

Width = Annotated[int, Field(ge=1)]

#: `kind` has a default, so that code can create a section without it, but a file must name the family.
NAMED = ConfigDict(json_schema_extra={"required": ["kind"]})


class NetworkConfig(Section):
    """What the families built of an encoder and a decoder share."""

    kind: str
    """Name of the detector family, which chooses this section."""
    body: Literal["dense", "conv", "recurrent", "mixer"] = "dense"
    """Architecture of the network. `dense`: fully connected on the flattened window, for short windows; `conv`: 1-d
    convolutions along time; `recurrent`: GRU; `mixer`: patches of the window mixed over time and over features in turn,
    for long windows."""
    hidden: list[Width] = Field(default=[16], min_length=1)
    """Widths of the encoder's hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a
    patch's code in each block); the decoder mirrors them. Widen them if normal windows are reconstructed badly."""
    latent: int = Field(default=3, ge=1)
    """Width of the bottleneck: the number of values that represent the whole window. Lower it if faults are
    reconstructed too well, raise it if normal windows are reconstructed badly."""
    kernel: int = Field(default=5, ge=1)
    """`conv` only: width of the kernels in cells, an odd number."""
    patch: int = Field(default=8, ge=1)
    """`mixer` only: number of cells in a patch."""


class AEConfig(NetworkConfig):
    """Autoencoder: the score is the mean squared reconstruction error, each feature weighted by its residual in
    training."""

    kind: Literal["ae"] = "ae"
    """Name of the detector family, which chooses this section."""


class VAEConfig(NetworkConfig):
    """Variational autoencoder: the score is the reconstruction probability, the mean of -log p(x|z) over samples of
    z."""

    model_config = NAMED

    kind: Literal["vae"] = "vae"
    """Name of the detector family, which chooses this section."""
    latent: int = Field(default=4, ge=1)
    """Width of the bottleneck: the number of values that represent the whole window. Lower it if faults are
    reconstructed too well, raise it if normal windows are reconstructed badly."""
    beta: float = Field(default=0.3, ge=0)
    """Weight of the divergence from the prior in the loss, reached after `warm_up`; 1 is the evidence lower bound.
    Lower it if the code is not used."""
    warm_up: float = Field(default=0.3, ge=0, lt=1)
    """Share of the epochs in which that weight rises from 0 to `beta`."""
    variance: Literal["feature", "value"] = "feature"
    """Variance that the decoder gives the values: one for each feature, or one for each value as a function of z."""
    samples: int = Field(default=16, ge=1, le=1024)
    """Number of samples of z for a score; more make scores steadier and scoring slower."""


class GANConfig(Section):
    """Generative adversarial network with an encoder (f-AnoGAN): the score is the distance to what the generator can
    make."""

    model_config = NAMED

    kind: Literal["gan"] = "gan"
    """Name of the detector family, which chooses this section."""
    body: Literal["dense", "conv", "recurrent", "mixer"] = "dense"
    """Architecture of the network. `dense`: fully connected on the flattened window, for short windows; `conv`: 1-d
    convolutions along time; `recurrent`: GRU; `mixer`: patches of the window mixed over time and over features in turn,
    for long windows."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers of discriminator and encoder (`conv`: channels, `recurrent`: units of each layer,
    `mixer`: width of a patch's code in each block); the generator mirrors them."""
    latent: int = Field(default=4, ge=1)
    """Width of the noise that windows are made from."""
    kernel: int = Field(default=5, ge=1)
    """`conv` only: width of the kernels in cells, an odd number."""
    patch: int = Field(default=8, ge=1)
    """`mixer` only: number of cells in a patch."""
    score: Literal["encoder", "encoder+features", "discriminator"] = "encoder"
    """`encoder`: residual of G(E(x)); `encoder+features`: the same plus the residual of the discriminator's features;
    `discriminator`: -log D(x), as in the literature, but weak and sometimes inverted, so only for comparison."""
    r1: float = Field(default=1.0, ge=0)
    """Weight of the penalty on the discriminator's gradient at training windows. Raise it if training is unstable."""
    restore: float = Field(default=0.0, ge=0)
    """Weight of (x - G(E(x)))² in the generator's loss, so that the generator can also make rare windows. 1 suits
    records; 0: adversarial training only, and the encoder after it."""


class MetricConfig(Section):
    """Metric learning on patches: the score is the distance to the nearest training windows in a learnt space."""

    model_config = NAMED

    kind: Literal["metric"] = "metric"
    """Name of the detector family, which chooses this section."""
    hidden: list[Width] = Field(default=[32, 64], min_length=1)
    """Channels of the convolutions, each of which halves the window's length."""
    kernel: int = Field(default=7, ge=1)
    """Width of the convolutions' kernels in cells, an odd number."""
    embedding: int = Field(default=32, ge=2)
    """Number of dimensions of the learnt space."""
    normalise: Literal["instance", "none"] = "instance"
    """`instance`: only the shape of each window counts, not its level and amplitude; `none`: all of it, which also
    detects level shifts."""
    radius: int = Field(default=4, ge=1)
    """Distance in time, in windows, within which windows are trained to be similar."""
    neighbours: int = Field(default=3, ge=1, le=100)
    """Number of windows of the bank that the distance is averaged over."""
    references: int = Field(default=500, ge=10, le=20_000)
    """Most training windows kept in the bank. They determine the artifact's size; lower it for a smaller artifact."""


class ClassifierConfig(NetworkConfig):
    """Supervised: the score is the log-odds of the labelled faults. It finds those, and promises nothing about
    others."""

    model_config = NAMED

    kind: Literal["classifier"] = "classifier"
    """Name of the detector family, which chooses this section."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a patch's code
    in each block)."""
    latent: int = Field(default=16, ge=1)
    """Width of the representation that the last layer decides on."""
    fault_weight: float | None = Field(default=None, gt=0)
    """Weight of a faulty window in the loss, relative to a normal one; default: both kinds have the same total weight.
    Raise it if faults are missed, lower it if false alarms are expensive."""
    noise: float = Field(default=0.1, ge=0)
    """Noise added to the inputs in training, in training spreads; smaller differences are not learnt."""


class DeepSADConfig(NetworkConfig):
    """Semi-supervised (Deep SAD): the score is the distance from the centre of normal codes, which faults are pushed
    away from."""

    model_config = NAMED

    kind: Literal["deep-sad"] = "deep-sad"
    """Name of the detector family, which chooses this section."""
    hidden: list[Width] = Field(default=[32], min_length=1)
    """Widths of the hidden layers (`conv`: channels, `recurrent`: units of each layer, `mixer`: width of a patch's code
    in each block)."""
    latent: int = Field(default=8, ge=1)
    """Width of the code."""
    eta: float = Field(default=1.0, ge=0)
    """Weight of the term that pushes labelled faults away from the centre; 0: labels have no effect. Raise it if
    labelled faults are missed."""
    pretrain: float = Field(default=0.3, ge=0, lt=1)
    """Share of the epochs in which the encoder and a decoder learn to reconstruct normal windows, before the centre is
    set."""


class PluginModelConfig(Section):
    """Base of the settings of a plug-in's detector, for packages that offer one (docs/library.md).

    A subclass narrows `kind` to its name and gives `implemented_by`.
    """

    implemented_by: ClassVar[str]
    """`module:Class` of the detector, which is imported when it is built: reading a set-up needs no torch."""

    kind: str
    """Name of the detector family, which chooses this section."""


_BuiltIn = AEConfig | VAEConfig | GANConfig | MetricConfig | ClassifierConfig | DeepSADConfig | BaselineConfig

#: Built-in values of `kind`, in the order of the reference.
KINDS: tuple[str, ...] = tuple(one.model_fields["kind"].default for one in get_args(_BuiltIn))

if TYPE_CHECKING:
    ModelConfig = _BuiltIn | PluginModelConfig
else:
    ModelConfig = Annotated[
        _BuiltIn, Field(discriminator="kind"), Pluggable("detectors", "kind", KINDS, PluginModelConfig)
    ]
