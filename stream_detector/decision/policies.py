"""The policies between sensor faults and audit: threshold, incident, adaptation, budget, regime changes. Pure.

Each applies the rules of its own module to a draft.
"""

from __future__ import annotations

import math

from stream_detector.decision.adaptation import Seen
from stream_detector.decision.controls import OTHER_METHOD
from stream_detector.decision.policy import Draft
from stream_detector.decision.rules import Rules
from stream_detector.decision.threshold import Judgement, judge
from stream_detector.types import AlertEvent, AssetState, replace


class ThresholdPolicy:
    """Judges whether the score is normal, and learns normal scores."""

    name = "threshold"

    def __init__(self, rules: Rules) -> None:
        """Take the threshold's rules from `rules`."""
        config = rules.config.threshold
        self._method, self._adaptation = rules.method, rules.adaptation
        self._margin, self._learn_after, self._adapt = config.alarm_margin, config.learn_after, config.adapt

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state with its threshold converted for this configuration's risk and memory."""
        if state.applied.reset == OTHER_METHOD:
            return state  # recalibrated at its next window
        adopted = self._method.adopt(state.threshold)
        return state if adopted is None or adopted is state.threshold else replace(state, threshold=adopted)

    def apply(self, draft: Draft) -> bool:
        """Judge the score, and learn it where it is normal and no incident is open."""
        score, level, pinned = draft.window.score, draft.threshold.level, draft.applied.pinned
        if level is not None and score > level and pinned is None:  # as `judge`, without the call: nothing to learn
            above = level if self._margin == 1.0 else level + (self._margin - 1.0) * abs(level)
            draft.judgement = Judgement(above, not score <= above)
            return False
        learns = self._adapt
        if draft.state.incident.opened_ms is not None:
            learns = learns and self._adaptation.creeps(draft.incident)
        draft.judgement, draft.threshold = judge(
            self._method,
            draft.threshold,
            score,
            pinned=pinned,
            margin=self._margin,
            learn_after=self._learn_after,
            adapt=learns,
        )
        return False


class IncidentPolicy:
    """Opens, updates and closes incidents from the judgements."""

    name = "incident"

    def __init__(self, rules: Rules) -> None:
        """Take the incidents' rules from `rules`."""
        self._rules, self._incidents = rules, rules.incidents

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: an open incident stays open."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Update the incident's state by this window, and add the alert if there is one."""
        draft.incident, event = self._incidents.step(draft.incident, draft.window, draft.judgement)
        if event is not None:
            draft.alerts.append(self._incidents.alert(event, draft.window, self._rules.basis(draft)))
        return False


class AdaptationPolicy:
    """Follows the machine's baseline and detects regime changes."""

    name = "adaptation"

    def __init__(self, rules: Rules) -> None:
        """Take the adaptation's rules from `rules`."""
        self._rules = rules
        self._learns_closed = rules.config.threshold.learn_told and rules.config.threshold.adapt

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state with an adaptation for this configuration's columns."""
        adopted = self._rules.adaptation.adopt(state.adaptation)
        return state if adopted is state.adaptation else replace(state, adaptation=adopted)

    def apply(self, draft: Draft) -> bool:
        """Learn from a window that is due; at one that opens or closes an incident, discard the unfinished block."""
        before, opened_ms = draft.state.incident.opened_ms, draft.incident.opened_ms
        due = draft.window.due
        if opened_ms != before:
            self._turn(draft, before, opened_ms)
        elif due is not False and (opened_ms is not None or draft.incident.recent == 0) and (due or self._due(draft)):
            self._look(draft, opened_ms)
        return False

    def _due(self, draft: Draft) -> bool:
        window = draft.window
        return self._rules.follows and window.offset is not None and self._rules.adaptation.is_due(window.end_ms)

    def _turn(self, draft: Draft, before: int | None, opened_ms: int | None) -> None:
        if self._learns_closed and opened_ms is None:
            # NaN and infinite scores can't be learnt
            scores = [score for score in draft.adaptation.scores if math.isfinite(score)]
            draft.threshold = self._rules.method.learn(draft.threshold, scores)
        draft.adaptation = self._rules.adaptation.turned(draft.adaptation, draft.window.end_ms)
        if before is None and draft.threshold.pending:
            draft.threshold = replace(draft.threshold, pending=b"")  # they may be the start of the anomaly

    def _look(self, draft: Draft, opened_ms: int | None) -> None:
        window, rules = draft.window, self._rules
        offset = window.offset
        assert offset is not None
        seen = Seen(offset, window.score, window.end_ms)
        if opened_ms is None or rules.adaptation.creeps(draft.incident):
            level = draft.state.threshold.level
            normal, low = math.inf if level is None else level, rules.incidents.quiet_at(draft.judgement.level)
            draft.adaptation, draft.change = rules.adaptation.quiet(draft.adaptation, seen, normal, low)
        else:
            draft.adaptation, draft.change = rules.adaptation.during(draft.adaptation, seen, opened_ms)


class BudgetPolicy:
    """Counts incidents and adjusts the risk so that the alert budget is kept."""

    name = "budget"

    def __init__(self, rules: Rules) -> None:
        """Take the budget from `rules`, which must have one."""
        assert rules.budget is not None
        self._budget = rules.budget

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: its counts are valid for any budget."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Count the window, and adjust the risk when it is due."""
        state, window = draft.budget, draft.window
        if state is None:
            return False
        alarmed = draft.incident.opened_ms is not None
        opened = alarmed and draft.state.incident.opened_ms is None
        draft.budget, draft.threshold, draft.risk_moved = self._budget.step(
            state, draft.threshold, window.score, window.end_ms, opened=opened, alarmed=alarmed
        )
        if draft.budget is not state:
            draft.promised = self._budget.promised(state, draft.budget)
            draft.opened = draft.budget.opened_ever - state.opened_ever
        return False


class RegimePolicy:
    """Decides whether a regime change is accepted as the new normal."""

    name = "regime"

    def __init__(self, rules: Rules) -> None:
        """Take the policy for regime changes from `rules`."""
        self._rules = rules
        self._asks = rules.config.adaptation.policy == "ask"

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: a pending question to the operator remains pending."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Report a regime change that was found, and accept it if the configuration or an operator does."""
        if draft.change is None and draft.controls.idle:
            return False
        found, wanted = draft.change == "regime-change", False
        accepts = draft.controls.accepts
        if accepts and (token := accepts.get(draft.window.asset, "")) > draft.applied.accepted:
            draft.applied = replace(draft.applied, accepted=token)  # used up, even if there is nothing to accept
            wanted = draft.adaptation.asked and draft.incident.opened_ms is not None
        if found or wanted:
            self._settle(draft, found, accept=wanted or not self._asks, wanted=wanted)
        return False

    def _settle(self, draft: Draft, found: bool, *, accept: bool, wanted: bool) -> None:
        draft.before = draft.current()
        events: tuple[AlertEvent, ...] = ("regime-change",) if found else ()
        if accept:
            events = (*events, "close")
        incidents, window, basis = self._rules.incidents, draft.window, self._rules.basis(draft)
        draft.incident, reported = incidents.settle(draft.incident, window, draft.judgement, events)
        draft.alerts += [incidents.alert(event, window, basis) for event in reported]
        draft.cause = "regime-ask"
        if accept:
            self._accept(draft)
            draft.cause = "accept" if wanted else "regime-change"

    def _accept(self, draft: Draft) -> None:
        """Make the machine's current regime its new normal."""
        rules, threshold = self._rules, draft.threshold
        end_ms, probe = draft.window.end_ms, draft.window.prober()
        draft.adaptation, sample = rules.adaptation.accepted(draft.adaptation, end_ms, probe)
        if sample is None:
            return
        calibrated = rules.method.calibrate(sample)
        if rules.budget is not None and calibrated.level is not None and threshold.level is not None:
            calibrated = rules.budget.moved(calibrated, threshold)
        if calibrated.level is not None and (threshold.level is None or calibrated.level > threshold.level):
            draft.threshold = calibrated
