"""Logs in memory and on brokers as contract tests use them: topics of a test's own, members of one group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from stream_detector.adapters.kafka import KafkaSink, KafkaSource, MessageWriter, TopicReader, ensure_topics
from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.config import ChannelConfig, Config, InputConfig, KafkaConfig
from stream_detector.ports import Sink, Source
from stream_detector.types import Alert, ChannelShare, Message, ModelRef, Partition

NOW_MS = time.time_ns() // 1_000_000  # what is older than its retention, Kafka deletes


class Log(Protocol):
    """What the tests need of a backend: topics of its own, members of one group, and a look at what was written."""

    topics: list[str]
    keeps_metadata: bool
    """Committed offsets keep their metadata."""

    def member(self, start_from: str = "earliest") -> Source: ...

    def sink(self, source: Source) -> Sink: ...

    def write(self, partition: Partition, values: Iterable[bytes]) -> None: ...

    def alerts(self, count: int) -> list[Message]: ...

    def dead_letters(self, count: int) -> list[Message]: ...


@dataclass
class InMemory:
    """A MemoryLog."""

    topics: list[str]
    partitions: int
    keeps_metadata: bool = True

    def __post_init__(self) -> None:
        self.log = MemoryLog(dict.fromkeys(self.topics, self.partitions))

    def member(self, start_from: str = "earliest") -> Source:
        assert start_from in ("earliest", "latest")
        return MemorySource(self.log, self.topics, start_from="latest" if start_from == "latest" else "earliest")

    def sink(self, source: Source) -> Sink:
        assert isinstance(source, MemorySource)
        return MemorySink(self.log, source)

    def write(self, partition: Partition, values: Iterable[bytes]) -> None:
        for value in values:
            self.log.append(partition, b"pump-1", value, [("content-type", b"application/json")], NOW_MS)

    def alerts(self, count: int) -> list[Message]:
        return list(self.log.read(Partition("alerts", 0)))

    def dead_letters(self, count: int) -> list[Message]:
        return list(self.log.read(Partition("dead-letter", 0)))


@dataclass
class OnBroker:
    """A broker, with topics of this test's own."""

    kafka: KafkaConfig
    stream: str
    topics: list[str]
    partitions: int
    keeps_metadata: bool

    def __post_init__(self) -> None:
        wanted = dict.fromkeys(self.topics, self.partitions)
        ensure_topics(self.kafka, {**wanted, f"{self.stream}.alerts": 1, f"{self.stream}.dead-letter": 1})

    def config(self, start_from: str = "earliest") -> Config:
        inputs = [InputConfig(topic=topic) for topic in self.topics]
        kafka = self.kafka.model_copy(update={"inputs": inputs, "start_from": start_from})
        return Config(stream=self.stream, channels={"vibration": ChannelConfig()}, kafka=kafka)

    def member(self, start_from: str = "earliest") -> Source:
        return KafkaSource(self.config(start_from))

    def sink(self, source: Source) -> Sink:
        assert isinstance(source, KafkaSource)
        return KafkaSink(self.config(), source)

    def write(self, partition: Partition, values: Iterable[bytes]) -> None:
        with MessageWriter(self.kafka) as writer:
            for value in values:
                headers = [("content-type", b"application/json")]
                writer.send(partition.topic, b"pump-1", value, headers, timestamp_ms=NOW_MS, partition=partition.index)

    def grow(self, partitions: int) -> None:
        """Add partitions to each input topic, one topic after the other, as an operator does."""
        client: Any = KafkaAdminClient(bootstrap_servers=list(self.kafka.bootstrap_servers))  # type: ignore[no-untyped-call]
        try:
            for topic in self.topics:
                client.create_partitions({topic: partitions})
        finally:
            client.close()
        self.partitions = partitions

    def alerts(self, count: int) -> list[Message]:
        return self._read(f"{self.stream}.alerts", count)

    def dead_letters(self, count: int) -> list[Message]:
        return self._read(f"{self.stream}.dead-letter", count)

    def _read(self, topic: str, count: int) -> list[Message]:
        messages: list[Message] = []
        with TopicReader(self.kafka, topic, from_beginning=True) as reader:
            deadline = time.monotonic() + 10
            while len(messages) < count and time.monotonic() < deadline:
                messages += [message for batch in reader.read(200) for message in batch.messages]
        return messages


@dataclass
class Listener:
    """Notes what comes and goes; seeks and commits as the engine does."""

    source: Source
    commit_on_revoke: Callable[[], None] | None = None
    events: list[tuple[str, list[Partition]]] = field(default_factory=list)
    owned: set[Partition] = field(default_factory=set)
    error: Exception | None = None

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        listed = list(partitions)
        self.events.append(("assigned", listed))
        self.owned |= set(listed)
        committed = self.source.committed(listed)
        for partition in listed:
            self.source.seek(partition, committed[partition].offset if partition in committed else None)
        if self.error is not None:
            raise self.error

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        listed = list(partitions)
        self.events.append(("revoked", listed))
        if self.commit_on_revoke is not None:
            self.commit_on_revoke()
        self.owned -= set(listed)

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        listed = list(partitions)
        self.events.append(("lost", listed))
        self.owned -= set(listed)


@dataclass
class Member:
    """A source with its listener, and what it has read by partition."""

    source: Source
    listener: Listener
    read: dict[Partition, list[bytes]] = field(default_factory=dict)

    def poll(self, max_messages: int = 500, timeout_ms: int = 100) -> int:
        count = 0
        for batch in self.source.poll(timeout_ms, max_messages):
            self.read.setdefault(batch.partition, []).extend(message.value or b"" for message in batch.messages)
            count += len(batch.messages)
        return count

    @property
    def count(self) -> int:
        return sum(map(len, self.read.values()))


def until(done: Callable[[], object], *steps: Callable[[], object], seconds: float = 60) -> None:
    """Take the steps in turn until done."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        for step in steps:
            step()


def alert(asset: str = "pump-1", end_ms: int = 1_583_748_873_000) -> Alert:
    """Return an alert that differs from others by asset and time."""
    return Alert(
        id=f"id-{end_ms}",
        incident="incident",
        event="open",
        stream="pump",
        asset=asset,
        start_ms=end_ms - 60_000,
        end_ms=end_ms,
        score=8.31,
        threshold=4.02,
        severity="warning",
        kind="contextual",
        channels=(ChannelShare("vibration", 1.0, 0.041, 0.027),),
        model=ModelRef("ae", "20201103-1f3c"),
        method="spot",
        risk=1e-4,
        seen=18_233,
        ingest_ms=end_ms + 20,
        scored_ms=end_ms + 35,
    )


def values(name: str, count: int, first: int = 0) -> list[bytes]:
    """Return distinct message values."""
    return [f"{name}{i}".encode() for i in range(first, first + count)]


def put_out(source: Source) -> None:
    """Remove a member from its group behind its back, as a broker does after the session time-out."""
    if isinstance(source, MemorySource):
        source.expel()
        return
    assert isinstance(source, KafkaSource)
    group = source.group_metadata()
    admin: Any = KafkaAdminClient  # ships no types
    member: Any = MemberToRemove
    client = admin(bootstrap_servers=source._kafka.bootstrap_servers)
    try:
        client.remove_group_members(group.group_id, [member(group.member_id)])
    finally:
        client.close()
