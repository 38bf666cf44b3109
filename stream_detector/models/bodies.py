"""The bodies of the networks: encoders (B, T, F) -> (B, outputs) and decoders (B, inputs) -> (B, T, F).

    dense       hidden layers on the flattened window: short windows and single vectors
    conv        each level halves the length and widens the channels: waveforms, local shapes
    recurrent   GRU layers, cell after cell: short windows in which order matters; slow for long windows
    mixer       patches, mixed alternately over time and over features: long windows of many channels

Every body encodes the whole window in one vector. So a network can't learn the identity, even for long windows, and
any window length works.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stream_detector.config.model import GANConfig, NetworkConfig
from stream_detector.errors import ConfigError


def make_encoder(config: NetworkConfig | GANConfig, length: int, features: int, outputs: int) -> nn.Module:
    """Return a network (B, length, features) -> (B, outputs) whose last layer is linear.

    Raises ConfigError when the convolution's kernel is even.
    """
    hidden = config.hidden
    if config.body == "conv":
        return ConvEncoder(length, features, hidden, outputs, _odd(config.kernel))
    if config.body == "recurrent":
        return RecurrentEncoder(features, hidden, outputs)
    if config.body == "mixer":
        return MixerEncoder(length, features, hidden, outputs, config.patch)
    return DenseEncoder(length, features, hidden, outputs)


def make_decoder(config: NetworkConfig | GANConfig, length: int, features: int, inputs: int) -> nn.Module:
    """Return a network (B, inputs) -> (B, length, features): the encoder's mirror image, with a linear last layer.

    Raises ConfigError when the convolution's kernel is even.
    """
    hidden = config.hidden
    if config.body == "conv":
        return ConvDecoder(length, features, hidden, inputs, _odd(config.kernel))
    if config.body == "recurrent":
        return RecurrentDecoder(length, features, hidden, inputs)
    if config.body == "mixer":
        return MixerDecoder(length, features, hidden, inputs, config.patch)
    return DenseDecoder(length, features, hidden, inputs)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ConfigError(f"model.kernel must be odd, so that windows keep their length; got {kernel}")
    return kernel


# ── dense ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class DenseEncoder(nn.Sequential):
    """T·F - hidden - outputs on the flattened window, ELU between the layers."""

    def __init__(self, length: int, features: int, hidden: list[int], outputs: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__(nn.Flatten(), *_layers([length * features, *hidden, outputs]))


class DenseDecoder(nn.Sequential):
    """Inputs - hidden reversed - T·F, ELU between the layers."""

    def __init__(self, length: int, features: int, hidden: list[int], inputs: int) -> None:
        """Build for windows (B, length, features)."""
        layers = _layers([inputs, *reversed(hidden), length * features])
        super().__init__(*layers, nn.Unflatten(1, (length, features)))


def _layers(widths: list[int]) -> list[nn.Module]:
    """Return linear layers of these widths with ELU between them, none after the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ELU()]
    return layers[:-1]


# ── convolutional ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _halved(length: int, levels: int) -> list[int]:
    """Return the length at each level: halved, rounded up."""
    lengths = [length]
    for _ in range(levels):
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 along time with `hidden[i]` channels, ELU after each, then one linear layer."""

    def __init__(self, length: int, features: int, hidden: list[int], outputs: int, kernel: int) -> None:
        """Build for windows (B, length, features); `kernel` is odd."""
        super().__init__()
        down: list[nn.Module] = []
        for before, after in pairwise([features, *hidden]):
            down += [nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2), nn.ELU()]
        left = _halved(length, len(hidden))[-1]
        self.layers = nn.Sequential(*down, nn.Flatten(), nn.Linear(hidden[-1] * left, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        code: Tensor = self.layers(x.transpose(1, 2))  # convolutions want (B, F, T)
        return code


class ConvDecoder(nn.Module):
    """The mirror image of ConvEncoder; its transposed convolutions restore each level's own length."""

    def __init__(self, length: int, features: int, hidden: list[int], inputs: int, kernel: int) -> None:
        """Build for windows (B, length, features); `kernel` is odd."""
        super().__init__()
        widths, lengths = [features, *hidden], _halved(length, len(hidden))
        up: list[nn.Module] = []
        for level in range(len(hidden), 0, -1):
            surplus = lengths[level - 1] - (2 * lengths[level] - 1)  # 0 for an odd length before halving, 1 for even
            up += [
                nn.ELU(),
                nn.ConvTranspose1d(
                    widths[level], widths[level - 1], kernel, stride=2, padding=kernel // 2, output_padding=surplus
                ),
            ]
        start = nn.Linear(inputs, widths[-1] * lengths[-1])
        self.layers = nn.Sequential(start, nn.Unflatten(1, (widths[-1], lengths[-1])), *up)

    def forward(self, z: Tensor) -> Tensor:
        """(B, inputs) -> (B, T, F)."""
        x: Tensor = self.layers(z)
        return x.transpose(1, 2)


# ── recurrent ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class RecurrentEncoder(nn.Module):
    """GRU layers over the cells; the code is a linear map of the last layer's final state.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
    """

    def __init__(self, features: int, hidden: list[int], outputs: int) -> None:
        """Build for windows of any length."""
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(*widths, batch_first=True) for widths in pairwise([features, *hidden]))
        self.last = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        for layer in self.layers:
            x, _ = layer(x)
        code: Tensor = self.last(x[:, -1])
        return code


class RecurrentDecoder(nn.Module):
    """GRU layers over the cells; every cell's input is the code plus a learnt embedding of the cell's position.

    Decodes from the last cell backwards, because the code represents the window's end most exactly (Srivastava,
    Mansimov & Salakhutdinov, "Unsupervised learning of video representations using LSTMs", ICML 2015). The position
    embedding relieves the first layer of counting cells.
    """

    def __init__(self, length: int, features: int, hidden: list[int], inputs: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__()
        widths = [hidden[-1], *reversed(hidden)]
        self.start = nn.Linear(inputs, hidden[-1])
        self.place = nn.Parameter(0.1 * torch.randn(length, hidden[-1]))
        self.layers = nn.ModuleList(nn.GRU(*pair, batch_first=True) for pair in pairwise(widths))
        self.last = nn.Linear(hidden[0], features)

    def forward(self, z: Tensor) -> Tensor:
        """(B, inputs) -> (B, T, F)."""
        x = self.start(z)[:, None] + self.place
        for layer in self.layers:
            x, _ = layer(x)
        cells: Tensor = self.last(x)
        return cells.flip(1)


# ── mixer ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class MixerBlock(nn.Module):
    """A small network along time, shared by all features, then one along features, shared by all patches.

    Source: Tolstikhin et al., "MLP-Mixer", NeurIPS 2021; for series: Chen et al., "TSMixer", TMLR 2023.
    """

    def __init__(self, patches: int, before: int, after: int) -> None:
        """Build for (B, patches, before) -> (B, patches, after)."""
        super().__init__()
        self.over_time = nn.Sequential(nn.LayerNorm(before), _Turned(_residual(patches)))
        self.over_features = nn.Sequential(nn.LayerNorm(before), *_residual(before))
        self.widen = nn.Identity() if before == after else nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, patches, before) -> (B, patches, after)."""
        x = x + self.over_time(x)
        x = x + self.over_features(x)
        widened: Tensor = self.widen(x)
        return widened


def _residual(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


class _Turned(nn.Module):
    """Apply a network along the second axis."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        turned: Tensor = self.inner(x.transpose(1, 2))
        return turned.transpose(1, 2)


class MixerEncoder(nn.Module):
    """Patches of `patch` cells, embedded linearly, one MixerBlock per hidden width, then one linear layer."""

    def __init__(self, length: int, features: int, hidden: list[int], outputs: int, patch: int) -> None:
        """Build for windows (B, length, features), padded at the start when `length` is not a multiple of `patch`."""
        super().__init__()
        self.patch = patch
        patches = -(-length // patch)
        self.missing = patches * patch - length
        self.embed = nn.Linear(patch * features, hidden[0])
        self.blocks = nn.Sequential(
            *(MixerBlock(patches, *pair) for pair in pairwise([*hidden, hidden[-1]])),
        )
        self.last = nn.Linear(patches * hidden[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        if self.missing:
            x = nn.functional.pad(x, (0, 0, self.missing, 0))
        x = self.embed(x.reshape(len(x), -1, self.patch * x.shape[2]))  # (B, patches, hidden[0])
        code: Tensor = self.last(self.blocks(x).flatten(1))
        return code


class MixerDecoder(nn.Module):
    """The mirror image of MixerEncoder."""

    def __init__(self, length: int, features: int, hidden: list[int], inputs: int, patch: int) -> None:
        """Build for windows (B, length, features)."""
        super().__init__()
        self.length, self.features = length, features
        patches = -(-length // patch)
        widths = [hidden[-1], *reversed(hidden)]
        self.start = nn.Sequential(nn.Linear(inputs, patches * hidden[-1]), nn.Unflatten(1, (patches, hidden[-1])))
        self.blocks = nn.Sequential(*(MixerBlock(patches, *pair) for pair in pairwise(widths)))
        self.last = nn.Linear(hidden[0], patch * features)

    def forward(self, z: Tensor) -> Tensor:
        """(B, inputs) -> (B, T, F)."""
        x: Tensor = self.last(self.blocks(self.start(z)))
        return x.reshape(len(z), -1, self.features)[:, -self.length :]
