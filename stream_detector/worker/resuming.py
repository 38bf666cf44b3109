"""Where a task resumes when a worker takes it over (docs/delivery.md); decided by the delivery's strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream_detector.ports import TaskState
from stream_detector.types import Partition, Position


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition is read from, and up to where its alerts and dead letters are already published."""

    offset: int
    published: int  # one past the last message processed by the worker that committed


@dataclass(frozen=True, slots=True)
class Resumption:
    """The states and positions that a task resumes from."""

    loaded: TaskState  # the valid states
    starts: Mapping[Partition, Start]  # of the partitions that have a committed position
    epoch: int  # of the task's last commit
    lost: bool = False  # the store should hold valid states, and holds none
    unused: Mapping[Partition, Position] = field(default_factory=dict)  # of stored states that don't count
    committed: Mapping[Partition, Position] = field(default_factory=dict)
    """The committed positions; of an offset that somebody else set, `read` is the offset and `epoch` is 0."""


def as_set(committed: Mapping[Partition, Position], loaded: TaskState) -> Mapping[Partition, Position]:
    """Return committed positions, those that an operator has moved as positions without an epoch.

    Kafka's own tool keeps a commit's metadata when it sets another offset. A worker never commits an offset beyond what
    it has read, and its offsets of one task never go back.
    """
    found = {}
    for partition, position in committed.items():
        stored = loaded.positions.get(partition)
        back = stored is not None and loaded.epoch <= position.epoch and position.offset < stored.offset
        moved = position.epoch > 0 and (back or position.offset > position.read)
        found[partition] = Position(position.offset, position.offset) if moved else position
    return found


def set_back(committed: Position, stored: Position, metadata: bool) -> bool:
    """Whether a committed offset was set by somebody else, to before what the stored states have read.

    A worker's offset has an epoch, except on a broker that keeps no metadata (`metadata`: this one surely does). There
    an offset is somebody else's only if it lies before the one stored with the states, and after a crash between the
    two commits a worker's own may do so, too; then messages are read again as if somebody had set it.
    """
    return not committed.epoch and committed.offset < (stored.read if metadata else stored.offset)


def newest_epoch(loaded: TaskState, committed: Mapping[Partition, Position]) -> int:
    """Return the newest epoch of a task in the store or at the broker."""
    return max([loaded.epoch, *(position.epoch for position in committed.values())])
