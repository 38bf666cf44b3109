"""Where a task goes on: which of the stored states count, and from where the log is read again (docs/delivery.md)."""

from __future__ import annotations

from collections.abc import Mapping

from stream_detector.config import Config
from stream_detector.ports import StateStore, TaskState
from stream_detector.types import Partition, Position


def counting_epoch(config: Config, committed: Mapping[Partition, Position]) -> int | None:
    """Return the newest epoch of states that count for a task with these committed positions; None: all count.

    Exactly-once, Kafka decides: states newer than its epoch belong to a commit that never came to be. Offsets without
    an epoch were set by an operator, who wants the newest states.
    """
    if config.delivery == "at_least_once":
        return None
    epoch = max((position.epoch for position in committed.values()), default=0)
    return None if committed and not epoch else epoch


def counting_state(
    config: Config, store: StateStore, index: int, committed: Mapping[Partition, Position]
) -> tuple[TaskState, bool]:
    """Return the state that counts for a task, and whether there should be one and is none. Raises StoreError."""
    epoch = counting_epoch(config, committed)
    loaded = store.load(index, epoch)
    if epoch is None:
        return loaded, False
    # A save of this epoch may be of a first try that came to nothing, while the commit that counts missed the store.
    # It had read further then, or not as far, which is as good as any older state.
    while loaded.positions and any(
        stored.read > (committed[partition].read if partition in committed else 0)
        for partition, stored in loaded.positions.items()
    ):
        loaded = store.load(index, loaded.epoch - 1)
    if loaded.positions:
        return loaded, False
    return TaskState({}, 0, {}), epoch > 0


def last_epoch(config: Config, loaded: TaskState, committed: Mapping[Partition, Position]) -> int:
    """Return the number of the task's last commit."""
    counting = counting_epoch(config, committed)
    if counting is not None:
        return counting
    return max([loaded.epoch, *(position.epoch for position in committed.values())])


def resume_at(config: Config, position: Position, loaded: TaskState, partition: Partition) -> tuple[int, int]:
    """Return where to read a committed partition from, and before where all was published.

    The store's positions are older than the broker's when it was away or lost its last writes: the states it holds are
    of then, so the log is read again from there.
    """
    stored = loaded.positions.get(partition)
    if config.delivery == "at_least_once":  # alerts are flushed before the store is written: both were published
        stored = stored or position
        return min(position.offset, stored.offset), max(position.read, stored.read)
    if not position.epoch:  # set by an operator
        return position.offset, position.offset
    if stored is not None:
        return stored.offset, position.read
    missed = config.on_state_lost == "replay" if not loaded.positions else config.kafka.start_from == "earliest"
    return 0 if missed else position.offset, position.read
