"""Readings refused in a row, of each asset: out of range, or at times that no right clock gives. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from stream_detector.types import AssetState, DeadLetter, LivenessEvent, ReadingBatch, Refused, replace
from stream_detector.windowing.grid import Floats

_NOBODY = Refused()
#: Dead-letter code -> the fault of which it is a sign.
_SIGNS = {"out-of-range": "out-of-range", "not-a-number": "out-of-range", "too-late": "clock", "too-far-ahead": "clock"}


class Refusals:
    """The counts of one task; they are part of the assets' states."""

    def __init__(self, refused_after: int, states: Mapping[str, AssetState]) -> None:
        """Take over assets' committed states. `refused_after`: so many in a row are told."""
        self._refused_after = refused_after
        self._refused = {
            asset: state.sensors.refused for asset, state in states.items() if state.sensors.refused != _NOBODY
        }

    def count(
        self, batch: ReadingBatch | None, letters: Iterable[DeadLetter], known: int, newest: Callable[[int], int]
    ) -> list[LivenessEvent]:
        """Count refused readings in a row; return what that tells.

        `letters`: of this batch, by whatever stage, with their assets; its other readings were used. Messages before
        the offset `known` are in the states already. `newest`: the task's newest event time when a message came.
        """
        wrong: dict[str, dict[int, DeadLetter]] = {}
        for letter in letters:
            if letter.asset and letter.code in _SIGNS:
                wrong.setdefault(letter.asset, {})[letter.message.offset] = letter
        if not wrong and not self._refused:
            return []
        involved = wrong.keys() | self._refused.keys()
        messages: dict[int, tuple[str, float]] = {
            offset: (asset, -np.inf) for asset, refused in wrong.items() for offset in refused
        }
        if batch is not None:
            last = newest_ms(batch).tolist()
            for place, (offset, asset) in enumerate(zip(batch.offsets.tolist(), batch.assets, strict=True)):
                if asset in involved and offset >= known and offset not in messages:
                    messages[offset] = asset, last[place]
        clocks: dict[str, float] = {}
        told: list[LivenessEvent] = []
        for offset, (asset, ts) in sorted(messages.items()):
            found = self._counted(asset, wrong.get(asset, {}).get(offset), newest(offset))
            told += [one._replace(clock_ms=clocks.get(asset, -np.inf)) for one in found]
            clocks[asset] = max(clocks.get(asset, -np.inf), ts)
        return told

    def _counted(self, asset: str, letter: DeadLetter | None, now_ms: int) -> list[LivenessEvent]:
        state = self._refused.get(asset, _NOBODY)
        if letter is None:
            if state.open and state.good + 1 < self._refused_after:
                self._refused[asset] = replace(state, good=state.good + 1)
                return []
            if state != _NOBODY:
                self._refused[asset] = _NOBODY
            return [self._refusal(asset, state, False, now_ms)] if state.open else []
        fault, channel = _SIGNS[letter.code], letter.channel
        if state.open:
            self._refused[asset] = replace(state, good=0)
            return []
        if (state.fault, state.channel) != (fault, channel):
            state = Refused(fault=fault, channel=channel, since_ms=now_ms)
        state = replace(state, count=state.count + 1)
        if state.count >= self._refused_after:
            state = replace(state, open=True)
        self._refused[asset] = state
        return [self._refusal(asset, state, True, now_ms)] if state.open else []

    def _refusal(self, asset: str, state: Refused, begins: bool, now_ms: int) -> LivenessEvent:
        limit = float(self._refused_after)
        return LivenessEvent(-1, asset, state.channel, state.fault, begins, now_ms, state.since_ms, limit, limit)

    def counts(self) -> dict[str, Refused]:
        """Return the counts of refused readings to be kept, by asset, and forget those that came to nothing."""
        found = dict(self._refused)
        for asset in [asset for asset, state in found.items() if state == _NOBODY]:
            del self._refused[asset]
        return found


def newest_ms(batch: ReadingBatch) -> Floats:
    """Return the newest event time in each reading, (M,)."""
    if batch.reading is None:
        return batch.ts_ms
    starts = np.searchsorted(batch.reading, np.arange(len(batch.assets)))
    return np.asarray(np.maximum.reduceat(batch.ts_ms, starts), np.float64)
