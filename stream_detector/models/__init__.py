"""Detectors: one family a file, one contract (`base.Detector`), and the table from `model.kind` to class."""

from __future__ import annotations

from collections.abc import Mapping

from stream_detector.config import ModelConfig
from stream_detector.errors import ConfigError
from stream_detector.models.ae import AE
from stream_detector.models.base import Detector, Judged
from stream_detector.models.fitting import FitReport, Progress
from stream_detector.models.gan import GAN
from stream_detector.models.vae import VAE

__all__ = ["DETECTORS", "Detector", "FitReport", "Judged", "Progress", "build"]

#: `model.kind` -> class.
DETECTORS: Mapping[str, type[Detector]] = {detector.kind: detector for detector in (AE, VAE, GAN)}


def build(config: ModelConfig, length: int, features: int) -> Detector:
    """Return an unfitted detector of windows (B, `length`, `features`). Raises ConfigError when it can't be built."""
    if config.kind not in DETECTORS:
        raise ConfigError(f"model.kind must be one of {', '.join(sorted(DETECTORS))}, got {config.kind!r}")
    return DETECTORS[config.kind].from_config(config, length, features)
