"""A small plant and detectors trained on it, for the tests of artifact, model_set, scorer and train."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.artifacts.artifact import Artifact
from stream_detector.config import Config
from stream_detector.training.train import train
from stream_detector.types import WindowBatch

START_MS = 1_583_748_873_000  # 2020-03-09T10:14:33Z
CELL_MS = 1_000
LENGTH = 8


def make_config(**sections: Any) -> Config:
    """Return a configuration of three channels; sections given replace or add to the defaults."""
    return Config.model_validate(
        {
            "stream": "pump",
            "channels": {"vibration": {"unit": "g"}, "temperature": {"unit": "°C"}, "current": {"unit": "A"}},
            "window": {"cell_ms": CELL_MS, "length": LENGTH},
            "features": {"smoothing": 0.3, "keep": 2},
            "model": {"kind": "ae", "hidden": [8], "latent": 2},
            "train": {"epochs": 8},
            **sections,
        }
    )


def rows(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Return n rows of a load that swings and three sensors that follow it, (n, 3)."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(n) / 15 + seed) + 0.1 * rng.normal(size=n)
    columns = [0.03 + 0.002 * load, 79 + 0.5 * np.roll(load, 2), 1.3 + 0.1 * load**2]
    return (np.stack(columns, axis=1) * (1 + 0.002 * rng.normal(size=(n, 3)))).astype(np.float32)


def windows(n: int, asset: str = "pump-1", seed: int = 0, stride: int = 1, start_ms: int = START_MS) -> WindowBatch:
    """Return the n windows of one asset, every `stride` cells."""
    cells = rows(LENGTH + (n - 1) * stride, seed)
    starts = np.arange(n) * stride
    return make_batch(
        [asset] * n,
        start_ms + (starts + LENGTH) * CELL_MS,
        np.stack([cells[start : start + LENGTH] for start in starts]),
    )


def make_batch(assets: Sequence[str], end_ms: NDArray[np.int64], values: NDArray[np.float32]) -> WindowBatch:
    """Return a batch of windows without gaps."""
    filled, ingest = np.zeros(values.shape, np.bool_), np.full(len(assets), -1, np.int64)
    return WindowBatch(0, list(assets), np.asarray(end_ms, np.int64), values, filled, ingest)


def take(batch: WindowBatch, index: Sequence[int] | NDArray[np.int64]) -> WindowBatch:
    """Return some windows of a batch, in the order given."""
    chosen = np.asarray(index, np.int64)
    return make_batch([batch.assets[i] for i in chosen], batch.end_ms[chosen], batch.values[chosen])


def joined(*batches: WindowBatch) -> WindowBatch:
    """Return batches as one, in turn window by window (all equally long)."""
    count = len(batches[0])
    order = np.arange(count * len(batches)).reshape(len(batches), count).T.ravel()
    whole = make_batch(
        [asset for batch in batches for asset in batch.assets],
        np.concatenate([batch.end_ms for batch in batches]),
        np.concatenate([batch.values for batch in batches]),
    )
    return take(whole, order)


@cache
def artifact(seed: int = 0) -> Artifact:
    """Return a detector trained on 200 windows of pump-1; do not change it."""
    return train(make_config(train={"epochs": 8, "seed": seed}), [windows(200, seed=seed)])
