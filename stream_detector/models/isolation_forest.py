"""Isolation forest: random cuts isolate an outlying window sooner than one among many similar windows.

    h(x) = path length of x, averaged over the trees; a leaf of n windows counts as c(n) further cuts
    c(n) = 2 H(n−1) − 2 (n−1)/n,   r = −h(x)

The published score, 2^(−h/c(ψ)) for trees grown from ψ windows each, orders windows like r, but is bounded by 1. The
score is r on the scale of Gauged (closed_form.py).
part_c: each cut on the path changes the path length expected for training windows, from that of the node to that of the
child; part_c is the sum of the reductions by channel c's cuts, mean over the trees, if positive. Source of this
decomposition: Saabas, "Interpreting random forests", 2014. expected: the median of the training windows' last cells.

The trees are grown by scikit-learn, stored as arrays and scored here; tests compare the scores with scikit-learn's.
Source: Liu, Ting & Zhou, "Isolation forest", ICDM 2008.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import IsolationForestConfig
from stream_detector.models.closed_form import Gauged, require

_EULER = 0.5772156649015329


class IsolationForest(Gauged):
    """Isolation forest on the flattened window."""

    kind = "isolation-forest"
    column: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    path: Tensor

    def __init__(self, config: IsolationForestConfig, length: int, features: int) -> None:
        """Make an unfitted detector."""
        super().__init__(features)
        self.config, self.length, self.features = config, length, features
        self.deepest = math.ceil(math.log2(config.sample))  # maximum depth of scikit-learn's trees
        trees = config.trees
        self.register_buffer("column", torch.zeros(trees, 0, dtype=torch.int64))  # (trees, nodes) cut; -1 in leaves
        self.register_buffer("threshold", torch.zeros(trees, 0))  # values up to this one go left
        self.register_buffer("left", torch.zeros(trees, 0, dtype=torch.int64))
        self.register_buffer("right", torch.zeros(trees, 0, dtype=torch.int64))
        self.register_buffer("path", torch.zeros(trees, 0))  # mean path length of the training windows in the node

    @classmethod
    def from_config(cls, config: ModelConfig, length: int, features: int) -> Self:
        """Return an unfitted detector."""
        assert isinstance(config, IsolationForestConfig)
        return cls(config, length, features)

    def learn(self, x_train: Tensor, config: TrainConfig) -> None:
        """Grow the trees and lay them out as arrays."""
        from sklearn.ensemble import IsolationForest as Forest  # deferred: slow to import

        flat = x_train.flatten(1).float().numpy()
        sample = min(self.config.sample, len(flat))
        forest = Forest(n_estimators=self.config.trees, max_samples=sample, random_state=config.seed).fit(flat)
        laid = [
            _laid_out(one.tree_, columns)
            for one, columns in zip(forest.estimators_, forest.estimators_features_, strict=True)
        ]
        width = max(len(tree["path"]) for tree in laid)
        arrays = {name: np.stack([_padded(tree[name], width) for tree in laid]) for name in laid[0]}
        self.keep(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        self.gauge(x_train)

    def check(self) -> None:
        """Raise ValueError unless every cut is of a window's value and its children come later in the arrays."""
        shapes = {self.column.shape, self.threshold.shape, self.left.shape, self.right.shape, self.path.shape}
        require(len(shapes) == 1 and self.column.shape[1] > 0, "the arrays of its trees are empty or differ in shape")
        require(bool((self.column < self.length * self.features).all()), "a tree cuts a value outside the window")
        inner = self.column >= 0
        here = torch.arange(self.column.shape[1]).expand_as(self.column)[inner]
        for side in (self.left[inner], self.right[inner]):
            require(bool(((side > here) & (side < self.column.shape[1])).all()), "a node of a tree has no valid child")

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return −h (B,) and by how much each feature's cuts shorten the path (B, F)."""
        flat = x.flatten(1).float()  # the trees were grown on float32: values must be compared in float32
        trees = torch.arange(len(self.column), device=x.device)
        node = torch.zeros(len(x), len(trees), dtype=torch.int64, device=x.device)
        parts = x.new_zeros(len(x), self.features)
        for _ in range(self.deepest):
            column = self.column[trees, node]  # (B, trees)
            inner = column >= 0
            value = flat.gather(1, column.clamp_min(0))
            goes_left = value <= self.threshold[trees, node].float()
            after = torch.where(goes_left, self.left[trees, node], self.right[trees, node])
            after = torch.where(inner, after, node)
            shortened = self.path[trees, node] - self.path[trees, after]  # 0 where the path has ended
            parts.scatter_add_(1, column.clamp_min(0) % self.features, shortened.to(parts.dtype))
            node = after
        return -self.path[trees, node].mean(dim=1).to(x.dtype), parts / len(trees)


def _laid_out(tree: Any, columns: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return one of scikit-learn's trees as arrays over its nodes; children come after their parents."""
    left, right, counts = tree.children_left, tree.children_right, tree.n_node_samples
    leaf = left < 0
    depth = np.zeros(len(left))
    for node in np.flatnonzero(~leaf).tolist():
        depth[[left[node], right[node]]] = depth[node] + 1
    path = np.where(leaf, depth + _average_path(counts), 0.0)
    for node in np.flatnonzero(~leaf)[::-1].tolist():
        sides = [left[node], right[node]]
        path[node] = np.average(path[sides], weights=counts[sides])
    # Round the thresholds down to float32: a float32 value is <= the threshold if and only if it is <= the rounded one.
    rounded = tree.threshold.astype(np.float32)
    rounded = np.where(rounded > tree.threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    column = np.where(leaf, -1, columns[np.maximum(tree.feature, 0)])
    return {
        "column": column.astype(np.int64),
        "threshold": np.where(leaf, 0.0, rounded).astype(np.float32),
        "left": np.maximum(left, 0).astype(np.int64),
        "right": np.maximum(right, 0).astype(np.int64),
        "path": path,
    }


def _padded(array: NDArray[Any], width: int) -> NDArray[Any]:
    fill = -1 if array.dtype == np.int64 else 0
    return np.concatenate([array, np.full(width - len(array), fill, array.dtype)])


def _average_path(count: NDArray[Any]) -> NDArray[np.float64]:
    """Return c(n), the mean path length of an unsuccessful search in a binary tree of n nodes; H(i) = ln i + γ."""
    n = np.maximum(count.astype(np.float64), 3.0)
    many = 2.0 * (np.log(n - 1.0) + _EULER) - 2.0 * (n - 1.0) / n
    return np.where(count <= 1, 0.0, np.where(count == 2, 1.0, many))
