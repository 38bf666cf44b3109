"""Flags of windows -> sensor incidents -> alerts, and the machine alarms that they explain. Pure.

Open    when a check is certain: a run, ties, the second window in a row that is out of range, or a channel that has
        been flat for long enough. A machine incident that began with the fault, not before it, becomes the sensor's
        incident: it keeps its id and is reported by an update.
Update  when the fault changes: a value that was out of range has become stuck there.
Close   after enough windows without the flag to span one window length, and at least `incident.close_after`: until
        then the windows still contain the faulty values.

While a sensor fault is open, the asset's scores are attributed to the sensor: they neither raise alarms nor are learnt.
Exception: at least the share SOUND of a score comes from the other channels, and that part alone would exceed the alarm
level by `incident.warning_ratio`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from stream_detector.codec import sensor_alert_id, sensor_incident_id
from stream_detector.config import Config
from stream_detector.decision.adaptation import AdaptationRules
from stream_detector.decision.incident import Incidents, Limit, alarm_ratio, finite
from stream_detector.decision.policy import Draft
from stream_detector.decision.sensor_checks import FLAT, OUT, RUN, TIES, Codes, SensorChecks
from stream_detector.decision.threshold import Judgement
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import (
    Alert,
    AlertEvent,
    AssetState,
    IncidentState,
    LivenessEvent,
    ModelRef,
    SensorFault,
    SensorRef,
    SensorState,
    WindowBatch,
    replace,
)
from stream_detector.windowing.channel_profile import ChannelProfile

_QUIET = IncidentState()
_OPEN_OUT = 2  # windows in a row out of range, for an incident
#: Minimum share of a score from channels without a fault that can raise an alarm during a sensor fault.
SOUND = 0.8
#: Maximum number of open faults per asset, because its state is limited to 4 kB; enough if all sensors freeze at once.
MOST_FAULTS = 4


class SensorFaults:
    """The sensor rules of one stream; holds no state of any asset."""

    def __init__(self, config: Config, profiles: Sequence[ChannelProfile | None], incidents: Incidents) -> None:
        """`profiles`: channel profiles by model index."""
        window = config.window
        self._columns = tuple(config.columns)
        self._incidents = incidents
        self._checks = SensorChecks(profiles, len(self._columns), window.length)
        self.on = config.sensors.check and window.mode == "grid" and self._checks.any
        """Whether windows are checked."""
        self._reported = frozenset(config.sensors.checks)
        self._cell_ms = window.cell_ms
        self._reach_ms = window.length * window.cell_ms
        self._close_after = max(config.incident.close_after, math.ceil(window.length / window.stride))
        self._warning = config.incident.warning_ratio

    def look(self, windows: WindowBatch, model: np.ndarray) -> Codes | None:
        """Return the flags of all windows' channels; None if none is set."""
        return self._checks.look(windows, model) if self.on else None

    def step(
        self, state: SensorState, incident: IncidentState, window: ScoredWindow, limit: Limit
    ) -> tuple[SensorState, IncidentState, list[Alert]]:
        """Return the states after a window, and the alerts. `incident`: the machine's; quiet after it is taken over."""
        turn = _Turn(window, limit, incident)
        codes = window.flags
        flagged = {} if codes is None else {c: int(codes[c]) for c in np.flatnonzero(codes).tolist()}
        kept: list[SensorFault] = []
        for fault in state.faults:
            column = self._columns.index(fault.channel) if fault.channel in self._columns else -1
            if fault.by_log or column < 0:
                kept.append(fault)
                continue
            after = self._followed(fault, column, flagged.pop(column, 0), turn)
            if after is not None:
                kept.append(after)
        for column, flags in flagged.items():
            if len(kept) >= MOST_FAULTS:
                break
            begun = self._begun(column, flags, turn)
            if begun is not None:
                kept.append(begun)
        return SensorState(faults=tuple(kept), refused=state.refused), turn.incident, turn.alerts

    def _followed(self, fault: SensorFault, column: int, flags: int, turn: _Turn) -> SensorFault | None:
        """Return a fault after a window with these flags of its channel; None when it has ended."""
        name = self._named(flags, column, turn.window)
        if name is None:
            if fault.incident is None:
                return None  # a suspected fault that was not confirmed
            fault = replace(fault, quiet=fault.quiet + 1)
            if fault.quiet >= self._close_after:
                turn.alerts.append(self._alert("close", fault, turn))
                return None
            return fault
        fault = replace(fault, quiet=0, windows=fault.windows + 1)
        if fault.incident is None:
            fault = replace(fault, fault=name)
            if self._sure(flags, fault, column, turn.window):
                fault = self._opened(fault, turn)
        elif name != fault.fault and flags & RUN and fault.fault == "out-of-range":
            fault = replace(fault, fault=name)
            turn.alerts.append(self._alert("update", fault, turn))
        return fault

    def _begun(self, column: int, flags: int, turn: _Turn) -> SensorFault | None:
        """Return the fault, open or only suspected, that begins with these flags of a channel."""
        name = self._named(flags, column, turn.window)
        if name is None:
            return None
        since_ms = self._since(flags, column, turn.window)
        fault = SensorFault(channel=self._columns[column], fault=name, since_ms=since_ms, windows=1)
        return self._opened(fault, turn) if self._sure(flags, fault, column, turn.window) else fault

    def on_liveness(
        self, state: AssetState, event: LivenessEvent, model: ModelRef, limit: Limit
    ) -> tuple[SensorState, IncidentState, Alert | None]:
        """Return the states after the begin or end of a fault that messages show, and its alert, if any.

        A machine incident that was opened by the filled cells of a dropout becomes the sensor's incident.
        """
        asset, channel, sensors, incident = event.asset, event.channel, state.sensors, state.incident
        there = [one for one in sensors.faults if one.by_log and (one.channel, one.fault) == (channel, event.fault)]
        if event.begins == bool(there) or (event.begins and len(sensors.faults) >= MOST_FAULTS):
            return sensors, incident, None
        if not event.begins:
            [fault] = there
            rest = tuple(one for one in sensors.faults if one is not fault)
            return replace(sensors, faults=rest), incident, self._reported_alert("close", fault, event, model, limit)
        fault = SensorFault(channel=channel, fault=event.fault, since_ms=event.since_ms, by_log=True)
        filled = channel != "" and (incident.first_ms or 0) > event.since_ms
        if filled and incident.incident is not None:
            fault = replace(fault, incident=incident.incident)
            after = replace(sensors, faults=(*sensors.faults, fault))
            return after, _QUIET, self._reported_alert("update", fault, event, model, limit)
        stream = self._incidents.stream
        name = sensor_incident_id(stream, asset, event.at_ms, model.version, channel=channel, fault=event.fault)
        fault = replace(fault, incident=name)
        alert = self._reported_alert("open", fault, event, model, limit)
        return replace(sensors, faults=(*sensors.faults, fault)), incident, alert

    def _reported_alert(
        self, kind: AlertEvent, fault: SensorFault, event: LivenessEvent, model: ModelRef, limit: Limit
    ) -> Alert:
        assert fault.incident is not None
        stream, asset, end_ms = self._incidents.stream, event.asset, event.at_ms
        return Alert(
            id=sensor_alert_id(
                stream, asset, end_ms, model.version, event=kind, channel=fault.channel, fault=fault.fault
            ),
            incident=fault.incident,
            event=kind,
            stream=stream,
            asset=asset,
            start_ms=fault.since_ms,
            end_ms=end_ms,
            score=event.amount,
            threshold=event.limit,
            severity="warning",
            kind="sensor-fault",
            channels=(),
            model=model,
            method=limit.method,
            risk=limit.risk,
            seen=limit.seen,
            sensor=SensorRef(fault.fault, fault.channel or None),
        )

    def left(self, fault: SensorFault, event: LivenessEvent, model: ModelRef, limit: Limit) -> Alert:
        """Return the close of a fault whose asset has left the task; its score is how long it lasted, s."""
        event = event._replace(amount=(event.at_ms - fault.since_ms) / 1_000)
        return dataclasses.replace(self._reported_alert("close", fault, event, model, limit), reason="moved")

    def _named(self, flags: int, column: int, window: ScoredWindow) -> str | None:
        """Return the name of the fault that the flags mean; None if there is none or it is not reported."""
        name = self._meant(flags, column, window)
        return name if name in self._reported else None

    def _meant(self, flags: int, column: int, window: ScoredWindow) -> str | None:
        """Return the name of the fault that the flags mean; None if there is none."""
        if not flags:
            return None
        value = float(window.newest[column])
        if flags & (RUN | FLAT) and self._checks.beyond(window.model, column, value):
            return "dropout" if value == 0.0 else "saturated"
        if flags & TIES:
            return "saturated"
        return "stuck" if flags & (RUN | FLAT) else "out-of-range"

    def _sure(self, flags: int, fault: SensorFault, column: int, window: ScoredWindow) -> bool:
        if flags & (RUN | TIES):
            return True
        if flags & OUT:
            return fault.windows >= _OPEN_OUT
        return window.end_ms - fault.since_ms >= float(self._checks.need[window.model, column]) * self._cell_ms

    def _since(self, flags: int, column: int, window: ScoredWindow) -> int:
        """Return the approximate start of a fault that is flagged for the first time, UNIX ms."""
        cells = 1.0
        if flags & RUN:
            cells = float(self._checks.need[window.model, column])
        elif flags & (FLAT | TIES):
            cells = self._checks.reach
        return round(window.end_ms - cells * self._cell_ms)

    def _opened(self, fault: SensorFault, turn: _Turn) -> SensorFault:
        """Open a fault's incident, or take over the machine incident that began with it."""
        incident, window = turn.incident, turn.window
        if incident.incident is not None and (incident.first_ms or 0) > fault.since_ms - self._reach_ms:
            fault = replace(fault, incident=incident.incident, since_ms=incident.first_ms or fault.since_ms)
            turn.alerts.append(self._alert("update", fault, turn))
            turn.incident = _QUIET
            return fault
        stream, version = self._incidents.stream, window.ref.version
        name = sensor_incident_id(
            stream, window.asset, window.end_ms, version, channel=fault.channel, fault=fault.fault
        )
        fault = replace(fault, incident=name)
        turn.alerts.append(self._alert("open", fault, turn))
        turn.incident = incident if incident.incident is not None else _QUIET
        return fault

    def mutes(self, state: SensorState, window: ScoredWindow, level: float | None) -> bool:
        """Return whether the contributions of channels without a fault are too small for an alarm of their own."""
        broken = [self._columns.index(f.channel) for f in state.faults if f.incident and f.channel in self._columns]
        if not broken:
            return False
        contributions = np.nan_to_num(window.contributions.astype(np.float64))
        total = float(contributions.sum())
        rest = 1.0 - float(contributions[broken].sum()) / total if total > 0 else 0.0
        if rest < SOUND:
            return True  # a model that combines channels attributes a part of the score to the others, too
        return not (level is not None and alarm_ratio(window.score * rest, level) > self._warning)

    def _alert(self, event: AlertEvent, fault: SensorFault, turn: _Turn) -> Alert:
        assert fault.incident is not None
        window, limit, stream = turn.window, turn.limit, self._incidents.stream
        asset, end_ms, version = window.asset, window.end_ms, window.ref.version
        score = finite(window.score)
        return Alert(
            id=sensor_alert_id(stream, asset, end_ms, version, event=event, channel=fault.channel, fault=fault.fault),
            incident=fault.incident,
            event=event,
            stream=stream,
            asset=asset,
            start_ms=fault.since_ms,
            end_ms=end_ms,
            score=score,
            threshold=score if limit.level is None else limit.level,
            severity="warning",
            kind="sensor-fault",
            channels=self._incidents.shares(window),
            model=window.ref,
            method=limit.method,
            risk=limit.risk,
            seen=limit.seen,
            ingest_ms=window.ingest_ms,
            sensor=SensorRef(fault.fault, fault.channel or None),
        )


class _Turn:
    """Working data of one call of `step`: the window, the machine's incident and the alerts so far."""

    __slots__ = ("alerts", "incident", "limit", "window")

    def __init__(self, window: ScoredWindow, limit: Limit, incident: IncidentState) -> None:
        self.window, self.limit, self.incident = window, limit, incident
        self.alerts: list[Alert] = []


class SensorFaultPolicy:
    """Follows sensor faults, before the threshold: their readings neither raise alarms nor are learnt."""

    name = "sensors"

    def __init__(self, rules: SensorFaults, limit: Callable[[Draft], Limit], adaptation: AdaptationRules) -> None:
        """`limit`: returns the limit for a draft's scores."""
        self._rules = rules
        self._limit = limit
        self._adaptation = adaptation

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: open faults do not depend on the configuration."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Follow the channels' faults; the decision ends here when the score is attributed to a sensor."""
        window = draft.window
        if window.flags is None and not draft.sensors.faults:
            return False
        limit = self._limit(draft)
        opened_ms = draft.incident.opened_ms
        draft.sensors, draft.incident, alerts = self._rules.step(draft.sensors, draft.incident, window, limit)
        draft.alerts += alerts
        if not self._rules.mutes(draft.sensors, window, limit.level):
            return False
        if draft.incident.opened_ms is not opened_ms:
            draft.adaptation = self._adaptation.turned(draft.adaptation, window.end_ms)
        draft.judgement = Judgement(draft.threshold.level, False)
        return True
