"""Exactly-once sinks keep the same promises in memory and on Apache Kafka; the embedded broker is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from stream_detector.adapters.embedded.servers import Embedded
from stream_detector.adapters.kafka import (
    KafkaSource,
    TopicReader,
    TransactionalSink,
    TransactionalSource,
    make_sink,
    probe,
)
from stream_detector.adapters.memory.log import MemoryLog, MemorySource, TransactionalMemorySink
from stream_detector.config import Config, KafkaConfig
from stream_detector.errors import BrokerError, ConfigError, FencedError
from stream_detector.ports import Sink, Source
from stream_detector.types import DeadLetter, Message, Partition, PlainMessage, Position
from tests.contracts.logs import InMemory, Listener, Member, OnBroker, alert, put_out, until, values
from tests.servers import KafkaServer


class ExactlyInMemory(InMemory):
    """A MemoryLog with a sink that delivers exactly once."""

    def sink(self, source: Source) -> Sink:
        assert isinstance(source, MemorySource)
        return TransactionalMemorySink(self.log, source)

    def soon(self) -> list[Message]:
        return self.alerts(0)


class ExactlyOnBroker(OnBroker):
    """A broker, with sinks and sources that deliver exactly once."""

    def config(self, start_from: str = "earliest") -> Config:
        return super().config(start_from).model_copy(update={"delivery": "exactly_once"})

    def member(self, start_from: str = "earliest") -> Source:
        return TransactionalSource(self.config(start_from))

    def sink(self, source: Source) -> Sink:
        assert isinstance(source, KafkaSource)
        return TransactionalSink(self.config(), source)

    def soon(self) -> list[Message]:
        time.sleep(0.3)
        return read_now(self.kafka, f"{self.stream}.alerts")


def read_now(kafka: KafkaConfig, topic: str) -> list[Message]:
    """Return what is readable now, committed messages only."""
    with TopicReader(kafka, topic, from_beginning=True) as reader:
        return [message for batch in reader.read(400) for message in batch.messages]


Log = ExactlyInMemory | ExactlyOnBroker


@pytest.fixture(params=["memory", "kafka"])
def log(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Log:
    """A log of one topic with one partition, and three messages in it."""
    stream = unique("once")
    log: Log
    if request.param == "memory":
        log = ExactlyInMemory([f"{stream}.in"], 1)
    else:
        log = ExactlyOnBroker(request.getfixturevalue("kafka"), stream, [f"{stream}.in"], 1, True)
    log.write(Partition(log.topics[0], 0), values("a", 3))
    return log


@pytest.fixture
def join() -> Iterator[Callable[[Log], Member]]:
    """Open members that own their partition; closed after the test."""
    members: list[Member] = []

    def opened(log: Log) -> Member:
        source = log.member()
        member = Member(source, Listener(source))
        source.open(member.listener)
        members.append(member)
        until(lambda: member.listener.owned, member.poll)
        return member

    yield opened
    for member in members:
        with suppress(BrokerError):
            member.source.close()


Join = Callable[[Log], Member]


def test_what_is_written_becomes_readable_with_the_positions(log: Log, join: Join) -> None:
    """After a flush nothing can be read; after the commit alerts, dead letters and positions are there, all at once."""
    only = Partition(log.topics[0], 0)
    member = join(log)
    sink = log.sink(member.source)
    letter = DeadLetter(only, PlainMessage(3, 5, b"key", b"{broken"), "not-json", "at byte 1")
    sink.write([alert(end_ms=1_000), alert(end_ms=2_000)], [letter])
    sink.flush()
    assert ([], {}) == (log.soon(), member.source.committed([only]))
    sink.commit({only: Position(1, 3, 1)})
    assert [b"pump-1", b"pump-1"] == [message.key for message in log.alerts(2)]
    assert [b"{broken"] == [message.value for message in log.dead_letters(1)]
    assert {only: Position(1, 3, 1)} == member.source.committed([only])
    sink.commit({only: Position(2, 3, 2)})
    assert {only: Position(2, 3, 2)} == member.source.committed([only])
    sink.close()


def test_what_is_aborted_never_was(log: Log, join: Join) -> None:
    """Aborted before or after the flush, nothing of it is read; the next commit carries only what came after."""
    only = Partition(log.topics[0], 0)
    member = join(log)
    sink = log.sink(member.source)
    sink.write([alert(end_ms=1_000)], [])
    sink.abort()
    sink.write([alert(end_ms=2_000)], [])
    sink.flush()
    sink.abort()
    sink.abort()
    assert {} == member.source.committed([only])
    sink.write([alert("pump-2", end_ms=3_000)], [])
    sink.flush()
    sink.commit({only: Position(1, 3, 1)})
    assert [b"pump-2"] == [message.key for message in log.alerts(1)]
    sink.close()


def test_what_was_not_committed_is_gone_with_the_sink(log: Log, join: Join) -> None:
    """Closing doesn't publish what no position speaks for."""
    member = join(log)
    sink = log.sink(member.source)
    sink.write([alert(end_ms=1_000)], [])
    if isinstance(log, ExactlyOnBroker):
        sink.flush()
    sink.close()
    assert [] == log.soon()


def test_a_zombie_commits_nothing(log: Log, join: Join) -> None:
    """A member put out of its group is refused with all it has written, before and after it knows; then it goes on."""
    only = Partition(log.topics[0], 0)
    member = join(log)
    sink = log.sink(member.source)
    sink.write([alert(end_ms=1_000)], [])
    sink.flush()
    put_out(member.source)
    if isinstance(log, ExactlyOnBroker):
        time.sleep(1.5)  # its heartbeat is told, and the client forgets its membership: no offset may pass without one
    with pytest.raises(FencedError):
        sink.commit({only: Position(3, 3, 1)})
    sink.abort()
    until(lambda: len(member.listener.events) == 3, member.poll)
    assert ["assigned", "lost", "assigned"] == [name for name, _ in member.listener.events]
    assert ({}, []) == (member.source.committed([only]), log.soon())
    sink.write([alert("pump-2", end_ms=2_000)], [])
    sink.flush()
    sink.commit({only: Position(3, 3, 1)})
    assert [b"pump-2"] == [message.key for message in log.alerts(1)]
    sink.close()


@pytest.mark.parametrize("backend", ["memory", "kafka"])
def test_positions_that_were_refused_are_not_committed_later(
    backend: str, request: pytest.FixtureRequest, unique: Callable[[str], str], join: Join
) -> None:
    """A member refused as a zombie commits what it has later, and nothing of what it had, which others may own."""
    stream = unique("refused")
    log: Log
    if backend == "memory":
        log = ExactlyInMemory([f"{stream}.in"], 2)
    else:
        log = ExactlyOnBroker(request.getfixturevalue("kafka"), stream, [f"{stream}.in"], 2, True)
    mine, others = (Partition(log.topics[0], index) for index in range(2))
    for partition in (mine, others):
        log.write(partition, values("a", 3))
    member = join(log)
    sink = log.sink(member.source)
    put_out(member.source)
    with pytest.raises(FencedError):
        sink.commit({mine: Position(1, 1, 1), others: Position(1, 1, 1)})
    sink.abort()
    until(lambda: len(member.listener.events) == 3, member.poll)
    sink.commit({mine: Position(2, 2, 1)})
    assert {mine: Position(2, 2, 1)} == member.source.committed([mine, others])
    sink.close()


def on_kafka(kafka: KafkaConfig, name: str) -> ExactlyOnBroker:
    """Make a topic of one partition with three messages."""
    log = ExactlyOnBroker(kafka, name, [f"{name}.in"], 1, True)
    log.write(Partition(log.topics[0], 0), values("a", 3))
    return log


def say_nonsense_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker leave out what is allowed on groups, not as Apache Kafka does: all bits are set."""
    process = KafkaAdminClient._describe_groups_process_response

    def answered(self: KafkaAdminClient, response: Any) -> Any:
        for group in response.groups:
            group.authorized_operations = set(range(32))
        return process(self, response)

    monkeypatch.setattr(KafkaAdminClient, "_describe_groups_process_response", answered)


@pytest.mark.parametrize("rights", ["told", "left out"])
def test_a_dead_workers_transaction_is_ended_by_who_takes_over(
    kafka: KafkaConfig, unique: Callable[[str], str], join: Join, monkeypatch: pytest.MonkeyPatch, rights: str
) -> None:
    """Readers don't wait for the transaction's time-out: the next owner's alerts are there at once."""
    if rights == "left out":
        say_nonsense_of_rights(monkeypatch)
    log = on_kafka(kafka, unique("dead"))
    only = Partition(log.topics[0], 0)
    dead = join(log)
    left_open = log.sink(dead.source)
    left_open.write([alert("pump-dead")], [])
    left_open.flush()
    dead.source.close()
    heir = join(log)
    sink = log.sink(heir.source)
    sink.write([alert("pump-heir")], [])
    sink.flush()
    sink.commit({only: Position(3, 3, 1)})
    assert [b"pump-heir"] == [message.key for message in log.alerts(1)]
    with pytest.raises(FencedError):
        left_open.commit({only: Position(9, 9, 9)})
    sink.close()
    left_open.close()


def test_a_living_workers_transaction_is_left_alone(
    kafka: KafkaConfig, unique: Callable[[str], str], join: Join
) -> None:
    """A member that joins ends nobody's transaction who is a member too."""
    name = unique("living")
    log = ExactlyOnBroker(kafka, name, [f"{name}.in"], 2, True)
    one = join(log)
    sink = log.sink(one.source)
    sink.write([alert()], [])
    sink.flush()
    source = log.member()
    two = Member(source, Listener(source))
    source.open(two.listener)
    until(
        lambda: len(one.listener.owned) == len(two.listener.owned) == 1 and one.source.settled(),
        one.poll,
        two.poll,
    )
    sink.commit({only: Position(0, 0, 1) for only in one.listener.owned})
    assert 1 == len(log.alerts(1))
    sink.close()
    source.close()


def test_a_commit_in_doubt_is_decided_by_abort(
    tmp_path_factory: pytest.TempPathFactory, kafka_server: KafkaServer
) -> None:
    """A broker held leaves it open whether the commit came to be; after abort, offsets and alerts agree."""
    server = KafkaServer(tmp_path_factory.mktemp("doubt"), kafka_server.jars)
    server.start()
    try:
        log = on_kafka(server.config, "doubt")
        only = Partition(log.topics[0], 0)
        source = KafkaSource(log.config())
        listener = Listener(source)
        source.open(listener)
        until(lambda: listener.owned, lambda: source.poll(100, 10))
        sink = TransactionalSink(log.config(), source, timeout_ms=1_000)
        sink.write([alert()], [])
        sink.flush()
        server.pause()
        with pytest.raises(BrokerError):
            sink.commit({only: Position(3, 3, 1)})
        with pytest.raises(BrokerError):
            sink.abort()
        server.resume()
        until(lambda: aborted(sink))
        committed = source.committed([only])
        assert len(log.soon()) == len(committed)
        sink.close()
        source.close()
    finally:
        server.kill()


def aborted(sink: Sink) -> bool:
    """Whether an abort comes through now."""
    try:
        sink.abort()
    except BrokerError:
        return False
    return True


def test_of_dead_letters_sent_together_the_largest_loses_its_value(
    kafka: KafkaConfig, unique: Callable[[str], str], join: Join
) -> None:
    """The topic refuses one of them, the client says it of all: those that fit, and the alerts, go whole."""
    log = on_kafka(kafka, unique("large"))
    only = Partition(log.topics[0], 0)
    member = join(log)
    sink = log.sink(member.source)
    sizes = [10, 300_000, 2_000_000, 40, 1_500_000, 20_000_000, 7]  # topics take 1 MB, the client sends 16 MB
    messages = [PlainMessage(i, 5, b"pump-1", b"x" * size) for i, size in enumerate(sizes)]
    sink.write([alert(end_ms=1_000)], [DeadLetter(only, each, "too-large", "as it is") for each in messages])
    sink.flush()
    sink.commit({only: Position(1, 3, 1)})
    found = {int(dict(each.headers)["offset"]): each for each in log.dead_letters(len(sizes))}
    assert [10, 300_000, 0, 40, 0, 0, 7] == [len(found[i].value or b"") for i in range(len(sizes))]
    assert [b"pump-1"] == [message.key for message in log.alerts(1)]
    sink.close()


@pytest.mark.parametrize(("interval_ms", "early"), [(1_000, True), (60_000, False)])
def test_no_transaction_is_opened_long_before_its_commit(
    kafka: KafkaConfig, unique: Callable[[str], str], join: Join, interval_ms: int, early: bool
) -> None:
    """Much is sent at once where the commit is near; where it isn't, a transaction would time out before it."""
    log = on_kafka(kafka, unique("early"))
    only = Partition(log.topics[0], 0)
    member = join(log)
    assert isinstance(member.source, KafkaSource)
    sink = TransactionalSink(log.config().model_copy(update={"commit_interval_ms": interval_ms}), member.source)
    sink.write([], [DeadLetter(only, PlainMessage(i, 5, b"k", b"{"), "not-json", "so") for i in range(1_500)])
    assert sink._begun is early
    sink.flush()
    sink.commit({only: Position(1, 3, 1)})
    assert 1_500 == len(log.dead_letters(1_500))
    sink.close()


def test_a_broker_without_transactions_is_refused(embedded: Embedded, unique: Callable[[str], str]) -> None:
    """The embedded broker drops offset metadata: exactly_once is a ConfigError that says so, within two seconds."""
    assert embedded.bootstrap_servers is not None
    kafka = KafkaConfig(bootstrap_servers=[embedded.bootstrap_servers])
    name = unique("probe")
    config = ExactlyOnBroker(kafka, name, [f"{name}.in"], 1, False).config()
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"exactly_once.*metadata.*`delivery: at_least_once`"):
        make_sink(config, KafkaSource(config))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kafka_errors.KafkaTimeoutError("Timeout expired while initializing transactional state"), BrokerError),
        (kafka_errors.CoordinatorNotAvailableError(), BrokerError),
        (kafka_errors.UnsupportedVersionError(), ConfigError),
    ],
)
def test_a_broker_that_has_no_time_is_no_broker_without_transactions(
    embedded: Embedded,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[Exception],
) -> None:
    """What may go well the next time is an outage, to be tried again; only an answer is a broker's verdict."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(probe, "_lacking", fail)
    assert embedded.bootstrap_servers is not None
    kafka = KafkaConfig(bootstrap_servers=[embedded.bootstrap_servers])
    with pytest.raises(expected):
        probe.require_transactions(ExactlyOnBroker(kafka, unique("probe"), ["in"], 1, False).config())


def test_apache_kafka_is_accepted(kafka: KafkaConfig, unique: Callable[[str], str]) -> None:
    """The probe lets Apache Kafka pass within two seconds and leaves nothing that could be read."""
    log = on_kafka(kafka, unique("probe"))
    config = log.config()
    started = time.monotonic()
    sink = make_sink(config, KafkaSource(config))
    assert time.monotonic() - started < 2
    assert isinstance(sink, TransactionalSink)
    sink.close()
    assert [] == read_now(kafka, config.dead_letter_topic)


def test_a_memory_log_keeps_aborted_messages_out() -> None:
    """While the log is away an abort says so; afterwards nothing of it is there."""
    log = MemoryLog({"in": 1})
    source = MemorySource(log, ["in"])
    source.open(Listener(source))
    sink = TransactionalMemorySink(log, source)
    source.poll(0, 1)
    sink.write([alert()], [])
    sink.flush()
    log.available = False
    with pytest.raises(BrokerError):
        sink.abort()
    log.available = True
    sink.abort()
    sink.commit({Partition("in", 0): Position(0, 0)})
    assert [] == list(sink.alerts)
