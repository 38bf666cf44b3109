"""What is written to the audit topic, and when: every change of what an asset's scores are compared with. Pure.

A level moves a little with every normal score. That is written when it has moved by LEVEL_STEP since it was written
last, or once an hour of event time, whichever comes first; every other change at the window it takes effect with.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_detector.decision.policy import Draft
from stream_detector.types import (
    Adaptation,
    AssetState,
    Audit,
    AuditCause,
    AuditedLevel,
    ModelRef,
    Point,
    ThresholdState,
)

#: Relative change of a level that is written at once, and after how long (event time) any change is.
LEVEL_STEP, LEVEL_MS = 0.2, 3_600_000


def level_moved(audited: AuditedLevel, level: float | None, at_ms: int) -> bool:
    """Whether a level has moved far enough from the one written last, or for long enough."""
    last = audited.level
    if level is None or last is None:
        return level is not last
    moved = abs(level - last)
    return moved > LEVEL_STEP * abs(last) or (moved > 0.0 and at_ms - audited.at_ms >= LEVEL_MS)


class Auditor:
    """Makes the entries of one stream; holds no state of any asset."""

    def __init__(self, stream: str, columns: Sequence[str], risk: float, on: bool) -> None:
        """`columns`: names of the numeric ones; `on`: False makes none."""
        self._stream = stream
        self._columns = tuple(columns)
        self._risk = risk
        self.on = on

    def entry(
        self, asset: str, model: ModelRef, cause: AuditCause, before: AssetState | None, after: AssetState
    ) -> Audit:
        """Return the entry for a change at the window that `after` was judged up to."""
        threshold = after.threshold
        return Audit(
            stream=self._stream,
            asset=asset,
            at_ms=after.judged_ms,
            cause=cause,
            before=None if before is None else self._point(before, cause == "level"),
            after=self._point(after),
            method=threshold.method,
            risk=risk_in(threshold, self._risk),
            model=model,
            threshold=threshold,
            adaptation=after.adaptation,
        )

    def level_entry(
        self,
        asset: str,
        model: ModelRef,
        at_ms: int,
        *,
        was: tuple[float, int],
        threshold: ThresholdState,
        adaptation: Adaptation,
    ) -> Audit:
        """Return what `entry` does for a level that moved where nothing is pinned.

        `was`: the level as the topic has it, NaN for none, and the scores learnt from before.
        """
        level, seen = was
        shift = self._shift(adaptation)
        return Audit(
            stream=self._stream,
            asset=asset,
            at_ms=at_ms,
            cause="level",
            before=Point(level=level if level == level else None, pinned=None, seen=seen, shift=shift),
            after=Point(level=threshold.level, pinned=None, seen=threshold.seen, shift=shift),
            method=threshold.method,
            risk=risk_in(threshold, self._risk),
            model=model,
            threshold=threshold,
            adaptation=adaptation,
        )

    def _point(self, state: AssetState, as_written: bool = False) -> Point:
        """Return what scores are compared with; `as_written`: with the level as the topic has it."""
        return Point(
            level=state.audited.level if as_written else state.threshold.level,
            pinned=state.applied.pinned,
            seen=state.threshold.seen,
            shift=self._shift(state.adaptation),
        )

    def _shift(self, adaptation: Adaptation) -> dict[str, float]:
        if not adaptation.serial:
            return {}
        moved = zip(self._columns, adaptation.shift.tolist(), strict=False)
        return {name: distance for name, distance in moved if distance}

    def note(self, draft: Draft, cause: AuditCause, before: AssetState | None) -> None:
        """Put an entry for what has become of `before` into the draft, and the level written into its state."""
        if self.on:
            window = draft.window
            draft.audits.append(self.entry(window.asset, window.ref, cause, before, draft.current()))
        draft.audited = AuditedLevel(level=draft.threshold.level, at_ms=draft.window.end_ms)


def risk_in(threshold: ThresholdState, risk: float) -> float:
    """Return the risk that a threshold was set for; `risk` where it doesn't say."""
    return float(getattr(threshold.numbers, "risk", risk))


class AuditPolicy:
    """The last one: says what the others have changed."""

    name = "audit"

    def __init__(self, auditor: Auditor) -> None:
        """Write by these rules."""
        self._auditor = auditor

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: what was written was written."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Note the change of this window, if there is one; the most telling where there are several."""
        cause = draft.cause
        if cause is None and draft.change is None and not draft.risk_moved:
            level, end_ms = draft.threshold.level, draft.window.end_ms
            if level is draft.state.threshold.level and end_ms - draft.audited.at_ms < LEVEL_MS:
                return False  # it was looked at when it became this one
            if level == draft.audited.level or not level_moved(draft.audited, level, end_ms):
                return False
            cause = "level"
        elif cause is None:
            cause = "refit" if draft.change == "refit" else "risk"
        self._auditor.note(draft, cause, draft.before or draft.state)
        return False
