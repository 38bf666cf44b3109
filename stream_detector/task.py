"""One task: what a worker holds of the partitions with one index, from messages to windows, and its assets' states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config
from stream_detector.join import Join
from stream_detector.ports import TaskState
from stream_detector.records import (
    AssetState,
    DeadLetter,
    MessageBatch,
    Partition,
    Position,
    ReadingBatch,
    WindowBatch,
)
from stream_detector.window import Windower, part


@dataclass(frozen=True, slots=True)
class Cut:
    """What some messages became."""

    windows: list[tuple[WindowBatch, bool]]  # True: silent, its alerts were published before
    dead: list[DeadLetter]
    readings: int  # that reached the windows


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
        committed: Mapping[Partition, Position],
        decoders: Mapping[str, ReadingDecoder],
    ) -> None:
        """Take over a task whose state was loaded under the fencing `token`."""
        self.index = index
        self.token = token
        self.partitions = [Partition(entry.topic, index) for entry in config.inputs]
        self.epoch = max([loaded.epoch, *(position.epoch for position in committed.values())])
        self.states = loaded.assets
        self.changed: set[str] = set()
        self.moved = False  # messages were taken since the last commit
        self.windower = Windower(config.window, config.channels, index, [entry.topic for entry in config.inputs])
        self.messages = dict.fromkeys((entry.topic for entry in config.inputs), 0)  # taken since last asked
        self._join = Join(self.partitions)
        self._decoders = decoders
        self._published: dict[Partition, int] = {}
        self.start: dict[Partition, int | None] = dict.fromkeys(self.partitions)
        for partition, position in committed.items():
            stored = loaded.positions.get(partition, position)
            # The store's positions are older than the broker's when it was away or lost its last writes: the states it
            # holds are of then, so the log is read again from there. All before either `read` was published: alerts
            # are flushed before the store is written.
            self.start[partition] = min(position.offset, stored.offset)
            self._published[partition] = max(position.read, stored.read)
        self._read = dict(self._published)

    def take(self, batch: MessageBatch, has_more: Callable[[Partition], bool]) -> Cut:
        """Decode messages and cut the windows they complete."""
        partition = batch.partition
        self.moved = True
        self.messages[partition.topic] += len(batch.messages)
        readings, dead = self._decoders[partition.topic].decode(batch)
        self._read[partition] = max(self._read.get(partition, 0), batch.messages[-1].offset + 1)
        passed = self._join.push(readings, has_more) if readings is not None else []
        return self._cut(passed, dead)

    def release(self, has_more: Callable[[Partition], bool]) -> Cut:
        """Cut the windows of readings that waited for another topic and need not any more."""
        return self._cut(self._join.release(has_more), [])

    def full(self, partition: Partition) -> bool:
        """Whether a partition should not be read on until another topic has caught up."""
        return self._join.full(partition)

    def positions(self) -> dict[Partition, Position]:
        """Return where each partition stands after all that was taken, for a commit as the next epoch."""
        oldest = self.windower.oldest_offsets()
        positions: dict[Partition, Position] = {}
        for partition, read in self._read.items():
            waiting = self._join.oldest_offset(partition)
            done = read if waiting is None else max(waiting, self._published.get(partition, 0))
            needed = [offset for offset in (oldest[partition.topic], waiting, done) if offset is not None]
            positions[partition] = Position(min(needed), done, self.epoch + 1)
        return positions

    def not_judged(self, windows: WindowBatch) -> WindowBatch | None:
        """Return the windows newer than what their assets were judged up to: after a restart some come again."""
        states = self.states
        fresh = [
            (state := states.get(asset)) is None or end > state.judged_ms
            for asset, end in zip(windows.assets, windows.end_ms.tolist(), strict=True)
        ]
        if all(fresh):
            return windows
        keep = np.flatnonzero(fresh)
        if not keep.size:
            return None
        return WindowBatch(
            windows.task, [windows.assets[i] for i in keep.tolist()], windows.end_ms[keep], windows.values[keep],
            windows.filled[keep], windows.ingest_ms[keep],
        )  # fmt: skip

    def changed_states(self) -> dict[str, AssetState]:
        """Return the states changed since the last commit that was told of."""
        return {asset: self.states[asset] for asset in self.changed}

    def committed(self, saved: bool) -> None:
        """Note a commit as the next epoch; states that the store missed stay changed, for the next one."""
        self.epoch += 1
        self.moved = False
        if saved:
            self.changed.clear()

    def _cut(self, passed: list[ReadingBatch], dead: list[DeadLetter]) -> Cut:
        cut: list[tuple[WindowBatch, bool]] = []
        readings = 0
        for whole in passed:
            for batch, silent in self._by_silence(whole):
                windows, refused = self.windower.push(batch)
                dead += refused
                readings += len(batch.assets) - len(refused)
                if windows is not None and (fresh := self.not_judged(windows)) is not None:
                    cut.append((fresh, silent))
        published = self._published
        return Cut(cut, [one for one in dead if one.message.offset >= published.get(one.partition, 0)], readings)

    def _by_silence(self, batch: ReadingBatch) -> list[tuple[ReadingBatch, bool]]:
        """Split where the messages begin that nobody has processed before."""
        published = self._published.get(batch.partition, 0)
        if int(batch.offsets[0]) >= published:
            return [(batch, False)]
        cut = int(np.searchsorted(batch.offsets, published))
        parts = [(part(batch, 0, cut), True)]
        if cut < len(batch.assets):
            parts.append((part(batch, cut, len(batch.assets)), False))
        return parts
