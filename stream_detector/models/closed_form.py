"""Bases of the detectors fitted in one step, without gradients or passes; tensor sizes may depend on the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from stream_detector.config import TrainConfig
from stream_detector.models.base import Detector, Judged
from stream_detector.models.fitting import FitReport, Progress

#: Floor of standard deviations, in units of a channel's normal spread. Smaller ones are rounding; without the floor, a
#: channel that is constant in training would give a near-infinite score at its first change.
SMALLEST_DEVIATION = 0.05
#: Maximum doublings of a gauged score, up or down.
STEPS = 60.0


class ClosedFormDetector(Detector):
    """A detector whose `learn` computes all its buffers in one step.

    In an unfitted detector, a dimension of size 0 in a buffer means that the data decides the size; `restore` accepts
    any size there.
    """

    @abstractmethod
    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Set the buffers from normal windows (N, T, F), float64, in event-time order within each asset."""

    def check(self) -> None:
        """Raise ValueError when restored tensors contradict each other; called by `restore`."""

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Learn from x_train (N, T, F); x_val is not used, so it remains unseen for the calibration."""
        with torch.no_grad():
            self.learn(x_train.double(), config)
        self.eval()
        return FitReport(0, 0, (), ())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the buffers from an artifact; see Detector.restore. Sizes that the data decided may have any value."""
        own = dict(self.named_buffers())
        if missing := sorted(own.keys() ^ tensors.keys()):
            where = "lacks" if missing[0] in own else "holds the unknown"
            raise ValueError(f"it {where} tensor {missing[0]!r}")
        for name, tensor in tensors.items():
            want = own[name]
            fits = want.ndim == tensor.ndim and all(a in (0, b) for a, b in zip(want.shape, tensor.shape, strict=True))
            if not fits or want.dtype != tensor.dtype:
                shape = tuple("any" if size == 0 else size for size in want.shape)
                raise ValueError(
                    f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, expected {want.dtype} {shape}"
                )
        for name, tensor in tensors.items():
            setattr(self, name, tensor)
        self.check()

    def keep(self, **tensors: Tensor) -> None:
        """Set buffers by name, converted to the buffers' types."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor.detach().to(getattr(self, name).dtype).contiguous())


class Gauged(ClosedFormDetector):
    """A detector whose raw score r is bounded or a logarithm; the score is r on a scale on which ratios have a meaning.

        score = 2^((r − r₅₀) / (r₉₅ − r₅₀)),   r₅₀, r₉₅: median and 95 % quantile of r on training windows

    The score of a usual window is 1, one normal window in twenty reaches 2, and each further step of r₉₅ − r₅₀ doubles
    it. Thresholds, margins and shares of an incident's peak are ratios of scores: on a scale bounded by 1 they could
    demand a score that no window reaches.
    """

    middle: Tensor
    step: Tensor
    usual: Tensor

    def __init__(self, features: int) -> None:
        """Register the scale and the usual values of the last cell."""
        super().__init__()
        self.register_buffer("middle", torch.zeros(()))  # r₅₀
        self.register_buffer("step", torch.ones(()))  # r₉₅ − r₅₀
        self.register_buffer("usual", torch.zeros(features))  # (F,) median of the training windows' last cells

    @abstractmethod
    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return r (B,), higher is more anomalous, and each feature's contribution (B, F), of either sign."""

    def gauge(self, x_train: Tensor) -> None:
        """Set the scale from training windows (N, T, F); `learn` calls it last, because it needs `raw`."""
        found = torch.cat([self.raw(chunk.to(self.middle.dtype))[0] for chunk in torch.split(x_train, 4096)]).double()
        middle, high = found.quantile(0.5), found.quantile(0.95)
        step = torch.where(high > middle, high - middle, 1.0)
        self.keep(middle=middle, step=step, usual=x_train[:, -1].median(dim=0).values)

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the usual last cell (B, F)."""
        raw, parts = self.raw(x)
        score = torch.exp2(((raw - self.middle) / self.step).clamp(-STEPS, STEPS))
        return Judged(score, parts.clamp_min(0.0), self.usual.expand(len(x), -1))

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the contributions (B, F) and the usual last cell (B, F)."""
        judged = self.judge(x, seeds)
        return judged.parts, judged.expected


def require(held: bool, what: str) -> None:
    """Raise ValueError with the message `what` unless `held`."""
    if not held:
        raise ValueError(what)
