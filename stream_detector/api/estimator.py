"""A detector with scikit-learn's verbs: `fit`, `score_samples`, `decision_function`, `predict`. NumPy in and out.

Samples stand for themselves here: no event time, no state from sample to sample. What is fitted is the same detector
that `stream-detector train` makes, and its artifact can be saved and run by a worker.

    directions      score_samples, decision_function: higher is more normal, as everywhere in scikit-learn
                    artifacts, alerts, `backtest`:    higher is stranger
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.decision.threshold import alarm_level, make_method
from stream_detector.errors import ConfigError
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from stream_detector.types import WindowBatch

_ASSET = "asset"


class Estimator(OutlierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """Outlier detection with any of the detectors, as a scikit-learn estimator.

    `X` (n, features): each row is a sample. `X` (n, cells, features): each sample is a window of cells, oldest first,
    as `numpy.lib.stride_tricks.sliding_window_view` makes them; n samples in the order of time.

    `kind`: `model.kind` of a set-up, such as ae, vae, pca, knn. `settings`: sections of a set-up by name, as
    `{"model": {"latent": 2}, "train": {"epochs": 20}}`. `stride`: cells from one sample's end to the next, so that
    windows that share cells with the training part are left out of the calibration. `seed`: of weights and shuffling.

    Set by `fit`: `artifact_` (the trained detector), `config_` (the set-up it stands for), `offset_`, with
    `decision_function = score_samples - offset_`, and `n_features_in_`.
    """

    def __init__(
        self,
        kind: str = "ae",
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        stride: int = 1,
        seed: int = 0,
    ) -> None:
        """Keep the parameters; they are checked by `fit`."""
        self.kind = kind
        self.settings = settings
        self.stride = stride
        self.seed = seed

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit to normal samples; `y` is ignored. Some of the last ones calibrate the threshold (`train.holdout`).

        Raises DataError with fewer samples than training needs (30 or so), ConfigError on a wrong setting.
        """
        windows = self._windows(X, reset=True)
        self.config_ = self._config(windows.shape[1], windows.shape[2])
        self.artifact_: Artifact = train(self.config_, [self._batch(windows)])
        threshold = make_method(self.config_.threshold).calibrate(self.artifact_.calibration)
        level = alarm_level(threshold.level, self.config_.threshold.alarm_margin)
        #: With too few samples for a level, the highest score of the calibration stands in.
        self.offset_ = -float(self.artifact_.calibration.max() if level is None else level)
        self._scorer = Scorer(ModelSet(self.artifact_), self.config_.scorer)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scores (n,), the higher the more normal: minus the detector's score."""
        check_is_fitted(self)
        windows = self._windows(X, reset=False)
        found: NDArray[np.float64] = self._scorer.score(self._batch(windows)).score
        return -found

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scores (n,) less `offset_`: below 0 are outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return 1 (n,) for normal samples and -1 for outliers, whose score lies above the alarm level."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _windows(self, X: ArrayLike, reset: bool) -> NDArray[np.float32]:
        """Return samples as windows (n, cells, features)."""
        shape = getattr(X, "shape", None)
        if len(np.asarray(X).shape if shape is None else shape) != 3:
            table = validate_data(self, X, reset=reset, dtype=np.float64)
            return np.asarray(table, np.float32)[:, None]
        windows = check_array(X, allow_nd=True, dtype=np.float64)
        if reset:
            self.n_features_in_ = windows.shape[2]
        elif windows.shape[2] != self.n_features_in_:
            raise ValueError(
                f"X has {windows.shape[2]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        return np.asarray(windows, np.float32)

    def _config(self, cells: int, features: int) -> Config:
        """Return the set-up of windows (cells, features). Raises ConfigError."""
        given = {name: dict(section) for name, section in (self.settings or {}).items()}
        if ours := sorted({"stream", "channels", "window"} & given.keys()):
            raise ConfigError(f"settings.{ours[0]} can't be given: it follows from X and stride; leave it out")
        names = getattr(self, "feature_names_in_", [f"x{place}" for place in range(features)])
        sections: dict[str, Any] = {
            **given,
            "stream": "estimator",
            "channels": {str(name): {} for name in names},
            "model": {"kind": self.kind, **given.get("model", {})},
            "train": {"seed": self.seed, **given.get("train", {})},
            "window": {"length": cells, "stride": min(self.stride, cells)},
        }
        try:
            return Config.model_validate(sections)
        except ValidationError as error:
            raise ConfigError(f"settings: {error}") from error

    def _batch(self, windows: NDArray[np.float32]) -> WindowBatch:
        """Return samples as windows of one asset, a stride apart."""
        count = len(windows)
        step_ms = self.config_.window.cell_ms * self.stride
        end_ms = np.rint(step_ms * np.arange(1, count + 1)).astype(np.int64)
        return WindowBatch(
            task=0,
            assets=[_ASSET] * count,
            end_ms=end_ms,
            values=np.ascontiguousarray(windows),
            filled=np.zeros(windows.shape, np.bool_),
            ingest_ms=np.full(count, -1, np.int64),
        )
