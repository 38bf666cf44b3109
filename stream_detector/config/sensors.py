"""The settings that distinguish sensor faults from machine faults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_detector.config.base import Section


class SensorsConfig(Section):
    """Sensor faults: stuck, dropout, out of range, saturated, clock wrong, silent. What is usual for a channel comes
    from training and is part of the artifact; streams of records have no such checks."""

    check: bool = True
    """Whether sensor faults are reported. false: what a broken sensor does is judged as the machine's behaviour."""
    checks: list[Literal["stuck", "dropout", "out-of-range", "saturated"]] = Field(
        default=["stuck", "dropout", "out-of-range", "saturated"]
    )
    """Which of the faults that show in windows are reported. Leave `out-of-range` and `saturated` out for a figure that
    is counted, not measured: a utilisation of 100 % is a state of the machine, and a jump is what to look for."""
    silent_after_ms: float | None = Field(default=None, gt=0)
    """Time, ms of event time, without a message after which an asset is silent, while others of its partition continue;
    default: ten cells, the longest max_gap_ms or five times the longest gap of the training history, whichever is
    longest."""
    silent: bool = True
    """Whether every asset is expected to keep sending. false: an asset may fall silent, for example because it is
    switched off."""
    refused_after: int = Field(default=5, ge=1, le=1_000)
    """Number of readings of an asset in a row, all unusable for the same reason (out of range, or a wrong time), after
    which a fault of the sensor or clock is reported. Raise it if single bad readings are common."""
