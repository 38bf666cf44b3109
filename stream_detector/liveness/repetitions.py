"""Which refused readings say nothing of a clock: repeated ones, and a backlog sent newest first. Pure.

A gateway that reconnects may send its last readings again, and one that stores readings may send them in the wrong
order. All of them come too late, as those of a clock that was set back do. What tells them apart is what was read
before: a repetition has the time and the values of one of the partition's last messages, and times that run backwards
are not those of a clock. A restarted worker reads these messages again, so that it finds the same (`oldest_offset`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream_detector.types import DeadLetter, Partition, ReadingBatch
from stream_detector.windowing.grid import Floats, Ints

#: A reading is compared with those up to this many offsets before it.
REACH = 1_000


class _Heard(NamedTuple):
    """Readings of one batch: (M,), their values (M, C)."""

    offsets: Ints
    rows: Ints
    ts_ms: Floats
    values: Floats
    late: frozenset[int]  # offsets of those that came too late


class Repetitions:
    """The last readings of a task, by partition."""

    def __init__(self) -> None:
        """Nothing was read."""
        self._heard: dict[Partition, deque[_Heard]] = {}

    def push(self, batch: ReadingBatch, rows: Ints, refused: Sequence[DeadLetter]) -> None:
        """Remember readings; `rows` (M,) are those of their assets."""
        first = slice(None) if batch.reading is None else np.searchsorted(batch.reading, np.arange(len(rows)))
        late = frozenset(letter.message.offset for letter in refused if letter.code == "too-late")
        heard = self._heard.setdefault(batch.partition, deque())
        heard.append(_Heard(batch.offsets, rows, batch.ts_ms[first], batch.values[first], late))
        reach = int(batch.offsets[-1]) + 1 - REACH
        while heard[0].offsets[-1] < reach:
            heard.popleft()

    def explains(self, partition: Partition, row: int, offset: int) -> bool:
        """Whether a reading that came too late, and was pushed, is a repetition or part of a backlog sent backwards."""
        before = self._before(partition, row, offset)
        mine = next(self._at(one, offset) for one in self._heard[partition] if one.offsets[-1] >= offset)
        previous: tuple[float, bool] | None = None
        for one, places in before:
            same = places[one.ts_ms[places] == mine[0]]
            if same.size and _equal(one.values[same], mine[1]).any():
                return True
            last = int(places[-1])
            previous = float(one.ts_ms[last]), int(one.offsets[last]) in one.late
        return previous is not None and previous[1] and mine[0] < previous[0]

    def _before(self, partition: Partition, row: int, offset: int) -> list[tuple[_Heard, Ints]]:
        found = []
        for one in self._heard[partition]:
            places = np.flatnonzero((one.rows == row) & (one.offsets < offset) & (one.offsets >= offset - REACH))
            if places.size:
                found.append((one, places))
        return found

    @staticmethod
    def _at(one: _Heard, offset: int) -> tuple[float, Floats]:
        place = int(np.searchsorted(one.offsets, offset))
        return float(one.ts_ms[place]), one.values[place]

    def oldest_offsets(self, done: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return, by partition, the oldest offset that the next messages may be compared with; `done`: the next one."""
        found = {}
        for partition, heard in self._heard.items():
            reach = done.get(partition, 0) - REACH
            offsets = np.concatenate([one.offsets for one in heard])
            offsets = offsets[offsets >= reach]  # readings that were held back come after later ones
            if offsets.size:
                found[partition] = int(offsets.min())
        return found


def _equal(some: Floats, one: Floats) -> np.ndarray:
    """Return which rows of values (n, C) equal one (C,), missing ones included."""
    same: np.ndarray = ((some == one) | (np.isnan(some) & np.isnan(one))).all(axis=1)
    return same
