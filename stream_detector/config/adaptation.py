"""The settings of adaptation: how an asset's baseline follows drift and accepted regime changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_detector.config.base import Section


class AdaptationConfig(Section):
    """How an asset's baseline follows drift, and when an incident that stays flat becomes the new normal.

    Distances are in training spreads, of the last cell from what the model expects there.
    """

    follow: float | None = Field(default=0.0, ge=0, le=1_000)
    """How far, in training spreads, quiet windows may move a channel's baseline away from where training, or the last
    regime change, had it. 0: quiet windows move nothing. null: any distance, for histories too short to show how far a
    healthy machine wanders; a fault that grows as slowly is then followed too."""
    block: int = Field(default=60, ge=8, le=10_000)
    """Number of windows averaged at a time. A quiet block is learnt once another quiet block has followed it; lower the
    number to follow drift sooner."""
    policy: Literal["adapt", "ask"] = "adapt"
    """What happens at a regime change. `adapt`: the new state becomes normal and the incident closes. `ask`: it is
    reported, and the incident stays open until it ends or an operator runs `stream-detector thresholds accept`; choose
    this where a lasting fault must not become normal by itself."""
    flat_ms: float | None = Field(default=3_600_000.0, gt=0)
    """Time, ms of event time, that an incident must be flat to be a regime change; it must also be flat for twice as
    long as it took to develop. Set it longer than it takes somebody to look. null: never."""
    flat_within: float = Field(default=2.0, gt=0)
    """Largest change within a flat stretch, in training spreads: no channel's mean over a block differs by more than
    this plus a tenth of its distance from normal, nor the mean logarithm of the scores by more than 0.4, from where the
    stretch began. Raise it for machines that vary much in a stable state."""
