"""The settings from reading to model input: the event-time grid, the windows on it, their features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stream_detector.config.base import Section

PositiveMs = Annotated[float, Field(gt=0)]


class WindowConfig(Section):
    """The event-time grid and the windows on it. Windows end at whole multiples of `stride` cells since 1970."""

    mode: Literal["grid", "records"] = "grid"
    """`grid`: readings are samples of a signal, put on the grid; `records`: each reading is an event (a transaction, a
    connection) and a window of its own, whatever its time; `length` must be 1, the grid plays no role."""
    cell_ms: PositiveMs = 1_000.0
    """Width of a grid cell, ms; fractions are allowed (0.0833333 for samples at 12 kHz)."""
    length: int = Field(default=60, ge=1, le=100_000)
    """Cells in a window."""
    stride: int = Field(default=1, ge=1)
    """Cells from one window's end to the next."""
    lateness_ms: float = Field(default=0.0, ge=0)
    """A cell closes when its asset's clock is so far past the cell's end; later readings for it are dead letters."""
    max_gap_ms: float = Field(default=5_000.0, ge=0)
    """A gap up to this is filled with the last value known, and marked; a longer one cuts the window."""
    max_ahead_ms: float = Field(default=60_000.0, gt=0)
    """A reading further ahead of the broker's clock is a dead letter (`too-far-ahead`)."""

    @model_validator(mode="after")
    def _fits(self) -> WindowConfig:
        if self.stride > self.length:
            raise ValueError(f"stride must be in 1..{self.length} (length), got {self.stride}")
        if self.mode == "records" and self.length != 1:
            raise ValueError(f"length must be 1 in mode records, got {self.length}")
        return self


class FeatureConfig(Section):
    """What is done to a window before the model sees it; part of the artifact."""

    smoothing: float | None = Field(default=None, gt=0, le=1)
    """Weight of the newest cell in a causal exponential moving average along the window; none when left out."""
    keep: int | None = Field(default=None, ge=1)
    """The model sees the last so many cells (after smoothing); all when left out. 1: one vector a window."""
    difference: bool = False
    """Take differences from cell to cell first."""
    scaling: Literal["robust", "standard"] = "robust"
    """`robust`: median and (q90 - q10)/2.563 of the training part; `standard`: mean and standard deviation."""
    clip: float | None = Field(default=100.0, gt=0)
    """Scaled values are clipped to ±clip; left out (null): not clipped."""
