"""Readings refused in a row, of each asset: out of range, or at times that no right clock gives. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from stream_detector.liveness.messages import Messages, Rows
from stream_detector.liveness.progress import Steps
from stream_detector.types import AssetState, DeadLetter, Refused, replace
from stream_detector.windowing.grid import Ints

_NOBODY = Refused()
#: Dead-letter code -> the fault of which it is a sign.
_SIGNS = {"out-of-range": "out-of-range", "not-a-number": "out-of-range", "too-late": "clock", "too-far-ahead": "clock"}


class Refusal(NamedTuple):
    """The beginning or end of a fault of which refused readings are the sign."""

    at: int  # the message that tells of it
    row: int
    begins: bool
    state: Refused
    now_ms: int  # newest event time of the task


class Refusals:
    """The counts of one task; they are part of the assets' states.

    An asset's readings count from its first window on: before, it has no state, and nothing is told of it.
    """

    def __init__(self, refused_after: int, rows: Rows, states: Mapping[str, AssetState]) -> None:
        """Take over assets' committed states. `refused_after`: this many in a row are told."""
        self._refused_after = refused_after
        self._rows = rows
        self._refused = {
            rows.of(asset): state.sensors.refused for asset, state in states.items() if state.sensors.refused != _NOBODY
        }

    def push(
        self, messages: Messages, steps: Steps, first_window: Ints, explained: Callable[[int, int], bool]
    ) -> list[Refusal]:
        """Count messages; return what that tells.

        `first_window` (A,): number of the message that completed the first window of each asset. `explained`: whether
        an asset's reading at an offset, which came too late, says nothing of its clock.
        """
        involved = {int(messages.rows[at]) for at in messages.refused} | self._refused.keys()
        if not involved:
            return []
        told: list[Refusal] = []
        for at in np.flatnonzero(np.isin(messages.rows, list(involved))).tolist():
            row, letter = int(messages.rows[at]), messages.refused.get(at)
            if (letter is not None and letter.code not in _SIGNS) or steps.number + at <= first_window[row]:
                continue
            if letter is not None and letter.code == "too-late" and explained(row, int(messages.offsets[at])):
                continue
            now = steps.now_ms[at]
            found = self._counted(row, letter, round(float(now)) if now > -np.inf else 0)
            told += [found._replace(at=at)] if found is not None else []
        return told

    def _counted(self, row: int, letter: DeadLetter | None, now_ms: int) -> Refusal | None:
        state = self._refused.get(row, _NOBODY)
        if letter is None:
            if state.open and state.good + 1 < self._refused_after:
                self._refused[row] = replace(state, good=state.good + 1)
                return None
            if state != _NOBODY:
                self._refused[row] = _NOBODY
            return Refusal(-1, row, False, state, now_ms) if state.open else None
        fault, channel = _SIGNS[letter.code], letter.channel
        if state.open:
            self._refused[row] = replace(state, good=0)
            return None
        if (state.fault, state.channel) != (fault, channel):
            state = Refused(fault=fault, channel=channel, since_ms=now_ms)
        state = replace(state, count=state.count + 1)
        if state.count >= self._refused_after:
            state = replace(state, open=True)
        self._refused[row] = state
        return Refusal(-1, row, True, state, now_ms) if state.open else None

    def counts(self) -> dict[str, Refused]:
        """Return the counts to be kept, by asset, and forget those that came to nothing."""
        found = {self._rows.names[row]: state for row, state in self._refused.items()}
        self._refused = {row: state for row, state in self._refused.items() if state != _NOBODY}
        return found
