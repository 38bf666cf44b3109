"""One task: what a worker holds of the partitions with one index, from messages to windows, and its assets' states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
    Partition,
    Position,
    ReadingBatch,
    WindowBatch,
    windows_between,
)
from stream_detector.types import replace as replace_state
from stream_detector.windowing.join import Join
from stream_detector.windowing.records import RecordsWindower
from stream_detector.windowing.windower import Windower, part
from stream_detector.worker.resuming import Start


@dataclass(frozen=True, slots=True)
class WindowingResult:
    """What some messages became."""

    windows: list[tuple[WindowBatch, bool]]  # True: silent, its alerts were published before
    dead: list[DeadLetter]
    readings: int  # that reached the windows
    liveness: list[tuple[int, LivenessEvent, bool]]  # how many of `windows` come before it; True: silent, as above


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
        self._liveness = (
            LivenessTracker(config.sensors, config.window, config.channels, loaded.assets, usual_gap_ms)
            if config.sensors.check and not self._records
            else None
        )
        self._lateness_ms = config.window.lateness_ms
        self._letters: list[DeadLetter] = []  # whose place among the readings has not come yet
        self._judged = {partition: stored.read for partition, stored in loaded.positions.items()}
        self.messages = dict.fromkeys((entry.topic for entry in config.inputs), 0)  # taken since last asked
        self._join = Join(self.partitions, config.window)
        self._decoders = decoders
        self._published: dict[Partition, int] = {}
        self.start: dict[Partition, int | None] = dict.fromkeys(self.partitions)
        for partition, start in starts.items():
            self.start[partition], self._published[partition] = start.offset, start.published
        self._at = {partition: start for partition, start in self.start.items() if start is not None}
        self._dead: list[DeadLetter] = []  # those after a reading that waits: its position is not passed yet
        # Several topics: what was processed before is processed first, of all of them, whatever pace they are read at
        # now. So the same windows are completed by it as then, and the same alerts stay unsaid.
        self._behind = {p for p, start in self._at.items() if start < self._published[p]} if self._several else set()
        self._later: list[ReadingBatch] = []

    @property
    def _several(self) -> bool:
        return len(self.partitions) > 1

    @property
    def replayed_messages(self) -> int:
        """How many messages are still to be read again in silence."""
        return sum(max(0, published - self._at[partition]) for partition, published in self._published.items())

    def _judged_ms(self, asset: str) -> int | None:
        state = self.states.get(asset)
        return None if state is None else state.judged_ms

    def take(self, batch: MessageBatch) -> WindowingResult:
        """Decode messages and cut the windows they complete; of several topics' not before `release`."""
        partition = batch.partition
        self.moved = True
        self.messages[partition.topic] += len(batch.messages)
        readings, dead = self._decoders[partition.topic].decode(batch)
        self._dead += dead
        self._at[partition] = batch.messages[-1].offset + 1
        return self._cut(self._push(readings) if readings is not None else [])

    def _push(self, readings: ReadingBatch) -> list[ReadingBatch]:
        passed: list[ReadingBatch] = []
        for batch, processed in self._by_replay(readings) if self._behind else [(readings, True)]:
            if processed:
                passed += self._join.push(batch)
            else:
                self._later.append(batch)
        return passed

    def release(self, has_more: Callable[[Partition], bool]) -> WindowingResult:
        """Cut the windows of several topics' readings that need not wait for each other any more."""
        if not self._behind:
            return self._cut(self._join.release(has_more))
        self._behind = {p for p in self._behind if self._at[p] < self._published[p] and has_more(p)}
        passed = self._join.release(lambda partition: partition in self._behind)
        if not self._behind:
            for batch in self._later:
                self._join.push(batch)
            self._later.clear()
            passed += self._join.release(has_more)
        return self._cut(passed)

    def full(self, partition: Partition) -> bool:
        """Whether a partition should not be read on until another topic has caught up."""
        return self._join.full(partition) or any(batch.partition == partition for batch in self._later)

    def _done(self, partition: Partition) -> int:
        """Return one past the last message of a partition that no other has to be waited for."""
        waiting = self._join.oldest_offset(partition)
        later = (int(batch.offsets[0]) for batch in self._later if batch.partition == partition)
        return min(self._at[partition] if waiting is None else waiting, next(later, self._at[partition]))

    def positions(self) -> dict[Partition, Position]:
        """Return where each partition stands after all that was taken, for a commit as the next epoch."""
        oldest = self.windower.oldest_offsets()
        positions: dict[Partition, Position] = {}
        for partition in self._at:
            done = self._done(partition)
            needed = [oldest[partition.topic]]
            if self._liveness is not None:
                needed.append(self._liveness.oldest_offset(partition))
            offset = min([done, *(one for one in needed if one is not None)])
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

    def not_judged(self, windows: WindowBatch) -> WindowBatch | None:
        """Return the windows newer than what their assets were judged up to: after a restart some come again."""
        fresh = windows.end_ms > self.states.judged[self.states.slots_of(windows.assets)]
        if fresh.all():
            return windows
        keep = np.flatnonzero(fresh)
        if not keep.size:
            return None
        return WindowBatch(
            windows.task,
            [windows.assets[i] for i in keep.tolist()],
            windows.end_ms[keep],
            windows.values[keep],
            windows.filled[keep],
            windows.ingest_ms[keep],
        )

    def changed_states(self) -> dict[str, AssetState]:
        """Return the states changed since `saved_epoch`."""
        self._keep_counts()  # an asset's first window may have been judged after its readings were refused
        return self.states.changes()

    def committed(self, saved: bool) -> None:
        """Note a commit as the next epoch; states that the store missed stay changed, for the next one."""
        self.epoch += 1
        self.moved = False
        if saved:
            self.saved_epoch = self.epoch
            self.states.forget_changes()

    def _cut(self, passed: list[ReadingBatch]) -> WindowingResult:
        dead = self._dead
        if dead and self._several:
            done = {partition: self._done(partition) for partition in self._at}
            dead = [letter for letter in self._dead if letter.message.offset < done[letter.partition]]
            self._dead = [letter for letter in self._dead if letter.message.offset >= done[letter.partition]]
        else:
            self._dead = []
        cut: list[tuple[WindowBatch, bool]] = []
        liveness: list[tuple[int, LivenessEvent, bool]] = []
        if self._liveness is not None:
            self._letters += [letter for letter in dead if letter.asset]
        readings = 0
        for whole in self._unjudged(passed) if self._records else passed:
            for batch, replayed in self._by_replay(whole):
                refusals: list[DeadLetter] = []
                before = len(cut)
                for piece, told in self._listen(batch):
                    liveness += [(len(cut), one, replayed) for one in told]
                    windows, refused = self.windower.push(piece)
                    refusals += refused
                    readings += len(piece.assets) - len(refused)
                    if windows is not None and (fresh := windows if self._records else self.not_judged(windows)):
                        cut.append((fresh, replayed))
                dead += refusals
                for one in self._refused(batch, refusals):
                    self._insert(one, replayed, cut, liveness, before)
        if self._letters and self._liveness is not None and not self._several:  # after the last reading
            last = self._letters[-1]
            replayed = last.message.offset < self._published.get(last.partition, 0)
            letters = [one for one in self._letters if one.message.offset >= self._judged.get(one.partition, 0)]
            self._liveness.push(None, self._letters[: len(self._letters) - len(letters)], processed=True)
            told = [*self._liveness.push(None, letters), *self._refused(None, ())]
            liveness += [(len(cut), one, replayed) for one in told]
        published = self._published
        dead = [one for one in dead if one.message.offset >= published.get(one.partition, 0)]
        return WindowingResult(cut, dead, readings, liveness)

    def _insert(
        self,
        liveness_event: LivenessEvent,
        replayed: bool,
        cut: list[tuple[WindowBatch, bool]],
        liveness: list[tuple[int, LivenessEvent, bool]],
        start: int,
    ) -> None:
        """Put a sighting between its asset's windows, of those from `start` on, as the log had it."""
        until = liveness_event.clock_ms - self._lateness_ms  # windows up to here were cut before
        place = len(cut)
        for index in range(start, len(cut)):
            windows, replayed_too = cut[index]
            ends = windows.end_ms.tolist()
            later = (
                row
                for row, asset in enumerate(windows.assets)
                if asset == liveness_event.asset and ends[row] > until + 0.5
            )
            row = next(later, None)
            if row is None:
                continue
            place = index
            if row:
                cut[index : index + 1] = [
                    (windows_between(windows, 0, row), replayed_too),
                    (windows_between(windows, row, len(ends)), replayed_too),
                ]
                liveness[:] = [(at + (at > index), one, told) for at, one, told in liveness]
                place += 1
            break
        liveness.append((place, liveness_event, replayed))

    def _listen(self, batch: ReadingBatch) -> Iterator[tuple[ReadingBatch, list[LivenessEvent]]]:
        """Yield the batch in pieces, each with what was known before it from who was heard when.

        A sighting at the end of a batch comes with its last reading: nothing of the asset follows in it.
        """
        if self._liveness is None:
            yield batch, []
            return
        judged = self._judged.get(batch.partition, 0)
        known = int(np.searchsorted(batch.offsets, judged))
        last = int(batch.offsets[-1])
        letters = [one for one in self._letters if one.partition == batch.partition and one.message.offset < last]
        before = [one for one in letters if one.message.offset < judged]
        if known:
            processed = part(batch, 0, known)
            self._liveness.push(processed, before, processed=True)
            yield processed, []
            if known == len(batch.assets):
                return
            batch = part(batch, known, len(batch.assets))
        elif before:
            self._liveness.push(None, before, processed=True)
        told = self._liveness.push(batch, [one for one in letters if one.message.offset >= judged])
        start = 0
        for place in sorted({min(one.place, len(batch.assets) - 1) for one in told} - {0}):
            yield part(batch, start, place), [one for one in told if one.place == start]
            start = place
        rest = part(batch, start, len(batch.assets)) if start else batch
        yield rest, [one for one in told if one.place >= start]

    def _refused(self, batch: ReadingBatch | None, refusals: Sequence[DeadLetter]) -> list[LivenessEvent]:
        """Count refused readings in a row, those of the decoder up to the end of the batch, and note the counts."""
        if self._liveness is None:
            return []
        due = self._letters
        if batch is not None:
            last = int(batch.offsets[-1])
            due = [one for one in due if one.partition == batch.partition and one.message.offset < last]
        if due:
            gone = set(map(id, due))
            self._letters = [one for one in self._letters if id(one) not in gone]
        letters = [one for one in (*due, *refusals) if one.message.offset >= self._judged.get(one.partition, 0)]
        known = 0 if batch is None else self._judged.get(batch.partition, 0)
        told = self._liveness.refused(batch, letters, known)
        self._keep_counts()
        return told

    def _keep_counts(self) -> None:
        """Put the counts of refused readings into the states of their assets."""
        if self._liveness is None:
            return
        for asset, counts in self._liveness.counts().items():
            state = self.states.get(asset)
            if state is not None and state.sensors.refused != counts:
                self.states[asset] = replace_state(state, sensors=replace_state(state.sensors, refused=counts))

    def _unjudged(self, passed: list[ReadingBatch]) -> list[ReadingBatch]:
        """Leave out records that the states loaded were judged up to: nothing is open that would need them again."""
        kept: list[ReadingBatch] = []
        for batch in passed:
            start = int(np.searchsorted(batch.offsets, self._judged.get(batch.partition, 0)))
            if start < len(batch.assets):
                kept.append(part(batch, start, len(batch.assets)) if start else batch)
        return kept

    def _by_replay(self, batch: ReadingBatch) -> list[tuple[ReadingBatch, bool]]:
        """Split where the messages begin that nobody has processed before."""
        published = self._published.get(batch.partition, 0)
        if int(batch.offsets[0]) >= published:
            return [(batch, False)]
        cut = int(np.searchsorted(batch.offsets, published))
        parts = [(part(batch, 0, cut), True)]
        if cut < len(batch.assets):
            parts.append((part(batch, cut, len(batch.assets)), False))
        return parts


def make_windower(
    config: Config, index: int, judged_ms: Callable[[str], int | None] = lambda _: None
) -> Windower | RecordsWindower:
    """Return the windower of one task, as `window.mode` says; `judged_ms`: where an asset's committed state ends."""
    topics = [entry.topic for entry in config.inputs]
    if config.window.mode == "records":
        return RecordsWindower(config.window, config.channels, index, topics, judged_ms)
    return Windower(config.window, config.channels, index, topics)
