"""States of assets kept between commits, operators' settings, entries of the audit topic, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.types.flow import ModelRef, Severity, VerdictKind
from stream_detector.types.immutable import State

_EMPTY: NDArray[np.float32] = np.empty(0, np.float32)
_EMPTY.flags.writeable = False


def _empty() -> NDArray[np.float32]:
    return _EMPTY


class IncidentState(State, frozen=True, kw_only=True):
    """State of one asset's incident logic (see incident.py)."""

    recent: int = 0  # the last n judgements as bits, newest lowest
    quiet: int = 0  # quiet windows in a row since the last anomalous one
    first_ms: int | None = None  # end of the first anomalous window of the run that may open an incident
    opened_ms: int | None = None  # end of the window that opened the incident; None when there is none
    incident: str | None = None  # its id
    severity: Severity = "info"
    leader: str | None = None  # the channel with the largest share
    peak: float = 0.0  # highest score of the incident
    windows: int = 0  # windows since it opened; before that, anomalous windows of the run that may open it
    rearm: float | None = None  # after an exit by the peak's share: anomalous only above this score (it only falls)
    unusual: int = 0  # those of `windows` in which the leading channel's value alone was unusual


class SensorFault(State, frozen=True, kw_only=True):
    """A confirmed or suspected sensor fault of an asset (see decision/sensor_faults.py)."""

    channel: str  # "" for the whole asset
    fault: str  # as in SensorRef
    since_ms: int  # event time at which it began
    incident: str | None = None  # its id; None while it is suspected
    quiet: int = 0  # windows in a row without a sign of it
    windows: int = 0  # windows with a sign of it
    by_log: bool = False  # found in the messages, not in windows (see liveness/tracker.py)


class Refused(State, frozen=True, kw_only=True):
    """A run of consecutive refused readings of an asset (see liveness/refusals.py)."""

    fault: str = ""  # the sensor fault that they indicate
    channel: str = ""
    count: int = 0
    good: int = 0  # once reported: consecutive readings that were accepted
    open: bool = False  # reported
    since_ms: int = 0  # newest event time of the task when the first of them arrived


class LivenessEvent(NamedTuple):
    """The begin or end of a sensor fault found from messages, not from windows (see liveness/tracker.py)."""

    place: int  # index of a reading in the batch: the event precedes the windows that this reading completes
    asset: str
    channel: str  # "" for the whole asset
    fault: str  # as in SensorRef
    begins: bool
    at_ms: int  # event time
    since_ms: int  # event time since which this has been the case
    amount: float  # seconds without a reading, or consecutive readings refused ...
    limit: float  # ... and the limit for it


class SensorState(State, frozen=True, kw_only=True):
    """Current sensor faults of an asset."""

    faults: tuple[SensorFault, ...] = ()
    refused: Refused = msgspec.field(default_factory=Refused)


class ThresholdState(State, frozen=True, kw_only=True):
    """State of a threshold method for one asset, at most 4 kB serialised."""

    method: str
    level: float | None  # alarm above this; None while there are too few scores
    seen: int  # normal scores learnt from, calibration included
    numbers: tuple[float, ...] = ()  # a NamedTuple of the method; a tuple until `ThresholdMethod.adopt` converts it
    sample: NDArray[np.float32] = msgspec.field(default_factory=_empty)  # peaks or recent scores
    pending: bytes = b""  # normal scores not yet learnt, float32, oldest first (see threshold.learn_after)


class Adaptation(State, frozen=True, kw_only=True):
    """How an asset's baseline has moved since its detector was trained (see adaptation.py).

    Arrays are (N,) float32, one entry per numeric column, in training spreads; empty until first used.
    """

    serial: int = 0  # count of the changes to `shift`
    shift: NDArray[np.float32] = msgspec.field(default_factory=_empty)
    """Subtracted from the scaled inputs before they are scored."""
    anchor: NDArray[np.float32] = msgspec.field(default_factory=_empty)
    """The shift at the end of training, or at the last accepted regime."""
    usual: NDArray[np.float32] = msgspec.field(default_factory=_empty)
    """Mean offset of the newest quiet block that was learnt."""
    waiting: NDArray[np.float32] = msgspec.field(default_factory=_empty)
    """Mean of the last quiet block, not learnt yet; during an incident (N + 1,) of the block since which it is flat."""
    sums: NDArray[np.float32] = msgspec.field(default_factory=_empty)
    """Of the block that is being filled."""
    count: int = 0  # windows in it
    calm_ms: int | None = None  # end of the last calm block (adaptation.py)
    flat_ms: int | None = None  # since when the open incident has been flat
    asked: bool = False  # its regime change was reported
    scores: tuple[float, ...] = ()  # the open incident's newest scores, to derive a level from
    logs: float = 0.0  # of the block that is being filled: sum of its scores' logarithms,
    normal: int = 0  # how many of them are normal,
    low: int = 0  # and how many would end an incident
    came_ms: int | None = None  # since when the scores of a machine that isn't calm have not grown
    came: float = 0.0  # their mean logarithm then
    past: tuple[float, ...] = ()  # that of the last two blocks, oldest first
    settling: bool = False  # in a regime just accepted, not calm there yet


class BudgetState(State, frozen=True, kw_only=True):
    """Incident counts from which an alert budget's risk is controlled (threshold/budget.py)."""

    start_ms: int = 0  # event time at which counting starts
    set_ms: int = 0  # when the risk was last reviewed
    since_ms: int = 0  # when counts were last halved
    elapsed_ms: float = 0.0  # time over which `shadow` was counted
    shadow: float = 0.0  # incidents if the level were where the tail begins
    opened: float = 0.0  # incidents
    promised_ms: float = 0.0  # time over which `opened` was counted
    opened_ever: int = 0  # incidents since start_ms
    recent: int = 0  # the shadow's last judgements as bits
    quiet: int = -1  # quiet windows of the open shadow incident; -1: none is open
    rarer: float = 0.0  # as `shadow`, at a level that a quarter of the tail exceeds; with its own:
    rarer_recent: int = 0
    rarer_quiet: int = -1


class AppliedControls(State, frozen=True, kw_only=True):
    """Which of the operators' settings were last applied to an asset."""

    reset: str = ""  # token of the last reset
    pinned: float | None = None  # the level an operator set
    accepted: str = ""  # token of the last acceptance of a regime change
    rolled: str = ""  # token of the last rollback
    removed: str = ""  # token of the last removal before the asset began


class AuditedLevel(State, frozen=True, kw_only=True):
    """The adaptive level last written to the audit topic."""

    level: float | None = None
    at_ms: int = 0  # event time of the entry


class ForeignPart(State, frozen=True, kw_only=True):
    """A part of a state that no policy of this configuration reads; it is kept as stored."""

    version: int
    fields: object  # any value that MessagePack can hold


class AssetState(State, frozen=True, kw_only=True):
    """The state of one asset between commits: one part per policy of the decision engine."""

    judged_ms: int  # end of the last window judged; windows up to it are not judged again
    threshold: ThresholdState
    incident: IncidentState = msgspec.field(default_factory=IncidentState)
    sensors: SensorState = msgspec.field(default_factory=SensorState)
    adaptation: Adaptation = msgspec.field(default_factory=Adaptation)
    applied: AppliedControls = msgspec.field(default_factory=AppliedControls)
    audited: AuditedLevel = msgspec.field(default_factory=AuditedLevel)
    budget: BudgetState | None = None  # with an alert budget only
    model: str = ""
    """Version of the detector whose scores all this is about; "" in states of versions before 0.3."""
    extra: Mapping[str, State] = msgspec.field(default_factory=dict)
    """Parts of policies beyond the built-in ones, by the policy's name (decision/policy.py)."""


@dataclass(frozen=True, slots=True)
class AssetReport:
    """What a worker last saw of an asset: for people, and not part of its state."""

    read_ms: int | None = None  # event time of its newest reading; None when unknown
    score: float | None = None  # of its last window that was judged; None for none, and for one that is not finite
    level: float | None = None  # the adaptive level before that window
    reason: str = ""  # why it is not judged, a code of `NOT_JUDGED_REASONS`; "" when it is
    detail: str = ""  # the same for people


class Removal(NamedTuple):
    """An operator's order to remove an asset."""

    token: str
    action: RemovalAction


class Removed(NamedTuple):
    """What stays of an asset that was removed, until its log no longer has to be read again."""

    judged_ms: int  # windows up to it are not judged again
    read_ms: int  # event time of its newest reading
    token: str  # of the removal


@dataclass(frozen=True, slots=True)
class Controls:
    """Settings that operators change at run time, apart from the versioned state. Tokens sort by time."""

    version: int = 0  # counts changes
    pins: Mapping[str, float] = field(default_factory=dict)  # asset -> level
    resets: Mapping[str, str] = field(default_factory=dict)  # asset -> token
    accepts: Mapping[str, str] = field(default_factory=dict)  # asset -> token of a regime change accepted as normal
    rollbacks: Mapping[str, tuple[str, AssetState]] = field(default_factory=dict)  # asset -> token, state to restore
    reset_all: str = ""  # token of the last reset of all assets
    removals: Mapping[str, Removal] = field(default_factory=dict)  # asset -> the last removal that is asked for
    idle: bool = field(init=False, compare=False)
    """Whether nothing is set."""

    def __post_init__(self) -> None:
        """Derive `idle`."""
        object.__setattr__(
            self,
            "idle",
            not (self.pins or self.resets or self.reset_all or self.accepts or self.rollbacks or self.removals),
        )


AuditCause = Literal[
    "calibrate",
    "new-model",
    "level",
    "refit",
    "regime-ask",
    "regime-change",
    "accept",
    "pin",
    "unpin",
    "reset",
    "rollback",
    "risk",
    "retire",
    "forget",
]
#: `retire`: the asset was taken away. `forget`: its data must go. Both end with an asset that nothing is known of.
RemovalAction = Literal["retire", "forget"]


class Point(State, frozen=True, kw_only=True):
    """An asset's baseline at one time."""

    level: float | None  # adaptive
    pinned: float | None
    seen: int  # normal scores learnt from
    shift: Mapping[str, float]  # column -> training spreads; shifted columns only


class Audit(State, frozen=True, kw_only=True):
    """One entry of the audit topic (docs/wire-format.md). Nothing in it depends on wall-clock time."""

    stream: str
    asset: str
    at_ms: int  # event time: end of the first window to which it applies
    cause: AuditCause
    before: Point | None
    after: Point
    method: str  # of the threshold
    risk: float
    model: ModelRef
    threshold: ThresholdState  # the state after it; with ...
    adaptation: Adaptation  # ... this one, it allows a rollback


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """A person's verdict on an alert, and its place on the verdict topic."""

    alert: str  # the alert's id
    verdict: VerdictKind
    by: str  # the person; "" when omitted
    note: str  # "" when omitted
    ts_ms: int  # the message's own time, UNIX ms; -1 when unknown
    partition: int
    offset: int

    @property
    def order(self) -> tuple[int, int, int]:
        """Of two verdicts on one alert, the one with the greater order is valid."""
        return self.ts_ms, self.partition, self.offset
