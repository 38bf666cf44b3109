"""Lines, bands and axes as SVG text. Long series are reduced to the smallest and largest value of each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH, LEFT, RIGHT = 1_000, 92, 12
LANE, GAP, BAND = 46, 6, 10
COLUMNS = 450
#: In drawings at least this long, every tick of the time axis has its date.
DAY_MS = 86_400_000.0


class Canvas:
    """A drawing that grows downwards; x is event time."""

    def __init__(self, start_ms: float, end_ms: float) -> None:
        """Make an empty drawing from `start_ms` to `end_ms`, UNIX ms."""
        self.start_ms, self.end_ms = start_ms, end_ms
        self.height = 4.0
        self.parts: list[str] = []

    def x(self, ts_ms: float) -> float:
        """Return the x coordinate of a time."""
        span = max(self.end_ms - self.start_ms, 1.0)
        return LEFT + (WIDTH - LEFT - RIGHT) * (ts_ms - self.start_ms) / span

    def band(self, name: str, css: str, intervals: Sequence[tuple[float, float]]) -> None:
        """Add a strip with filled time intervals."""
        y = self.height
        self._label(name, y + BAND - 1)
        self._rect("strip", BAND)
        for start, end in intervals:
            x = self.x(start)
            width = max(self.x(end) - x, 1.0)
            self.parts.append(
                f'<rect class="{css}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{BAND}">'
                f"<title>{escape(name)} {moment(start)} to {moment(end)}</title></rect>"
            )
        self.height += BAND + 4

    def shade(self, start_ms: float, end_ms: float, css: str, title: str) -> str:
        """Return a rectangle over the whole height; call this after all lanes have been added."""
        x = self.x(start_ms)
        width = max(self.x(end_ms) - x, 0.5)
        return (
            f'<rect class="{css}" x="{x:.1f}" y="0" width="{width:.1f}" height="{self.height:.0f}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def line(
        self,
        name: str,
        ts_ms: Floats,
        values: Floats,
        css: str = "line",
        *,
        second: Floats | None = None,
        log: bool = False,
        height: int = LANE,
    ) -> None:
        """Add a lane with a line, and a second one on the same scale; `log`: logarithmic if all values are above 0."""
        shown = [values] if second is None else [values, second]
        known = np.concatenate([one[np.isfinite(one)] for one in shown])
        y = self.height
        self._label(name, y + height / 2 + 4)
        self._rect("lane", height)
        self.height += height + GAP
        if not len(known):
            return
        log = log and float(known.min()) > 0.0
        low, high = float(known.min()), float(known.max())
        if log:
            low, high = math.log10(low), math.log10(high)
        span = high - low or 1.0
        for one, style in zip(shown, (css, "level"), strict=False):
            with np.errstate(invalid="ignore"):
                scaled = np.log10(one) if log else one
            points = y + height - 2 - (height - 4) * (scaled - low) / span
            self.parts += _polylines(self, ts_ms, points, style)
        for value, at_y in ((high, y + 9), (low, y + height)):
            text = f"{10**value if log else value:.3g}"
            self.parts.append(f'<text class="tick" x="{LEFT - 4}" y="{at_y:.0f}">{text}</text>')

    def svg(self, over: Sequence[str] = ()) -> str:
        """Return the drawing with its time axis; `over` is drawn last."""
        y = self.height + 12
        axis = []
        for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
            at = self.start_ms + share * (self.end_ms - self.start_ms)
            text = moment(at, short=share not in (0.0, 1.0) and self.end_ms - self.start_ms < DAY_MS)
            axis.append(f'<text class="time" x="{self.x(at):.0f}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>')
        return f'<svg viewBox="0 0 {WIDTH} {y + 6:.0f}" role="img">' + "".join([*self.parts, *axis, *over]) + "</svg>"

    def _rect(self, css: str, height: int) -> None:
        y, width = self.height, WIDTH - LEFT - RIGHT
        self.parts.append(f'<rect class="{css}" x="{LEFT}" y="{y:.0f}" width="{width}" height="{height}"/>')

    def _label(self, name: str, y: float) -> None:
        text = name if len(name) <= 14 else f"{name[:7]}…{name[-5:]}"
        self.parts.append(f'<text class="name" x="2" y="{y:.0f}">{escape(text)}<title>{escape(name)}</title></text>')


def moment(ms: float, short: bool = False) -> str:
    """Format a time, UTC, for display."""
    when = datetime.fromtimestamp(ms / 1_000.0, UTC)
    return when.strftime("%H:%M:%S" if short else "%Y-%m-%d %H:%M:%SZ")


def _polylines(canvas: Canvas, ts_ms: Floats, y: Floats, css: str) -> list[str]:
    """Draw a line through the finite points, reduced to at most two points per column."""
    finite = np.flatnonzero(np.isfinite(y))
    if not len(finite):
        return []
    if len(finite) > 2 * COLUMNS:
        column = ((ts_ms[finite] - canvas.start_ms) / max(canvas.end_ms - canvas.start_ms, 1.0) * COLUMNS).astype(int)
        starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
        kept: list[int] = []
        for start, stop in zip(starts, [*starts[1:], len(finite)], strict=True):
            some = finite[start:stop]
            kept += sorted({int(some[np.argmin(y[some])]), int(some[np.argmax(y[some])])})
        finite = np.array(kept)
    points = " ".join(f"{canvas.x(float(ts_ms[i])):.1f},{y[i]:.1f}" for i in finite)
    return [f'<polyline class="{css}" points="{points}"/>']
