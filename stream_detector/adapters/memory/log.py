"""A log, source and sink in memory: for backtests and tests, and for users who want to test their own set-ups.

One process, one thread, no clock. A `MemoryLog` holds topics and groups; several sources on it share a group's
partitions as workers would. Messages have the same bytes as on a broker.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stream_detector.codec import alert_headers, dead_letter_headers, encode_alert, encode_audit
from stream_detector.config import Config
from stream_detector.errors import BrokerError, ConfigError, FencedError
from stream_detector.ports import RebalanceListener, Skipped
from stream_detector.types import Alert, Audit, DeadLetter, Message, MessageBatch, Partition, PlainMessage, Position


@dataclass
class _Group:
    """A consumer group: its members in joining order, their partitions, and the committed positions."""

    members: list[MemorySource] = field(default_factory=list)
    owners: dict[Partition, MemorySource] = field(default_factory=dict)
    committed: dict[Partition, Position] = field(default_factory=dict)


class MemoryLog:
    """Topics of partitions of messages."""

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        """Create topics; `topics` maps each name to its number of partitions."""
        self._topics: dict[str, list[list[PlainMessage]]] = {}
        self._groups: dict[str, _Group] = {}
        self.available = True
        """False: the log is away, and everything that would need it raises BrokerError."""
        for name, count in (topics or {}).items():
            self.create(name, count)

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic; one that exists is left as it is."""
        self._topics.setdefault(topic, [[] for _ in range(partitions)])

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic. Raises ConfigError when there is none of that name."""
        if topic not in self._topics:
            raise ConfigError(f"there is no topic {topic!r}; known are {sorted(self._topics)}")
        return [Partition(topic, index) for index in range(len(self._topics[topic]))]

    def append(
        self,
        partition: Partition,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = -1,
    ) -> int:
        """Write one message and return its offset. Raises BrokerError while the log is away."""
        self.check()
        messages = self._topics[partition.topic][partition.index]
        offset = messages[-1].offset + 1 if messages else 0
        messages.append(PlainMessage(offset, timestamp, key, value, tuple(headers)))
        return offset

    def read(self, partition: Partition, offset: int = 0, limit: int | None = None) -> Sequence[PlainMessage]:
        """Return messages from `offset` on, at most `limit`."""
        messages = self._topics[partition.topic][partition.index]
        start = bisect_left(messages, offset, key=lambda message: message.offset)
        return messages[start:] if limit is None else messages[start : start + limit]

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Delete messages before an offset, as retention does. At least the newest one stays."""
        messages = self._topics[partition.topic][partition.index]
        del messages[: min(bisect_left(messages, offset, key=lambda one: one.offset), len(messages) - 1)]

    def end(self, partition: Partition) -> int:
        """Return one past the partition's last offset."""
        messages = self._topics[partition.topic][partition.index]
        return messages[-1].offset + 1 if messages else 0

    def committed(self, group: str) -> dict[Partition, Position]:
        """Return a group's committed positions."""
        return dict(self.group(group).committed)

    def group(self, name: str) -> _Group:
        """Return a group's state, created on first use."""
        return self._groups.setdefault(name, _Group())

    def check(self) -> None:
        """Raise BrokerError while the log is away."""
        if not self.available:
            raise BrokerError("the memory log is away")


class MemorySource:
    """`ports.Source` on a MemoryLog.

    Members of a group share the partition indices in ranges, in the order they opened; all topics' partitions of one
    index go to the same member. A member revokes partitions it should no longer own in its next
    poll, and gets free ones in its own. With `assign` and `revoke` a test controls a member's partitions.
    """

    def __init__(
        self,
        log: MemoryLog,
        topics: Sequence[str],
        group: str = "detector",
        start_from: Literal["earliest", "latest"] = "earliest",
        batch: int | None = None,
    ) -> None:
        """Read these topics; `batch` caps the messages of a poll below what the caller asks for.

        Raises ConfigError when a topic is missing or the topics differ in partition counts.
        """
        counts = {topic: len(log.partitions(topic)) for topic in topics}
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{topic}: {count}" for topic, count in counts.items())
            raise ConfigError(f"topics that are joined need equally many partitions, with the same keys, got {listed}")
        self._log = log
        self._topics = list(topics)
        self._count = next(iter(counts.values()))
        self._group = log.group(group)
        self._start_from = start_from
        self._batch = batch
        self._listener: RebalanceListener | None = None
        self._owned: dict[Partition, int] = {}  # -> next offset to read
        self._paused: set[Partition] = set()
        self._fixed: set[Partition] | None = None
        self._skipped: list[Skipped] = []
        self._turn = 0
        self._joined = False  # polled at least once since it joined
        self.joining = False
        """In a test's hands: whether commits have to wait."""

    def open(self, listener: RebalanceListener) -> None:
        """Join the group. Partitions arrive through the listener during later polls."""
        self._log.check()
        self._listener = listener
        self._group.members.append(self)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """From the next poll on, want exactly these partitions instead of a share."""
        self._fixed = set(partitions)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """In the next poll, give these up (through `on_revoked`) and don't take them again."""
        wanted = self._fixed if self._fixed is not None else set(self._owned)
        self._fixed = wanted - set(partitions)

    def expel(self) -> None:
        """Remove this member from its group, as a broker does after missing heartbeats.

        The member notices when it commits (FencedError) or polls (`on_lost`); then it rejoins.
        """
        if self in self._group.members:
            self._group.members.remove(self)
        for partition in [p for p, owner in self._group.owners.items() if owner is self]:
            del self._group.owners[partition]

    def poll(self, timeout_ms: int, max_messages: int) -> list[MessageBatch]:
        """Return available messages, at most `max_messages` in all, evenly from all partitions. Never waits."""
        self._log.check()
        self._rebalance()
        left = max_messages if self._batch is None else min(self._batch, max_messages)
        ready = [p for p in sorted(self._owned) if p not in self._paused and self._owned[p] < self._log.end(p)]
        if ready:  # start with another partition each time, so that a small limit starves none
            self._turn = (self._turn + 1) % len(ready)
            ready = ready[self._turn :] + ready[: self._turn]
        batches = []
        for place, partition in enumerate(ready):
            share = -(-left // (len(ready) - place))
            messages = self._log.read(partition, self._owned[partition], share)
            if messages:
                if (first := messages[0].offset) > self._owned[partition]:
                    self._skipped.append(Skipped(partition, self._owned[partition], first))
                self._owned[partition] = messages[-1].offset + 1
                batches.append(MessageBatch(partition, messages))
                left -= len(messages)
        return batches

    def _rebalance(self) -> None:
        assert self._listener is not None, "open the source before polling it"
        if self not in self._group.members:
            self._group.members.append(self)
        self._joined = True
        owners = self._group.owners
        if lost := sorted(p for p in self._owned if owners.get(p) is not self):
            self._drop(lost)
            self._listener.on_lost(lost)
        wanted = self._wanted()
        if surplus := sorted(set(self._owned) - wanted):
            self._listener.on_revoked(surplus)
            self._drop(surplus)
            for partition in surplus:
                del owners[partition]
        if free := sorted(p for p in wanted if p not in owners):
            for partition in free:
                owners[partition] = self
                position = self._group.committed.get(partition)
                self._owned[partition] = self._start(partition) if position is None else position.offset
            self._listener.on_assigned(free)

    def _wanted(self) -> set[Partition]:
        if self._fixed is not None:
            return self._fixed
        place, members = self._group.members.index(self), len(self._group.members)
        size, extra = divmod(self._count, members)
        first = place * size + min(place, extra)
        indices = range(first, first + size + (place < extra))
        return {Partition(topic, index) for topic in self._topics for index in indices}

    def _drop(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._owned.pop(partition, None)
            self._paused.discard(partition)

    def _start(self, partition: Partition) -> int:
        if self._start_from == "latest":
            return self._log.end(partition)
        return next((message.offset for message in self._log.read(partition, 0, 1)), 0)

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, Position]:
        """Return the committed position of each partition that has one."""
        self._log.check()
        return {p: self._group.committed[p] for p in partitions if p in self._group.committed}

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commit positions. Raises FencedError when this member doesn't own all the partitions."""
        self._log.check()
        for partition in positions:
            if self._group.owners.get(partition) is not self:
                raise FencedError(f"committing: {partition.topic}[{partition.index}] is not this member's")
        self._group.committed.update(positions)

    def seek(self, partition: Partition, offset: int | None) -> None:
        """Continue at `offset`, or where a new group starts when it is None."""
        if partition not in self._owned:
            raise BrokerError(f"seeking: {partition.topic}[{partition.index}] is not assigned")
        self._owned[partition] = self._start(partition) if offset is None else offset

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these until resumed."""
        self._paused.update(p for p in partitions if p in self._owned)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these again."""
        self._paused.difference_update(partitions)

    def lag(self) -> dict[Partition, int]:
        """Return, of each assigned partition, how many messages lie between the read position and its end."""
        self._log.check()
        return {p: max(0, self._log.end(p) - offset) for p, offset in sorted(self._owned.items())}

    def skipped(self) -> list[Skipped]:
        """Return the ranges that polls jumped over since this was last called."""
        found, self._skipped = self._skipped, []
        return found

    def settled(self) -> bool:
        """Whether positions can be committed now."""
        return not self.joining

    def trouble(self) -> str | None:
        """Why no messages can come; None when they can."""
        if not self._log.available:
            return "the memory log is away"
        return None if self._joined and self in self._group.members else "it has not joined its group yet"

    def close(self) -> None:
        """Leave the group. Commits nothing and doesn't call the listener."""
        self.expel()
        self._drop(list(self._owned))
        self._listener = None


class MemorySink:
    """`ports.Sink` on a MemoryLog, at least once: alerts and dead letters are on topics of it when flushed."""

    def __init__(
        self,
        log: MemoryLog,
        source: MemorySource,
        alert_topic: str = "alerts",
        dead_letter_topic: str = "dead-letter",
        *,
        now_ms: int = -1,
        audit_topic: str = "audit",
    ) -> None:
        """Make the topics when they are missing; `now_ms` stands in for the wall clock in the alerts' headers."""
        self._log = log
        self._source = source
        self._now_ms = now_ms
        self._alerts = Partition(alert_topic, 0)
        self._dead_letters = Partition(dead_letter_topic, 0)
        log.create(alert_topic)
        self._audits = Partition(audit_topic, 0)
        log.create(dead_letter_topic)
        log.create(audit_topic)
        self._buffer: list[tuple[Partition, Message]] = []
        self._size = 0

    @property
    def alerts(self) -> Sequence[PlainMessage]:
        """The alerts flushed so far, as published."""
        return self._log.read(self._alerts)

    @property
    def dead_letters(self) -> Sequence[PlainMessage]:
        """The dead letters flushed so far, as published."""
        return self._log.read(self._dead_letters)

    @property
    def audits(self) -> Sequence[PlainMessage]:
        """The entries of the audit topic flushed so far, as published."""
        return self._log.read(self._audits)

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()) -> None:
        """Buffer for sending. Never blocks."""
        for alert in alerts:
            headers = alert_headers(alert, self._now_ms)
            self._put(self._alerts, PlainMessage(-1, -1, alert.asset.encode(), encode_alert(alert), headers))
        for audit in audits:
            self._put(self._audits, PlainMessage(-1, -1, audit.asset.encode(), encode_audit(audit)))
        for letter in dead_letters:
            message = letter.message
            self._put(self._dead_letters, PlainMessage(-1, -1, message.key, message.value, dead_letter_headers(letter)))

    def _put(self, partition: Partition, message: PlainMessage) -> None:
        self._size += len(message.key or b"") + len(message.value or b"")
        self._buffer.append((partition, message))

    def waiting_bytes(self) -> int:
        """Return the size of written messages that are not flushed yet."""
        return self._size

    def flush(self) -> None:
        """Append all written messages. Raises BrokerError while the log is away; the messages are kept."""
        self._log.check()
        self._append()

    def _append(self) -> None:
        for partition, message in self._buffer:
            self._log.append(partition, message.key, message.value, message.headers, message.timestamp)
        self._buffer.clear()
        self._size = 0

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Make positions durable. Raises FencedError when another member owns the partitions."""
        self._source.commit(positions)

    def abort(self) -> None:
        """Drop written messages that are not on the topics yet."""
        self._log.check()
        self._buffer.clear()
        self._size = 0

    def close(self) -> None:
        """Flush what can be flushed."""
        if self._log.available:
            self.flush()


class TransactionalMemorySink(MemorySink):
    """`ports.Sink` on a MemoryLog, exactly once: alerts and dead letters are on the topics with the commit."""

    def flush(self) -> None:
        """Raise BrokerError while the log is away. What was written stays unreadable."""
        self._log.check()

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Make positions durable, and what was written readable. Raises FencedError as the other sink does."""
        super().commit(positions)
        self._append()  # nothing comes between the two


def make_memory_sink(config: Config, log: MemoryLog, source: MemorySource, now_ms: int = -1) -> MemorySink:
    """Return the sink of the configured delivery, on the configured topics; `now_ms` as for a `MemorySink`."""
    sinks = {"at_least_once": MemorySink, "exactly_once": TransactionalMemorySink}
    topics = (config.alert_topic, config.dead_letter_topic)
    return sinks[config.delivery](log, source, *topics, now_ms=now_ms, audit_topic=config.audit_topic)
