"""From a history to an artifact: split the windows in time, fit scaler and weights to the first part, score the rest.

    │◀────────── training part ─────────▶│◀ overlap ▶│◀── calibration: early stopping, then scores ──▶│
    event time of one asset ──────────────────────────────────────────────────────────────────────────▶

Windows of the overlap share cells with the training part. They are dropped if enough windows remain after them.

With `train.folds` no windows are held out: see models/cross_fit.py.
Detectors that learn from labelled faults get the labels of both parts; scaler, channel profile and calibration use
only normal windows. No other detector gets labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.artifacts.artifact import Artifact, Snapshot, Split
from stream_detector.config import Config
from stream_detector.errors import DataError
from stream_detector.models import DivergedError, FitReport, Labelled, Progress, detector_class, fit_all
from stream_detector.models.precision import coarse_columns
from stream_detector.models.preprocessing import column_channels
from stream_detector.telemetry.logs import event
from stream_detector.training.calibration import Blocks, CrossFitted, Fitted, HoldOut, HoldOutLabelled, Nets, Parts, Way
from stream_detector.training.history import History, fingerprint, gather
from stream_detector.training.labels import Labels
from stream_detector.types import WindowBatch
from stream_detector.windowing.channel_profile import ChannelProfile, channel_profile_of

log = logging.getLogger(__name__)

#: Minimum number of windows for fitting the scaler and the weights.
MIN_TRAIN = 20
#: Minimum number of windows for calibrating a threshold.
MIN_CALIBRATION = 10
#: Windows that overlap the training part are dropped if at least this many of the asset's windows remain after them.
MIN_CLEAN = 100
#: Maximum number of assets whose detectors are trained together; larger batches are not faster.
TOGETHER = 500


def train(
    config: Config,
    batches: Iterable[WindowBatch],
    *,
    progress: Progress | None = None,
    assets: Collection[str] | None = None,
    labels: Labels | None = None,
) -> Artifact:
    """Train one detector on the windows of all assets, or of `assets` only, which are then stored in the artifact.

    `labels` mark faulty windows; detectors that learn from labels require them, all others ignore them.

    Windows must be in event-time order per asset, as the window stage emits them; their division into batches has no
    effect. The same windows, configuration and seed give the same artifact, byte for byte, on the CPU with one thread.

    The detector's warnings (`Artifact.fit.warnings`) are logged too.
    Raises DataError when there are too few windows, a value is not finite, labels are missing, or the fit diverges;
    ConfigError when the configured detector can't be built.
    """
    histories = gather(config, batches, assets, labels)
    names = None if assets is None else tuple(sorted(assets))
    return one_artifact(config, list(histories.values()), names, progress=progress)


def train_many(
    config: Config,
    batches: Iterable[WindowBatch],
    *,
    progress: Callable[[str], None] | None = None,
    assets: Collection[str] | None = None,
    labels: Labels | None = None,
) -> dict[str, Artifact]:
    """Train one detector per asset; return them by asset. `progress` is called with the name of each asset done.

    Small dense networks are trained together, in batched products. Each gets the same minibatches and random draws as
    in a separate training, so its scores equal those of `train` to about 5 digits; sums are rounded differently.
    Raises the errors of `train`, with the asset's name.
    """
    histories = gather(config, batches, assets, labels)
    if not histories:
        raise DataError(_too_few(config, 0, 0, 0))
    return of_each(config, histories, progress)


def of_each(
    config: Config, histories: dict[str, History], progress: Callable[[str], None] | None = None
) -> dict[str, Artifact]:
    """Train one detector per history; see `train_many`."""
    found: dict[str, Artifact] = {}
    names = list(histories)
    for start in range(0, len(names), TOGETHER):
        some = names[start : start + TOGETHER]
        found |= _train_together(config, [histories[name] for name in some])
        if progress is not None:
            for name in some:
                progress(name)
    return found


def one_artifact(
    config: Config,
    histories: list[History],
    names: tuple[str, ...] | None,
    place: str = "",
    progress: Progress | None = None,
) -> Artifact:
    """Train one detector on the histories of several assets; `place` is the prefix of log and error messages."""
    with _reproducible(config):
        way = _way(config, histories, place, progress)
        fitted = way.result(_fit(config, way.nets, progress))
    return _artifact(config, histories, names, fitted, place)


def _way(config: Config, histories: list[History], place: str, progress: Progress | None = None) -> Way:
    if config.train.folds:
        return CrossFitted(config, _blocks(config, histories, place))
    parts = _split(config, histories, place)
    if issubclass(detector_class(config.model.kind), Labelled):
        return HoldOutLabelled(config, parts, progress, place)
    return HoldOut(config, parts)


def _fit(config: Config, nets: Nets, progress: Progress | None = None) -> list[FitReport]:
    return fit_all(nets.detectors, nets.x_train, nets.x_val, nets.seeds, config.train, progress=progress)


def _train_together(config: Config, histories: list[History]) -> dict[str, Artifact]:
    places = [f"asset {history.asset!r}: " for history in histories]
    ways: list[Way] = []
    for history, place in zip(histories, places, strict=True):
        with _reproducible(config):  # each has the same initial weights as in a separate training
            ways.append(_way(config, [history], place))
    fitted: list[Fitted | None] = [None] * len(ways)
    with _reproducible(config):
        for alike in _alike(ways):
            for index, reports in zip(alike, _fit_together(config, ways, alike, places), strict=True):
                fitted[index] = ways[index].result(reports)
    return {
        history.asset: _artifact(config, [history], (history.asset,), one, place)
        for history, one, place in zip(histories, fitted, places, strict=True)
        if one is not None
    }


def _alike(ways: list[Way]) -> list[list[int]]:
    """Group the indexes of `ways` by the shape of their networks, which depends on the data if there are categories."""
    found: dict[int, list[int]] = {}
    for index, way in enumerate(ways):
        found.setdefault(way.preprocess.columns, []).append(index)
    return list(found.values())


def _fit_together(config: Config, ways: list[Way], alike: list[int], places: list[str]) -> list[list[FitReport]]:
    """Fit the networks of several ways together; return each way's reports. Raises DataError with the asset's name."""
    owner = [index for index in alike for _ in ways[index].nets.detectors]
    nets = [ways[index].nets for index in alike]
    joint = Nets(
        [net for own in nets for net in own.detectors],
        [x for own in nets for x in own.x_train],
        [x for own in nets for x in own.x_val],
        [seed for own in nets for seed in own.seeds],
    )
    try:
        reports = iter(_fit(config, joint))
    except DivergedError as error:
        raise DataError(f"{places[owner[error.index]]}{error}") from error
    return [[next(reports) for _ in ways[index].nets.detectors] for index in alike]


def _artifact(
    config: Config, histories: list[History], names: tuple[str, ...] | None, fitted: Fitted, place: str
) -> Artifact:
    for warning in fitted.report.warnings:
        log.warning("%s%s", place, warning)
    _tell_coarse(config, histories)
    return Artifact.create(
        detector=fitted.detector.eval(),
        preprocess=fitted.preprocess.eval(),
        calibration=fitted.scores,
        config=Snapshot.of(config),
        assets=names,
        data=fingerprint(config, histories),
        split=fitted.split,
        fit=fitted.report,
        profile=_profile(config, histories),
    )


def _tell_coarse(config: Config, histories: list[History]) -> None:
    numbers = np.array([channel.kind == "number" for channel in column_channels(config.channels)], np.bool_)
    for history in histories:
        for found in coarse_columns(np.concatenate(history.newest), numbers):
            name = config.columns[found.column]
            log.warning(
                "asset %r: channel %s is near %.9g and varies by only %.3g, but windows hold float32, whose step is "
                "%.3g there, so small changes are lost; subtract a constant, such as its usual value, before sending",
                history.asset,
                name,
                found.median,
                found.spread,
                found.step,
                extra=event("coarse-channel", asset=history.asset, channel=name),
            )


def _profile(config: Config, histories: list[History]) -> ChannelProfile:
    observed = np.concatenate(
        [
            part[:, -1].numpy()[~faulty]
            for history in histories
            for part, faulty in zip(history.physical, history.faulty, strict=True)
        ]
    )
    numbers = [channel.kind == "number" for channel in column_channels(config.channels)]
    return channel_profile_of([history.profile for history in histories], observed, np.array(numbers, np.bool_))


def _blocks(config: Config, histories: list[History], place: str) -> Blocks:
    found = [history.ordered() for history in histories]
    fold = [np.arange(len(end_ms)) * config.train.folds // max(len(end_ms), 1) for end_ms, *_ in found]
    count = sum(map(len, fold))
    smallest = min(int(np.bincount(np.concatenate(fold), minlength=config.train.folds).min()), count) if count else 0
    most_left_out = 2 * -(-count // config.train.folds)
    if count - most_left_out < MIN_TRAIN or smallest * config.train.folds < MIN_CALIBRATION:
        raise DataError(place + _too_few(config, count, max(count - most_left_out, 0), count))
    reach = _reach_ms(config)
    overlapping = sum(_across(end_ms, block, reach) for (end_ms, *_), block in zip(found, fold, strict=True))
    seeds = [own for _, _, own, _ in found if own is not None]
    return Blocks(
        torch.cat([windows for _, windows, *_ in found]),
        torch.from_numpy(np.concatenate(fold)),
        torch.cat(seeds) if seeds else None,
        Split("cross-fit", count, count, overlapping, 0),
    )


def enough(config: Config, histories: list[History], place: str) -> None:
    """Raise DataError, prefixed with `place`, when histories are too short for a detector."""
    if config.train.folds:
        _blocks(config, histories, place)
    else:
        _split(config, histories, place)


def _across(end_ms: NDArray[np.int64], fold: NDArray[np.int64], reach_ms: float) -> int:
    """Return the number of windows that share cells with a window of another block."""
    before = np.searchsorted(end_ms, end_ms - reach_ms, side="right")  # the first window that ends after the start
    after = np.searchsorted(end_ms, end_ms + reach_ms, side="left") - 1  # the last window that starts before the end
    last = len(end_ms) - 1
    return int(((fold[np.minimum(before, last)] != fold) | (fold[np.maximum(after, 0)] != fold)).sum())


def _reach_ms(config: Config) -> float:
    """Return the least distance, ms, between the ends of two windows that share no cell."""
    # half a cell is subtracted because end times are rounded to whole ms and cells need not be whole ms;
    # a record shares nothing with the previous one
    return 0.0 if config.window.mode == "records" else (config.window.length - 0.5) * config.window.cell_ms


def _split(config: Config, histories: list[History], place: str) -> Parts:
    train: list[Tensor] = []
    held_out: list[Tensor] = []
    seeds: list[Tensor] = []
    faulty_train: list[Tensor] = []
    faulty_held_out: list[Tensor] = []
    overlapping = dropped = 0
    for history in histories:
        end_ms, windows, own_seeds, faulty = history.ordered()
        n_train = int(len(end_ms) * (1 - config.train.holdout))
        train.append(windows[:n_train])
        faulty_train.append(faulty[:n_train])
        boundary = int(end_ms[n_train - 1]) if n_train else int(end_ms[0]) - 1
        starts = end_ms[n_train:] - _reach_ms(config)
        clean = starts >= boundary if n_train else np.ones(len(starts), np.bool_)
        if clean.sum() >= MIN_CLEAN:
            dropped += int((~clean).sum())
            chosen = np.flatnonzero(clean) + n_train
        else:
            overlapping += int((~clean).sum())
            chosen = np.arange(n_train, len(end_ms))
        held_out.append(windows[chosen])
        faulty_held_out.append(faulty[chosen])
        if own_seeds is not None:
            seeds.append(own_seeds[chosen])
    fitted, calibrated = (sum(int((~part).sum()) for part in parts) for parts in (faulty_train, faulty_held_out))
    if fitted < MIN_TRAIN or calibrated < MIN_CALIBRATION:
        raise DataError(place + _too_few(config, fitted + calibrated + dropped, fitted, calibrated))
    split = Split("holdout", sum(map(len, train)), calibrated, overlapping, dropped)
    return Parts(
        torch.cat(train),
        torch.cat(held_out),
        torch.cat(seeds) if seeds else None,
        torch.cat(faulty_train),
        torch.cat(faulty_held_out),
        split,
    )


@contextmanager
def _reproducible(config: Config) -> Iterator[None]:
    """Seed torch and set its number of threads, which changes the order of sums; restore both afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.scorer.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.train.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _too_few(config: Config, found: int, fitted: int, calibrated: int) -> str:
    window = config.window
    return (
        f"the history makes {found} windows, {fitted} to train on and {calibrated} to calibrate on; at least "
        f"{MIN_TRAIN} and {MIN_CALIBRATION} are needed. Give a longer recording, lower window.length "
        f"({window.length}) or window.stride ({window.stride}), or raise window.max_gap_ms "
        f"({window.max_gap_ms:g}) if gaps cut the windows"
    )
