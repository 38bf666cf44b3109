"""The contract of all detectors, whether they learn by gradients, keep training windows or draw samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient


class Judged(NamedTuple):
    """A detector's judgement of B windows of F features."""

    score: Tensor  # (B,) higher is more anomalous
    parts: Tensor  # (B, F) each feature's contribution to the score, >= 0
    expected: Tensor  # (B, F) what the last cell should have been, scaled like the input


class Detector(nn.Module, ABC):
    """A model of normal windows (B, T, F), scaled; higher scores are more anomalous.

    The contract of a subclass, checked for every registered one by tests/models/test_contract.py:

    - everything that scoring needs is in parameters and persistent buffers, so a detector restored from a
      `state_dict` gives the same scores
    - `judge` is a pure function of its arguments: no state, no randomness except from the given seeds, and no window's
      result depends on the other windows in the batch
    - `fit` with the same data, config and initial state gives the same detector

    A detector that learns by gradients implements `training_loss` and `channel_errors`. One that doesn't (neighbours,
    trees) overrides `fit`; one whose score is not the mean of its contributions overrides `judge`.
    """

    kind: ClassVar[str]
    """Name in `model.kind`, in artifacts and in alerts."""
    stochastic: bool = False
    """Whether judging draws random numbers and so needs seeds."""
    usual_part: float = 1.0
    """Typical mean contribution of a channel on training windows; ensembles compare held-out windows with it."""
    stacks: bool = False
    """Whether several detectors of one shape can be judged in one batched product (see stacking.py)."""
    noise_width: int = 0
    """Number of random draws per window that `weighted_loss` takes."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector for windows (B, `length`, `features`), weights drawn by torch's generator."""

    @abstractmethod
    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return contributions (B, F), >= 0, and the expected last cell (B, F), for x (B, T, F).

        Stochastic detectors get `seeds` (B,) int64: the same window always has the same seed.
        """

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score, contributions and expectation in one pass; the score is the mean of the contributions."""
        parts, expected = self.channel_errors(x, seeds)
        return Judged(parts.mean(dim=1), parts, expected)

    def score(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Return only the scores, (B, T, F) -> (B,); higher is more anomalous."""
        return self.judge(x, seeds).score

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Learn from normal windows (N, T, F); the later windows `x_val` (M, T, F) are used only for early stopping.

        Ends in eval mode with `finalise` done. The default minimises `training_loss` (see `fit_by_gradient`).
        """
        report = fit_by_gradient(self, self.training_loss, x_train, x_val, config, progress=progress)
        with torch.no_grad():
            self.complete(x_train, config)
        return report

    def training_loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss of a minibatch (B, T, F) as a scalar; random draws come from `generator` (CPU)."""
        raise NotImplementedError(f"{type(self).__name__} must implement training_loss or override fit")

    def weighted_loss(self, x: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `training_loss` as a function of its arguments alone, so that many detectors can be trained at once.

        `weight` (B,) sums to 1 and is 0 for windows that only pad the batch, so the mean is over the others; `noise`
        (B, noise_width) are standard normal draws. Also returns the new values of buffers after the step.
        """
        raise NotImplementedError(f"{type(self).__name__} can't be trained stacked")

    def begin_epoch(self, done: float) -> None:
        """Prepare the loss for an epoch; `done` is the share of `train.epochs` completed so far."""

    def complete(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set the values measured on the training windows (N, T, F) with the final weights, after any kind of fit."""
        self.finalise(x_train)

    def finalise(self, x_train: Tensor) -> None:
        """Set the buffers that depend on the final weights, such as residual weights; called by `fit`."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load parameters and buffers from an artifact; works on a detector built on the meta device.

        Names, shapes and types must match this detector's: raises ValueError with the name of the first that doesn't.
        A detector whose buffers grow with its training set overrides this.
        """
        own: dict[str, Any] = self.state_dict()
        if missing := sorted(own.keys() ^ tensors.keys()):
            where = "lacks" if missing[0] in own else "holds the unknown"
            raise ValueError(f"it {where} tensor {missing[0]!r}")
        for name, tensor in tensors.items():
            want, got = own[name], tensor
            if want.shape != got.shape or want.dtype != got.dtype:
                raise ValueError(
                    f"tensor {name!r} is {got.dtype} {tuple(got.shape)}, expected {want.dtype} {tuple(want.shape)}"
                )
        self.load_state_dict(dict(tensors), assign=True)
