"""The settings of an alert budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stream_detector.config.base import Section

#: Lengths of the periods, ms.
PERIOD_MS = {"day": 86_400_000.0, "week": 604_800_000.0, "month": 2_592_000_000.0}


class BudgetConfig(Section):
    """How many incidents a healthy plant may cost: a controller turns it into each asset's risk."""

    incidents: float = Field(gt=0, le=10_000)
    """At most so many incidents ..."""
    per: Literal["day", "week", "month"] = "week"
    """... in so long, event time (a month has 30 days) ..."""
    of: Literal["asset", "fleet"] = "asset"
    """... of each asset, or of all together. Tasks share no state: the fleet's budget is divided by `assets`."""
    assets: int | None = Field(default=None, ge=1)
    """`of: fleet` only: how many assets the fleet has."""

    @model_validator(mode="after")
    def _fits(self) -> BudgetConfig:
        if (self.of == "fleet") != (self.assets is not None):
            raise ValueError("assets says how many share the budget of: fleet, and is left out otherwise")
        return self

    @property
    def rate(self) -> float:
        """Incidents an asset may have, per ms of event time."""
        return self.incidents / (self.assets or 1) / PERIOD_MS[self.per]
