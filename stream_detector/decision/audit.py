"""Entries of the audit topic: every change of an asset's threshold, shift or pin, which its scores depend on. Pure.

A level changes slightly with every normal score. It is written when it has changed by LEVEL_STEP since it was last
written, or else once per hour of event time. Every other change is written at the window at which it takes effect.
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

#: Relative change of a level that is written at once, and the event time after which any change is written, ms.
LEVEL_STEP, LEVEL_MS = 0.2, 3_600_000


def level_moved(audited: AuditedLevel, level: float | None, at_ms: int) -> bool:
    """Return whether a level is to be written: it differs enough from the last one, or that one is old enough."""
    last = audited.level
    if level is None or last is None:
        return level is not last
    moved = abs(level - last)
    return moved > LEVEL_STEP * abs(last) or (moved > 0.0 and at_ms - audited.at_ms >= LEVEL_MS)


class Auditor:
    """Makes the audit entries of one stream; holds no state of any asset."""

    def __init__(self, stream: str, columns: Sequence[str], risk: float, on: bool) -> None:
        """`columns`: names of the numeric columns; `on`: whether entries are made."""
        self._stream = stream
        self._columns = tuple(columns)
        self._risk = risk
        self.on = on

    def entry(
        self, asset: str, model: ModelRef, cause: AuditCause, before: AssetState | None, after: AssetState
    ) -> Audit:
        """Return the entry for a change at the last window that `after` includes."""
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
        """Add an entry for the change from `before` to the draft, and record the written level in its state."""
        if self.on:
            window = draft.window
            draft.audits.append(self.entry(window.asset, window.ref, cause, before, draft.current()))
        draft.audited = AuditedLevel(level=draft.threshold.level, at_ms=draft.window.end_ms)


def risk_in(threshold: ThresholdState, risk: float) -> float:
    """Return the risk that is stored with a threshold, or else `risk`."""
    return float(getattr(threshold.numbers, "risk", risk))


class AuditPolicy:
    """The last policy: records the changes that the others have made."""

    name = "audit"

    def __init__(self, auditor: Auditor) -> None:
        """`auditor`: makes the entries."""
        self._auditor = auditor

    def adopt(self, state: AssetState) -> AssetState:
        """Return the state: the level last written does not depend on the configuration."""
        return state

    def apply(self, draft: Draft) -> bool:
        """Add an entry for this window's change, if any; if there are several, for the most important one."""
        cause = draft.cause
        if cause is None and draft.change is None and not draft.risk_moved:
            level, end_ms = draft.threshold.level, draft.window.end_ms
            if level is draft.state.threshold.level and end_ms - draft.audited.at_ms < LEVEL_MS:
                return False  # the level was checked when it last changed
            if level == draft.audited.level or not level_moved(draft.audited, level, end_ms):
                return False
            cause = "level"
        elif cause is None:
            cause = "refit" if draft.change == "refit" else "risk"
        self._auditor.note(draft, cause, draft.before or draft.state)
        return False
