"""The engine's interfaces to the outside: source of messages, sink of alerts, store of states.

Implementations: `kafka_io` and `redis_store` for real servers, `memory` for backtests and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from stream_detector.types import (
    Alert,
    AssetReport,
    AssetState,
    Audit,
    Controls,
    DeadLetter,
    MessageBatch,
    Partition,
    Position,
    RecordedVerdict,
    RemovalAction,
    Removed,
    Stay,
)


class Skipped(NamedTuple):
    """Messages of a partition that were deleted, by retention or by hand, before they were read."""

    partition: Partition
    start: int  # offset of the first
    stop: int  # one past the last


class RebalanceListener(Protocol):
    """Receives assigned and revoked partitions, called from inside `Source.poll`."""

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        """These are assigned in addition to the present ones. The listener seeks them before the poll returns."""

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """These stay assigned until this call returns: commit them now."""

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """These already belong to another worker: drop them without committing."""


class Source(Protocol):
    """Input topics, read as a member of a consumer group."""

    def open(self, listener: RebalanceListener) -> None:
        """Join the group. Partitions arrive through the listener during later polls."""

    def poll(self, timeout_ms: int, max_messages: int) -> list[MessageBatch]:
        """Return available messages, at most `max_messages`; wait up to `timeout_ms` only when there are none."""

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        """Return the committed position of each partition that has one.

        `read` and `epoch` come from the offset's metadata; where the broker keeps none, `read` equals `offset`
        and `epoch` is 0.
        """

    def seek(self, partition: Partition, offset: int | None) -> None:
        """Continue reading at `offset`, or where a new group starts (`kafka.start_from`) when it is None."""

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these until resumed; polling continues and keeps the membership alive."""

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these again."""

    def skipped(self) -> list[Skipped]:
        """Return the ranges of the log that reads jumped over since this was last called: deleted before they came.

        Makes no request.
        """

    def lag(self) -> dict[Partition, int]:
        """Return for each assigned partition the number of messages between the read position and its end.

        Cheap enough for every turn of the loop: uses the end last seen. A partition whose end is unknown is absent.
        """

    def settled(self) -> bool:
        """Whether positions can be committed now, which they can't while the group is rebalancing.

        Makes no request; only `poll` changes it.
        """

    def trouble(self) -> str | None:
        """Why no messages can arrive (no broker answers, the group is not joined yet); None when they can.

        Makes no request, and may be called from any thread.
        """

    def close(self) -> None:
        """Leave the group. Commits nothing."""


class Sink(Protocol):
    """The alert and dead-letter topics, and the commit that ties them to the input's offsets."""

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()) -> None:
        """Buffer for sending. Blocks only while the client's buffer is full."""

    def waiting_bytes(self) -> int:
        """Return the bytes written and not committed yet, which are held in memory."""

    def flush(self) -> None:
        """Return once everything written is acknowledged. Raises BrokerError when that fails."""

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Make positions (and, exactly-once, everything written since the last commit) durable.

        Call only after `flush`. Raises FencedError when another worker owns the partitions. After errors, call `abort`.
        """

    def abort(self) -> None:
        """Discard what was written since the last commit; exactly-once, none of it can become readable afterwards.

        Raises BrokerError when that is not certain; call it again.
        """

    def close(self) -> None:
        """Close the connections; at-least-once, flush what can be flushed before."""


#: Value of `since` in `StateStore.save`: the states are not changes to an epoch, but the task's complete states.
WHOLE = -1


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task's state as loaded."""

    assets: dict[str, AssetState]
    epoch: int  # of the newest commit in the store; 0 for none
    positions: Mapping[Partition, Position]  # that commit's positions; empty for none
    removed: Mapping[str, Removed] = field(default_factory=dict)  # assets that operators removed
    lost: bool = False  # the store knows that it held states which are gone


class StateStore(Protocol):
    """Threshold and incident state by task and asset: two versions of each, chosen by epoch (docs/delivery.md)."""

    def acquire(self, task: int) -> int:
        """Take a new fencing token of the task; writers with an older one are refused from now on."""

    def load(self, task: int, epoch: int | None = None) -> TaskState:
        """Return each asset's newest version with epoch <= `epoch` (None: of all); assets without one are absent."""

    def save(
        self,
        task: int,
        token: int,
        epoch: int,
        states: Mapping[str, AssetState | Removed | None],
        positions: Mapping[Partition, Position],
        *,
        since: int | None = None,
    ) -> int:
        """Write changed assets as version `epoch`, atomically and in one round trip; return the controls' version.

        None instead of a version: all versions of the asset go.
        `since`: epoch of the save relative to which `states` are all changes (None: the newest; WHOLE: `states` are
        complete). Anything newer in the store belongs to a commit that never completed, and is removed.
        Raises StoreFencedError when `token` is not the task's newest, StoreError when the store can't be reached.
        """

    def report(self, task: int, token: int, reports: Mapping[str, AssetReport | None]) -> None:
        """Keep what the task's worker saw of assets, for people; None: nothing any more.

        Apart from the states and not versioned. Writes nothing when `token` is not the task's newest. Raises StoreError
        when the store can't be reached.
        """

    def reports(self) -> list[tuple[int, str, AssetReport]]:
        """Return task, asset and what was last reported of it, of all tasks."""

    def note_stays(self, stays: Iterable[tuple[int, str, Stay]]) -> tuple[int, dict[str, dict[int, Stay]]]:
        """Note when tasks have read assets; return what is known of those that several tasks have read, by task.

        First the count of assets that several tasks have read, in all, also of other workers. What was noted before of
        an asset and a task is merged with the new. Neither versioned nor fenced.
        """

    def shared_assets(self) -> set[str]:
        """Return the assets that several tasks have read."""

    def controls(self) -> Controls:
        """Return the operators' settings."""

    def controls_version(self) -> int:
        """Return the count of changes by operators; cheap enough to poll twice per second."""

    def pin(self, asset: str, level: float) -> None:
        """Alarm above `level` for this asset until unpinned."""

    def unpin(self, asset: str) -> bool:
        """Return to the adaptive level; False when the asset was not pinned."""

    def reset(self, asset: str | None) -> None:
        """Discard what was learnt of the asset (None: of all); its threshold restarts from the calibration."""

    def accept(self, asset: str) -> None:
        """Accept the asset's reported regime change as normal; no effect when none is open."""

    def rollback(self, asset: str, point: bytes) -> None:
        """Restore the asset's threshold and shift from an entry of the audit topic."""

    def remove(self, asset: str, action: RemovalAction) -> str:
        """Have the workers remove the asset, and delete its settings and reports; return the removal's token."""

    def holding(self, asset: str, token: str) -> list[int]:
        """Return the tasks that hold a version of the asset's state from before this removal."""

    def settle(self, asset: str, token: str) -> None:
        """Delete the order to remove the asset, unless there is a later one, and what was reported meanwhile."""

    def record_verdicts(self, verdicts: Sequence[RecordedVerdict], keep: int) -> None:
        """Store people's verdicts: per alert the one greatest by `order`, in all the `keep` newest.

        Idempotent. Raises StoreError when the store can't be reached.
        """

    def verdicts(self) -> list[RecordedVerdict]:
        """Return the stored verdicts, oldest first."""

    def delete_verdicts(self, alerts: Sequence[str]) -> int:
        """Delete the verdicts on these alerts; return how many there were."""

    def close(self) -> None:
        """Close the connections."""
