"""The settings, apart from what they are settings of: reading a set-up must not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_detector.config import PluginModelConfig, PluginThresholdConfig


class EwmaZConfig(PluginModelConfig):
    """Distance of each channel's exponential moving average from its mean, in standard deviations."""

    implemented_by = "stream_detector_example.detector:EwmaZ"

    kind: Literal["ewma-z"] = "ewma-z"
    """Name of the detector family, which chooses this section."""
    weight: float = Field(default=0.3, gt=0, le=1)
    """Weight of the newest cell in the average; lower values smooth more."""


class FixedMultipleConfig(PluginThresholdConfig):
    """A multiple of the calibration's median, which never moves."""

    implemented_by = "stream_detector_example.threshold:FixedMultiple"

    method: Literal["fixed-multiple"] = "fixed-multiple"
    """Name of the method, which chooses this section."""
    factor: float = Field(default=5.0, ge=1)
    """How many medians the level is."""
