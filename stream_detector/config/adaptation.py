"""The settings of the way back to normal."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_detector.config.base import Section


class AdaptationConfig(Section):
    """How a machine that has changed becomes normal again: quiet drift is followed, a flat alarm is a regime change.

    Distances are in training spreads, of the last cell from what the model expects there.
    """

    follow: float | None = Field(default=0.0, ge=0, le=1_000)
    """How far quiet windows may carry a channel from where training, or the last regime change, had it. null: any
    distance, for histories too short to show how far a healthy machine wanders; a fault as slow as that is followed
    too. 0: quiet windows move nothing."""
    block: int = Field(default=60, ge=8, le=10_000)
    """Windows averaged at a time. What a quiet block says is learnt once another quiet block has followed it."""
    policy: Literal["adapt", "ask"] = "adapt"
    """Of a regime change: `adapt`: the new state is normal and the incident closes; `ask`: it is told, and the incident
    stays open until it ends or `stream-detector thresholds accept` says it is normal."""
    flat_ms: float | None = Field(default=3_600_000.0, gt=0)
    """An incident is a regime change once it was flat for so long, and for twice as long as it took to come. null:
    never."""
    flat_within: float = Field(default=2.0, gt=0)
    """Flat: no channel's mean over a block differs by more than this, and a tenth of its distance from normal, and the
    scores' mean logarithm by no more than 0.4, from where the flat stretch began."""
