"""The settings of an alert budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stream_detector.config.base import Section

#: Lengths of the periods, ms.
PERIOD_MS = {"day": 86_400_000.0, "week": 604_800_000.0, "month": 2_592_000_000.0}


class BudgetConfig(Section):
    """How many incidents a healthy plant may cost: a controller turns this into each asset's risk."""

    incidents: float = Field(gt=0, le=10_000)
    """Most incidents in each period `per`. Set it to what your operators can look at."""
    per: Literal["day", "week", "month"] = "week"
    """Period of the budget, in event time; a month has 30 days."""
    of: Literal["asset", "fleet"] = "asset"
    """Whether the budget is for each asset or for the whole fleet. Tasks share no state, so a fleet's budget is divided
    by `assets`."""
    assets: int | None = Field(default=None, ge=1)
    """`of: fleet` only: number of assets in the fleet. Change it when assets are added or removed."""

    @model_validator(mode="after")
    def _fits(self) -> BudgetConfig:
        if (self.of == "fleet") != (self.assets is not None):
            raise ValueError("of: fleet needs assets, the number of assets that share it; of: asset takes no assets")
        return self

    @property
    def rate(self) -> float:
        """Incidents allowed per asset and ms of event time."""
        return self.incidents / (self.assets or 1) / PERIOD_MS[self.per]
