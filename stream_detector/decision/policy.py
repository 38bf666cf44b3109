"""The contract of the decision engine's policies, and the draft of a decision, which they process one after the other.

A policy owns one part of an asset's state, an immutable struct. It reads the decisions of the policies before it from
the draft, and puts its own part, alerts and audit entries into the draft. The input is never modified: a draft belongs
to one call of `Engine.step`, and parts are replaced, not changed in place.

A custom policy stores its part in `AssetState.extra` under its name:

    class Count(State):
        VERSION: ClassVar[int] = 1
        windows: int = 0

    class CountPolicy:
        name = "count"

        def adopt(self, state):                     # convert a stored part, or none, for this configuration
            part = extra_part(state, self.name, Count, {})
            return replace(state, extra={**state.extra, self.name: part})

        def apply(self, draft):
            part = draft.extra.get(self.name, Count())
            draft.extra = {**draft.extra, self.name: replace(part, windows=part.windows + 1)}
            return False
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from stream_detector.decision.threshold import Judgement
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import (
    Adaptation,
    Alert,
    AppliedControls,
    AssetState,
    Audit,
    AuditCause,
    AuditedLevel,
    BudgetState,
    Controls,
    ForeignPart,
    IncidentState,
    SensorState,
    State,
    ThresholdState,
)

Part = TypeVar("Part", bound=State)


class Draft(msgspec.Struct, kw_only=True, gc=False):
    """An unfinished decision: the current parts of the state, and the alerts and audit entries to be published."""

    window: ScoredWindow
    controls: Controls
    state: AssetState
    """The state at the beginning of the window, after the operators' controls have been applied."""
    threshold: ThresholdState
    incident: IncidentState
    sensors: SensorState
    adaptation: Adaptation
    applied: AppliedControls
    audited: AuditedLevel
    budget: BudgetState | None
    extra: Mapping[str, State]
    is_new: bool = False
    """Whether the asset had no state."""
    judgement: Judgement = Judgement(None, False)
    change: Literal["refit", "regime-change"] | None = None
    """"refit" or "regime-change" if adaptation found one."""
    cause: AuditCause | None = None
    """The cause of an audit entry, if a policy sets one, ..."""
    before: AssetState | None = None
    """... and the state before the change; None: the state at the beginning of the window."""
    risk_moved: bool = False
    """Whether the alert budget has changed the risk."""
    accepted: bool = False
    """Whether an operator's acceptance of a regime change takes effect with this window."""
    promised: float = 0.0
    """Incidents that the budget allows for the time since it was last updated."""
    opened: int = 0
    """Incidents opened under the budget."""
    alerts: list[Alert] = []
    audits: list[Audit] = []

    @classmethod
    def of(cls, state: AssetState, window: ScoredWindow, controls: Controls) -> Draft:
        """Return a draft with the parts of `state`."""
        return cls(
            window=window,
            controls=controls,
            state=state,
            threshold=state.threshold,
            incident=state.incident,
            sensors=state.sensors,
            adaptation=state.adaptation,
            applied=state.applied,
            audited=state.audited,
            budget=state.budget,
            extra=state.extra,
        )

    def current(self) -> AssetState:
        """Return the current state, judged up to this window."""
        return AssetState(
            judged_ms=self.window.end_ms,
            threshold=self.threshold,
            incident=self.incident,
            sensors=self.sensors,
            adaptation=self.adaptation,
            applied=self.applied,
            audited=self.audited,
            budget=self.budget,
            extra=self.extra,
        )

    def settle(self) -> None:
        """Make the current parts the state at the beginning of the window, which isn't judged yet."""
        self.state = msgspec.structs.replace(self.current(), judged_ms=self.state.judged_ms)


class Policy(Protocol):
    """One part of the decision. Holds only configuration."""

    name: str

    def adopt(self, state: AssetState) -> AssetState:
        """Return a stored state with this policy's part converted for this configuration; unchanged if it fits."""

    def apply(self, draft: Draft) -> bool:
        """Decide this policy's part of the draft; return whether the decision ends here, without later policies."""


def extra_part(
    state: AssetState, name: str, kind: type[Part], migrations: Mapping[int, Callable[[list[Any]], list[Any]]]
) -> Part:
    """Return a policy's own part of a state: a new one if there is none, else the stored one in the current version.

    `migrations`: by the version they start from; each returns the fields of the next version. Raises ValueError when a
    migration is missing.
    """
    part = state.extra.get(name)
    if part is None:
        return kind()
    if isinstance(part, kind):
        return part
    assert isinstance(part, ForeignPart)
    fields, version = part.fields, part.version
    while version != getattr(kind, "VERSION", 1):
        if version not in migrations:
            raise ValueError(f"the state's part {name!r} has version {version}, for which there is no migration")
        fields, version = migrations[version](list(fields)), version + 1  # type: ignore[call-overload]
    return msgspec.convert(dict(zip(kind.__struct_fields__, fields, strict=True)), kind)  # type: ignore[call-overload]
