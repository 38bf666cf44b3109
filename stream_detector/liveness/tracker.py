"""Which assets and channels are heard: a function of the log. Pure.

    Silent    an asset that others have outlasted since its last message (silence.py)
    Dropout   a channel that its own asset has outlasted (dropouts.py)
    Refused   readings in a row that could not be used (refusals.py)

Each event belongs to the message that tells of it, wherever batches, commits and restarts cut the log: it comes before
the windows that this message completes. What was told is part of the asset's state, and so are the counts of refused
readings. When an asset was last heard is not: a restarted worker reads it from the log again, so the committed offset
lies before what can still be told of (`oldest_offsets`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from stream_detector.config import ChannelConfig, SensorsConfig, WindowConfig
from stream_detector.liveness.dropouts import NO_WINDOW, Dropout, Dropouts
from stream_detector.liveness.messages import Messages, Rows, messages_of
from stream_detector.liveness.progress import Progress
from stream_detector.liveness.refusals import Refusal, Refusals
from stream_detector.liveness.repetitions import Repetitions
from stream_detector.liveness.silence import Silence, Silences
from stream_detector.types import (
    AssetState,
    DeadLetter,
    LivenessEvent,
    Partition,
    ReadingBatch,
    Refused,
    WindowBatch,
)
from stream_detector.windowing.grid import Floats, Ints

#: Fewest cells without a reading that are a dropout or silence.
_LEAST_CELLS = 5
_STEPS = 8  # a step of event time counts up to this part of the time in which an asset falls silent


class LivenessTracker:
    """When the assets and channels of one task were last heard."""

    def __init__(
        self,
        sensors: SensorsConfig,
        window: WindowConfig,
        channels: Mapping[str, ChannelConfig],
        states: Mapping[str, AssetState],
        usual_gap_ms: float = 0.0,
    ) -> None:
        """Take over assets' committed states. `usual_gap_ms`: longest pause in the training history."""
        self._channels = list(channels)
        least = _LEAST_CELLS * window.cell_ms
        gaps = [window.max_gap_ms if c.max_gap_ms is None else c.max_gap_ms for c in channels.values()]
        self._limits: Floats = np.maximum(np.array(gaps), least)  # (C,) ms
        usual = max(2 * least, float(self._limits.max()), 5.0 * usual_gap_ms)
        self.silent_after_ms = math.ceil(usual if sensors.silent_after_ms is None else sensors.silent_after_ms)
        self._refused_after = sensors.refused_after
        self._max_ahead_ms = window.max_ahead_ms
        self._rows = Rows()
        self._judged = frozenset(states)
        self._first_window: Ints = np.empty(0, np.int64)  # (A,) number of the message that completed it
        self._without: set[str] = set()  # assets that no window was cut of yet
        self._progress = Progress(max(1, self.silent_after_ms // _STEPS))
        told = [(asset, one) for asset, state in states.items() for one in state.sensors.faults if one.by_log]
        silent = [(self._rows.of(asset), float(one.since_ms)) for asset, one in told if one.fault == "silent"]
        self._silences = Silences(self.silent_after_ms, sensors.silent, silent)
        self._dropouts = Dropouts(
            self._limits,
            window.lateness_ms + (window.length + window.stride) * window.cell_ms,
            [
                (self._rows.of(asset), self._channels.index(one.channel), float(one.since_ms))
                for asset, one in told
                if one.fault == "dropout" and one.channel in self._channels
            ],
        )
        self._repetitions = Repetitions()
        self._refusals = Refusals(sensors.refused_after, self._rows, states)
        self._grow()

    def push(
        self,
        partition: Partition,
        batch: ReadingBatch | None,
        letters: Sequence[DeadLetter] = (),
        *,
        refused: Sequence[DeadLetter] = (),
        windows: WindowBatch | None = None,
        processed: bool = False,
    ) -> list[LivenessEvent]:
        """Take readings and the dead letters between them; return what they tell, in order.

        `letters`: of messages that are no readings, in order; `refused`: of readings that the windower did not use;
        `windows`: those that the readings completed. No batch: letters alone. `processed`: the states know what these
        messages tell; only when who was heard is noted.
        """
        messages = messages_of(
            batch,
            letters,
            refused,
            self._rows_of,
            channels=len(self._channels),
            max_ahead_ms=self._max_ahead_ms,
        )
        if not len(messages):
            return []
        steps = self._progress.advance(partition, messages)
        if self._without and windows is not None:
            self._note_windows(windows, messages, steps.number)
        silences, begins = self._silences.push(messages, steps, processed)
        dropouts = self._dropouts.push(messages, steps, begins, self._first_window, processed)
        if batch is not None:
            self._repetitions.push(batch, self._rows.of_all(batch.assets) if letters else messages.rows, refused)
        refusals: list[Refusal] = []
        if not processed:
            explained = partial(self._repetitions.explains, partition)
            refusals = self._refusals.push(messages, steps, self._first_window, explained)
        if not (silences or dropouts or refusals) or processed:
            return []
        # of one message: first who is silent by it, then what its own asset tells
        events = [(one.at, not one.begins, self._silence(one, messages)) for one in silences]
        events += [(one.at, True, self._dropout(one, messages)) for one in dropouts]
        events += [(one.at, True, self._refusal(one, messages)) for one in refusals]
        events.sort(key=lambda one: (one[0], one[1], one[2].asset))
        return [event for _, _, event in events]

    def oldest_offsets(
        self, windows: Mapping[Partition, int], done: Mapping[Partition, int]
    ) -> Mapping[Partition, int]:
        """Return the oldest offset of each partition to be read again, so that the same is told as without a restart.

        `windows`: offsets that open windows need; to know the same progress from there on, more may be needed. `done`:
        one past the last message that was processed.
        """
        compared = self._repetitions.oldest_offsets(done)
        windows = {p: min(windows.get(p, at), compared.get(p, at)) for p, at in done.items()}
        active = self._silences.active
        needed = min(self._silences.needed, self._dropouts.needed(active, self._first_window[active] < NO_WINDOW))
        progress = self._progress.oldest_offsets(needed, windows)
        return {p: min(progress.get(p, at), compared.get(p, at)) for p, at in done.items()}

    def counts(self) -> dict[str, Refused]:
        """Return the counts of refused readings to be kept, by asset, and forget those that came to nothing."""
        return self._refusals.counts()

    # Events ---------------------------------------------------------------------------------------------------------

    def _silence(self, one: Silence, messages: Messages) -> LivenessEvent:
        at = one.time_ms + self.silent_after_ms if one.begins else one.time_ms
        limit, place = self.silent_after_ms / 1_000.0, int(messages.places[one.at])
        asset = self._rows.names[one.row]
        return LivenessEvent(place, asset, "", "silent", one.begins, round(at), round(one.time_ms), limit, limit)

    def _dropout(self, one: Dropout, messages: Messages) -> LivenessEvent:
        limit = float(self._limits[one.column])
        at = one.time_ms + limit if one.begins else one.time_ms
        seconds, place = limit / 1_000.0, int(messages.places[one.at])
        asset, channel = self._rows.names[one.row], self._channels[one.column]
        return LivenessEvent(
            place, asset, channel, "dropout", one.begins, round(at), round(one.time_ms), seconds, seconds
        )

    def _refusal(self, one: Refusal, messages: Messages) -> LivenessEvent:
        limit, place = float(self._refused_after), int(messages.places[one.at])
        state, asset = one.state, self._rows.names[one.row]
        return LivenessEvent(
            place, asset, state.channel, state.fault, one.begins, one.now_ms, state.since_ms, limit, limit
        )

    # Assets ---------------------------------------------------------------------------------------------------------

    def _rows_of(self, assets: Sequence[str]) -> Ints:
        rows = self._rows.of_all(assets)
        self._grow()
        return rows

    def _grow(self) -> None:
        """Make room for assets not seen before."""
        count, known = len(self._rows), len(self._first_window)
        if count == known:
            return
        names = self._rows.names[known:]
        first = np.array([-1 if name in self._judged else NO_WINDOW for name in names], np.int64)
        self._first_window = np.concatenate([self._first_window, first])
        self._without.update(name for name in names if name not in self._judged)
        self._silences.grow(count)
        self._dropouts.grow(count)

    def _note_windows(self, windows: WindowBatch, messages: Messages, number: int) -> None:
        """Note which messages completed the first window of assets."""
        assert windows.completed_by is not None
        for asset in self._without.intersection(windows.assets):
            reading = int(windows.completed_by[windows.assets.index(asset)])
            self._first_window[self._rows.of(asset)] = number + messages.of_reading(reading)
            self._without.discard(asset)
