"""Another model, and operators' controls: both are applied at an asset's next window. Pure.

Scores of two models have nothing in common, not even their scale. So at the first window that another model has scored,
the asset starts from that model's calibration: threshold, budget, adaptation (its shift is in the model's spreads), and
what an incident holds of scores. An open incident stays open and closes by its rules under the new level; pins stay,
since an operator set them. A state that names no model, of a version before 0.3, is taken for one of today's model.
"""

from __future__ import annotations

from stream_detector.decision.audit import Auditor
from stream_detector.decision.policy import Draft
from stream_detector.decision.rules import Rules
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.types import AppliedControls, AssetState, Controls, IncidentState, replace

OTHER_METHOD = "\0method"  # token of a reset that no operator can request
_NO_ROLLBACK: tuple[str, AssetState | None] = ("", None)


#: No controls: the usual case, recognised by its identity.
_NOTHING = AppliedControls()


def reset_token(controls: Controls, asset: str) -> str:
    """Return the token of the last reset asked for, of an asset or of all; tokens sort by time."""
    return max(controls.resets.get(asset, ""), controls.reset_all)


def reset_due(applied: AppliedControls, token: str) -> bool:
    """Whether a reset with this token is still to be applied. One that the store no longer has is no other reset."""
    return applied.reset < token or applied.reset == OTHER_METHOD


def reset_pending(controls: Controls, asset: str, applied: str) -> bool:
    """Whether a reset was asked for that is not applied yet; `applied`: token of the last one that was."""
    token = reset_token(controls, asset)
    return bool(token) and token != applied


def obeyed(applied: AppliedControls, controls: Controls, asset: str) -> bool:
    """Return whether all controls are applied to an asset's state, except acceptances (`RegimePolicy`)."""
    return (
        not reset_due(applied, reset_token(controls, asset))
        and applied.pinned == controls.pins.get(asset)
        and not (controls.rollbacks and controls.rollbacks.get(asset, _NO_ROLLBACK)[0] > applied.rolled)
    )


class ControlsPolicy:
    """The first policy: applies the operators' controls before the window is judged."""

    name = "controls"

    def __init__(self, rules: Rules, auditor: Auditor) -> None:
        """`rules`: for recalibration; `auditor`: records the controls applied."""
        self._rules = rules
        self._auditor = auditor

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state, marked for recalibration if it is from another method or from another kind of budget."""
        if state.applied.reset == OTHER_METHOD:
            return state
        other = self._rules.method.adopt(state.threshold) is None
        if other or (self._rules.budget is None) != (state.budget is None):
            return replace(state, applied=replace(state.applied, reset=OTHER_METHOD))
        return state

    def apply(self, draft: Draft) -> bool:
        """Begin again under another model; apply requested controls that are not applied yet."""
        version = draft.window.ref.version
        if draft.model != version:
            if draft.model:
                self._restart(draft, version)
            draft.model = version
        controls, applied = draft.controls, draft.applied
        if controls.idle and not draft.is_new and (applied is _NOTHING or not applied.reset) and applied.pinned is None:
            return False
        asset = draft.window.asset
        if draft.is_new:
            self._begin(draft, asset, controls)
        elif not obeyed(draft.applied, controls, asset):
            self._obey(draft, asset, controls)
        return False

    def _begin(self, draft: Draft, asset: str, controls: Controls) -> None:
        """Start the state of a new asset; controls set before count as applied."""
        draft.applied = _NOTHING
        if not controls.idle:
            draft.applied = AppliedControls(
                reset=reset_token(controls, asset),
                pinned=controls.pins.get(asset),
                accepted=controls.accepts.get(asset, ""),
                rolled=controls.rollbacks.get(asset, _NO_ROLLBACK)[0],
                removed=controls.removals[asset].token if asset in controls.removals else "",
            )
        self._rules.set_budget(draft)
        self._auditor.note(draft, "calibrate", None)
        draft.settle()

    def _restart(self, draft: Draft, version: str) -> None:
        """Begin with another model's calibration; an open incident goes on, its peak with the scores to come."""
        before = draft.current()
        draft.model = version
        draft.threshold = self._rules.fresh[draft.window.model]
        draft.adaptation = self._rules.adaptation.fresh(draft.adaptation)
        draft.incident = replace(draft.incident, peak=-LARGEST if draft.incident.incident else 0.0, rearm=None)
        if draft.applied.reset == OTHER_METHOD:
            draft.applied = replace(draft.applied, reset=reset_token(draft.controls, draft.window.asset))
        self._rules.set_budget(draft)
        self._auditor.note(draft, "new-model", before)
        draft.settle()

    def _obey(self, draft: Draft, asset: str, controls: Controls) -> None:
        token, end_ms = reset_token(controls, asset), draft.window.end_ms
        if reset_due(draft.applied, token):
            before, other = draft.current(), draft.applied.reset == OTHER_METHOD
            draft.threshold = self._rules.fresh[draft.window.model]
            draft.adaptation = self._rules.adaptation.fresh(draft.adaptation)
            draft.applied = replace(draft.applied, reset=token)
            if draft.incident.first_ms is not None and draft.incident.first_ms >= end_ms:  # judged again from before
                draft.incident = IncidentState()
            faults = tuple(one for one in draft.sensors.faults if one.since_ms < end_ms)
            if len(faults) < len(draft.sensors.faults):
                draft.sensors = replace(draft.sensors, faults=faults)
            self._rules.set_budget(draft)
            self._auditor.note(draft, "calibrate" if other else "reset", before)
        rolled, point = controls.rollbacks.get(asset, _NO_ROLLBACK)
        if point is not None and rolled > draft.applied.rolled:
            before = draft.current()
            earlier = self._rules.adaptation.adopt(point.adaptation)
            threshold = self._rules.method.adopt(point.threshold)
            if point.model and point.model != draft.model:  # asked for before another model took over
                earlier, threshold = self._rules.adaptation.fresh(), None
            draft.threshold = self._rules.fresh[draft.window.model] if threshold is None else threshold
            draft.adaptation = self._rules.adaptation.restored(draft.adaptation, earlier, end_ms)
            draft.applied = replace(draft.applied, rolled=rolled)
            self._auditor.note(draft, "rollback", before)
        pin = controls.pins.get(asset)
        if draft.applied.pinned != pin:
            before = draft.current()
            draft.applied = replace(draft.applied, pinned=pin)
            self._auditor.note(draft, "unpin" if pin is None else "pin", before)
        draft.settle()
