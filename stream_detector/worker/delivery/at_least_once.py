"""At-least-once delivery: runs on every broker; after a crash alerts may be repeated, with the same ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stream_detector.ports import StateStore
from stream_detector.types import Partition, Position
from stream_detector.worker.delivery.strategy import CommitStrategy
from stream_detector.worker.resuming import Resumption, Start, as_set, newest_epoch, set_back
from stream_detector.worker.task import Task


class AtLeastOnce(CommitStrategy):
    """Alerts can be read as soon as they are sent. Each task is committed separately.

    | fails           | effect                                                                                |
    |-----------------|---------------------------------------------------------------------------------------|
    | 1 flush         | the tasks are reloaded and the log is read again: alerts that arrived are repeated    |
    | 2 save, fenced  | the fenced tasks are dropped, the others continue                                     |
    | 2 save, missed  | `on_store_outage`: continue with the states in memory, or drop the tasks until then   |
    | 3 commit        | the next commit includes the positions; if fenced, the tasks are dropped              |
    | no commit       | the next owner repeats the alerts since the last one                                  |
    """

    def note_alerts(self, since_ms: Sequence[float]) -> None:
        """Count them as readable now."""
        self._note_readable(since_ms)

    def flush_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Drop the tasks and discard unsent alerts, which are produced again from the log."""
        self.give_up(tasks, why)
        self._sink.abort()  # or the buffer would grow while Kafka is unavailable

    def commit_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Keep the tasks: the next commit has newer positions."""

    def give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop these tasks."""
        self._assignment.drop(tasks, why)

    def leave_uncommitted(self, why: str) -> None:
        """Do nothing: the alerts written are readable, and their new owner repeats them."""

    @property
    def abort_pending(self) -> bool:
        """False: nothing is ever aborted."""
        return False

    def take_back(self) -> None:
        """Do nothing."""

    def resume(self, store: StateStore, index: int, committed: Mapping[Partition, Position]) -> Resumption:
        """Return the newest states; the log is read from the older of the broker's and the store's positions.

        The store's are older, as are its states, when it was unavailable or lost its last writes. Alerts are flushed
        before either position is written, so everything up to the newer of the two is published. Committed positions
        without any state mean that the store has lost it; the log is read on, with the model's calibration.
        """
        loaded = store.load(index)
        found, committed = committed, as_set(committed, loaded)
        starts = {}
        for partition, position in committed.items():
            stored = loaded.positions.get(partition, position)
            if position != found[partition] or set_back(position, stored, metadata=False):
                starts[partition] = Start(position.offset, position.offset)
            else:
                starts[partition] = Start(min(position.offset, stored.offset), max(position.read, stored.read))
        lost = loaded.lost or (not loaded.positions and any(position.read > 0 for position in committed.values()))
        return Resumption(loaded, starts, newest_epoch(loaded, committed), lost, committed=committed)
