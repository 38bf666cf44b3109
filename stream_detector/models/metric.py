"""Metric learning on patches: a small network learns which windows are similar; one unlike all others is anomalous.

    x̃_tc = (x_tc − mean_t x_c) / max(sd_t x_c, s_min)            with `normalise: instance`, else x̃ = x
    e(x) = h(x̃) / ‖h(x̃)‖,   h: convolutions of stride 2, mean over time, one linear layer
    d(a, b) = ½ ‖e(a) − e(b)‖² = 1 − cos
    triplet = mean of max(0, d(x_i, x_{i+δ}) − d(x_i, x_n) + m),   |δ| <= r,   x_n: the farthest in the minibatch
    pretext = −log σ(q(h(x_i), h(x_{i+T}))) − log(1 − σ(q(h(x_i), h(x_j)))),   j drawn from the minibatch
    loss    = triplet + λ · pretext,   λ falls from 1 to 0 in the first fifth of the steps
    score   = mean of d(x, b) over the k nearest b of the bank

The network learns from time order only: windows a few cells apart are similar (triplet), and the window that starts
where x_i ends is recognised as its successor (pretext); there are no labels and no reconstruction. The bank holds the
training windows nearest to the centers of a k-means clustering of their embeddings. `fit` needs windows in time order.

Contributions divide the score in proportion to each feature's mean square difference from the nearest windows of the
bank.
Source: Park & Kang, "PaAno: Patch-based representation learning for time-series anomaly detection", ICLR 2026; unlike
it, this detector judges only the patch that ends with the row: a live stream has no later one. Triplet loss: Schroff,
Kalenichenko & Philbin, "FaceNet", CVPR 2015; the bank: Roth et al., "Towards total recall in industrial anomaly
detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.model import MetricConfig
from stream_detector.errors import ConfigError
from stream_detector.models.base import Detector, Judged
from stream_detector.models.fitting import FitReport, Progress, check_finite

#: s_min, in units of a channel's normal spread: prevents the noise of a flat window from being amplified to a signal.
SMALLEST_SPREAD = 0.1
#: m, the margin of the triplet loss.
MARGIN = 0.5
#: Share of the passes after which the weight of the pretext loss is 0.
PRETEXT_SHARE = 0.2
#: Avoids contributions of 0/0 for windows that equal their neighbours.
TINY = 1e-12


class Embedding(nn.Module):
    """e(x): windows (B, T, F) to points on the unit sphere, (B, D)."""

    def __init__(self, config: MetricConfig, features: int) -> None:
        """Build for windows of any length."""
        super().__init__()
        self.instance = config.normalise == "instance"
        layers: list[nn.Module] = []
        widths = [features, *config.hidden]
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, config.kernel, stride=2, padding=config.kernel // 2), nn.ELU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1], config.embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Return e, (B, T, F) -> (B, D)."""
        return F.normalize(self.last(self.layers(self.shape(x).transpose(1, 2)).mean(dim=2)), dim=1)

    def shape(self, x: Tensor) -> Tensor:
        """Return x̃, (B, T, F) -> (B, T, F)."""
        if not self.instance:
            return x
        away = x - x.mean(dim=1, keepdim=True)
        return away / away.square().mean(dim=1, keepdim=True).sqrt().clamp_min(SMALLEST_SPREAD)


class Metric(Detector):
    """Distance to the nearest windows of a bank, in a learnt embedding space."""

    kind = "metric"
    bank: Tensor
    known: Tensor

    def __init__(self, config: MetricConfig, length: int, features: int) -> None:
        """Make an unfitted detector. Raises ConfigError when the convolution's kernel is even."""
        super().__init__()
        if config.kernel % 2 == 0:
            raise ConfigError(
                f"model.kernel must be odd, so that convolutions are centred on a cell; got {config.kernel}"
            )
        self.config = config
        self.embed = Embedding(config, features)
        self.register_buffer("bank", torch.zeros(0, length, features))  # (R, T, F) windows
        self.register_buffer("known", torch.zeros(0, config.embedding))  # (R, D) their embeddings

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector. Raises ConfigError when the convolution's kernel is even."""
        assert isinstance(config, MetricConfig)
        return cls(config, length, features)

    def fit(self, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None) -> FitReport:
        """Learn the metric from windows (N, T, F) in event-time order, then fill the bank."""
        losses = self._learn(x_train, config, progress)
        self.eval()
        with torch.no_grad():
            self._fill(x_train, config.seed)
        return FitReport(config.epochs, config.epochs, losses, losses, first_choice=config.epochs)  # the last is kept

    def judge(self, x: Tensor, seeds: Tensor | None = None) -> Judged:
        """Return score (B,), contributions (B, F) and the mean of the neighbours' last cells (B, F)."""
        apart = 1.0 - self.embed(x) @ self.known.T  # (B, R)
        near, which = apart.topk(min(self.config.neighbours, len(self.known)), dim=1, largest=False)
        score = near.mean(dim=1).clamp_min(0.0)
        neighbours = self.bank[which]  # (B, k, T, F)
        shapes = self.embed.shape(neighbours.flatten(0, 1)).reshape(neighbours.shape)
        squares = (self.embed.shape(x)[:, None] - shapes).square().mean(dim=(1, 2)) + TINY
        parts = squares * (score / squares.mean(dim=1))[:, None]
        return Judged(score, parts, neighbours[:, :, -1].mean(dim=1))

    def channel_errors(self, x: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the contributions (B, F) and the mean of the neighbours' last cells (B, F)."""
        judged = self.judge(x, seeds)
        return judged.parts, judged.expected

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors from an artifact; the bank may hold any number of windows, at least one."""
        for name in ("bank", "known"):
            held = tensors.get(name)
            if held is not None and held.ndim > 1:
                own = getattr(self, name)
                setattr(self, name, own.new_zeros(len(held), *own.shape[1:]))
        super().restore(tensors)
        if len(self.bank) == 0 or len(self.bank) != len(self.known):
            raise ValueError("its bank of windows is empty, or doesn't match its embeddings")

    def _learn(self, x: Tensor, config: TrainConfig, progress: Progress | None) -> tuple[float, ...]:
        draws = torch.Generator().manual_seed(config.seed)
        follows = nn.Bilinear(self.config.embedding, self.config.embedding, 1)
        for drawn in follows.parameters():  # from its own seed, independent of earlier draws
            nn.init.uniform_(drawn, -0.1, 0.1, generator=draws)
        adam = torch.optim.Adam([*self.embed.parameters(), *follows.parameters()], lr=config.learning_rate, fused=True)
        count, window = len(x), x.shape[1]
        losses: list[float] = []
        for epoch in range(1, config.epochs + 1):
            weight = max(0.0, 1.0 - (epoch - 1) / max(PRETEXT_SHARE * config.epochs, 1.0))
            total = 0.0
            for rows in torch.split(torch.randperm(count, generator=draws), config.batch):
                shift = torch.randint(1, self.config.radius + 1, rows.shape, generator=draws)
                sign = 2 * torch.randint(2, rows.shape, generator=draws) - 1
                near = (rows + sign * shift).clamp(0, count - 1)
                after = (rows + window).clamp_max(count - 1)
                anchor, positive, later = self.embed(x[torch.cat((rows, near, after))]).chunk(3)
                apart = 1.0 - anchor @ anchor.T
                loss = (1.0 - (anchor * positive).sum(dim=1) - apart.max(dim=1).values + MARGIN).clamp_min(0.0).mean()
                if weight:
                    other = anchor[torch.randperm(len(rows), generator=draws)]
                    loss = loss + weight * (
                        F.softplus(-follows(anchor, later)).mean() + F.softplus(follows(anchor, other)).mean()
                    )
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / count)
            check_finite(epoch, losses[-1], config)
            if progress is not None:
                progress(epoch, config.epochs, losses[-1], losses[-1])
        return tuple(losses)

    def _fill(self, x: Tensor, seed: int) -> None:
        """Set the bank: all windows, or those nearest to the cluster centers when there are too many."""
        points = torch.cat([self.embed(chunk) for chunk in torch.split(x, 4096)])
        if len(x) > self.config.references:
            from sklearn.cluster import MiniBatchKMeans  # deferred: slow to import

            found = MiniBatchKMeans(self.config.references, random_state=seed, n_init=1).fit(points.numpy())
            centers = torch.from_numpy(found.cluster_centers_).to(points)
            chosen = torch.unique((points @ F.normalize(centers, dim=1).T).argmax(dim=0))
            x, points = x[chosen], points[chosen]
        self.bank, self.known = x.clone(), points.clone()
