"""The settings of telling broken sensors from broken machines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_detector.config.base import Section


class SensorsConfig(Section):
    """Sensor faults: stuck, dropout, out of range, saturated, clock wrong, silent. What is usual for a channel was
    learnt in training and lies in the artifact; a set-up of records has no such checks."""

    check: bool = True
    """Tell sensor faults. false: what a broken sensor does is judged as the machine's doing."""
    checks: list[Literal["stuck", "dropout", "out-of-range", "saturated"]] = Field(
        default=["stuck", "dropout", "out-of-range", "saturated"]
    )
    """Of the faults that windows show, those that are told. A figure that is counted, not measured, does without
    `out-of-range` and `saturated`: a utilisation of 100 % is a state of the machine, and a leap is what to look for."""
    silent_after_ms: float | None = Field(default=None, gt=0)
    """An asset that has sent nothing for so long, while others of its partition went on, is silent. Left out: ten
    cells, the longest max_gap_ms or five times the longest gap of the training history, whichever is longest."""
    silent: bool = True
    """Expect every asset to go on sending. false: an asset may fall silent, as one that is switched off does."""
    refused_after: int = Field(default=5, ge=1, le=1_000)
    """So many readings of an asset in a row that can't be used for one reason (out of range, or times off) are a fault
    of the sensor or clock."""
