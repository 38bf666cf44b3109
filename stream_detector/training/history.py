"""A detector's training data: each asset's windows, prepared up to scaling, its channel profile, and a fingerprint.

Only detectors that learn from labelled faults get the windows' labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.artifacts.artifact import DataFingerprint
from stream_detector.config import Config
from stream_detector.errors import ConfigError, DataError
from stream_detector.models import Labelled, detector_class
from stream_detector.models.preprocessing import Preprocess, column_channels
from stream_detector.scoring.scorer import window_seeds
from stream_detector.training.labels import FAULTY, LEFT_OUT, Labels, Marker
from stream_detector.types import WindowBatch
from stream_detector.windowing.channel_profile import ChannelProfileLearner


@dataclass(slots=True)
class History:
    """One asset's windows, prepared up to scaling; raw windows are not kept because they may be many times larger."""

    asset: str
    profile: ChannelProfileLearner
    newest: list[NDArray[np.float32]] = field(default_factory=list)  # each (n, C): raw values of the last cells
    physical: list[Tensor] = field(default_factory=list)  # each (n, K, C) float64
    seeds: list[Tensor] = field(default_factory=list)  # each (n,) int64; empty for detectors that are not stochastic
    end_ms: list[NDArray[np.int64]] = field(default_factory=list)
    faulty: list[NDArray[np.bool_]] = field(default_factory=list)  # each (n,); all False without labels
    times_sha: hashlib._Hash = field(default_factory=hashlib.sha256)
    values_sha: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __len__(self) -> int:
        """Number of windows."""
        return sum(map(len, self.end_ms))

    def thinned(self, step: int) -> History:
        """Return every `step`-th window, with the channel profile of all windows."""
        end_ms, windows, seeds, faulty = self.ordered()
        thin = [] if seeds is None else [seeds[::step]]
        flags = [faulty.numpy()[::step]]
        return replace(self, physical=[windows[::step]], seeds=thin, end_ms=[end_ms[::step]], faulty=flags)

    def ordered(self) -> tuple[NDArray[np.int64], Tensor, Tensor | None, Tensor]:
        """Return end times, windows, seeds and faulty flags, in event-time order."""
        end_ms, windows = np.concatenate(self.end_ms), torch.cat(self.physical)
        seeds = torch.cat(self.seeds) if self.seeds else None
        faulty = torch.from_numpy(np.concatenate(self.faulty))
        if np.all(end_ms[1:] >= end_ms[:-1]):
            return end_ms, windows, seeds, faulty
        order = np.argsort(end_ms, kind="stable")
        return end_ms[order], windows[order], None if seeds is None else seeds[order], faulty[order]


def gather(
    config: Config, batches: Iterable[WindowBatch], assets: Collection[str] | None, labels: Labels | None
) -> dict[str, History]:
    """Return the windows of all assets, or of `assets` only, sorted by name.

    Raises DataError when one of `assets` has no window, a value is not finite, or labels are missing or don't match.
    """
    marker = _marker(config, labels)
    channels = column_channels(config.channels)
    preprocess = Preprocess(config.features, config.window.length, len(channels), channels)
    draws = detector_class(config.model.kind).stochastic
    histories: dict[str, History] = {}
    for batch in batches:
        rows_of: dict[str, list[int]] = {}
        for row, asset in enumerate(batch.assets):
            if assets is None or asset in assets:
                rows_of.setdefault(asset, []).append(row)
        for asset, rows in rows_of.items():
            marks = np.zeros(len(rows), np.int8)
            if marker is not None:
                marks = marker.mark(asset, batch.end_ms[rows])
                rows = [row for row, mark in zip(rows, marks.tolist(), strict=True) if mark != LEFT_OUT]
                marks = marks[marks != LEFT_OUT]
                if not rows:
                    continue
            if (history := histories.get(asset)) is None:
                learner = ChannelProfileLearner(len(config.columns), config.window.cell_ms)
                history = histories[asset] = History(asset, learner)
            values = np.ascontiguousarray(batch.values[rows], np.float32)
            end_ms = np.ascontiguousarray(batch.end_ms[rows], np.int64)
            _check_finite(config, asset, end_ms, values)
            history.times_sha.update(end_ms.tobytes())
            history.values_sha.update(values.tobytes())
            history.end_ms.append(end_ms)
            history.newest.append(values[:, -1].copy())
            faulty = marks == FAULTY
            history.faulty.append(faulty)
            if marker is not None:
                history.values_sha.update(faulty.tobytes())
            if not faulty.all():
                history.profile.learn(values[~faulty], batch.filled[rows][~faulty], end_ms[~faulty])
            raw = torch.from_numpy(values)
            history.physical.append(preprocess.physical(raw.double()))
            if draws:
                history.seeds.append(window_seeds(raw))
    if marker is not None:
        marker.check()
    if missing := sorted(set(assets or ()) - histories.keys()):
        raise DataError(f"asset {missing[0]!r} has no window in the history; check the name and the recordings")
    return dict(sorted(histories.items()))  # by name: partitions may deliver assets in any order


def _marker(config: Config, labels: Labels | None) -> Marker | None:
    """Return the marker of faulty windows if the detector learns from labels, else None. Raises DataError."""
    kind = config.model.kind
    if not issubclass(detector_class(kind), Labelled):
        return None
    if config.train.folds:
        raise ConfigError(f"train.folds must be 0 with model.kind {kind}, got {config.train.folds}")
    if labels is None:
        raise DataError(
            f"model.kind {kind} learns from labelled faults, and the history has no labels; name a column of 0 and 1 "
            "with --label-column, or a list of faults with --truth, or choose a detector that needs none (model.kind: "
            "ae)"
        )
    return Marker(labels, config)


def fingerprint(config: Config, histories: list[History]) -> DataFingerprint:
    """Return the windows' fingerprint: a hash over names, times and values, their number, and the time they span."""
    sha = hashlib.sha256()
    for history in histories:
        name = history.asset.encode()
        sha.update(len(name).to_bytes(4, "little") + name + history.times_sha.digest() + history.values_sha.digest())
    times = np.concatenate([end_ms for history in histories for end_ms in history.end_ms])
    start_ms = round(float(times.min()) - config.window.length * config.window.cell_ms)
    return DataFingerprint(sha.hexdigest(), len(times), start_ms, int(times.max()))


def _check_finite(config: Config, asset: str, end_ms: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row, _, column = (int(index) for index in np.argwhere(~finite)[0])
        raise DataError(
            f"asset {asset!r}: column {config.columns[column]!r} of the window that ends at {end_ms[row]} ms holds "
            f"{values[row][~finite[row]][0]}, not a finite number; leave such readings out"
        )
