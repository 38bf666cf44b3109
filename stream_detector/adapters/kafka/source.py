"""The input topics, read as a member of the consumer group."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import MemberState

from stream_detector.adapters.kafka.assignor import TaskAssignor
from stream_detector.adapters.kafka.client_patches import (
    ThreadedListener,
    cooperate,
    denied_topics,
    finish_joins,
    heartbeat_age_s,
    joining,
    keep_joins,
    put_out,
    read_quickly,
    unpark,
)
from stream_detector.adapters.kafka.settings import REQUEST_TIMEOUT_MS, connect_consumer, translated
from stream_detector.adapters.kafka.topics import end_offsets, require_topics
from stream_detector.adapters.kafka.turns import Turns
from stream_detector.codec import decode_metadata, encode_metadata
from stream_detector.config import Config
from stream_detector.errors import ConfigError, FencedError
from stream_detector.ports import RebalanceListener, Skipped
from stream_detector.types import MessageBatch, Partition, Position

_CLOSE_TIMEOUT_MS = 5_000
_PARTITION_FETCH_BYTES = 4 * 2**20
_FETCH_WAIT_MS = 100
_ENDS_EVERY_S, _ENDS_WAIT_MS = 10.0, 500
_TOPICS_EVERY_MS = 3_000  # interval of looking at the topics: partitions added to them are assigned at most so late
_DENIED_EVERY_S = 2.0  # interval of reporting a topic that may not be read: in between, the others are
_MARKERS = 1  # offsets that a transaction's end takes: no record has them
_SILENT_S = 3.0  # no heartbeat answered for this time: the broker is unreachable. At least one is sent per second


class KafkaSource:
    """`ports.Source` on Kafka.

    Partitions with the same index in all input topics go to the same worker: `assignor` assigns tasks, and the range
    assignor of eager rebalances does the same if the topics have equal partition counts, which `open` checks.

    Cooperative rebalances revoke only the partitions that move to another worker; the others are read throughout the
    rejoin. Offsets carry the generation of the last completed join, and none are committed during a join (`settled`).
    A member that learns it was removed from the group revokes all its partitions before it rejoins, so a worker that
    was away too long can't keep a partition that has a new owner.

    The rebalance listener is called on its own thread while `poll` waits: never concurrently with other calls of the
    caller. It may commit, seek and look up offsets. `poll` raises what the listener raises.
    """

    def __init__(self, config: Config) -> None:
        """Keep the settings; nothing connects before `open`."""
        self._config = config
        self._kafka = config.kafka
        self._topics = [entry.topic for entry in config.inputs]
        self._consumer: Any = None
        self._owned: set[TopicPartition] = set()
        self._names: dict[TopicPartition, Partition] = {}
        self._listener: RebalanceListener | None = None
        self._failure: BaseException | None = None
        self.transactional_id = f"{config.group}#{config.kafka.instance_id or uuid.uuid4().hex}"
        """Of the transactions that carry this member's offsets; also its client id: so others know that it is alive."""
        self._membership: Any = None  # as of the last assignment
        self._cooperative = config.kafka.rebalance == "cooperative"
        self._joining_since: float | None = None
        self._turns = Turns()
        self._seen_ends: dict[TopicPartition, int] = {}
        self._looked_s = 0.0
        self._denied_s = -math.inf
        self._next: dict[TopicPartition, int] = {}  # offset that the next record of each should have
        self._skipped: list[Skipped] = []
        self._ends: dict[Partition, int] = {}  # where a new group starts with start_from latest, as of the assignment
        self._counts: dict[str, int] = {}  # partitions of each topic when this member joined

    def open(self, listener: RebalanceListener) -> None:
        """Join the group. Partitions arrive through the listener during later polls.

        Raises ConfigError when an input topic is missing or the topics differ in partition counts, BrokerError.
        """
        self._counts = counts = require_topics(self._kafka, self._topics)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{topic}: {count}" for topic, count in counts.items())
            raise ConfigError(
                f"kafka.inputs: topics that are joined need equally many partitions, with the same keys, got {listed}"
            )
        session = self._kafka.session_timeout_ms
        self._consumer = connect_consumer(
            self._kafka,
            client_id=self.transactional_id,
            group_id=self._config.group,
            group_instance_id=self._kafka.instance_id,
            # Only for a position that retention has deleted: continue at the oldest message left, regardless of
            # start_from. `_assigned` and `seek` decide where a new group starts.
            auto_offset_reset="earliest",
            partition_assignment_strategy=self._assignors(),
            max_poll_records=self._kafka.max_poll_records,
            metadata_max_age_ms=_TOPICS_EVERY_MS,
            session_timeout_ms=session,
            # Members learn of a rebalance by heartbeat: a long interval makes every rebalance slow.
            heartbeat_interval_ms=max(100, min(1_000, session // 5)),
            max_poll_interval_ms=self._kafka.max_poll_interval_ms,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            # A fetch from partitions without messages waits this long, and no other fetch is sent meanwhile.
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            fetch_max_bytes=max(_PARTITION_FETCH_BYTES, int(self._kafka.max_fetch_mb * 2**20)),
        )
        read_quickly(self._consumer)
        keep_joins(self._consumer)
        finish_joins(self._consumer)
        if self._cooperative:
            cooperate(self._consumer)
        self._listener = listener
        try:
            with translated(self._kafka, "subscribing"):
                self._consumer.subscribe(topics=self._topics, listener=self._rebalances())
                for topic in self._topics:  # before joining: a leader without its metadata assigns none of it
                    self._consumer.partitions_for_topic(topic)
        except BaseException:
            self.close()
            raise

    def _assignors(self) -> list[Any]:
        """Return the assignors this member supports, preferred first."""
        tasks = TaskAssignor(lambda: self._consumer.assignment() or (), self._join_ended, self._cooperative)
        # Eager members can share a group with workers that have only the range assignor and with cooperative ones, so
        # that a group can be migrated worker by worker.
        return [tasks] if self._cooperative else [RangePartitionAssignor, tasks]

    def _join_ended(self) -> None:
        """Record the generation of later offsets; on the client's thread, before any assignment or revocation."""
        self._membership = self._consumer.group_metadata()

    def poll(self, timeout_ms: int, max_messages: int) -> list[MessageBatch]:
        """Return available messages, at most `max_messages` in all; wait up to `timeout_ms` only if there are none.

        Returns nothing while no broker can be reached (flushes and commits raise then). Raises what the listener
        raised, BrokerError.
        """
        self._look_for_ends()
        with translated(self._kafka, "reading"):
            self._look_for_denied()
            unpark(self._consumer)
            polled = self._turns.poll(self._consumer, self._lag(), max_messages) if self._turns.due() else {}
            if not polled and self._failure is None:
                polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_messages)
        self._joining_since = None if self.settled() else self._joining_since or time.monotonic()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            for partition, records in polled.items():  # not returned, so not skipped
                self._consumer.seek(partition, records[0].offset)
            raise failure
        names = self._names
        for partition, records in polled.items():
            if records[0].offset - self._next.get(partition, records[0].offset) > _MARKERS:
                self._look_for_skipped(partition, records[0].offset)
            self._next[partition] = records[-1].offset + 1
        return [MessageBatch(names[partition], records) for partition, records in polled.items()]

    def _look_for_skipped(self, name: TopicPartition, first: int) -> None:
        """Find out whether messages before `first`, the next one read, were deleted: compaction leaves gaps, too."""
        with suppress(kafka_errors.KafkaError):
            oldest = self._consumer.beginning_offsets([name], timeout_ms=_ENDS_WAIT_MS)[name]
            if oldest > self._next[name]:
                self._skipped.append(Skipped(self._names[name], self._next[name], min(oldest, first)))

    def skipped(self) -> list[Skipped]:
        """Return the ranges that retention deleted before they were read, since this was last called."""
        found, self._skipped = self._skipped, []
        return found

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        """Return the committed position of each partition that has one; see `ports.Source`. Raises BrokerError."""
        found = {}
        with translated(self._kafka, "looking up committed offsets"):
            for partition in partitions:
                committed = self._consumer.committed(
                    TopicPartition(*partition), metadata=True, timeout_ms=REQUEST_TIMEOUT_MS
                )
                if committed is None:
                    continue
                read, epoch = decode_metadata(committed.metadata or "") or (committed.offset, 0)
                found[partition] = Position(committed.offset, read, epoch)
        return found

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commit positions with their metadata; `KafkaSink.commit` calls this for at-least-once delivery.

        Raises FencedError when this worker doesn't own all the partitions any more, BrokerError.
        """
        offsets = {
            TopicPartition(*partition): OffsetAndMetadata(position.offset, encode_metadata(position), -1)
            for partition, position in positions.items()
        }
        if gone := sorted(set(offsets) - self._owned):
            raise FencedError(f"committing: {gone[0].topic}[{gone[0].partition}] is not this worker's")
        with translated(self._kafka, "committing"):
            self._consumer.commit(offsets, timeout_ms=REQUEST_TIMEOUT_MS)

    def seek(self, partition: Partition, offset: int | None) -> None:
        """Read on from `offset`, or from where a new group starts (`kafka.start_from`) when it is None.

        A partition that was added after this member joined starts at its oldest message: `latest` leaves out what was
        there before the group, and of such a partition there is nothing.
        """
        name = TopicPartition(*partition)
        self._next.pop(name, None)
        with translated(self._kafka, "seeking"):
            if offset is not None:
                self._next[name] = offset
                self._consumer.seek(name, offset)
            elif self._kafka.start_from == "earliest" or self._is_added(partition):
                self._consumer.seek_to_beginning(name)
            else:
                if partition not in self._ends:
                    self._ends.update(end_offsets(self._kafka, [partition.topic]))
                self._consumer.seek(name, self._ends[partition])

    def _is_added(self, partition: Partition) -> bool:
        return partition.index >= self._counts.get(partition.topic, 0)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these until resumed; polls go on and keep the membership alive."""
        self._consumer.pause(*(name for p in partitions if (name := TopicPartition(*p)) in self._owned))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these again."""
        self._consumer.resume(*(name for p in partitions if (name := TopicPartition(*p)) in self._owned))

    def lag(self) -> dict[Partition, int]:
        """Return, of each assigned partition, how many messages lie between the read position and its end.

        The end is the one the last fetch saw, or `poll` some seconds ago, so this asks nobody and may be called in
        every loop; a partition not fetched yet is absent.
        """
        return {self._names[name]: behind for name, behind in self._lag().items()}

    def _look_for_ends(self) -> None:
        """Query end offsets at intervals: during a long drain of one large fetch nothing else updates them."""
        now = time.monotonic()
        if now - self._looked_s < _ENDS_EVERY_S or not self._owned or self.trouble():
            return
        self._looked_s = now
        with suppress(kafka_errors.KafkaError):  # polls and commits report the error
            self._seen_ends = self._consumer.end_offsets(list(self._owned), timeout_ms=_ENDS_WAIT_MS)

    def _look_for_denied(self) -> None:
        """Raise TopicAuthorizationFailedError, now and then, while a topic may not be read."""
        denied = denied_topics(self._consumer).intersection(self._topics)
        if denied and time.monotonic() - self._denied_s >= _DENIED_EVERY_S:
            self._denied_s = time.monotonic()
            raise kafka_errors.TopicAuthorizationFailedError(denied)

    def _lag(self) -> dict[TopicPartition, int]:
        lag: dict[TopicPartition, int] = {}
        for name in self._owned & (self._consumer.assignment() or set()):  # not those being revoked
            read, end = self._consumer.position(name, timeout_ms=0), self._consumer.highwater(name)
            if read is not None and end is not None:
                lag[name] = max(0, max(end, self._seen_ends.get(name, 0)) - read)
        return lag

    def trouble(self) -> str | None:
        """Return why no messages arrive: this worker is not in its group, or no broker answers its heartbeats."""
        consumer = self._consumer
        if consumer is None:
            return "it has not joined its group yet"
        if consumer.group_metadata().state != MemberState.STABLE:
            since = time.monotonic() - (self._joining_since or time.monotonic())
            reads_on = self._cooperative and self._owned and not put_out(consumer)
            if reads_on and since * 1000 < self._kafka.session_timeout_ms:
                return None
            return "its group is rebalancing"
        silent = heartbeat_age_s(consumer)
        return f"no broker has answered for {silent:.0f} s" if silent > _SILENT_S else None

    def settled(self) -> bool:
        """Whether positions can be committed now: not during a rejoin; call `poll` until it has completed."""
        return self._consumer is None or not joining(self._consumer)

    def group_metadata(self) -> Any:
        """Return the membership as it is now."""
        return self._consumer.group_metadata()

    def membership(self, partitions: Iterable[Partition]) -> Any:
        """Return what fences the offsets of these partitions in a transaction: the membership as of the last join.

        Not the current one: a removed member has none for a while, and a broker accepts offsets without a membership.
        A partition of the last join is still this member's, or was revoked.
        Raises FencedError when a partition isn't this worker's any more.
        """
        if gone := sorted({TopicPartition(*partition) for partition in partitions} - self._owned):
            raise FencedError(f"committing: {gone[0].topic}[{gone[0].partition}] is not this worker's")
        if self._membership is None or self._membership.generation_id < 0 or not self._membership.member_id:
            raise FencedError("committing: this worker is no member of its group")
        return self._membership

    def close(self) -> None:
        """Leave the group. Commits nothing and doesn't call the listener."""
        if self._consumer is not None:
            self._listener = None
            consumer, self._consumer = self._consumer, None
            with translated(self._kafka, "leaving the group"):
                consumer.close(autocommit=False, timeout_ms=_CLOSE_TIMEOUT_MS)
            self._owned = set()

    def _prepare_takeover(self) -> None:
        """Do what is needed before committed positions of newly assigned partitions are looked up."""

    def _rebalances(self) -> ThreadedListener:
        return ThreadedListener(
            self._consumer,
            assigned=lambda partitions: self._guarded(self._assigned, partitions),
            revoked=lambda partitions: self._guarded(self._revoked, partitions),
            lost=lambda partitions: self._guarded(self._lost, partitions),
        )

    def _assigned(self, partitions: set[TopicPartition]) -> None:
        self._owned |= partitions
        self._membership = self._consumer.group_metadata()
        self._prepare_takeover()
        self._names.update({name: Partition(name.topic, name.partition) for name in partitions})
        if self._kafka.start_from == "latest":
            self._ends.clear()
            named = [self._names[name] for name in sorted(partitions)]
            known = self.committed(named)
            for partition in named:
                if partition not in known:
                    self.seek(partition, None)
        if self._listener is not None:
            self._listener.on_assigned([self._names[name] for name in sorted(partitions)])

    def _revoked(self, partitions: set[TopicPartition]) -> None:
        try:
            if self._listener is not None:
                self._listener.on_revoked([self._names[name] for name in sorted(partitions)])
        finally:
            self._owned -= partitions

    def _lost(self, partitions: set[TopicPartition]) -> None:
        self._owned -= partitions
        if self._listener is not None:
            self._listener.on_lost([self._names[name] for name in sorted(partitions)])

    def _guarded(self, call: Callable[[set[TopicPartition]], None], partitions: set[TopicPartition]) -> None:
        """Keep what the listener raises for `poll`: inside the client it would stall the rebalance."""
        try:
            call(partitions)
        except BaseException as error:
            self._failure = self._failure or error
