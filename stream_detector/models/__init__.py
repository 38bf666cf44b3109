"""Detectors: one family per file, one contract (`base.Detector`), and the table from `model.kind` to class."""

from __future__ import annotations

from collections.abc import Mapping

from stream_detector import plugins
from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.errors import ConfigError
from stream_detector.models.ae import AE
from stream_detector.models.base import Detector, Judged
from stream_detector.models.classifier import Classifier
from stream_detector.models.cross_fit import CrossFit, CrossFitting, cross_fit, members
from stream_detector.models.deep_sad import DeepSAD
from stream_detector.models.ensemble import Ensemble
from stream_detector.models.fitting import FitReport, Progress, joint_report
from stream_detector.models.gan import GAN
from stream_detector.models.gmm import GMM
from stream_detector.models.half_space_trees import HalfSpaceTrees
from stream_detector.models.isolation_forest import IsolationForest
from stream_detector.models.knn import KNN
from stream_detector.models.labelled import Labelled
from stream_detector.models.loda import LODA
from stream_detector.models.mahalanobis import Mahalanobis
from stream_detector.models.metric import Metric
from stream_detector.models.pca import PCA
from stream_detector.models.robust_z import RobustZ
from stream_detector.models.stacked_fit import DivergedError, fit_all
from stream_detector.models.vae import VAE

__all__ = [
    "DETECTORS",
    "CrossFit",
    "CrossFitting",
    "Detector",
    "DivergedError",
    "Ensemble",
    "FitReport",
    "Judged",
    "Labelled",
    "Progress",
    "build",
    "build_whole",
    "cross_fit",
    "detector_class",
    "fit_all",
    "joint_report",
    "kinds",
    "members",
]

_NETWORKS: tuple[type[Detector], ...] = (AE, VAE, GAN, Metric)
_LABELLED: tuple[type[Detector], ...] = (Classifier, DeepSAD)
_BASELINES: tuple[type[Detector], ...] = (
    RobustZ,
    Mahalanobis,
    PCA,
    GMM,
    KNN,
    IsolationForest,
    HalfSpaceTrees,
    LODA,
)

#: `model.kind` -> class, for the built-in families.
DETECTORS: Mapping[str, type[Detector]] = {one.kind: one for one in (*_NETWORKS, *_LABELLED, *_BASELINES)}


def kinds() -> list[str]:
    """Return the values that `model.kind` may have, including those of installed plug-ins."""
    return sorted({*DETECTORS, *plugins.names("detectors")})


def detector_class(kind: str) -> type[Detector]:
    """Return the class of a family, built in or from a plug-in. Raises ConfigError when there is none."""
    if (built_in := DETECTORS.get(kind)) is not None:
        return built_in
    try:
        found = plugins.implementation("detectors", kind)
    except KeyError:
        raise ConfigError(f"model.kind: got {kind!r}, {plugins.expected('detectors', sorted(DETECTORS))}") from None
    if not (isinstance(found, type) and issubclass(found, Detector) and getattr(found, "kind", None) == kind):
        origin = plugins.origin("detectors", kind)
        raise ConfigError(f"model.kind {kind!r} of the package {origin}: {found!r} is not a Detector of that kind")
    return found


def build(config: ModelConfig, length: int, features: int) -> Detector:
    """Return an unfitted detector for windows (B, `length`, `features`). Raises ConfigError when it can't be built."""
    return detector_class(config.kind).from_config(config, length, features)


def build_whole(config: ModelConfig, train: TrainConfig, length: int, features: int) -> Detector:
    """Return an unfitted detector with the tensors that training under `train` gives: one network or an ensemble."""
    one = build(config, length, features)
    count = members(type(one), train)
    return one if count == 1 else Ensemble(one, count, features)
