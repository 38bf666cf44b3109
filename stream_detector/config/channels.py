"""The settings of the channels: what is measured, and what becomes of it in a window."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from stream_detector.config.base import Section

WaveformFeature = Literal["rms", "peak", "crest", "kurtosis"]


class ChannelConfig(Section):
    """One measured quantity (or field of a record)."""

    kind: Literal["number", "category"] = "number"
    """`category` takes strings (record streams): they travel as codes and are encoded as `encoding` says."""
    encoding: Literal["one-hot", "hash"] = "one-hot"
    """Category only. `one-hot`: a feature for each category of the training part and one for all others; `hash`: a
    feature for each of `buckets`, shared by whatever categories come, for sets that are open or large."""
    buckets: int = Field(default=16, ge=2, le=1024)
    """Category with `hash` only: features."""
    log: bool = False
    """Number only: the model sees log(1 + |x|) with x's sign, for amounts, counts and sizes."""
    unit: str = ""
    """Unit, shown in alerts and dashboards."""
    cell: Literal["mean", "last", "min", "max", "waveform"] = "mean"
    """What becomes of the readings in one grid cell; `waveform`: the features below of its samples."""
    valid: tuple[float, float] | None = None
    """Readings outside [low, high] are dead letters (`out-of-range`)."""
    features: list[WaveformFeature] = Field(default=["rms", "peak", "crest", "kurtosis"])
    """Waveform only: features of a cell's samples. Kurtosis is Pearson's (3 for a Gaussian)."""
    bands: int = Field(default=0, ge=0, le=64)
    """Waveform only: so many log band energies, evenly spaced from 0 to half the sample rate."""
    max_gap_ms: float | None = Field(default=None, ge=0)
    """Longest gap filled in this channel; `window.max_gap_ms` when left out. A slow sensor needs a longer one."""

    @field_validator("valid")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"must be [low, high] with low < high, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ChannelConfig:
        if self.kind == "category" and self.cell != "last":
            raise ValueError(f"a category can't be averaged: cell must be last, got {self.cell}")
        if self.kind == "category" and self.log:
            raise ValueError("a category has no logarithm: leave log out")
        if self.cell == "waveform" and not self.features and not self.bands:
            raise ValueError("a waveform needs at least one of features and bands")
        return self

    def columns(self, name: str) -> list[str]:
        """Names of the window columns this channel becomes."""
        if self.cell != "waveform":
            return [name]
        return [f"{name}.{feature}" for feature in self.features] + [f"{name}.band{i}" for i in range(self.bands)]
