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
    connection) and a window of its own, whatever its time; then `length` must be 1, and the grid is not used."""
    cell_ms: PositiveMs = 1_000.0
    """Width of a grid cell, ms; fractions are allowed (0.0833333 for samples at 12 kHz). Usually it is the interval
    between readings."""
    length: int = Field(default=60, ge=1, le=100_000)
    """Number of cells in a window. Raise it to see slower patterns; the detector must then be retrained."""
    stride: int = Field(default=1, ge=1)
    """Number of cells from one window's end to the next. Raise it to score fewer windows; alerts then come later."""
    lateness_ms: float = Field(default=0.0, ge=0)
    """A cell closes when its asset's clock is this time, ms, past the cell's end; later readings for it are dead
    letters (`too-late`). Raise it if readings arrive out of order."""
    max_gap_ms: float = Field(default=5_000.0, ge=0)
    """Longest gap, ms, that is filled with the last known value, and marked; a window with a longer gap is not judged.
    Raise it for slow sensors."""
    max_ahead_ms: float = Field(default=60_000.0, gt=0)
    """How far, ms, a reading may be ahead of the broker's clock; further ahead it is a dead letter
    (`too-far-ahead`)."""

    @model_validator(mode="after")
    def _fits(self) -> WindowConfig:
        if self.stride > self.length:
            raise ValueError(f"stride must be in 1..{self.length} (length), got {self.stride}")
        if self.mode == "records" and self.length != 1:
            raise ValueError(f"length must be 1 in mode records, got {self.length}")
        return self


class FeatureConfig(Section):
    """How a window is prepared for the model; part of the artifact."""

    smoothing: float | None = Field(default=None, gt=0, le=1)
    """Weight of the newest cell in a causal exponential moving average along the window; default: no smoothing. Set it
    for noisy slow sensors, not for signals whose shape counts."""
    keep: int | None = Field(default=None, ge=1)
    """Number of last cells that the model sees, after smoothing; default: all. 1: one vector per window."""
    difference: bool = False
    """Whether differences from cell to cell are taken first. Set it where changes matter and the level doesn't, as with
    prices."""
    scaling: Literal["robust", "standard"] = "robust"
    """`robust`: median and (q90 - q10)/2.563 of the training part; `standard`: mean and standard deviation, for values
    that are mostly 0."""
    clip: float | None = Field(default=100.0, gt=0)
    """Scaled values are limited to ±clip; null: no limit. Lower it if extreme values dominate the score."""
