"""An asset that an operator removes: its open incidents are closed, and nothing of it stays known. Pure.

Everything is a function of the asset's state, so that a repeated removal makes the same alerts: their event time is the
end of the last window judged. No window is scored for them, so no channel is named.
"""

from __future__ import annotations

from collections.abc import Mapping

from stream_detector.codec import alert_id, sensor_alert_id
from stream_detector.decision.audit import Auditor
from stream_detector.decision.incident import Limit, finite
from stream_detector.decision.rules import Rules
from stream_detector.types import (
    Alert,
    AssetState,
    Audit,
    ModelRef,
    RemovalAction,
    SensorFault,
    SensorRef,
    ThresholdState,
    replace,
)

#: What the closes of a removal give as their reason.
_REASONS: Mapping[RemovalAction, str] = {"retire": "retired", "forget": "forgotten"}


class Remover:
    """Ends what is known of assets, by the rules of one stream."""

    def __init__(self, rules: Rules, auditor: Auditor) -> None:
        """Close incidents by these rules, and audit the removal."""
        self._rules, self._auditor = rules, auditor

    def remove(
        self, asset: str, state: AssetState, model: ModelRef, action: RemovalAction
    ) -> tuple[list[Alert], list[Audit]]:
        """Return the alerts and audit entries with which an asset ends; its state is to be deleted."""
        if state.judged_ms < 0:  # to be judged again, and no window came since
            state = replace(state, judged_ms=max(state.incident.opened_ms or 0, state.audited.at_ms))
        limit = self._rules.limit(state, state.applied.pinned)
        reason = _REASONS[action]
        alerts = [] if state.incident.opened_ms is None else [self._close(asset, state, model, limit, reason)]
        alerts += [
            self._close_fault(asset, state, fault, model, limit=limit, reason=reason)
            for fault in state.sensors.faults
            if fault.incident is not None
        ]
        if not self._auditor.on:
            return alerts, []
        nothing = ThresholdState(method=state.threshold.method, level=None, seen=0)
        before = state if action == "retire" else None  # what must go is not written once more
        after = AssetState(judged_ms=state.judged_ms, threshold=nothing)
        return alerts, [self._auditor.entry(asset, model, action, before, after)]

    def _close(self, asset: str, state: AssetState, model: ModelRef, limit: Limit, reason: str) -> Alert:
        """Close the machine's incident. Its score is the incident's highest one: the last one is not known."""
        incident, stream = state.incident, self._rules.config.stream
        assert incident.incident is not None
        assert incident.first_ms is not None
        score = finite(incident.peak)
        return Alert(
            id=alert_id(stream, asset, state.judged_ms, model.version, "close"),
            incident=incident.incident,
            event="close",
            stream=stream,
            asset=asset,
            start_ms=incident.first_ms,
            end_ms=state.judged_ms,
            score=score,
            threshold=score if limit.level is None else limit.level,
            severity=incident.severity,
            kind=self._rules.incidents.kind_at_close(incident),
            channels=(),
            model=model,
            method=limit.method,
            risk=limit.risk,
            seen=limit.seen,
            reason=reason,
        )

    def _close_fault(
        self, asset: str, state: AssetState, fault: SensorFault, model: ModelRef, *, limit: Limit, reason: str
    ) -> Alert:
        """Close a sensor's incident. Its score is how long the fault has lasted, in s."""
        stream, end_ms = self._rules.config.stream, max(state.judged_ms, fault.since_ms)
        assert fault.incident is not None
        seconds = (end_ms - fault.since_ms) / 1_000.0
        return Alert(
            id=sensor_alert_id(
                stream, asset, end_ms, model.version, event="close", channel=fault.channel, fault=fault.fault
            ),
            incident=fault.incident,
            event="close",
            stream=stream,
            asset=asset,
            start_ms=fault.since_ms,
            end_ms=end_ms,
            score=seconds,
            threshold=seconds,
            severity="warning",
            kind="sensor-fault",
            channels=(),
            model=model,
            method=limit.method,
            risk=limit.risk,
            seen=limit.seen,
            sensor=SensorRef(fault.fault, fault.channel or None),
            reason=reason,
        )
