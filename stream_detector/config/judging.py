"""The settings from score to incident: the adaptive threshold and its hysteresis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from stream_detector.config.base import Section
from stream_detector.config.budget import BudgetConfig
from stream_detector.config.pluggable import Pluggable

#: Maximum number of scores that an asset's state of 4 kB can hold ...
MOST_SCORES = 720
#: ... less the space, in scores, that each numeric column needs (see adaptation.py).
SCORES_A_COLUMN = 5


def most_scores(columns: int) -> int:
    """Return the number of scores that an asset's state can hold with this number of numeric columns."""
    return MOST_SCORES - SCORES_A_COLUMN * columns


#: Maximum number of scores kept beyond `learn_after`, so that several are learnt together.
MOST_SPARE = 15


def spare(learn_after: int) -> int:
    """Return how many scores are kept beyond `learn_after`: a quarter of it, at most MOST_SPARE."""
    return min(learn_after // 4, MOST_SPARE)


class ThresholdConfig(Section):
    """How scores are judged. The threshold adapts with every normal score and is kept in Redis, per asset."""

    method: Literal["spot", "dspot", "quantile", "mad"] = "spot"
    """`spot`: extreme value theory (Siffer et al. 2017), for most scores; `dspot`: the same around the scores' own
    recent mean, for scores that drift; `quantile`: rolling quantile, for risks of 1e-3 and more; `mad`: median + k·MAD,
    for scores that are nearly Gaussian."""
    risk: float = Field(default=1e-4, gt=0, lt=0.5)
    """Wanted probability that a normal window's score exceeds the adaptive level. Lower it for fewer false alarms,
    raise it to detect weaker faults."""
    budget: BudgetConfig | None = None
    """`spot`, `dspot`: a number of incidents per period instead of a risk. Each asset's risk is then set from its
    scores, the budget replaces `risk` from the start, and `margin` counts as 1."""
    margin: float = Field(default=1.7, ge=1, le=100)
    """A window is anomalous only above `margin` times the adaptive level, which leaves room for conditions that a short
    history did not show. Scores between the two neither alarm nor are learnt. Raise it for fewer false alarms."""
    learn_after: int = Field(default=60, ge=0, le=400)
    """Number of further normal scores after which a normal score is learnt (and up to a quarter more, 15 at most), so
    that a slow rise doesn't pull the level up with it. 0: at once. Raise it where faults develop slowly."""
    learn_told: bool = False
    """Whether the scores of an incident are also learnt once it has ended by itself, so that only higher ones raise an
    alarm again. Set it for figures that jump and return regularly; a fault that returns no worse is then not reported
    again."""
    adapt: bool = True
    """Whether normal scores are learnt. false: the level stays as the calibration set it, for streams that may be
    mostly anomalous for a time."""
    tail: float = Field(default=0.02, gt=0, lt=0.5)
    """`spot`, `dspot`: share of normal scores that form the tail, to which the generalised Pareto distribution is
    fitted. Raise it if a short history leaves few scores in the tail."""
    max_peaks: int = Field(default=200, ge=10, le=800)
    """`spot`, `dspot`: number of most recent tail excesses kept. Raise it for a steadier level, lower it to forget
    sooner."""
    depth: int = Field(default=200, ge=2, le=100_000)
    """`dspot`: number of normal scores in the recent mean. Lower it to follow drift sooner."""
    memory: int = Field(default=500, ge=20, le=900)
    """`quantile`, `mad`: number of recent normal scores kept. Raise it for a steadier level, lower it to forget
    sooner."""

    @property
    def kept(self) -> tuple[str, int]:
        """The key that sets the number of scores kept, and that number."""
        key = "max_peaks" if self.method in ("spot", "dspot") else "memory"
        return key, getattr(self, key)

    @property
    def alarm_margin(self) -> float:
        """`margin`, or 1 under a budget, which replaces it."""
        return 1.0 if self.budget is not None else self.margin

    @model_validator(mode="after")
    def _budgeted(self) -> ThresholdConfig:
        if self.budget is not None and self.method not in ("spot", "dspot"):
            raise ValueError(f"budget needs method spot or dspot, got {self.method}")
        return self


class PluginThresholdConfig(ThresholdConfig):
    """Base of the settings of a plug-in's threshold method, for packages that offer one (docs/library.md).

    A subclass narrows `method` to its name, gives `implemented_by` and adds keys of its own. `memory` bounds how many
    scores a state may hold.
    """

    implemented_by: ClassVar[str]
    """`module:Class` of the method, which is imported when it is made."""

    method: str  # type: ignore[assignment] # any name but the built-in ones
    """Name of the method, which chooses this section."""


METHODS: tuple[str, ...] = get_args(ThresholdConfig.model_fields["method"].annotation)

if TYPE_CHECKING:
    AnyThresholdConfig = ThresholdConfig
else:
    AnyThresholdConfig = Annotated[ThresholdConfig, Pluggable("thresholds", "method", METHODS, PluginThresholdConfig)]


class IncidentConfig(Section):
    """How anomalous windows become incidents."""

    open_after: int = Field(default=2, ge=1, le=64)
    """An incident opens when `open_after` of the last `open_of` windows are anomalous. Raise it if single odd windows
    open incidents."""
    open_of: int = Field(default=3, ge=1, le=64)
    """Number of latest windows among which `open_after` must be anomalous to open an incident."""
    min_duration_ms: float = Field(default=0.0, ge=0)
    """Time, ms of event time, that must also have passed since the first anomalous window of the run before an incident
    opens. Raise it to ignore short disturbances."""
    close_after: int = Field(default=25, ge=1)
    """An incident closes after this number of quiet windows in a row. Raise it if one fault causes several
    incidents."""
    exit_ratio: float = Field(default=0.2, gt=0, le=1)
    """A window of an open incident is quiet when its score is at most `exit_ratio` times the alarm level. Raise it to
    close incidents sooner."""
    exit_peak_share: float = Field(default=0.2, ge=0, lt=1)
    """A window of an open incident is also quiet below this share of the incident's highest score, even above the
    level: the fault is over, although the machine is not as it was before. 0: never."""
    rearm_factor: float = Field(default=4.0, ge=1)
    """After an incident that closed by `exit_peak_share`, windows are anomalous only above `rearm_factor` times the
    score at which it closed. This limit falls with the score and is removed once the score is quiet by `exit_ratio`.
    Lower it to detect a second fault sooner."""
    warning_ratio: float = Field(default=1.5, ge=1)
    """Ratio of score to level from which an incident has severity `warning`; below it is `info`."""
    critical_ratio: float = Field(default=4.0, ge=1)
    """Ratio of score to level from which an incident has severity `critical`."""
    point_windows: int = Field(default=3, ge=1)
    """An incident with at most this number of anomalous windows is of kind `point`."""
    collective_windows: int = Field(default=60, ge=2)
    """An incident with at least this number of windows is of kind `collective`."""

    @model_validator(mode="after")
    def _fits(self) -> IncidentConfig:
        if self.open_after > self.open_of:
            raise ValueError(f"open_after must be in 1..{self.open_of} (open_of), got {self.open_after}")
        if self.critical_ratio < self.warning_ratio:
            raise ValueError(f"critical_ratio must be at least warning_ratio ({self.warning_ratio})")
        return self
