"""Scores -> verdicts -> alerts, and the states of assets on the way: threshold, incident, adaptation. Pure.

A window's score depends on its asset's shift after the window before it. Windows are scored in batches, though, so the
score of one that a change of shift overtook within its batch is asked for again (`rescore`), some windows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.decision.adaptation import AdaptationRules, Change
from stream_detector.decision.audit import LEVEL_MS, Auditor, level_moved
from stream_detector.decision.incident import Incidents
from stream_detector.decision.relocation import Floats, Probe
from stream_detector.decision.sensor_faults import SensorFaults
from stream_detector.decision.threshold import Judgement, ThresholdMethod, alarm_level, judge, make_method
from stream_detector.decision.threshold.budget import Budget
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import (
    Adaptation,
    Alert,
    AlertEvent,
    AppliedControls,
    AssetState,
    Audit,
    AuditCause,
    Controls,
    IncidentState,
    LivenessEvent,
    ModelRef,
    ScoreBatch,
    Shifts,
    ThresholdState,
    WindowBatch,
)
from stream_detector.windowing.channel_profile import ChannelProfile
from stream_detector.worker.task import Task

#: Scores some windows with the shifts given.
Rescore = Callable[[WindowBatch, Shifts], ScoreBatch]
#: Told of each window judged: its asset, its score, the adaptive level before it, the judgement, the state after it.
Watch = Callable[[str, float, float | None, Judgement, AssetState], None]

_NEVER = -(2**62)  # the end of the last window judged of an asset that has had none
_OTHER_METHOD = "\0method"  # a reset that no operator can ask for
_NO_ROLLBACK: tuple[str, AssetState | None] = ("", None)
_AGAIN = 64  # most windows scored again at once: another change may come


class Judging:
    """The threshold method, incident and adaptation rules of one stream. Holds no state of any asset; tasks do."""

    def __init__(
        self,
        config: Config,
        calibrations: Sequence[NDArray[np.float64]],
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
    ) -> None:
        """`calibrations`: by model index, scores (n,) of normal windows that the model wasn't trained on.

        `norms`: by model index, what is usual for its channels; sensor faults are told where there are any.
        `model_of`: an asset's detector; only for assets that have one are sensor faults told that no window shows.
        """
        self._model_of = model_of
        gaps = [float(one["gap"].min()) for one in profiles if one is not None]
        self.usual_gap_ms = max(gaps, default=0.0) * config.window.cell_ms
        """The longest pause of an asset in the training history."""
        self._method: ThresholdMethod = make_method(config.threshold)
        self._margin, self._learn_after = config.threshold.alarm_margin, config.threshold.learn_after
        self._adapt = config.threshold.adapt
        self._learn_told = config.threshold.learn_told and self._adapt
        self._fresh: list[ThresholdState] = [self._method.calibrate(scores) for scores in calibrations]
        self._incidents = Incidents(config.stream, config.columns, config.incident, config.threshold, profiles)
        self._sensor_faults = SensorFaults(config, profiles, self._incidents)
        self._follows = config.window.mode == "grid"
        self._asks = config.adaptation.policy == "ask"
        stride_ms = config.window.stride * config.window.cell_ms
        self._calibrations = calibrations
        self.budget: Budget | None = None
        if config.threshold.budget is not None:
            assert isinstance(self._method, Spot)
            self.budget = Budget(config.threshold.budget, config.incident, self._method, stride_ms)
        self._numbers = len(config.numeric_columns) if self._follows else 0
        self._adaptation = AdaptationRules(config.adaptation, stride_ms, self._numbers)
        self._start = self._adaptation.fresh()
        self._auditor = Auditor(config.stream, config.numeric_columns, config.threshold.risk, config.audit)
        self.promised, self.opened = 0.0, 0
        """Incidents that the budget allowed so far, and those that opened under it."""
        self.anomalies = 0
        """Scores judged anomalous so far."""

    def adopt(self, states: dict[str, AssetState]) -> None:
        """Fit states that were stored under another configuration to this one, in place."""
        for asset, state in states.items():
            adaptation = self._adaptation.adopt(state.adaptation)
            adopted = self._method.adopt(state.threshold)
            if adopted is None or (self.budget is None) != (state.applied.budget is None):
                states[asset] = replace(state, reset=_OTHER_METHOD, adaptation=adaptation)
            elif adopted is not state.threshold or adaptation is not state.adaptation:
                threshold = adopted
                if adopted is not state.threshold:
                    threshold = replace(adopted, pending=state.threshold.pending)
                states[asset] = replace(state, threshold=threshold, adaptation=adaptation)

    def risk_of(self, state: ThresholdState) -> float:
        """Return the risk that a threshold has: the configured one, or what its budget made of it."""
        return state.numbers[0] if self.budget is not None and state.numbers else self._method.risk

    def take_audits(self) -> list[Audit]:
        """Return what the audit topic should be told since last asked, in order."""
        return self._auditor.take()

    def shifts(self, parts: Sequence[tuple[Task, WindowBatch]]) -> Shifts | None:
        """Return the shifts to score windows of some tasks under, in order; None while no asset has one."""
        found = [
            state.adaptation if (state := task.states.get(asset)) is not None else self._start
            for task, windows in parts
            for asset in windows.assets
        ]
        serials = [adaptation.serial for adaptation in found]
        if not any(serials):
            return None
        return Shifts(np.array([adaptation.shift for adaptation in found], np.float64), serials)

    def judge(
        self,
        task: Task,
        windows: WindowBatch,
        scores: ScoreBatch,
        row: int,
        controls: Controls,
        shifts: Shifts | None = None,
        rescore: Rescore | None = None,
        watch: Watch | None = None,
    ) -> list[Alert]:
        """Judge one task's windows, whose scores begin at `row`, in order; return the alerts they call for.

        The task's states become those after the windows. Windows without a score (no detector) change nothing.
        `scores` were made under `shifts`; those that a change overtakes are replaced by what `rescore` says.
        """
        states, changed = task.states, task.changed
        pins, accepts, rollbacks = controls.pins, controls.accepts, controls.rollbacks
        resets, everybody = controls.resets, controls.resets.get("*", "")
        alerts: list[Alert] = []
        count = len(windows)
        score_of, model_of = scores.score[row : row + count].tolist(), scores.model[row : row + count].tolist()
        ends, ingests = windows.end_ms.tolist(), windows.ingest_ms.tolist()
        looks = self._sensor_faults.look(windows, scores.model[row : row + count])
        odd: list[bool] = [False] * count if looks is None else np.asarray(looks.any(axis=1)).tolist()
        under = [0] * count if shifts is None else shifts.serials[row : row + count]
        due = self._adaptation.due(windows.end_ms) if self._follows and scores.offset is not None else [False] * count
        method, margin, learn_after, adapt = self._method, self._margin, self._learn_after, self._adapt
        step = self._incidents.step
        for index, asset in enumerate(windows.assets):
            model = model_of[index]
            if model < 0:
                continue
            token = max(resets.get(asset, ""), everybody) if resets else ""  # tokens sort by time
            state = states.get(asset)
            end, pin = ends[index], pins.get(asset) if pins else None
            if state is None:
                state = self._first(asset, end, model, token, pin, controls, scores.models[model])
            elif (
                state.reset != token
                or state.applied.pinned != pin
                or (rollbacks and rollbacks.get(asset, _NO_ROLLBACK)[0] > state.applied.rolled)
            ):
                state = self._obeyed(state, asset, end, model, token, pin, controls, scores.models[model])
            adaptation = state.adaptation
            if adaptation.serial != under[index] and rescore is not None:
                self._score_again(windows, scores, row, index, adaptation, under, score_of, rescore)
            level, before = state.threshold.level, state.incident.opened_ms
            sensors = state.sensors
            if odd[index] or sensors.faults:
                codes = looks[index] if looks is not None and odd[index] else None
                sensors, incident, said, muted = self._sensor_faults.step(
                    sensors,
                    state.incident,
                    asset,
                    end,
                    codes,
                    windows,
                    index,
                    scores,
                    row + index,
                    self._told(state.threshold, pin),
                    ingests[index],
                )
                alerts += said
                if muted:  # neither alarms nor teaches
                    if incident.opened_ms is not before:
                        adaptation = self._adaptation.turned(adaptation, end)
                    after = AssetState(state.threshold, incident, end, token, sensors, adaptation, state.applied)
                    states[asset] = after
                    changed.add(asset)
                    if watch is not None:
                        watch(asset, score_of[index], level, Judgement(level, False), after)
                    continue
                state = replace(state, incident=incident)
            learns = adapt and (before is None or self._creeps(state.incident))
            judgement, threshold = judge(method, state.threshold, score_of[index], pin, margin, learn_after, learns)
            incident, found = step(
                state.incident, asset, end, judgement, scores, row + index, threshold.seen, ingests[index]
            )
            self.anomalies += judgement.anomalous
            if found:
                risk = self.risk_of(threshold)
                alerts += [replace(alert, risk=risk) for alert in found] if self.budget is not None else found
            change: Change | None = None
            if incident.opened_ms is not before:
                if self._learn_told and incident.opened_ms is None:
                    threshold = self._told_learnt(threshold, adaptation)
                adaptation = self._adaptation.turned(adaptation, end)
                if before is None and threshold.pending:
                    threshold = replace(threshold, pending=b"")  # they may hold the beginning of what alarms now
            elif due[index] and (incident.recent == 0 or before is not None):
                adaptation, change = self._adapted(
                    adaptation, scores, row + index, score_of[index], end, incident, level, judgement.level
                )
            applied, risked = state.applied, False
            if self.budget is not None and applied.budget is not None:
                opened = incident.opened_ms is not None
                counted, threshold, risked = self.budget.step(
                    applied.budget, threshold, score_of[index], opened and before is None, opened, end
                )
                if counted is not applied.budget:
                    self.promised += self.budget.promised(applied.budget, counted)
                    self.opened += counted.opened_ever - applied.budget.opened_ever
                    applied = replace(applied, budget=counted)
            accepts_it = bool(accepts) and accepts.get(asset, "") > applied.accepted
            if accepts_it:  # done with, also where there is nothing to accept
                applied = replace(applied, accepted=accepts[asset])
            after = AssetState(threshold, incident, end, token, sensors, adaptation, applied)
            settles = accepts_it and adaptation.asked and incident.opened_ms is not None
            if change == "regime-change" or settles:
                after, told = self._regime(
                    after,
                    asset,
                    judgement,
                    scores,
                    row + index,
                    ingests[index],
                    change is not None,
                    settles,
                    None if rescore is None else _probe(windows, index, rescore),
                )
                alerts += told
            elif change is not None:
                after = self._auditor.tell(asset, end, change, state, after, scores.models[model])
            elif risked:
                after = self._auditor.tell(asset, end, "risk", state, after, scores.models[model])
            elif (threshold.level is not level or end - state.applied.told_ms >= LEVEL_MS) and level_moved(
                state.applied, threshold.level, end
            ):  # a level that is the one before was looked at then
                after = self._auditor.tell(asset, end, "level", state, after, scores.models[model])
            states[asset] = after
            changed.add(asset)
            if watch is not None:
                watch(asset, score_of[index], level, judgement, after)
        return alerts

    def _adapted(
        self,
        adaptation: Adaptation,
        scores: ScoreBatch,
        place: int,
        score: float,
        end: int,
        incident: IncidentState,
        level: float | None,
        alarm: float | None,
    ) -> tuple[Adaptation, Change | None]:
        """Return the adaptation after the window in `place` of `scores`; `level`: adaptive, `alarm`: to alarm above."""
        assert scores.offset is not None
        offset = scores.offset[place]
        if incident.opened_ms is None or self._creeps(incident):
            normal, low = math.inf if level is None else level, self._incidents.quiet_at(alarm)
            return self._adaptation.quiet(adaptation, offset, score, end, normal, low)
        return self._adaptation.during(adaptation, offset, score, end, incident.opened_ms)

    def _creeps(self, incident: IncidentState) -> bool:
        """Whether an open incident is taken for drift that got ahead (adaptation.py)."""
        return self._adaptation.roams and incident.severity == "info"

    def _told_learnt(self, threshold: ThresholdState, adaptation: Adaptation) -> ThresholdState:
        """Return the threshold having learnt the scores that adaptation kept of an incident, now over.

        Those that are no number, or too large for one, say of no level that worse lies above it.
        """
        return self._method.learn(threshold, [score for score in adaptation.scores if math.isfinite(score)])

    def _first(
        self, asset: str, end: int, model: int, token: str, pin: float | None, controls: Controls, ref: ModelRef
    ) -> AssetState:
        """Return the state of an asset that nothing is known of. What operators asked before is done by it."""
        rolled, accepted = controls.rollbacks.get(asset, _NO_ROLLBACK)[0], controls.accepts.get(asset, "")
        fresh = AssetState(
            self._fresh[model],
            IncidentState(),
            _NEVER,
            token,
            adaptation=self._start,
            applied=AppliedControls(pin, accepted, rolled),
        )
        fresh = self._budgeted(fresh, model, end)
        return self._auditor.tell(asset, end, "calibrate", None, fresh, ref)

    def _obeyed(
        self,
        state: AssetState,
        asset: str,
        end: int,
        model: int,
        token: str,
        pin: float | None,
        controls: Controls,
        ref: ModelRef,
    ) -> AssetState:
        """Return the state after what operators asked for since the window before."""
        if state.reset != token:
            cause: AuditCause = "calibrate" if state.reset == _OTHER_METHOD else "reset"
            fresh = self._adaptation.fresh(state.adaptation)
            after = replace(state, threshold=self._fresh[model], reset=token, adaptation=fresh)
            after = self._budgeted(after, model, end)
            state = self._auditor.tell(asset, end, cause, state, after, ref)
        rolled, point = controls.rollbacks.get(asset, _NO_ROLLBACK)
        if point is not None and rolled > state.applied.rolled:
            moved = self._adaptation.adopt(point.adaptation)
            after = replace(
                state,
                threshold=self._method.adopt(point.threshold) or self._fresh[model],
                adaptation=self._adaptation.restored(state.adaptation, moved.shift, moved.anchor, end),
                applied=replace(state.applied, rolled=rolled),
            )
            state = self._auditor.tell(asset, end, "rollback", state, after, ref)
        if state.applied.pinned != pin:
            after = replace(state, applied=replace(state.applied, pinned=pin))
            state = self._auditor.tell(asset, end, "unpin" if pin is None else "pin", state, after, ref)
        return state

    def _budgeted(self, state: AssetState, model: int, end: int) -> AssetState:
        """Return a state just calibrated, with the risk that the budget gives it, if there is one."""
        if self.budget is None:
            return state
        counted, threshold = self.budget.start(state.threshold, self._calibrations[model], end)
        return replace(state, threshold=threshold, applied=replace(state.applied, budget=counted))

    def _regime(
        self,
        state: AssetState,
        asset: str,
        judgement: Judgement,
        scores: ScoreBatch,
        place: int,
        ingest_ms: int,
        is_new: bool,
        asked_for: bool,
        probe: Probe | None,
    ) -> tuple[AssetState, list[Alert]]:
        """Return the state after a regime change was found (`is_new`) or accepted (`asked_for`), and its alerts."""
        accept = asked_for or not self._asks
        told: tuple[AlertEvent, ...] = ("regime-change",) if is_new else ()
        incident, alerts = self._incidents.settle(
            state.incident,
            asset,
            state.judged_ms,
            judgement,
            scores,
            place,
            state.threshold.seen,
            ingest_ms,
            (*told, "close") if accept else told,
        )
        if self.budget is not None:
            alerts = [replace(alert, risk=self.risk_of(state.threshold)) for alert in alerts]
        ref = scores.models[int(scores.model[place])]
        after = replace(state, incident=incident)
        if not accept:
            return self._auditor.tell(asset, state.judged_ms, "regime-ask", state, after, ref), alerts
        after = self._accepted(after, probe)
        cause: AuditCause = "accept" if asked_for else "regime-change"
        return self._auditor.tell(asset, state.judged_ms, cause, state, after, ref), alerts

    def _accepted(self, state: AssetState, probe: Probe | None) -> AssetState:
        """Return the state with its regime as the new normal."""
        adaptation, sample = self._adaptation.accepted(state.adaptation, state.judged_ms, probe)
        threshold = state.threshold
        if sample is not None:
            calibrated = self._method.calibrate(sample)
            if self.budget is not None and calibrated.level is not None and threshold.level is not None:
                calibrated = self.budget.moved(calibrated, threshold)
            if calibrated.level is not None and (threshold.level is None or calibrated.level > threshold.level):
                threshold = calibrated
        return replace(state, threshold=threshold, adaptation=adaptation)

    def on_liveness(self, task: Task, liveness_event: LivenessEvent, controls: Controls) -> list[Alert]:
        """Take a sensor fault that shows in the messages; all windows before it are judged. Return its alerts."""
        state, model = task.states.get(liveness_event.asset), self._model_of(liveness_event.asset)
        if state is None or model is None:
            return []
        told = self._told(state.threshold, controls.pins.get(liveness_event.asset))
        sensors, incident, alert = self._sensor_faults.on_liveness(
            state.sensors, state.incident, liveness_event, model, told
        )
        if sensors is not state.sensors:
            adaptation = state.adaptation
            if incident.opened_ms is not state.incident.opened_ms:
                adaptation = self._adaptation.turned(adaptation, liveness_event.at_ms)
            task.states[liveness_event.asset] = replace(
                state, sensors=sensors, incident=incident, adaptation=adaptation
            )
            task.changed.add(liveness_event.asset)
        return [] if alert is None else [alert]

    def _told(self, state: ThresholdState, pinned: float | None) -> tuple[float | None, str, float, int]:
        """Return alarm level, method, risk and scores seen, for alerts about sensors."""
        level = alarm_level(state.level, self._margin) if pinned is None else pinned
        return level, state.method if pinned is None else "pinned", self.risk_of(state), state.seen

    def _score_again(
        self,
        windows: WindowBatch,
        scores: ScoreBatch,
        row: int,
        index: int,
        adaptation: Adaptation,
        under: list[int],
        score_of: list[float],
        rescore: Rescore,
    ) -> None:
        """Score the asset's next windows from `index` on under its present shift, in place."""
        asset, assets = windows.assets[index], windows.assets
        places = [place for place in range(index, len(assets)) if assets[place] == asset][:_AGAIN]
        values = np.tile(adaptation.shift.astype(np.float64), (len(places), 1))
        fresh = rescore(_taken(windows, places), Shifts(values, [adaptation.serial] * len(places)))
        rows = np.array(places) + row
        scores.score[rows], scores.channels[rows] = fresh.score, fresh.channels
        scores.observed[rows], scores.expected[rows] = fresh.observed, fresh.expected
        if scores.offset is not None and fresh.offset is not None:
            scores.offset[rows] = fresh.offset
        for place, score in zip(places, fresh.score.tolist(), strict=True):
            under[place], score_of[place] = adaptation.serial, score


def _taken(windows: WindowBatch, places: list[int]) -> WindowBatch:
    """Return the windows at these places."""
    return WindowBatch(
        windows.task,
        [windows.assets[place] for place in places],
        windows.end_ms[places],
        windows.values[places],
        windows.filled[places],
        windows.ingest_ms[places],
    )


def _probe(windows: WindowBatch, index: int, rescore: Rescore) -> Probe:
    """Return what scores one window under any shifts."""

    def probe(shifts: NDArray[np.float64]) -> tuple[NDArray[np.float64], Floats]:
        fresh = rescore(_taken(windows, [index] * len(shifts)), Shifts(shifts, [0] * len(shifts)))
        assert fresh.offset is not None
        return fresh.score, fresh.offset

    return probe
