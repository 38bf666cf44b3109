"""Flags of windows -> sensor incidents -> alerts, and which machine alarms they explain. Pure.

Open    when a check is sure: a run, ties, the second window in a row that is out of range, or a channel that has been
        flat for as long as it takes. A machine incident that began with the fault, not before, is taken over: its id
        goes on as the sensor's, told by an update.
Update  when the fault turns out another one: what was out of range is pinned there.
Close   after as many windows without the flag as a window is long, and at least `incident.close_after`: until then the
        scores still hold what the sensor said.

While a sensor fault is open, the asset's scores are the sensor's doing and neither alarm nor teach, unless most of
them (SOUND) is the other channels', and that would be an alarm of its own by `incident.warning_ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stream_detector.codec import sensor_alert_id, sensor_incident_id
from stream_detector.config import Config
from stream_detector.decision.incident import Incidents, alarm_ratio
from stream_detector.decision.sensor_checks import FLAT, OUT, RUN, TIES, Codes, SensorChecks
from stream_detector.decision.threshold import Judgement
from stream_detector.types import (
    Alert,
    AlertEvent,
    IncidentState,
    LivenessEvent,
    ModelRef,
    ScoreBatch,
    SensorFault,
    SensorRef,
    SensorState,
    WindowBatch,
)
from stream_detector.windowing.channel_profile import ChannelProfile

_QUIET = IncidentState()
_OPEN_OUT = 2  # windows in a row out of range
#: Least share of a score that sound channels must have to alarm beside a broken one.
SOUND = 0.8
#: Most faults followed of one asset: its state has 4 kB. Of a machine all of whose sensors freeze, these tell enough.
MOST_FAULTS = 4


class SensorFaults:
    """The sensor rules of one stream; holds no state of any asset."""

    def __init__(self, config: Config, profiles: Sequence[ChannelProfile | None], incidents: Incidents) -> None:
        """`norms` by model index."""
        window = config.window
        self._columns = tuple(config.columns)
        self._incidents = incidents
        self._checks = SensorChecks(profiles, len(self._columns), window.length)
        self.on = config.sensors.check and window.mode == "grid" and self._checks.any
        """Whether any window is looked at."""
        self._told = frozenset(config.sensors.checks)
        self._cell_ms = window.cell_ms
        self._reach_ms = window.length * window.cell_ms
        self._close_after = max(config.incident.close_after, math.ceil(window.length / window.stride))
        self._warning = config.incident.warning_ratio
        self._profiles = profiles

    def look(self, windows: WindowBatch, model: np.ndarray) -> Codes | None:
        """Return the flags of all windows' channels, None when there are none."""
        return self._checks.look(windows, model) if self.on else None

    def step(
        self,
        state: SensorState,
        incident: IncidentState,
        asset: str,
        end_ms: int,
        codes: np.ndarray | None,
        windows: WindowBatch,
        index: int,
        scores: ScoreBatch,
        row: int,
        told: tuple[float | None, str, float, int],
        ingest_ms: int,
    ) -> tuple[SensorState, IncidentState, list[Alert], bool]:
        """Return the states after window `index`, the alerts, and whether the score is the sensor's doing.

        `codes` (C,): the window's flags, None for none; `told`: alarm level, threshold method, risk and scores seen,
        for alerts. `incident` is the machine's; it is quiet after its incident was taken over.
        """
        alerts: list[Alert] = []
        newest = windows.values[index, -1]
        model = int(scores.model[row])
        flagged = {} if codes is None else {c: int(codes[c]) for c in np.flatnonzero(codes).tolist()}
        kept: list[SensorFault] = []
        for fault in state.faults:
            column = self._columns.index(fault.channel) if fault.channel in self._columns else -1
            if fault.by_log or column < 0:
                kept.append(fault)
                continue
            flags = flagged.pop(column, 0)
            name = self._named(flags, model, column, float(newest[column]))
            if name is None:
                if fault.incident is None:
                    continue  # a suspicion that came to nothing
                fault = replace(fault, quiet=fault.quiet + 1)
                if fault.quiet >= self._close_after:
                    alerts.append(self._alert("close", fault, asset, end_ms, scores, row, told, ingest_ms))
                    continue
            else:
                fault = replace(fault, quiet=0, windows=fault.windows + 1)
                if fault.incident is None:
                    fault = replace(fault, fault=name)
                    if self._sure(flags, fault, model, column, end_ms):
                        fault, incident = self._opened(
                            fault, incident, asset, end_ms, scores, row, told, ingest_ms, alerts
                        )
                elif name != fault.fault and flags & RUN and fault.fault == "out-of-range":
                    fault = replace(fault, fault=name)
                    alerts.append(self._alert("update", fault, asset, end_ms, scores, row, told, ingest_ms))
            kept.append(fault)
        for column, flags in flagged.items():
            if len(kept) >= MOST_FAULTS:
                break
            name = self._named(flags, model, column, float(newest[column]))
            if name is None:
                continue
            fault = SensorFault(self._columns[column], name, self._since(flags, model, column, end_ms), windows=1)
            if self._sure(flags, fault, model, column, end_ms):
                fault, incident = self._opened(fault, incident, asset, end_ms, scores, row, told, ingest_ms, alerts)
            kept.append(fault)
        after = SensorState(tuple(kept), state.refused)
        return after, incident, alerts, self._mutes(after, scores, row, told[0])

    def on_liveness(
        self,
        state: SensorState,
        incident: IncidentState,
        liveness_event: LivenessEvent,
        model: ModelRef,
        told: tuple[float | None, str, float, int],
    ) -> tuple[SensorState, IncidentState, Alert | None]:
        """Return the states after a fault that shows in the messages began or ended, and its alert, if any.

        A machine incident that a dropout's filled cells have opened is taken over.
        """
        asset, channel = liveness_event.asset, liveness_event.channel
        there = [
            one for one in state.faults if one.by_log and (one.channel, one.fault) == (channel, liveness_event.fault)
        ]
        if liveness_event.begins == bool(there) or (liveness_event.begins and len(state.faults) >= MOST_FAULTS):
            return state, incident, None
        if not liveness_event.begins:
            [fault] = there
            rest = tuple(one for one in state.faults if one is not fault)
            return replace(state, faults=rest), incident, self._heard("close", fault, liveness_event, model, told)
        filled = channel != "" and (incident.first_ms or 0) > liveness_event.since_ms
        if filled and incident.incident is not None:
            fault = SensorFault(channel, liveness_event.fault, liveness_event.since_ms, incident.incident, by_log=True)
            after = replace(state, faults=(*state.faults, fault))
            return after, _QUIET, self._heard("update", fault, liveness_event, model, told)
        name = sensor_incident_id(
            self._incidents.stream, asset, liveness_event.at_ms, model.version, channel, liveness_event.fault
        )
        fault = SensorFault(channel, liveness_event.fault, liveness_event.since_ms, name, by_log=True)
        alert = self._heard("open", fault, liveness_event, model, told)
        return replace(state, faults=(*state.faults, fault)), incident, alert

    def _heard(
        self,
        event: AlertEvent,
        fault: SensorFault,
        liveness_event: LivenessEvent,
        model: ModelRef,
        told: tuple[float | None, str, float, int],
    ) -> Alert:
        assert fault.incident is not None
        _, method, risk, seen = told
        stream, asset, end_ms = self._incidents.stream, liveness_event.asset, liveness_event.at_ms
        return Alert(
            id=sensor_alert_id(stream, asset, end_ms, model.version, event, fault.channel, fault.fault),
            incident=fault.incident,
            event=event,
            stream=stream,
            asset=asset,
            start_ms=fault.since_ms,
            end_ms=end_ms,
            score=liveness_event.amount,
            threshold=liveness_event.limit,
            severity="warning",
            kind="sensor-fault",
            channels=(),
            model=model,
            method=method,
            risk=risk,
            seen=seen,
            sensor=SensorRef(fault.fault, fault.channel or None),
        )

    def _named(self, flags: int, model: int, column: int, value: float) -> str | None:
        """Return the fault some flags mean, None for none that is told."""
        name = self._meant(flags, model, column, value)
        return name if name in self._told else None

    def _meant(self, flags: int, model: int, column: int, value: float) -> str | None:
        """Return the fault some flags mean, None for none."""
        if not flags:
            return None
        if flags & (RUN | FLAT) and self._checks.beyond(model, column, value):
            return "dropout" if value == 0.0 else "saturated"
        if flags & TIES:
            return "saturated"
        return "stuck" if flags & (RUN | FLAT) else "out-of-range"

    def _sure(self, flags: int, fault: SensorFault, model: int, column: int, end_ms: int) -> bool:
        if flags & (RUN | TIES):
            return True
        if flags & OUT:
            return fault.windows >= _OPEN_OUT
        return end_ms - fault.since_ms >= float(self._checks.need[model, column]) * self._cell_ms

    def _since(self, flags: int, model: int, column: int, end_ms: int) -> int:
        """Return about when a fault that is flagged for the first time began."""
        cells = 1.0
        if flags & RUN:
            cells = float(self._checks.need[model, column])
        elif flags & (FLAT | TIES):
            cells = self._checks.reach
        return round(end_ms - cells * self._cell_ms)

    def _opened(
        self,
        fault: SensorFault,
        incident: IncidentState,
        asset: str,
        end_ms: int,
        scores: ScoreBatch,
        row: int,
        told: tuple[float | None, str, float, int],
        ingest_ms: int,
        alerts: list[Alert],
    ) -> tuple[SensorFault, IncidentState]:
        """Open a fault's incident, or take over the machine's that began with it."""
        if incident.incident is not None and (incident.first_ms or 0) > fault.since_ms - self._reach_ms:
            fault = replace(fault, incident=incident.incident, since_ms=incident.first_ms or fault.since_ms)
            alerts.append(self._alert("update", fault, asset, end_ms, scores, row, told, ingest_ms))
            return fault, _QUIET
        version = scores.models[int(scores.model[row])].version
        name = sensor_incident_id(self._incidents.stream, asset, end_ms, version, fault.channel, fault.fault)
        fault = replace(fault, incident=name)
        alerts.append(self._alert("open", fault, asset, end_ms, scores, row, told, ingest_ms))
        return fault, incident if incident.incident is not None else _QUIET

    def _mutes(self, state: SensorState, scores: ScoreBatch, row: int, level: float | None) -> bool:
        """Whether what the sound channels have in the score is no alarm of its own."""
        broken = [self._columns.index(f.channel) for f in state.faults if f.incident and f.channel in self._columns]
        if not broken:
            return False
        parts = np.nan_to_num(scores.channels[row].astype(np.float64))
        total = float(parts.sum())
        rest = 1.0 - float(parts[broken].sum()) / total if total > 0 else 0.0
        if rest < SOUND:
            return True  # a model that mixes its channels blames sound ones, too
        score = float(scores.score[row])
        return not (level is not None and alarm_ratio(score * rest, level) > self._warning)

    def _alert(
        self,
        event: AlertEvent,
        fault: SensorFault,
        asset: str,
        end_ms: int,
        scores: ScoreBatch,
        row: int,
        told: tuple[float | None, str, float, int],
        ingest_ms: int,
    ) -> Alert:
        assert fault.incident is not None
        level, method, risk, seen = told
        model = scores.models[int(scores.model[row])]
        stream = self._incidents.stream
        judgement = Judgement(level, True)
        score = self._incidents.score_of(scores, row)
        return Alert(
            id=sensor_alert_id(stream, asset, end_ms, model.version, event, fault.channel, fault.fault),
            incident=fault.incident,
            event=event,
            stream=stream,
            asset=asset,
            start_ms=fault.since_ms,
            end_ms=end_ms,
            score=score,
            threshold=score if judgement.level is None else judgement.level,
            severity="warning",
            kind="sensor-fault",
            channels=self._incidents.shares(scores, row),
            model=model,
            method=method,
            risk=risk,
            seen=seen,
            ingest_ms=ingest_ms,
            sensor=SensorRef(fault.fault, fault.channel or None),
        )
