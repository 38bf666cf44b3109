"""One task: what a worker holds of the partitions with one index, from messages to windows, and its assets' states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.decision.table import StateTable
from stream_detector.liveness.tracker import LivenessTracker
from stream_detector.ports import TaskState
from stream_detector.types import (
    AssetState,
    DeadLetter,
    LivenessEvent,
    MessageBatch,
    NotJudged,
    Partition,
    Position,
    ReadingBatch,
    Removed,
    WindowBatch,
    windows_at,
    windows_between,
)
from stream_detector.types import replace as replace_state
from stream_detector.windowing.join import Join
from stream_detector.windowing.jumps import Jumps
from stream_detector.windowing.records import RecordsWindower
from stream_detector.windowing.windower import Windower
from stream_detector.worker.coverage import Discarded, Unusable
from stream_detector.worker.passing import Passage, in_turn, passages
from stream_detector.worker.removed import RemovedAssets
from stream_detector.worker.resuming import Start
from stream_detector.worker.stays import Stays


@dataclass(slots=True)
class WindowingResult:
    """What some messages became."""

    windows: list[tuple[WindowBatch, bool]] = field(default_factory=list)  # True: replayed, what they tell is published
    dead: list[DeadLetter] = field(default_factory=list)
    readings: int = 0  # that reached the windows
    liveness: list[tuple[int, LivenessEvent, bool]] = field(default_factory=list)
    """How many of `windows` come before the event; True: replayed, as above."""

    def add(self, windows: WindowBatch | None, events: Sequence[LivenessEvent], replayed: bool) -> None:
        """Add what some readings became, in their order: an event comes before the windows its reading completed."""
        if windows is None:
            self.liveness += [(len(self.windows), event, replayed) for event in events]
            return
        windows, places = _in_order(windows)
        start = 0
        for event in events:
            stop = int(np.searchsorted(places, event.place))
            if stop > start:
                self.windows.append((windows_between(windows, start, stop), replayed))
                start = stop
            self.liveness.append((len(self.windows), event, replayed))
        if start < len(windows):
            self.windows.append((windows_between(windows, start, len(windows)), replayed))


class Task:
    """Partition `index` of every input topic. Reads on from a committed position as if it had never stopped.

    Messages before a partition's committed `read` position were processed before: they only rebuild the open windows;
    their dead letters and alerts were published by whoever committed, and are not published again.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        token: int,
        loaded: TaskState,
        starts: Mapping[Partition, Start],
        *,
        decoders: Mapping[str, ReadingDecoder],
        usual_gap_ms: float = 0.0,
        epoch: int | None = None,
    ) -> None:
        """Take over a task whose state was loaded under the fencing `token`.

        `starts`: where its committed partitions are read from. `usual_gap_ms`: the longest pause of an asset in the
        training history. `epoch`: of the task's last commit (None: the one of the state).
        """
        self.index = index
        self.token = token
        self.partitions = [Partition(entry.topic, index) for entry in config.inputs]
        self.epoch = loaded.epoch if epoch is None else epoch
        self.states = StateTable(loaded.assets)
        self.saved_epoch = loaded.epoch  # of the newest commit that the store has of this task's history
        self.moved = False  # messages were taken since the last commit
        self.windower = make_windower(config, index, self._judged_ms)
        self._records = config.window.mode == "records"
        self._jumps = (
            None
            if isinstance(self.windower, RecordsWindower)
            else Jumps(config.window, self.windower.hold_ms, self.windower.clock_of)
        )
        self._liveness = (
            LivenessTracker(config.sensors, config.window, config.channels, loaded.assets, usual_gap_ms)
            if config.sensors.check and not self._records
            else None
        )
        self._judged = {partition: stored.read for partition, stored in loaded.positions.items()}
        judged = [(asset, max(state.judged_ms, state.audited.at_ms)) for asset, state in loaded.assets.items()]
        self.stays = Stays(config.window.max_ahead_ms, judged)
        self.messages = dict.fromkeys((entry.topic for entry in config.inputs), 0)  # taken since last asked
        self._join = Join(self.partitions, config.window)
        self._decoders = decoders
        self._published: dict[Partition, int] = {}
        self.start: dict[Partition, int | None] = dict.fromkeys(self.partitions)
        for partition, start in starts.items():
            self.start[partition], self._published[partition] = start.offset, start.published
        self.removed = RemovedAssets(
            loaded.removed,
            {p: max(self._published.get(p, 0), self._judged.get(p, 0)) for p in self.partitions},
        )
        for asset, one in loaded.removed.items():
            self.states.judged[self.states.slot(asset)] = one.judged_ms
        self._at = {partition: start for partition, start in self.start.items() if start is not None}
        #: Of several topics: dead letters of the decoder that wait for a reading before them, or after.
        self._letters: dict[Partition, list[DeadLetter]] = {partition: [] for partition in self.partitions}
        # Several topics: what was processed before is processed first, of all of them, whatever pace they are read at
        # now. So the same windows are completed by it as then, and the same alerts stay unsaid.
        self._behind = {p for p, start in self._at.items() if start < self._published[p]} if self._several else set()
        self._later: list[ReadingBatch] = []
        self._discarded = Discarded()
        self._unusable = Unusable()

    @property
    def _several(self) -> bool:
        return len(self.partitions) > 1

    @property
    def replayed_messages(self) -> int:
        """Number of messages still to be replayed: their alerts are published already."""
        return sum(max(0, published - self._at[partition]) for partition, published in self._published.items())

    def published(self, partition: Partition) -> int:
        """Return one past the last message of which everything was published before this task was taken over."""
        return self._published.get(partition, 0)

    def _judged_ms(self, asset: str) -> int | None:
        if asset in self.removed.known:
            return self.removed.known[asset].judged_ms
        state = self.states.get(asset)
        return None if state is None else state.judged_ms

    def take(self, batch: MessageBatch) -> WindowingResult:
        """Decode messages and cut the windows they complete; of several topics' not before `release`."""
        partition = batch.partition
        self.moved = True
        self.messages[partition.topic] += len(batch.messages)
        readings, letters = self._decoders[partition.topic].decode(batch)
        self._at[partition] = batch.messages[-1].offset + 1
        result = WindowingResult()
        if not self._several:
            self._cut([] if readings is None else self._join.push(readings), letters, result)
            return result
        self._letters[partition] += letters
        if readings is not None:
            self._wait(readings)
        return result

    def _wait(self, readings: ReadingBatch) -> None:
        """Let readings of several topics wait for each other."""
        if not self._behind:
            self._join.push(readings)
            return
        for passage in passages([readings], (), {}, self._published):
            if passage.readings is not None and passage.replayed:
                self._join.push(passage.readings)
            elif passage.readings is not None:
                self._later.append(passage.readings)

    def release(self, has_more: Callable[[Partition], bool]) -> WindowingResult:
        """Cut the windows of several topics' readings that need not wait for each other any more."""
        result = WindowingResult()
        if self._behind:
            self._behind = {p for p in self._behind if self._at[p] < self._published[p] and has_more(p)}
            self._release(lambda partition: partition in self._behind, self._published, result)
            if self._behind:
                return result
            for batch in self._later:
                self._join.push(batch)
            self._later.clear()
        self._release(has_more, self._at, result)
        return result

    def _release(
        self, has_more: Callable[[Partition], bool], until: Mapping[Partition, int], result: WindowingResult
    ) -> None:
        """Pass on what has its turn; dead letters with the readings before them, if they come before `until`."""
        passed = self._join.release(has_more)
        letters: list[DeadLetter] = []
        for partition, waiting in self._letters.items():
            end = self._join.oldest_offset(partition)
            if end is None:  # what comes after them decides when it is their turn
                end = 0 if has_more(partition) else until.get(partition, 0)
            count = sum(letter.message.offset < min(end, until.get(partition, 0)) for letter in waiting)
            letters += waiting[:count]
            del waiting[:count]
        self._cut(passed, letters, result)

    def full(self, partition: Partition) -> bool:
        """Whether a partition should not be read on until another topic has caught up."""
        return self._join.full(partition) or any(batch.partition == partition for batch in self._later)

    def _done(self, partition: Partition) -> int:
        """Return one past the last message of a partition that no other has to be waited for."""
        waiting = [letter.message.offset for letter in self._letters[partition][:1]]
        waiting += [int(batch.offsets[0]) for batch in self._later if batch.partition == partition][:1]
        oldest = self._join.oldest_offset(partition)
        return min([self._at[partition], *waiting, *([] if oldest is None else [oldest])])

    def positions(self) -> dict[Partition, Position]:
        """Return where each partition stands after all that was taken, for a commit as the next epoch."""
        oldest = self.windower.oldest_offsets()
        held = {} if self._jumps is None else {p: self._jumps.oldest_offset(p.topic) for p in self._at}
        windows = {p: min(needed) for p in self._at if (needed := _known(oldest[p.topic], held.get(p)))}
        processed = {partition: self._done(partition) for partition in self._at}
        liveness = {} if self._liveness is None else self._liveness.oldest_offsets(windows, processed)
        positions: dict[Partition, Position] = {}
        for partition, done in processed.items():
            offset = min(done, windows.get(partition, done), liveness.get(partition, done))
            positions[partition] = Position(offset, max(done, self._published.get(partition, 0)), self.epoch + 1)
        return positions

    def saved_positions(self) -> dict[Partition, Position]:
        """Return the positions that go with the states: while it catches up, `read` is where the states stand.

        The broker's may be further: up to there all is published, but not judged yet by these states. Where they stood
        when they were loaded they stand, too, while the messages before are read again; but never further than the
        broker's, which would make them somebody's first try (`ExactlyOnce.counting_state`).
        """
        return {
            partition: replace(
                position,
                read=max(self._done(partition), min(self._judged.get(partition, 0), self._published.get(partition, 0))),
            )
            for partition, position in self.positions().items()
        }

    def not_judged(self, final: bool = False) -> list[NotJudged]:
        """Return the assets whose readings come and give no window that is judged.

        `final`: no more readings come, so any asset without a window is one of them.
        """
        found = self._discarded.not_judged(self._judged_ms)
        return found + self._unusable.not_judged() + self.windower.not_judged(final)

    def _newer(self, windows: WindowBatch, replayed: bool) -> WindowBatch | None:
        """Return the windows newer than what their assets were judged up to: after a restart some come again."""
        slots = self.states.slots_of(windows.assets)  # before `judged` is read: new assets may make it grow
        fresh = windows.end_ms > self.states.judged[slots]
        if fresh.all():
            self._discarded.judged(windows.assets)
            return windows
        keep = np.flatnonzero(fresh)
        if not replayed:
            gone = windows_at(windows, np.flatnonzero(~fresh))
            self._discarded.add(gone.assets, gone.end_ms.tolist())
        self._discarded.judged([windows.assets[place] for place in keep.tolist()])
        return windows_at(windows, keep) if keep.size else None

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return self.moved or self.states.changed or self.removed.changed

    def changed_states(self) -> Mapping[str, AssetState | Removed | None]:
        """Return the states changed since `saved_epoch`, and what is to be written of removed assets."""
        self._keep_counts()  # an asset's first window may have been judged after its readings were refused
        return {**self.removed.changes(self.states), **self.states.changes()}

    def all_states(self) -> Mapping[str, AssetState | Removed]:
        """Return the states of all assets, and what is left of removed ones."""
        return {**self.removed.known, **self.states}

    def remove(self, asset: str, judged_ms: int, token: str) -> None:
        """Note that an asset's state, judged up to `judged_ms`, was deleted by the removal of this token."""
        names, read_ms = self.windower.last_readings()
        newest = read_ms[names.index(asset)] if asset in names else -np.inf
        self.stays.forget(asset)
        self.removed.add(asset, Removed(judged_ms, round(max(newest, judged_ms)), token), self._at)

    def committed(self, saved: bool) -> None:
        """Note a commit as the next epoch; states that the store missed stay changed, for the next one."""
        if self.removed.known:
            self.removed.committed(self.positions(), self.states, saved=saved)
        self.epoch += 1
        self.moved = False
        if saved:
            self.saved_epoch = self.epoch
            self.states.forget_changes()

    def _cut(self, passed: list[ReadingBatch], letters: Sequence[DeadLetter], result: WindowingResult) -> None:
        """Add what readings become, and dead letters that come before the next of their partition."""
        whole = passages(passed, letters, self._judged, self._published)
        for passage in whole if self._jumps is None else in_turn(whole, self._jumps):
            windows: WindowBatch | None = None
            refused: list[DeadLetter] = []
            if passage.readings is not None:  # not before: a lone leap is no stay
                self.stays.push(passage.readings)
            needed = not (self._records and passage.processed)  # of records nothing is open
            if passage.readings is not None and needed:
                windows, refused = self.windower.push(passage.readings)
                result.readings += len(passage.readings.assets) - len(refused)
            assets = () if passage.readings is None else passage.readings.assets
            self._unusable.heard(assets, [*passage.letters, *refused])
            if not passage.replayed:
                result.dead += [
                    *passage.lone,
                    *sorted([*passage.letters, *refused], key=lambda letter: letter.message.offset),
                ]
            events = self._listen(passage, refused, windows)
            if windows is not None and not self._records:
                windows = self._newer(windows, passage.replayed)
            elif self._records and passage.readings is not None and passage.processed and not passage.replayed:
                self._discarded.add(passage.readings.assets, np.rint(passage.readings.ts_ms).astype(int).tolist())
            result.add(windows, events, passage.replayed)

    def _listen(
        self, passage: Passage, refused: Sequence[DeadLetter], windows: WindowBatch | None
    ) -> list[LivenessEvent]:
        """Return what messages tell of who is heard; note the counts of refused readings."""
        if self._liveness is None:
            return []
        events = self._liveness.push(
            passage.partition,
            passage.readings,
            passage.letters,
            refused=refused,
            windows=windows,
            processed=passage.processed,
        )
        self._keep_counts()
        return events

    def _keep_counts(self) -> None:
        """Put the counts of refused readings into the states of their assets."""
        if self._liveness is None:
            return
        for asset, counts in self._liveness.counts().items():
            state = self.states.get(asset)
            if state is not None and state.sensors.refused != counts:
                self.states[asset] = replace_state(state, sensors=replace_state(state.sensors, refused=counts))


def _known(*offsets: int | None) -> list[int]:
    return [offset for offset in offsets if offset is not None]


def _in_order(windows: WindowBatch) -> tuple[WindowBatch, NDArray[np.int64]]:
    """Return windows in the order of the readings that completed them, and these readings' places."""
    places = windows.completed_by
    if places is None:  # records: each is a window of its own
        return windows, np.arange(len(windows))
    if len(places) < 2 or (places[1:] >= places[:-1]).all():
        return windows, places
    order = np.argsort(places, kind="stable")
    return windows_at(windows, order), places[order]


def make_windower(
    config: Config, index: int, judged_ms: Callable[[str], int | None] = lambda _: None
) -> Windower | RecordsWindower:
    """Return the windower of one task, as `window.mode` says; `judged_ms`: where an asset's committed state ends."""
    topics = [entry.topic for entry in config.inputs]
    if config.window.mode == "records":
        return RecordsWindower(config.window, config.channels, index, topics, judged_ms)
    return Windower(config.window, config.channels, index, topics)
