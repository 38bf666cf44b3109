"""What all policies of the decision engine share: the contract, and the draft of a decision they work on in turn.

A policy owns one part of an asset's state, an immutable struct. It reads what the policies before it have decided from
the draft, and puts its own part, alerts and audit entries there. Nothing that came in is changed: a draft belongs to
one call of `Engine.step`, and parts are replaced, never written to.

A policy of your own adds its part to `AssetState.extra` under its name:

    class Count(State):
        VERSION: ClassVar[int] = 1
        windows: int = 0

    class CountPolicy:
        name = "count"

        def adopt(self, state):                     # a stored part, or none, made fit for this configuration
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
    """A decision in the making: the state's parts as they are by now, and what is to be published."""

    window: ScoredWindow
    controls: Controls
    state: AssetState
    """As it was at the beginning of the window, once the operators' settings were applied."""
    threshold: ThresholdState
    incident: IncidentState
    sensors: SensorState
    adaptation: Adaptation
    applied: AppliedControls
    audited: AuditedLevel
    budget: BudgetState | None
    extra: Mapping[str, State]
    model: str
    """Version of the detector whose scores the parts are about."""
    is_new: bool = False
    """Nothing was known of the asset."""
    judgement: Judgement = Judgement(None, False)
    change: Literal["refit", "regime-change"] | None = None
    """"refit" or "regime-change", where adaptation found one."""
    cause: AuditCause | None = None
    """Why there is an audit entry, where a policy has a reason of its own, ..."""
    before: AssetState | None = None
    """... and the state before it; None: that at the beginning of the window."""
    risk_moved: bool = False
    """Whether the alert budget has set another risk."""
    accepted: bool = False
    """Whether an operator's acceptance of a regime change takes effect with this window."""
    promised: float = 0.0
    """Incidents that the budget allows for the time since it was looked at last."""
    opened: int = 0
    """Incidents opened under the budget."""
    alerts: list[Alert] = []
    audits: list[Audit] = []

    @classmethod
    def of(cls, state: AssetState, window: ScoredWindow, controls: Controls) -> Draft:
        """Begin with a state as it is."""
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
            model=state.model,
        )

    def current(self) -> AssetState:
        """Return the state as it is by now, judged up to this window."""
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
            model=self.model,
        )

    def settle(self) -> None:
        """Take the parts as they are by now for those at the beginning of the window; it isn't judged yet."""
        self.state = msgspec.structs.replace(self.current(), judged_ms=self.state.judged_ms)


class Policy(Protocol):
    """One concern of the decision. Holds configuration only."""

    name: str

    def adopt(self, state: AssetState) -> AssetState:
        """Return a stored state with this policy's part made fit for this configuration; the same one where it fits."""

    def apply(self, draft: Draft) -> bool:
        """Decide this policy's part of the draft; return whether the decision ends with it."""


def extra_part(
    state: AssetState, name: str, kind: type[Part], migrations: Mapping[int, Callable[[list[Any]], list[Any]]]
) -> Part:
    """Return a policy's own part of a state: a fresh one where it has none, a stored one in today's version.

    `migrations`: by the version they start from; each returns the fields of the next. Raises ValueError for a version
    that none of them leads on from.
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
            raise ValueError(f"the state's part {name!r} is of version {version}, which nothing reads")
        fields, version = migrations[version](list(fields)), version + 1  # type: ignore[call-overload]
    return msgspec.convert(dict(zip(kind.__struct_fields__, fields, strict=True)), kind)  # type: ignore[call-overload]
