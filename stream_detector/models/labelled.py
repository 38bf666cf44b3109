"""Base of the detectors that learn from labelled faults: fit to normal and faulty windows, contributions by occlusion.

    part_c = max(0, r(x) − r(x with feature c at its usual value)),   r: the raw score, before its scale

Occlusion (Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014) computes the score with
feature c set to the median of the normal training windows in every cell. Unlike gradient times input it measures the
score itself and not its slope, so it is valid where the network is nonlinear or saturated; it needs no backward pass,
so it runs wherever scoring does; it is deterministic, and a window's contributions depend on no other window. The cost
is one forward pass per feature that differs from its median. Redundant features get small contributions: when one of
them is occluded, the others still raise the score.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.model import NetworkConfig
from stream_detector.errors import DataError
from stream_detector.models.base import Detector, Judged
from stream_detector.models.bodies import make_encoder
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient

#: Maximum number of values in the windows of one pass of occlusion.
ENTRIES = 1 << 21
#: Windows scored at once while fitting.
CHUNK = 4096

LabelledLoss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Mean loss of windows (B, T, F) with labels (B,), 1 for faulty."""


class Labelled(Detector):
    """A detector fitted to normal and to faulty windows by `fit_labelled`; `fit` has no labels and raises."""

    usual: Tensor

    def __init__(self, config: NetworkConfig, length: int, features: int) -> None:
        """Build the body for windows (B, length, features) and register each feature's usual value."""
        super().__init__()
        self.body = make_encoder(config, length, features, config.latent)
        self.register_buffer("usual", torch.zeros(features))  # (F,) median of the normal training windows' last cells

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, NetworkConfig)
        return cls(config, length, features)

    @abstractmethod
    def raw(self, x: Tensor) -> Tensor:
        """Return the score before scaling, (B, T, F) -> (B,); higher is more anomalous."""

    @abstractmethod
    def scaled(self, raw: Tensor) -> Tensor:
        """Map raw scores to scores (B,) > 0: monotonic, about 1 for normal windows, without upper bound."""

    @abstractmethod
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
        """Learn from normal and faulty windows (N, T, F) with labels (N,) bool; later ones decide when to stop.

        Ends in eval mode. `x_val` may lack faulty windows.
        """

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Raise DataError: this detector can't be fitted without faulty windows."""
        raise DataError(f"model.kind {self.kind} learns from labelled faults; use fit_labelled")

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the usual last cell (B, F)."""
        raw = self.raw(x)
        parts = (raw[:, None] - self._occluded(x, raw)).clamp_min(0.0)
        return Judged(self.scaled(raw), parts, self.usual.expand(len(x), -1))

    def score(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Return only the scores, without occlusion."""
        return self.scaled(self.raw(x))

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the contributions (B, F) and the usual last cell (B, F)."""
        judged = self.judge(x, seeds)
        return judged.parts, judged.expected

    def _occluded(self, x: Tensor, raw: Tensor) -> Tensor:
        """Return r with each feature at its usual value, (B, F); equals `raw` (B,) where a feature already is."""
        found = raw[:, None].repeat(1, x.shape[2])
        differ = (x != self.usual).any(dim=1).nonzero()  # saves passes: most features of categories are usual
        for some in torch.split(differ, max(1, ENTRIES // (x.shape[1] * x.shape[2]))):
            window, feature = some[:, 0], some[:, 1]
            without = x[window]  # a copy
            without[torch.arange(len(some), device=x.device), :, feature] = self.usual[feature, None]
            found[window, feature] = self.raw(without)
        return found

    def learn_usual(self, normal: Tensor) -> None:
        """Set the features' usual values from normal training windows (N, T, F)."""
        self.usual.copy_(normal[:, -1].median(dim=0).values)

    @staticmethod
    def of_all(net: nn.Module, windows: Tensor) -> Tensor:
        """Return a network's outputs for windows (N, T, F), computed in chunks of CHUNK."""
        return torch.cat([net(chunk) for chunk in torch.split(windows, CHUNK)])

    def minimise(
        self,
        loss: LabelledLoss,
        x_train: Tensor,
        faulty_train: Tensor,
        x_val: Tensor,
        faulty_val: Tensor,
        *,
        config: TrainConfig,
        progress: Progress | None = None,
    ) -> FitReport:
        """Minimise a loss of windows and labels by `fit_by_gradient`; windows as in `fit_labelled`."""
        val = with_faults(x_train, faulty_train, x_val, faulty_val)
        return _minimise(self, loss, (x_train, faulty_train), val, config=config, progress=progress)


def _minimise(
    model: nn.Module,
    loss: LabelledLoss,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    *,
    config: TrainConfig,
    progress: Progress | None,
) -> FitReport:
    features = train[0].shape[2]

    def joined(x: Tensor, faulty: Tensor) -> Tensor:
        """Append the label to the features, so that shuffling keeps them together."""
        return torch.cat((x, faulty.to(x.dtype)[:, None, None].expand(-1, x.shape[1], 1)), dim=2)

    def apart(x: Tensor, generator: torch.Generator) -> Tensor:
        return loss(x[..., :features], x[:, 0, features], generator)

    return fit_by_gradient(model, apart, joined(*train), joined(*val), config, progress=progress)


def with_faults(x_train: Tensor, faulty_train: Tensor, x_val: Tensor, faulty_val: Tensor) -> tuple[Tensor, Tensor]:
    """Return windows and labels for early stopping: validation windows, plus training faults if these have none.

    With normal windows alone the validation loss would be least for a network that takes every window for normal.
    """
    if bool(faulty_val.any()):
        return x_val, faulty_val
    stand_in = x_train[faulty_train]
    return torch.cat((x_val, stand_in)), torch.cat((faulty_val, torch.ones(len(stand_in), dtype=torch.bool)))
