"""The settings of the channels: what is measured, and how a window represents it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from stream_detector.config.base import Section

WaveformFeature = Literal["rms", "peak", "crest", "kurtosis"]


class ChannelConfig(Section):
    """One measured quantity (or field of a record)."""

    kind: Literal["number", "category"] = "number"
    """`number` for measured values; `category` for strings in streams of records, which travel as codes and are encoded
    as `encoding` says."""
    encoding: Literal["one-hot", "hash"] = "one-hot"
    """`category` only. `one-hot`: one feature for each category of the training part and one for all others; `hash`:
    one feature for each of `buckets`, shared by whatever categories occur, for sets that are open or large."""
    buckets: int = Field(default=16, ge=2, le=1024)
    """`category` with `hash` only: number of features. Raise it if unrelated categories share a bucket too often."""
    log: bool = False
    """`number` only: whether the model sees log(1 + |x|) with the sign of x. Set it for amounts, counts and sizes."""
    unit: str = ""
    """Unit of the values, such as `g` or `°C`, shown in alerts and dashboards."""
    cell: Literal["mean", "last", "min", "max", "waveform"] = "mean"
    """How the readings in one grid cell are combined: `mean`, `last`, `min`, `max`, or `waveform` for the features
    below of a block of samples."""
    valid: tuple[float, float] | None = None
    """Range [low, high] of valid values, in the channel's unit; a reading outside is a dead letter (`out-of-range`).
    Set it to the sensor's measuring range."""
    features: list[WaveformFeature] = Field(default=["rms", "peak", "crest", "kurtosis"])
    """`waveform` only: features of a cell's samples. Kurtosis is Pearson's (3 for a Gaussian)."""
    bands: int = Field(default=0, ge=0, le=64)
    """`waveform` only: number of log band energies, evenly spaced from 0 to half the sample rate. Set it where faults
    change the spectrum, as in bearings."""
    max_gap_ms: float | None = Field(default=None, ge=0)
    """Longest gap, ms, that is filled in this channel; default: `window.max_gap_ms`. Set it for a slow sensor, which
    needs a longer one."""

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
        """Return the names of the window columns that this channel becomes."""
        if self.cell != "waveform":
            return [name]
        return [f"{name}.{feature}" for feature in self.features] + [f"{name}.band{i}" for i in range(self.bands)]
