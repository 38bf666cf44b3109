"""Which assets send readings that give no window, and why. Pure; for logs and metrics, never for alerts.

An asset waits for a window since its last one, or since its first reading. Its waiting is counted in event time, a long
step only as an eighth of the limit, so that an asset that is back after a pause is not reported at once, while one
whose readings are always too far apart is reported after some of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream_detector.config import ChannelConfig, WindowConfig
from stream_detector.types import NotJudged
from stream_detector.windowing.grid import NEVER, Bools, Floats, Ints

_STEPS = 8  # a step counts up to this part of the limit
_LEAST = 20  # readings before implausible event times are reported
_YEAR_MS = 365.25 * 86_400_000
_FAR_MS = 10 * _YEAR_MS
_EARLIEST_MS, _LATEST_MS = 1e11, 4.1e12  # 1973 and 2099: plausible event times where the record has no time of its own


class Held(NamedTuple):
    """What the windower holds of an asset that waits."""

    asset: str
    clock_ms: float  # newest event time
    newest: Ints  # (K,) newest cell of each column that has a value; NEVER without one
    columns: Sequence[int]  # (K,) channel of each column


class Coverage:
    """How long the assets of a task have sent readings without a window. Rows are those of the windower."""

    def __init__(self, window: WindowConfig, channels: Mapping[str, ChannelConfig]) -> None:
        """No asset has sent anything."""
        self._window = window
        self._channels = list(channels)
        self._gaps_ms = [window.max_gap_ms if c.max_gap_ms is None else c.max_gap_ms for c in channels.values()]
        needed = (window.length + 2 * window.stride + 1) * window.cell_ms + window.lateness_ms
        self.limit_ms = 2 * needed  # a step back and forth in time counts twice
        self._waited: Floats = np.empty(0)  # (A,) ms, long steps cut
        self._span: Floats = np.empty(0)  # (A,) ms, whole
        self._count: Ints = np.empty(0, np.int64)  # (A,) readings
        self._ever: Bools = np.empty(0, np.bool_)  # (A,) whether it had a window
        self._seen: Bools = np.empty((0, len(channels)), np.bool_)  # (A, C) until the first window
        self._ingest_ms = -1

    def admit(self, row: int, capacity: int) -> None:
        """Begin to count an asset's readings in a row, of `capacity` rows."""
        if (more := capacity - len(self._waited)) > 0:
            self._waited, self._span = (np.concatenate([a, np.zeros(more)]) for a in (self._waited, self._span))
            self._count = np.concatenate([self._count, np.zeros(more, np.int64)])
            self._ever = np.concatenate([self._ever, np.zeros(more, np.bool_)])
            self._seen = np.concatenate([self._seen, np.zeros((more, len(self._channels)), np.bool_)])
        self._waited[row] = self._span[row] = self._count[row] = 0
        self._ever[row] = self._seen[row] = False

    def heard(
        self, touched: Ints, owner: Ints, *, ts_ms: Floats, values: Floats, clock_ms: Floats, ingest_ms: int
    ) -> None:
        """Count samples (S,) sorted by asset; `touched` (T,): their rows; `clock_ms` (T,): newest time before."""
        starts = np.searchsorted(owner, touched)
        # the newest time up to each sample: one that comes late, and the next one, are no step back and forth
        first = np.where(clock_ms > -np.inf, clock_ms, ts_ms[starts])
        counts = np.diff(np.append(starts, len(owner)))
        low = min(float(ts_ms.min()), float(first.min()))
        apart = np.repeat(np.arange(len(starts)) * (max(float(ts_ms.max()), float(first.max())) - low + 1.0), counts)
        newest = np.maximum.accumulate(np.maximum(ts_ms, np.repeat(first, counts)) - low + apart)
        steps = newest - np.concatenate([newest[:1], newest[:-1]])
        steps[starts] = np.maximum(ts_ms[starts] - first, 0.0)
        self._span[touched] += np.add.reduceat(steps, starts)
        self._waited[touched] += np.add.reduceat(np.minimum(steps, self.limit_ms / _STEPS), starts)
        self._count[touched] += np.diff(np.append(starts, len(owner)))
        self._ingest_ms = ingest_ms
        fresh = ~self._ever[touched]
        if fresh.any():
            self._seen[touched] |= np.logical_or.reduceat(~np.isnan(values), starts, axis=0)

    def windowed(self, rows: Ints) -> None:
        """Count from here on: these assets had a window."""
        self._waited[rows] = self._span[rows] = 0.0
        self._count[rows] = 0
        self._ever[rows] = True

    def waiting(self, rows: Ints, clocks_ms: Floats, *, final: bool = False) -> Ints:
        """Return those of some rows (R,) that wait for too long; `final`: all that never had a window.

        `clocks_ms` (R,): newest event time of each.
        """
        late = self._waited[rows] > self.limit_ms
        never = ~self._ever[rows]
        late |= never & (self._count[rows] >= (1 if final else _LEAST)) & (final | self._implausible(clocks_ms))
        return rows[late]

    def _implausible(self, clocks_ms: Floats) -> Bools:
        if self._ingest_ms >= 0:
            return np.abs(clocks_ms - self._ingest_ms) > _FAR_MS
        return (clocks_ms < _EARLIEST_MS) | (clocks_ms > _LATEST_MS)

    def never(self, row: int) -> bool:
        """Whether an asset sent readings and had no window."""
        return bool(self._count[row]) and not self._ever[row]

    def why(self, row: int, held: Held) -> NotJudged:
        """Return why an asset that waits has no window."""
        reason, detail = self._why(row, held)
        return NotJudged(held.asset, int(self._count[row]), reason, detail)

    def _why(self, row: int, held: Held) -> tuple[str, str]:
        if bool(self._implausible(np.array([held.clock_ms]))[0]) and not self._ever[row]:
            return "event-times", self._times(held.clock_ms)
        if not self._ever[row] and not self._seen[row].all():
            missing = [name for name, seen in zip(self._channels, self._seen[row], strict=True) if not seen]
            return "channel-missing", f"no reading had {' or '.join(map(repr, missing))}; {_channels_fix(missing)}"
        count, span = int(self._count[row]), float(self._span[row])
        tightest = int(np.argmin(self._gaps_ms))
        gap, allowed = span / max(count - 1, 1), self._gaps_ms[tightest]
        if count > 1 and gap > allowed + self._window.cell_ms:
            name = self._channels[tightest]
            return "coarse-step", (
                f"a reading every {gap / 1_000:.4g} s on average; gaps of {name!r} are filled up to "
                f"{allowed / 1_000:.4g} s (max_gap_ms): raise max_gap_ms or window.cell_ms, and train again"
            )
        if self._waited[row] <= self.limit_ms:
            needed = (self._window.length + self._window.stride) * self._window.cell_ms
            return "too-short", f"its readings span {span / 1_000:.4g} s; a first window needs {needed / 1_000:.4g} s"
        return "gaps", self._gaps(held)

    def _gaps(self, held: Held) -> str:
        cell = math.floor(held.clock_ms / self._window.cell_ms)
        ages = [(cell - newest, channel) for newest, channel in zip(held.newest.tolist(), held.columns, strict=True)]
        age, channel = max(ages, default=(0, 0))
        name, allowed = self._channels[channel], self._gaps_ms[channel] / 1_000
        if age > cell - NEVER // 2:
            return f"no reading had {name!r} for a long time; {_channels_fix([name])}"
        if age * self._window.cell_ms > self._gaps_ms[channel]:
            return (
                f"no reading had {name!r} for {age * self._window.cell_ms / 1_000:.4g} s; gaps are filled up to "
                f"{allowed:.4g} s (max_gap_ms); {_channels_fix([name])}"
            )
        return f"no window was whole: some channel's gaps are longer than max_gap_ms ({allowed:.4g} s of {name!r})"

    def _times(self, clock_ms: float) -> str:
        unit = _unit(clock_ms)
        looks = f"they look like {unit}, expected milliseconds since 1970" if unit else "expected UNIX milliseconds"
        return f"its newest event time is {clock_ms:.0f}, in the year {1970 + int(clock_ms // _YEAR_MS)}: {looks}"


def _unit(clock_ms: float) -> str:
    """Return the unit in which a time would be of these decades; nothing where none is."""
    for unit, in_ms in (("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
        if _EARLIEST_MS * 5 < clock_ms * in_ms < _LATEST_MS:
            return unit
    return ""


def _channels_fix(names: Sequence[str]) -> str:
    which = "them" if len(names) > 1 else "it"
    return f"send {which}, or take {which} out of `channels` and train again"
