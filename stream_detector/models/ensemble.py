"""Ensemble: detectors of one family, fitted to one history from different initial weights; their scores are averaged.

    part_c = g_c · 1/M Σ_m part_mc((x − a_m)/b_m),   score = mean over c of part_c,   x̂ = 1/M Σ_m (b_m x̂_m + a_m)
    g_c    = u / max(u, e_c)

Members differ in their initial weights and in the order of their minibatches; cross-fitted members also in their
training windows. Then a_m and b_m are center and spread of member m's training windows, e_c is the mean of part_c on
windows that the members were not trained on, and u its typical value on training windows (`Detector.usual_part`). So a
channel on which the networks overfit, with much larger errors on new windows, has less weight (cross_fit.py). Without
cross-fitting a = 0, b = 1, g = 1.

Each tensor of the members has a leading dimension M, and `torch.func.vmap` turns the family's own `judge` into batched
products: ten members cost much less than ten detectors. Recurrent bodies have no batched form; their members are judged
in a loop.
Source: Breiman, "Bagging predictors", Machine Learning 24, 1996; of networks: Lakshminarayanan, Pritzel & Blundell,
"Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from stream_detector.config import ModelConfig
from stream_detector.models.base import Detector, Judged
from stream_detector.models.stacking import Method


class Ensemble(Detector):
    """M detectors of one family and shape; score = mean of their contributions, gauged per channel."""

    kind = "ensemble"
    gauge: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, member: Detector, members: int, features: int) -> None:
        """Take over `member` as the stack of all: each of its tensors gets a leading dimension of size `members`."""
        super().__init__()
        self.stochastic, self.stacks = member.stochastic, member.stacks
        self.members = members
        self.usual_part = member.usual_part
        self.stack = member
        for module in member.modules():
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weight.detach().expand(members, *weight.shape).clone()))
            for name, tensor in module.named_buffers(recurse=False):
                setattr(module, name, tensor.expand(members, *tensor.shape).clone())
        self.register_buffer("gauge", torch.ones(features))  # (F,) g_c
        self.register_buffer("center", torch.zeros(members, features))  # (M, F) a_m
        self.register_buffer("scale", torch.ones(members, features))  # (M, F) b_m
        self._judging = [Method(member, "judge")]  # in a list: its tensors are registered once, as the stack's
        self._loops = any(isinstance(module, nn.RNNBase) for module in member.modules())

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Raise NotImplementedError: an ensemble is built from a member, not from a section of the configuration."""
        raise NotImplementedError("an ensemble is built from a member: build it, then call Ensemble")

    @classmethod
    def of(cls, fitted: Sequence[Detector], features: int) -> Self:
        """Join M detectors that were fitted to windows of `features` features, scaled alike."""
        ensemble = cls(copy.deepcopy(fitted[0]), len(fitted), features)
        ensemble.take(fitted)
        return ensemble

    def take(self, fitted: Sequence[Detector]) -> None:
        """Copy the tensors of M fitted members."""
        states = [member.state_dict() for member in fitted]
        own = self.stack.state_dict()
        self.stack.load_state_dict({name: torch.stack([state[name] for state in states]) for name in own})

    def of_members(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return each member's contributions, not gauged, and expected last cell, both (M, B, F), for x (B, T, F)."""
        z = (x[None] - self.center[:, None, None]) / self.scale[:, None, None]
        tensors, judge = self.stack.state_dict(), self._judging[0]
        if self._loops:
            found = [judge.of({name: t[m] for name, t in tensors.items()}, z[m], seeds) for m in range(self.members)]
            _, parts, expected = (torch.stack(one) for one in zip(*found, strict=True))
        else:
            _, parts, expected = judge.of_each(tensors, z, shared=(seeds,))
        return parts, expected * self.scale[:, None] + self.center[:, None]

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return part_c (B, F) and the mean of the expected last cells (B, F)."""
        parts, expected = self.of_members(x, seeds)
        return self.gauge * parts.mean(dim=0), expected.mean(dim=0)

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the expected last cell (B, F)."""
        parts, expected = self.channel_errors(x, seeds)
        return Judged(parts.mean(dim=1), parts, expected)
