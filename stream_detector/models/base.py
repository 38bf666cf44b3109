"""What every detector offers, whether it learns by gradients, keeps its training rows or draws samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.models.fitting import FitReport, Progress, fit_by_gradient


class Judged(NamedTuple):
    """What a detector says of B windows of F features."""

    score: Tensor  # (B,) higher is stranger
    parts: Tensor  # (B, F) each feature's part in the score, >= 0
    expected: Tensor  # (B, F) what the last cell should have been, scaled like the input


class Detector(nn.Module, ABC):
    """A model of normal windows (B, T, F), scaled; higher scores are stranger.

    Promises a subclass keeps, checked for every registered one by tests/models/test_contract.py:

    - all that scoring needs is in parameters and persistent buffers, so `restore` after `state_dict` scores the same
    - `judge` is a pure function of its arguments: no state, no randomness but the seeds given, no window's result
      depends on the others in the batch
    - `fit` with the same data, config and initial state gives the same detector

    A detector that learns by gradients implements `training_loss` and `channel_errors`. One that doesn't (neighbours,
    trees) overrides `fit`; one whose score is more than the mean of its parts overrides `judge`.
    """

    kind: ClassVar[str]
    """Name in `model.kind`, in artifacts and in alerts."""
    stochastic: bool = False
    """Whether judging draws samples and so needs seeds."""
    usual_part: float = 1.0
    """About the mean of a channel's part on training windows; an ensemble holds those of unseen ones against it."""
    stacks: bool = False
    """Whether many of one shape can be judged in one batched product (see stacking.py)."""
    noise_width: int = 0
    """Random numbers that `weighted_loss` takes for each window."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector of windows (B, `length`, `features`), its weights drawn by torch's generator."""

    @abstractmethod
    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return each feature's part in the score (B, F), >= 0, and the expected last cell (B, F), for x (B, T, F).

        `seeds` (B,) int64 comes with detectors that draw: the same window always has the same seed.
        """

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score, parts and expectation in one pass; the score is the mean of the parts."""
        parts, expected = self.channel_errors(x, seeds)
        return Judged(parts.mean(dim=1), parts, expected)

    def score(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Return only the scores, (B, T, F) -> (B,), higher is stranger."""
        return self.judge(x, seeds).score

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Learn from normal windows (N, T, F); `x_val` (M, T, F), later ones, only say when to stop.

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

        `weight` (B,) sums to 1 and is 0 for windows that only fill up the batch (the mean is then over the others);
        `noise` (B, noise_width) are standard normal draws. Also returns buffers as they shall be after the step.
        """
        raise NotImplementedError(f"{type(self).__name__} can't be trained stacked")

    def begin_epoch(self, done: float) -> None:
        """Prepare the loss for an epoch; `done` is the share of the most epochs made so far."""

    def complete(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set what is measured on the training windows (N, T, F) with the final weights, whichever way they came."""
        self.finalise(x_train)

    def finalise(self, x_train: Tensor) -> None:
        """Set what can only be measured once the weights are final, such as residual weights; called by `fit`."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take parameters and buffers from an artifact; works on a detector built on the meta device.

        Names, shapes and types must be exactly ours: raises ValueError naming the first that isn't. A detector whose
        buffers grow with its training set overrides this.
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
