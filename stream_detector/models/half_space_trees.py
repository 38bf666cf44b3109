"""Half-space trees: random cuts of the value range; windows in cells with few training windows are anomalous.

    raw(x) = Σ over trees, over the nodes on the path of x, of (mass of the node) · 2^depth, as far as the first node
             with a mass below a tenth of ψ
    r      = −log2 (raw(x) / (trees · ψ))

The mass of a node is how many of the last ψ training windows are in it. River publishes 1 − raw/max in [0, 1]: the same
order, but compressed near 1. The score is r on the scale of Gauged (closed_form.py).
part_c: sum over the cuts of channel c on the path of −log2(2 · mass of the child / mass of the node), which is 0 when
the cut halves the mass; mean over the trees, if positive. expected: the median of the training windows' last cells.

The last ψ training windows are learnt one by one, in order; then the masses are frozen, so that replayed windows get
the same scores; to learn more, fit again. The trees are grown by river, stored as arrays and scored here; tests compare
the scores with river's. Source: Tan, Ting & Liu, "Fast anomaly detection for streaming data", IJCAI 2011.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import HalfSpaceTreesConfig
from stream_detector.models.closed_form import Gauged, require

#: The range of the cuts exceeds the training range by this many times its width on either side.
BEYOND = 1.0


class HalfSpaceTrees(Gauged):
    """Half-space trees on the flattened window."""

    kind = "half-space-trees"
    column: Tensor
    threshold: Tensor
    mass: Tensor
    sample: Tensor

    def __init__(self, config: HalfSpaceTreesConfig, length: int, features: int) -> None:
        """Make an unfitted detector."""
        super().__init__(features)
        self.config, self.length, self.features = config, length, features
        trees, inner = config.trees, (1 << config.height) - 1
        # nodes in heap order: the children of node i are 2i + 1, for values below the threshold, and 2i + 2
        self.register_buffer("column", torch.zeros(trees, inner, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, inner))
        self.register_buffer("mass", torch.zeros(trees, 2 * inner + 1))
        self.register_buffer("sample", torch.ones(()))  # ψ

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, HalfSpaceTreesConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Fit river's detector window by window, then copy its trees."""
        from river.anomaly import HalfSpaceTrees as Trees  # deferred: slow to import

        flat = x_train.flatten(1)
        sample = min(self.config.sample, len(flat))
        low, high = flat.min(dim=0).values, flat.max(dim=0).values
        room = BEYOND * (high - low).clamp_min(1.0)
        ends = zip((low - room).tolist(), (high + room).tolist(), strict=True)
        limits: dict[Hashable, tuple[float, float]] = dict(enumerate(ends))
        trees = Trees(
            n_trees=self.config.trees, height=self.config.height, window_size=sample, limits=limits, seed=config.seed
        )
        for row in flat[-sample:].tolist():
            trees.learn_one(dict(enumerate(row)))  # type: ignore[no-untyped-call]  # river declares none
        laid = [_laid_out(tree, self.config.height) for tree in trees.trees]
        self.keep(
            column=torch.tensor([columns for columns, _, _ in laid]),
            threshold=torch.tensor([thresholds for _, thresholds, _ in laid], dtype=torch.float64),
            mass=torch.tensor([masses for _, _, masses in laid], dtype=torch.float64),
            sample=torch.tensor(float(sample)),
        )
        self.gauge(x_train)

    def check(self) -> None:
        """Raise ValueError unless every cut is of a window's value and every tree has windows at its root."""
        size = self.length * self.features
        require(bool(((self.column >= 0) & (self.column < size)).all()), "a tree cuts a value outside the window")
        require(bool((self.mass[:, 0] > 0).all() and self.sample > 0), "a tree has no windows at its root")

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return r (B,) and the contributions before their floor at 0 (B, F)."""
        flat = x.flatten(1)
        trees = torch.arange(len(self.column), device=x.device)
        node = torch.zeros(len(x), len(trees), dtype=torch.int64, device=x.device)
        mass = self.mass[trees, node]
        raw, parts = mass.clone(), x.new_zeros(len(x), self.features)
        alive = mass >= 0.1 * self.sample
        for depth in range(1, self.config.height + 1):
            column = self.column[trees, node]
            below = flat.gather(1, column) < self.threshold[trees, node]
            node = 2 * node + torch.where(below, 1, 2)
            found = self.mass[trees, node]
            step = torch.log2((mass + 0.5) / (2.0 * found + 0.5))  # the halves keep empty nodes finite
            parts.scatter_add_(1, column % self.features, torch.where(alive, step, 0.0).to(parts.dtype))
            raw = raw + torch.where(alive, found * 2.0**depth, 0.0)
            mass, alive = found, alive & (found >= 0.1 * self.sample)
        return -torch.log2(raw.sum(dim=1) / (len(trees) * self.sample)), parts / len(trees)


def _laid_out(root: Any, height: int) -> tuple[list[int], list[float], list[float]]:
    """Return columns, thresholds and masses of one of river's trees in heap order."""
    columns, thresholds, masses = [], [], []
    level = [root]
    for depth in range(height + 1):
        masses += [float(node.r_mass) for node in level]
        if depth < height:
            columns += [int(node.feature) for node in level]
            thresholds += [float(node.threshold) for node in level]
            level = [child for node in level for child in node.children]
    return columns, thresholds, masses
