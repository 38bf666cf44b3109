"""What is written to the audit topic, and when: every change of what an asset is held against. Pure.

A level moves a little with every normal score. That is told when it has moved by LEVEL_STEP since it was told last, or
once an hour of event time, whichever comes first; every other change is told at the window it takes effect with.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_detector.codec import audit_id, encode_point
from stream_detector.types import AppliedControls, AssetState, Audit, AuditCause, ModelRef, Point

#: Relative change of a level that is told at once, and after how long (event time) any change is.
LEVEL_STEP, LEVEL_MS = 0.2, 3_600_000


def level_moved(applied: AppliedControls, level: float | None, at_ms: int) -> bool:
    """Whether a level has moved far enough from the one told, or for long enough."""
    told = applied.level
    if level is None or told is None:
        return level is not told
    moved = abs(level - told)
    return moved > LEVEL_STEP * abs(told) or (moved > 0.0 and at_ms - applied.told_ms >= LEVEL_MS)


class Auditor:
    """Writes the entries of one stream."""

    def __init__(self, stream: str, columns: Sequence[str], risk: float, on: bool) -> None:
        """`columns`: names of the numeric ones; `on`: False writes nothing."""
        self._stream = stream
        self._columns = tuple(columns)
        self._risk = risk
        self._on = on
        self._written: list[Audit] = []

    def take(self) -> list[Audit]:
        """Return the entries written since last asked, in order."""
        taken, self._written = self._written, []
        return taken

    def tell(
        self,
        asset: str,
        at_ms: int,
        cause: AuditCause,
        before: AssetState | None,
        after: AssetState,
        model: ModelRef,
    ) -> AssetState:
        """Write an entry; return the state `after` it, which remembers what was told."""
        was = after.applied
        applied = AppliedControls(was.pinned, was.accepted, was.rolled, after.threshold.level, at_ms, was.budget)
        if self._on:
            entry = Audit(
                id=audit_id(self._stream, asset, at_ms, cause),
                stream=self._stream,
                asset=asset,
                at_ms=at_ms,
                cause=cause,
                before=None if before is None else self._point(before, cause == "level"),
                after=self._point(after),
                method=after.threshold.method,
                risk=after.threshold.numbers[0] if after.threshold.numbers else self._risk,
                model=model,
                state=encode_point(after.threshold, after.adaptation),
            )
            self._written.append(entry)
        return AssetState(
            after.threshold, after.incident, after.judged_ms, after.reset, after.sensors, after.adaptation, applied
        )

    def _point(self, state: AssetState, told: bool = False) -> Point:
        """Return what a state is held against; `told`: with the level as it was told last."""
        moved = dict(zip(self._columns, state.adaptation.shift.tolist(), strict=False))
        return Point(
            level=state.applied.level if told else state.threshold.level,
            pinned=state.applied.pinned,
            seen=state.threshold.seen,
            shift={name: distance for name, distance in moved.items() if distance},
        )
