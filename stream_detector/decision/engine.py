"""The decision engine: from a window's score and an asset's state to alerts and the asset's new state. Pure.

A chain of policies decides in this order; each decides alone on its own part of the state:

    controls        starts again under another model; applies what operators have set since the previous window
    sensors         readings of a faulty sensor neither raise alarms nor are learnt: the decision may end here
    threshold       judges the score, and learns it if it is normal
    incident        opens, updates and closes incidents
    adaptation      follows the machine's baseline and detects regime changes
    budget          adjusts the risk to the alert budget
    regime          accepts regime changes as the new normal
    (custom)        policies given to the engine
    audit           records changes of the threshold and of the baseline

The chain defines the result. `quiet.py` computes the same result faster for batches of windows without events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.decision.audit import Auditor, AuditPolicy
from stream_detector.decision.controls import ControlsPolicy
from stream_detector.decision.incident import Limit
from stream_detector.decision.policies import (
    AdaptationPolicy,
    BudgetPolicy,
    IncidentPolicy,
    RegimePolicy,
    ThresholdPolicy,
)
from stream_detector.decision.policy import Draft, Policy
from stream_detector.decision.removal import Remover
from stream_detector.decision.rules import Rules
from stream_detector.decision.sensor_faults import SensorFaultPolicy
from stream_detector.decision.threshold import Judgement
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import (
    Alert,
    AssetState,
    Audit,
    Controls,
    IncidentState,
    LivenessEvent,
    ModelRef,
    RemovalAction,
    replace,
)
from stream_detector.windowing.channel_profile import ChannelProfile

MOVED = "moved"
"""The fault of a liveness event that says that an asset has left the task: its messages come in another one now."""
NEVER_MS = -(2**62)
"""`judged_ms` of an asset of which no window has been judged."""


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The decision on one window."""

    state: AssetState
    """The asset's state after the window."""
    alerts: Sequence[Alert] = ()
    """To be published, in order."""
    audits: Sequence[Audit] = ()
    """Entries of the audit topic, in order."""
    rescore: bool = False
    """The window isn't judged yet, because it was scored under another shift than the asset's current one. Score it
    under `state.adaptation.shift` and call `step` again with `state`."""
    judgement: Judgement = Judgement(None, False)
    """Judgement of the score."""
    level: float | None = None
    """The adaptive level before the window."""
    promised: float = 0.0
    """Incidents that an alert budget allows for the time since it was last updated."""
    opened: int = 0
    """Incidents opened under a budget."""


class Engine:
    """The policies of one stream. Holds configuration only; the states of assets are arguments and results."""

    def __init__(
        self,
        config: Config,
        calibrations: Sequence[NDArray[np.float64]],
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
        policies: Iterable[Policy] = (),
    ) -> None:
        """`calibrations`: by model index, scores (n,) of normal windows that the model wasn't trained on, oldest first.

        `profiles`: by model index, channel profiles; sensor faults are detected only for models that have one.
        `model_of`: returns an asset's detector; without one, an asset gets no alerts from liveness events.
        `policies`: custom policies, applied after the built-in ones and before the audit.
        """
        self.rules = rules = Rules(config, calibrations, profiles)
        self._model_of = model_of
        self.usual_gap_ms = self.usual_gap(config, profiles)
        """The longest pause of an asset in the training history."""
        self.auditor = Auditor(config.stream, config.numeric_columns, config.threshold.risk, config.audit)
        self._remover = Remover(rules, self.auditor)
        self.is_extended = bool(own := tuple(policies))
        """Whether there are custom policies."""
        self._chain: tuple[Policy, ...] = (
            ControlsPolicy(rules, self.auditor),
            SensorFaultPolicy(rules.sensors, lambda draft: rules.limit(draft, draft.applied.pinned), rules.adaptation),
            ThresholdPolicy(rules),
            IncidentPolicy(rules),
            AdaptationPolicy(rules),
            *([] if rules.budget is None else [BudgetPolicy(rules)]),
            RegimePolicy(rules),
            *own,
            AuditPolicy(self.auditor),
        )
        self._obey, *self._judge = [policy.apply for policy in self._chain]
        self._fresh = [
            AssetState(judged_ms=NEVER_MS, threshold=threshold, adaptation=rules.adaptation.fresh())
            for threshold in rules.fresh
        ]

    @staticmethod
    def usual_gap(config: Config, profiles: Sequence[ChannelProfile | None]) -> float:
        """Return the longest pause of an asset in the training history, ms."""
        gaps = [float(one["gap"].min()) for one in profiles if one is not None]
        return max(gaps, default=0.0) * config.window.cell_ms

    def adopt(self, state: AssetState) -> AssetState:
        """Return a stored state converted for this configuration; unchanged if it was made with it."""
        for policy in self._chain:
            state = policy.adopt(state)
        return state

    def is_of_other_model(self, asset: str, state: AssetState) -> bool:
        """Whether another model's scores made a stored state than those of the asset's detector today."""
        model = self._model_of(asset)
        return bool(state.model) and model is not None and model.version != state.model

    def step(self, state: AssetState | None, window: ScoredWindow, controls: Controls) -> Step:
        """Decide one window of one asset; the windows of an asset must be in event-time order.

        `state`: the asset's state after the previous window, None for the first one. `controls`: set by operators.
        """
        if state is None:
            draft = Draft.of(self._fresh[window.model], window, controls)
            draft.is_new = True
        else:
            draft = Draft(  # `Draft.of` inlined, for speed
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
        self._obey(draft)
        if window.serial is not None and window.serial != draft.adaptation.serial:
            return Step(state=draft.state, audits=draft.audits, rescore=True)
        for apply in self._judge:
            if apply(draft):
                break
        return Step(
            state=AssetState(  # `draft.current`, without the call
                judged_ms=window.end_ms,
                threshold=draft.threshold,
                incident=draft.incident,
                sensors=draft.sensors,
                adaptation=draft.adaptation,
                applied=draft.applied,
                audited=draft.audited,
                budget=draft.budget,
                extra=draft.extra,
                model=draft.model,
            ),
            alerts=draft.alerts,
            audits=draft.audits,
            judgement=draft.judgement,
            level=draft.state.threshold.level,
            promised=draft.promised,
            opened=draft.opened,
        )

    def remove(self, asset: str, state: AssetState, action: RemovalAction) -> tuple[list[Alert], list[Audit]]:
        """Return the alerts and audit entries with which an asset ends; its state is to be deleted."""
        model = self._model_of(asset) or ModelRef(self.rules.config.model.kind, "unknown")
        return self._remover.remove(asset, state, model, action)

    def on_liveness(self, state: AssetState | None, event: LivenessEvent, controls: Controls) -> Step | None:
        """Decide on a liveness event; all windows before it must be judged already.

        Returns None if nothing changes, for example for an asset without a state or a detector.
        """
        model = self._model_of(event.asset)
        if state is None or model is None:
            return None
        rules = self.rules
        limit = rules.limit(state, controls.pins.get(event.asset))
        if event.fault == MOVED:
            return self._moved(state, event, model, limit)
        sensors, incident, alert = rules.sensors.on_liveness(state, event, model, limit)
        if sensors is state.sensors:
            return None
        adaptation = state.adaptation
        if incident.opened_ms != state.incident.opened_ms:
            adaptation = rules.adaptation.turned(adaptation, event.at_ms)
        after = replace(state, sensors=sensors, incident=incident, adaptation=adaptation)
        return Step(state=after, alerts=() if alert is None else (alert,))

    def _moved(self, state: AssetState, event: LivenessEvent, model: ModelRef, limit: Limit) -> Step | None:
        """Close what is open of an asset that has left the task. None where nothing is.

        At the event time at which it would have fallen silent: as far after its last window, or since when it was
        silent. That depends on the task's own log only, however the move was found out.
        """
        rules, incident, faults = self.rules, state.incident, state.sensors.faults
        reported = [fault for fault in faults if fault.incident is not None]
        if incident.opened_ms is None and not reported:
            return None
        last_ms = max(
            [
                state.judged_ms,
                state.audited.at_ms,
                incident.opened_ms or 0,
                *(fault.since_ms for fault in reported if fault.by_log),
            ]
        )
        event = event._replace(at_ms=last_ms + round(event.limit * 1_000))
        alerts = [rules.sensors.left(fault, event, model, limit) for fault in reported]
        adaptation = state.adaptation
        if incident.opened_ms is not None:
            alerts.insert(0, rules.incidents.left(incident, event, model, limit))
            adaptation = rules.adaptation.turned(adaptation, event.at_ms)
        after = replace(
            state,
            incident=IncidentState(),
            sensors=replace(state.sensors, faults=()),
            adaptation=adaptation,
        )
        return Step(state=after, alerts=alerts)
