"""The settings from score to incident: the adaptive threshold and the hysteresis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stream_detector.config.base import Section
from stream_detector.config.budget import BudgetConfig

#: Scores kept of an asset: its state has 4 kB ...
MOST_SCORES = 720
#: ... of which each numeric column takes as much as so many scores (see adaptation.py).
SCORES_A_COLUMN = 5


def most_scores(columns: int) -> int:
    """Return how many scores an asset's state can hold beside so many numeric columns."""
    return MOST_SCORES - SCORES_A_COLUMN * columns


#: So many scores at most may wait beyond `learn_after`, to be learnt together, ...
MOST_SPARE = 15


def spare(learn_after: int) -> int:
    """... and not more than a quarter as many."""
    return min(learn_after // 4, MOST_SPARE)


class ThresholdConfig(Section):
    """How scores are judged. The threshold adapts with every normal score and lives in Redis, per asset."""

    method: Literal["spot", "dspot", "quantile", "mad"] = "spot"
    """`spot`: extreme value theory (Siffer et al. 2017); `dspot`: the same around the scores' own recent mean, for
    scores that drift; `quantile`: rolling quantile; `mad`: median + k·MAD."""
    risk: float = Field(default=1e-4, gt=0, lt=0.5)
    """Wanted probability that a normal window's score exceeds the adaptive level."""
    budget: BudgetConfig | None = None
    """spot, dspot: at most so many incidents in so long, instead of a risk: each asset's risk is set by what its
    scores do, beginning with `risk`'s place taken by the budget at once. `margin` counts as 1 then."""
    margin: float = Field(default=1.7, ge=1, le=100)
    """Alarm only above margin times the adaptive level: room for conditions that a short history did not show. Scores
    between the two neither alarm nor are learnt."""
    learn_after: int = Field(default=60, ge=0, le=400)
    """A normal score is learnt once so many more were normal, and up to a quarter as many again (15 at most): a slow
    rise must not pull the level up with it. 0: at once."""
    learn_told: bool = False
    """Learn the scores of an incident, too, once it has ended by itself: the same again is no news, only worse is. For
    figures that leap and come back as a matter of course; a fault that comes back no worse is not told again."""
    adapt: bool = True
    """Learn from normal scores. false: the level stays as the calibration set it, for streams that may be mostly
    anomalies for a time."""
    tail: float = Field(default=0.02, gt=0, lt=0.5)
    """spot, dspot: share of normal scores taken as the tail the generalised Pareto law is fitted to."""
    max_peaks: int = Field(default=200, ge=10, le=800)
    """spot, dspot: most recent tail excesses kept."""
    depth: int = Field(default=200, ge=2, le=100_000)
    """dspot: normal scores that the recent mean is taken of."""
    memory: int = Field(default=500, ge=20, le=900)
    """quantile, mad: recent normal scores kept."""

    @property
    def kept(self) -> tuple[str, int]:
        """The key that says how many scores are kept, and how many."""
        key = "max_peaks" if self.method in ("spot", "dspot") else "memory"
        return key, getattr(self, key)

    @property
    def alarm_margin(self) -> float:
        """`margin`, or 1 under a budget: that says how tolerant the alarm is."""
        return 1.0 if self.budget is not None else self.margin

    @model_validator(mode="after")
    def _budgeted(self) -> ThresholdConfig:
        if self.budget is not None and self.method not in ("spot", "dspot"):
            raise ValueError(f"budget needs method spot or dspot, got {self.method}")
        return self


class IncidentConfig(Section):
    """From verdicts to incidents."""

    open_after: int = Field(default=2, ge=1, le=64)
    """Open when so many ..."""
    open_of: int = Field(default=3, ge=1, le=64)
    """... of the last so many windows were anomalous ..."""
    min_duration_ms: float = Field(default=0.0, ge=0)
    """... and the first anomalous one of the run is so long ago, event time."""
    close_after: int = Field(default=25, ge=1)
    """Close after so many quiet windows in a row."""
    exit_ratio: float = Field(default=0.2, gt=0, le=1)
    """A window of an open incident is quiet when its score is at most exit_ratio times the alarm level ..."""
    exit_peak_share: float = Field(default=0.2, ge=0, lt=1)
    """... or below this share of the incident's highest score, even above the level: what went wrong is over, though
    the machine is not as it was. 0: never."""
    rearm_factor: float = Field(default=4.0, ge=1)
    """After an incident that ended by its peak's share, alarm only above so many times the score it ended at, a limit
    that falls with the score and is gone once the score is quiet by exit_ratio."""
    warning_ratio: float = Field(default=1.5, ge=1)
    """Score over level from which an incident is a warning (below: info)."""
    critical_ratio: float = Field(default=4.0, ge=1)
    """Score over level from which an incident is critical."""
    point_windows: int = Field(default=3, ge=1)
    """An incident of at most so many anomalous windows is of kind `point`."""
    collective_windows: int = Field(default=60, ge=2)
    """An incident of at least so many windows is of kind `collective`."""

    @model_validator(mode="after")
    def _fits(self) -> IncidentConfig:
        if self.open_after > self.open_of:
            raise ValueError(f"open_after must be in 1..{self.open_of} (open_of), got {self.open_after}")
        if self.critical_ratio < self.warning_ratio:
            raise ValueError(f"critical_ratio must be at least warning_ratio ({self.warning_ratio})")
        return self
