"""The edges of the engine: where messages come from, where alerts go, where state is kept.

Implementations: `kafka_io` and `redis_store` for real servers, `memory` for backtests and tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_detector.types import (
    Alert,
    AssetState,
    Audit,
    Controls,
    DeadLetter,
    MessageBatch,
    Partition,
    Position,
    RecordedVerdict,
)


class RebalanceListener(Protocol):
    """Told of partitions coming and going, from inside `Source.poll`."""

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        """These are ours now, beside those we have. The listener seeks them before the poll returns."""

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """These are ours until this call returns: commit them now."""

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """These belong to somebody else already: drop them, commit nothing."""


class Source(Protocol):
    """Input topics, read as a member of a consumer group."""

    def open(self, listener: RebalanceListener) -> None:
        """Join the group. Partitions arrive through the listener during later polls."""

    def poll(self, timeout_ms: int, max_messages: int) -> list[MessageBatch]:
        """Return what is there, at most `max_messages` in all; wait up to `timeout_ms` only when nothing is."""

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        """Return the committed position of each partition that has one.

        `read` and `epoch` come from the offset's metadata; where the broker keeps none, `read` equals `offset`
        and `epoch` is 0.
        """

    def seek(self, partition: Partition, offset: int | None) -> None:
        """Read on from `offset`, or from where a new group starts (`kafka.start_from`) when it is None."""

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these until resumed; polls go on and keep the membership alive."""

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these again."""

    def lag(self) -> dict[Partition, int]:
        """Return, of each assigned partition, how many messages lie between the read position and its end.

        Cheap, for every turn of the loop: the end is the one last seen. A partition whose end is unknown is absent.
        """

    def settled(self) -> bool:
        """Whether positions can be committed now: not while the group is handing out partitions anew.

        Asks nobody; only `poll` changes it.
        """

    def trouble(self) -> str | None:
        """Why no messages can come (no broker answers, the group is not joined yet); None when they can.

        Asks nobody, and may be called from any thread.
        """

    def close(self) -> None:
        """Leave the group. Commits nothing."""


class Sink(Protocol):
    """The alert and dead-letter topics, and the commit that ties them to the input's offsets."""

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()) -> None:
        """Buffer for sending. Blocks only while the client's buffer is full."""

    def waiting_bytes(self) -> int:
        """Return the size of what was written and is not committed yet: what this holds in memory."""

    def flush(self) -> None:
        """Return once all that was written is acknowledged. Raises BrokerError when it can't be."""

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Make positions (and, exactly-once, all written since the last commit) durable.

        Call only after `flush`. Raises FencedError when another worker owns the partitions. After any error `abort`.
        """

    def abort(self) -> None:
        """Forget what was written since the last commit; exactly-once, once it returns none of it can become readable.

        Raises BrokerError while that isn't sure; call again.
        """

    def close(self) -> None:
        """Let go; at-least-once, flush what can be flushed before."""


#: `StateStore.save`, in the place of an epoch: the states are changes to none, they are all there are.
WHOLE = -1


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task's state as loaded."""

    assets: dict[str, AssetState]
    epoch: int  # of the newest commit the store knows; 0 for none
    positions: Mapping[Partition, Position]  # that commit's positions; empty for none


class StateStore(Protocol):
    """Threshold and incident state by task and asset: two versions of each, chosen by epoch (docs/delivery.md)."""

    def acquire(self, task: int) -> int:
        """Take a new fencing token of the task; writers with an older one are refused from now on."""

    def load(self, task: int, epoch: int | None = None) -> TaskState:
        """Return of each asset the newest version with epoch <= `epoch` (None: the newest); unknown ones are absent."""

    def save(
        self,
        task: int,
        token: int,
        epoch: int,
        states: Mapping[str, AssetState],
        positions: Mapping[Partition, Position],
        *,
        since: int | None = None,
    ) -> int:
        """Write changed assets as version `epoch`, atomically and in one round trip; return the controls' version.

        `since`: epoch of the save that `states` are all the changes to (None: the newest there is; WHOLE: they are all
        there are). Whatever the store holds beside is of a commit that never came to be: it is taken back.
        Raises StoreFencedError when `token` is not the task's newest, StoreError when the store can't be reached.
        """

    def controls(self) -> Controls:
        """Return what operators have set."""

    def controls_version(self) -> int:
        """Return the count of changes operators made: cheap, for a poll twice a second."""

    def pin(self, asset: str, level: float) -> None:
        """Alarm above `level` for this asset until unpinned."""

    def unpin(self, asset: str) -> bool:
        """Go back to the adaptive level; False when it was not pinned."""

    def reset(self, asset: str) -> None:
        """Forget what was learnt of the asset ("*": of all); its threshold starts from the calibration again."""

    def accept(self, asset: str) -> None:
        """Take the asset's open regime change for its new normal; nothing where none was told."""

    def rollback(self, asset: str, point: bytes) -> None:
        """Go back to what an entry of the audit topic says the asset was held against."""

    def record_verdicts(self, verdicts: Sequence[RecordedVerdict], keep: int) -> None:
        """Keep people's verdicts, of each alert the greatest by `order`, of all the `keep` newest.

        The same again changes nothing. Raises StoreError when the store can't be reached.
        """

    def verdicts(self) -> list[RecordedVerdict]:
        """Return the verdicts kept, oldest first."""

    def close(self) -> None:
        """Let go of connections."""
