"""Readings that are events, not samples: every record is a window of its own, complete when it arrives.

    key A   ──▶  r1    r2 r3        each becomes a window that ends at the record's time;
    key B   ──▶     r1       r2     r3 came in the same millisecond as r2 and ends one later

A key's records are processed in the log's order, regardless of their times. A window's end identifies its alerts, so
the ends of one key are unique: a record whose time is not after the previous one's ends one millisecond after it. No
window stays open, so after a restart reading resumes where the committed states end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ChannelConfig, WindowConfig
from stream_detector.types import DeadLetter, NotJudged, ReadingBatch, WindowBatch

_NEVER = -(2**62)


class RecordsWindower:
    """Records of one task. Pure: the same messages in the same order give the same windows."""

    def __init__(
        self,
        window: WindowConfig,
        channels: Mapping[str, ChannelConfig],
        task: int,
        topics: Sequence[str],
        judged_ms: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        """`judged_ms` returns the end of a key's committed state, UNIX ms; called once per key."""
        self._config = window
        self._names = list(channels)
        self._task = task
        self._topics = list(topics)
        self._judged_ms = judged_ms
        self._last: dict[str, int] = {}  # key -> end of its last window
        self._now = -np.inf

    @property
    def event_ms(self) -> float:
        """Newest event time of the task's records, UNIX ms; -inf before the first."""
        return float(self._now)

    @property
    def assets(self) -> int:
        """Number of keys seen."""
        return len(self._last)

    def last_readings(self) -> tuple[list[str], NDArray[np.float64]]:
        """Return the keys seen and the ends of their last windows (A,), UNIX ms: the times of their last records."""
        return list(self._last), np.fromiter(self._last.values(), np.float64, len(self._last))

    def push(self, batch: ReadingBatch) -> tuple[WindowBatch | None, list[DeadLetter]]:
        """Return one window per record, in order, and the refused records."""
        owner = np.arange(len(batch.assets)) if batch.reading is None else batch.reading  # row -> reading
        dead: list[DeadLetter] = []
        refused = np.zeros(len(batch.assets), np.bool_)
        limit = batch.ingest_ms + self._config.max_ahead_ms
        ahead = (batch.ingest_ms[owner] >= 0) & (batch.ts_ms > limit[owner])
        lacking = np.isnan(batch.values)
        for row in np.flatnonzero(ahead | lacking.any(axis=1)).tolist():
            index = int(owner[row])
            if refused[index]:
                continue
            refused[index] = True
            code, detail = "incomplete", f"no {self._names[int(lacking[row].argmax())]!r}; a record has all its fields"
            if ahead[row]:
                lead = (batch.ts_ms[row] - batch.ingest_ms[index]) / 1000
                allowed = f"window.max_ahead_ms is {self._config.max_ahead_ms:g}"
                code, detail = "too-far-ahead", f"{lead:.0f} s ahead of the broker's clock; {allowed}"
            dead.append(DeadLetter(batch.partition, batch.messages[index], code, detail))
        rows = np.flatnonzero(~refused[owner])
        if not rows.size:
            return None, dead
        self._now = max(self._now, float(batch.ts_ms[rows].max()))
        names = [batch.assets[index] for index in owner[rows].tolist()]
        values = np.ascontiguousarray(batch.values[rows, None, :], np.float32)  # (W, 1, C)
        return WindowBatch(
            self._task,
            names,
            self._ends(names, batch.ts_ms[rows]),
            values,
            np.zeros(values.shape, np.bool_),
            batch.ingest_ms[owner[rows]],
        ), dead

    def not_judged(self, final: bool = False) -> list[NotJudged]:
        """Return no asset: each record is a window, or a dead letter."""
        return []

    def oldest_offsets(self) -> dict[str, int | None]:
        """Return None for every topic: no window is open."""
        return dict.fromkeys(self._topics)

    def _ends(self, names: list[str], ts_ms: NDArray[np.float64]) -> NDArray[np.int64]:
        last = self._last
        ends: NDArray[np.int64] = np.rint(ts_ms).astype(np.int64)
        for place, (name, end) in enumerate(zip(names, ends.tolist(), strict=True)):
            before = last.get(name)
            if before is None:
                before = self._judged_ms(name)
                before = _NEVER if before is None else before
            if end <= before:
                end = before + 1
                ends[place] = end
            last[name] = end
        return ends
