"""Cross-fitting: a short history is used whole for training and calibration; no row is scored by a model trained on it.

    event time   │ block 1 │ block 2 │ block 3 │ block 4 │ block 5 │     K blocks, contiguous
    member {1,2}   scores    scores    trains    trains    trains       one member for each pair of blocks left out,
    member {1,3}   scores    trains    scores    trains    trains       K (K − 1)/2 in all
    …

    calibration score of a row in block k:  by the mean of the K − 1 members not trained on block k
    live score:                             by the mean of all members

A held-out tail would cost a quarter of the rows, and its scores would reflect only the end of the history. Here the
calibration scores cover the whole history. Each comes from an ensemble like the live one but smaller, so it is slightly
higher: a threshold derived from these scores tends to raise too few alarms rather than too many.

The channels' gauge g (ensemble.py) is measured the same way, on contributions that members give for rows they were not
trained on; for the scores of block k, on the other blocks only. The center and spread of a member's input come from
its own rows. Early stopping and the choice of weights use the loss on these rows: nothing depends on a row left out.

Detectors that are fitted without passes (`ClosedFormDetector`) or keep windows (`metric`) remain one detector, fitted
to all rows; its calibration scores come from K other detectors, each fitted without one block.
Source: Kim, Xu & Barber, "Predictive inference is free with the jackknife+-after-bootstrap", NeurIPS 2020; for series,
with blocks: Xu & Xie, "Conformal prediction interval for dynamic time-series", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stream_detector.config import TrainConfig
from stream_detector.models.base import Detector
from stream_detector.models.closed_form import ClosedFormDetector
from stream_detector.models.ensemble import Ensemble
from stream_detector.models.fitting import FitReport, Progress, joint_report
from stream_detector.models.labelled import Labelled
from stream_detector.models.metric import Metric
from stream_detector.models.stacked_fit import fit_all

#: Families that remain one detector, fitted to all rows: they learn in one step, keep windows, or learn from labels.
STAYS_ONE = (ClosedFormDetector, Metric, Labelled)
#: Windows scored at once; an ensemble holds a copy for each member.
CHUNK = 1024
#: (q90 - q10) of a Gaussian in standard deviations, as in features.Scale.
GAUSSIAN_DECILES = 2.563
#: Spreads below this count as zero; inputs are already scaled, so their usual spread is 1.
NO_SPREAD = 1e-6

Scaling = Literal["robust", "standard"]


@dataclass(frozen=True, slots=True)
class CrossFit:
    """A fitted detector, and scores of its history from detectors that were not trained on the scored rows."""

    detector: Detector
    scores: Tensor  # (N,) float64, in the rows' order
    report: FitReport


def members(kind: type[Detector], config: TrainConfig) -> int:
    """Return the number of members that training makes of a family's detector; 1 means no ensemble.

    >>> from stream_detector.models import DETECTORS
    >>> members(DETECTORS["ae"], TrainConfig(folds=5)), members(DETECTORS["pca"], TrainConfig(folds=5))
    (10, 1)
    >>> members(DETECTORS["ae"], TrainConfig(members=3)), members(DETECTORS["ae"], TrainConfig(folds=5, members=3))
    (3, 30)
    """
    if issubclass(kind, STAYS_ONE):
        return 1
    return config.members * (config.folds * (config.folds - 1) // 2 if config.folds else 1)


@dataclass(slots=True)
class CrossFitting:
    """A cross-fitted ensemble before the fit: unfitted members, each with its own windows and seed."""

    members: list[Detector]
    windows: list[Tensor]  # of each member, (n, T, F) float32, scaled by center and spread of its own rows
    seeds: list[int]
    ensemble: Ensemble
    history: Tensor  # (N, T, F) float64
    fold: Tensor  # (N,) the block of each row
    draws: Tensor | None  # (N,) seeds for stochastic detectors
    unseeing: Tensor  # (M, N) whether a row is left out of a member's training

    @classmethod
    def of(
        cls,
        build: Callable[[], Detector],
        x: Tensor,
        fold: Tensor,
        draws: Tensor | None,
        *,
        config: TrainConfig,
        numbers: Tensor,
        scaling: Scaling,
    ) -> CrossFitting:
        """Build the members; arguments as for `cross_fit`."""
        pairs = combinations(range(int(fold.max()) + 1), 2)
        left_out = [pair for pair in pairs for _ in range(config.members)]
        members: list[Detector] = []
        windows: list[Tensor] = []
        units: list[tuple[Tensor, Tensor]] = []
        unseeing = torch.stack([torch.isin(fold, torch.tensor(out)) for out in left_out])  # (M, N)
        for unseen in unseeing:
            own = x[~unseen]
            center, scale = _unit(own, numbers, scaling)
            members.append(build())
            windows.append(((own - center) / scale).float())
            units.append((center, scale))
        ensemble = Ensemble(build(), len(left_out), x.shape[2])
        with torch.no_grad():
            ensemble.center.copy_(torch.stack([center for center, _ in units]))
            ensemble.scale.copy_(torch.stack([scale for _, scale in units]))
        # a different order of minibatches for each member; their initial weights differ already
        seeds = [config.seed * len(left_out) + index for index in range(len(left_out))]
        return cls(members, windows, seeds, ensemble, x, fold, draws, unseeing)

    def result(self, reports: list[FitReport]) -> CrossFit:
        """Join the fitted members in the ensemble and calibrate it."""
        self.ensemble.take(self.members)
        scores = _calibrate(self.ensemble.double(), self.history, self.fold, self.draws, self.unseeing)
        return CrossFit(self.ensemble.float().eval(), scores, joint_report(reports))


def cross_fit(
    build: Callable[[], Detector],
    x: Tensor,
    fold: Tensor,
    seeds: Tensor | None,
    *,
    config: TrainConfig,
    numbers: Tensor,
    scaling: Scaling,
    progress: Progress | None = None,
) -> CrossFit:
    """Fit detectors that `build` makes to normal windows x (N, T, F), float64, scaled.

    `fold` (N,) is the block of each row, 0 … K − 1; `seeds` (N,) are for stochastic detectors; `numbers` (F,) is true
    for features of numbers, whose spread is measured, and false for features of categories.
    """
    kind = type(build())
    if issubclass(kind, STAYS_ONE):
        return _one(build, x, fold, config=config, numbers=numbers, scaling=scaling, progress=progress)
    making = CrossFitting.of(build, x, fold, seeds, config=config, numbers=numbers, scaling=scaling)
    reports = fit_all(making.members, making.windows, making.windows, making.seeds, config, progress=progress)
    return making.result(reports)


@torch.no_grad()
def _calibrate(ensemble: Ensemble, x: Tensor, fold: Tensor, seeds: Tensor | None, unseeing: Tensor) -> Tensor:
    """Set the ensemble's gauge and return the rows' scores (N,), each from members that were not trained on the row."""
    parts = torch.cat(
        [
            _mean_of(ensemble.of_members(x[some], None if seeds is None else seeds[some])[0], unseeing[:, some])
            for some in torch.split(torch.arange(len(x)), CHUNK)
        ]
    )
    scores = torch.empty(len(x), dtype=torch.float64)
    for block in range(int(fold.max()) + 1):
        own = fold == block
        scores[own] = (_gauge(parts[~own], ensemble.usual_part) * parts[own]).mean(dim=1)
    ensemble.gauge.copy_(_gauge(parts, ensemble.usual_part))
    return scores


def _mean_of(parts: Tensor, which: Tensor) -> Tensor:
    """Return the mean of the contributions (M, n, F) over the members chosen by `which` (M, n): (n, F)."""
    weight = which.to(parts) / which.sum(dim=0)
    return (weight[:, :, None] * parts).sum(dim=0)


def _gauge(parts: Tensor, usual: float) -> Tensor:
    """Return g_c = u / max(u, e_c), (F,), for contributions (n, F) of held-out windows."""
    return usual / parts.mean(dim=0).clamp_min(usual)


def _one(
    build: Callable[[], Detector],
    x: Tensor,
    fold: Tensor,
    *,
    config: TrainConfig,
    numbers: Tensor,
    scaling: Scaling,
    progress: Progress | None,
) -> CrossFit:
    scores = torch.empty(len(x), dtype=torch.float64)
    for block in range(int(fold.max()) + 1):
        own = fold == block
        center, scale = _unit(x[~own], numbers, scaling)
        z = (x - center) / scale
        detector = build()
        detector.fit(z[~own].float(), z[own].float(), config)
        with torch.inference_mode():
            found = [detector.double().score(chunk) for chunk in torch.split(z[own], CHUNK)]
        scores[own] = torch.cat(found)
    detector = build()
    report = detector.fit(x.float(), x.float(), config, progress)
    return CrossFit(detector.eval(), scores, report)


def _unit(x: Tensor, numbers: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return center and spread of windows (n, T, F), each (F,), rounded to float32; 0 and 1 for categories."""
    flat = x.flatten(0, 1).numpy()
    deviation = flat.std(axis=0)
    if scaling == "robust":
        low, center, high = np.quantile(flat, (0.1, 0.5, 0.9), axis=0)
        spread = (high - low) / GAUSSIAN_DECILES
        spread = np.where(spread > NO_SPREAD, spread, deviation)
    else:
        center, spread = flat.mean(axis=0), deviation
    found = np.stack([center, np.where(spread > NO_SPREAD, spread, 1.0)])
    kept = torch.from_numpy(found.astype(np.float32)).double()  # as the artifact stores them
    return torch.where(numbers, kept[0], 0.0), torch.where(numbers, kept[1], 1.0)
