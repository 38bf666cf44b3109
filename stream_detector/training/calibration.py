"""Two ways to fit a detector and to score windows that it was not trained on: hold out a tail, or cross-fit.

Preparation and fit are separate steps, so that the networks of many assets can be fitted together
(models/stacked_fit.py).

    windows ─▶ HoldOut or CrossFitted: unfitted networks with their training windows ─▶ fit_all ─▶ result ─▶ Fitted
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.artifacts.artifact import Split
from stream_detector.config import Config
from stream_detector.errors import DataError
from stream_detector.models import (
    CrossFitting,
    Detector,
    Ensemble,
    FitReport,
    Labelled,
    Progress,
    build,
    cross_fit,
    detector_class,
    joint_report,
    members,
)
from stream_detector.models.preprocessing import Preprocess, column_channels
from stream_detector.scoring.scorer import SCORE_BITS, round_mantissa

#: Windows scored at once for calibration.
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of either way."""

    preprocess: Preprocess
    detector: Detector
    scores: NDArray[np.float64]  # (M,) each by a detector that was not trained on the window
    report: FitReport
    split: Split


@dataclass(frozen=True, slots=True)
class Nets:
    """Detectors to fit, all of one shape, each with its windows and seed."""

    detectors: list[Detector]
    x_train: list[Tensor]  # each (n, T, F) float32, scaled
    x_val: list[Tensor]
    seeds: list[int]


class Way(Protocol):
    """A prepared fit: its unfitted networks, and how to get a detector and calibration scores from the fitted ones."""

    preprocess: Preprocess
    nets: Nets

    def result(self, reports: list[FitReport]) -> Fitted:
        """Score the calibration windows; `reports` has one entry per network, in order."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The windows of all assets, divided into training and held-out windows."""

    train: Tensor  # (N, K, C) physical units
    held_out: Tensor  # (M, K, C)
    seeds: Tensor | None  # (M,) of the held-out windows
    faulty_train: Tensor  # (N,) bool; all False without labels
    faulty_held_out: Tensor  # (M,)
    split: Split


@dataclass(frozen=True, slots=True)
class Blocks:
    """The windows of all assets, each with its block of the asset's history."""

    windows: Tensor  # (N, K, C) physical units
    fold: Tensor  # (N,) int64
    seeds: Tensor | None  # (N,)
    split: Split


class HoldOut:
    """Fit to the training windows; the held-out windows are used for early stopping and are scored."""

    def __init__(self, config: Config, parts: Parts) -> None:
        """Fit the scaler and build the networks, with weights drawn by torch's generator."""
        self.parts = parts
        self.preprocess = _preprocess(config)
        self.preprocess.scaler.fit(parts.train)
        count, columns = members(detector_class(config.model.kind), config.train), self.preprocess.columns
        detectors = [build(config.model, self.preprocess.length, columns) for _ in range(count)]
        x_train, x_val = (_scaled(self.preprocess, part).float() for part in (parts.train, parts.held_out))
        seeds = [config.train.seed * count + index for index in range(count)]
        self.nets = Nets(detectors, [x_train] * count, [x_val] * count, seeds)

    def result(self, reports: list[FitReport]) -> Fitted:
        """Score the held-out windows."""
        detectors, report = self.nets.detectors, joint_report(reports)
        detector = detectors[0] if len(detectors) == 1 else Ensemble.of(detectors, self.preprocess.columns)
        scores = _scores(detector, _scaled(self.preprocess, self.parts.held_out), self.parts.seeds)
        return Fitted(self.preprocess, detector, scores, report, self.parts.split)


class HoldOutLabelled:
    """Like HoldOut, for detectors that also learn from faulty windows; scaler and calibration use only normal windows.

    Each detector is fitted separately, in `result`.
    """

    def __init__(self, config: Config, parts: Parts, progress: Progress | None, place: str) -> None:
        """Fit the scaler and build the detector. Raises DataError, prefixed by `place`, without a faulty window."""
        self.config, self.parts = config, parts
        self._progress, self._place = progress, place
        self._faults = int(parts.faulty_train.sum())
        if not self._faults:
            later, holdout = int(parts.faulty_held_out.sum()), config.train.holdout
            raise DataError(
                f"{place}none of the {len(parts.train)} windows to train on is labelled faulty, and {later} of those "
                f"held out after them; give a history with faults in its first {1 - holdout:.0%}, lower train.holdout "
                f"({holdout:g}), or choose a detector that needs none (model.kind: ae)"
            )
        self.preprocess = _preprocess(config)
        self.preprocess.scaler.fit(parts.train[~parts.faulty_train])
        detector = build(config.model, self.preprocess.length, self.preprocess.columns)
        assert isinstance(detector, Labelled)
        self._detector = detector
        self.nets = Nets([], [], [], [])

    def result(self, reports: list[FitReport]) -> Fitted:
        """Fit, then score the normal held-out windows."""
        parts = self.parts
        x_train, x_val = (_scaled(self.preprocess, part).float() for part in (parts.train, parts.held_out))
        try:
            report = self._detector.fit_labelled(
                x_train, parts.faulty_train, x_val, parts.faulty_held_out, self.config.train, progress=self._progress
            )
        except DataError as error:
            raise DataError(f"{self._place}{error}") from error
        scores = _scores(self._detector, _scaled(self.preprocess, parts.held_out[~parts.faulty_held_out]), None)
        return Fitted(self.preprocess, self._detector, scores, replace(report, faulty=self._faults), parts.split)


class CrossFitted:
    """Fit several networks, each without some blocks; score each row by networks not trained on it (cross_fit.py)."""

    def __init__(self, config: Config, blocks: Blocks) -> None:
        """Fit the scaler and build the members, with weights drawn by torch's generator."""
        self.config, self.blocks = config, blocks
        self.preprocess = _preprocess(config)
        self.preprocess.scaler.fit(blocks.windows)
        self._making: CrossFitting | None = None
        self.nets = Nets([], [], [], [])
        if members(detector_class(config.model.kind), config.train) > 1:
            numbers, x = self._numbers(), _scaled(self.preprocess, blocks.windows)
            self._making = CrossFitting.of(
                self._build,
                x,
                blocks.fold,
                blocks.seeds,
                config=config.train,
                numbers=numbers,
                scaling=config.features.scaling,
            )
            own = self._making.windows
            self.nets = Nets(self._making.members, own, own, self._making.seeds)

    def result(self, reports: list[FitReport]) -> Fitted:
        """Score every row by members not trained on its block. Detectors that learn without passes are fitted here."""
        if self._making is not None:
            fitted = self._making.result(reports)
        else:
            fitted = cross_fit(
                self._build,
                _scaled(self.preprocess, self.blocks.windows),
                self.blocks.fold,
                self.blocks.seeds,
                config=self.config.train,
                numbers=self._numbers(),
                scaling=self.config.features.scaling,
            )
        scores = round_mantissa(fitted.scores.numpy(), SCORE_BITS)
        return Fitted(self.preprocess, fitted.detector, scores, fitted.report, self.blocks.split)

    def _build(self) -> Detector:
        return build(self.config.model, self.preprocess.length, self.preprocess.columns)

    def _numbers(self) -> Tensor:
        numbers = torch.zeros(self.preprocess.columns, dtype=torch.bool)
        numbers[: len(self.preprocess.scaler.numbers)] = True  # numbers come first, then the categories' features
        return numbers


def _scores(detector: Detector, x: Tensor, seeds: Tensor | None) -> NDArray[np.float64]:
    """Score as the scorer does: in float64, with the same rounding."""
    double = copy.deepcopy(detector).double().eval()
    with torch.inference_mode():
        found = [
            double.score(x[start : start + CHUNK], None if seeds is None else seeds[start : start + CHUNK])
            for start in range(0, len(x), CHUNK)
        ]
        return round_mantissa(torch.cat(found).numpy(), SCORE_BITS)


def _preprocess(config: Config) -> Preprocess:
    channels = column_channels(config.channels)
    return Preprocess(config.features, config.window.length, len(channels), channels)


def _scaled(preprocess: Preprocess, physical: Tensor) -> Tensor:
    scaled: Tensor = preprocess.scaler(physical)
    return scaled
