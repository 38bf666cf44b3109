"""Where a task goes on when a worker takes it over (docs/delivery.md); the delivery's strategy says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_detector.ports import TaskState
from stream_detector.types import Partition, Position


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition is read from, and up to where its alerts and dead letters are published already."""

    offset: int
    published: int  # one past the last message processed by whoever committed


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a task goes on with."""

    loaded: TaskState  # the states that count
    starts: Mapping[Partition, Start]  # of the partitions that have a committed position
    epoch: int  # of the task's last commit
    lost: bool = False  # the store should hold states, and holds none that count


def newest_epoch(loaded: TaskState, committed: Mapping[Partition, Position]) -> int:
    """Return the newest epoch that the store or the broker knows of a task."""
    return max([loaded.epoch, *(position.epoch for position in committed.values())])
