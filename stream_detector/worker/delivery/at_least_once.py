"""At least once: runs on every broker; after a crash alerts may be repeated, with the ids they had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stream_detector.ports import StateStore
from stream_detector.types import Partition, Position
from stream_detector.worker.delivery.strategy import CommitStrategy
from stream_detector.worker.resuming import Resumption, Start, newest_epoch
from stream_detector.worker.task import Task


class AtLeastOnce(CommitStrategy):
    """Alerts can be read as soon as they are sent. Each task is committed for itself.

    | fails           | what becomes of it                                                                    |
    |-----------------|---------------------------------------------------------------------------------------|
    | 1 flush         | the tasks are loaded again, and the log is read again: alerts that arrived repeat     |
    | 2 save, fenced  | the fenced tasks are dropped, the others go on                                        |
    | 2 save, missed  | `on_store_outage`: go on with the states in memory, or drop the tasks until it is back |
    | 3 commit        | positions go with the next commit; fenced, the tasks are dropped                      |
    | no commit       | the next owner repeats the alerts since the last one                                  |
    """

    def note_alerts(self, since_ms: Sequence[float]) -> None:
        """Count them as readable now."""
        self._note_readable(since_ms)

    def flush_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Drop the tasks, and forget what was not sent: it is made again from the log."""
        self.give_up(tasks, why)
        self._sink.abort()  # kept, it would add up while Kafka is away

    def commit_failed(self, tasks: Sequence[Task], why: str) -> None:
        """Keep the tasks: the next commit has newer positions."""

    def give_up(self, tasks: Iterable[Task], why: str) -> None:
        """Drop these tasks."""
        self._assignment.drop(tasks, why)

    def leave_uncommitted(self, why: str) -> None:
        """Do nothing: what was written is readable, and their new owner repeats it."""

    @property
    def abort_pending(self) -> bool:
        """False: nothing is ever taken back."""
        return False

    def take_back(self) -> None:
        """Do nothing."""

    def resume(self, store: StateStore, index: int, committed: Mapping[Partition, Position]) -> Resumption:
        """Return the newest states; the log is read from the older of the broker's and the store's positions.

        The store's are older when it was away or lost its last writes: the states it holds are of then. Alerts are
        flushed before either is written, so up to the newer of them all is published.
        """
        loaded = store.load(index)
        starts = {}
        for partition, position in committed.items():
            stored = loaded.positions.get(partition, position)
            starts[partition] = Start(min(position.offset, stored.offset), max(position.read, stored.read))
        return Resumption(loaded, starts, newest_epoch(loaded, committed))
