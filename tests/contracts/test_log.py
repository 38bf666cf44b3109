"""Source and Sink keep the same promises in memory, on the embedded broker and on Apache Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from stream_detector.adapters.embedded.servers import Embedded
from stream_detector.adapters.kafka import KafkaSink, KafkaSource, ensure_topics
from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.codec import decode_alert, encode_alert
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError, ConfigError, FencedError
from stream_detector.ports import Sink
from stream_detector.types import (
    DeadLetter,
    Message,
    Partition,
    PlainMessage,
    Position,
)
from tests.contracts.logs import (
    NOW_MS,
    InMemory,
    Listener,
    Log,
    Member,
    OnBroker,
    alert,
    put_out,
    until,
    values,
)
from tests.servers import KafkaServer

BACKENDS = ["memory", "embedded", "kafka"]
Make = Callable[..., Log]


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Make:
    """Make a log of so many topics and partitions on the backend."""

    def build(topics: int = 1, partitions: int = 2) -> Log:
        stream = unique("log")
        names = [f"{stream}.in{i}" for i in range(topics)]
        if request.param == "memory":
            return InMemory(names, partitions)
        if request.param == "kafka":
            return OnBroker(request.getfixturevalue("kafka"), stream, names, partitions, True)
        servers: Embedded = request.getfixturevalue("embedded")
        assert servers.bootstrap_servers is not None
        # Joins take half the session time-out there.
        kafka = KafkaConfig(bootstrap_servers=[servers.bootstrap_servers], session_timeout_ms=2_000)
        return OnBroker(kafka, stream, names, partitions, False)

    return build


@pytest.fixture
def join() -> Iterator[Callable[..., Member]]:
    """Open members that are closed after the test."""
    members: list[Member] = []

    def opened(log: Log, start_from: str = "earliest") -> Member:
        source = log.member(start_from)
        member = Member(source, Listener(source))
        source.open(member.listener)
        members.append(member)
        return member

    yield opened
    for member in members:
        member.source.close()


Join = Callable[..., Member]


def test_messages_arrive_whole_and_in_order(make: Make, join: Join) -> None:
    """What is written to a partition is read in that order, whole, at most `max_messages` a poll."""
    log = make(partitions=2)
    first, second = Partition(log.topics[0], 0), Partition(log.topics[0], 1)
    log.write(first, values("a", 25))
    log.write(second, values("b", 5))
    member = join(log)
    messages: dict[Partition, list[Message]] = {}
    sizes = []

    def step() -> None:
        batches = member.source.poll(100, 7)
        sizes.append(sum(len(batch.messages) for batch in batches))
        for batch in batches:
            messages.setdefault(batch.partition, []).extend(batch.messages)

    until(lambda: sum(map(len, messages.values())) == 30, step)
    assert max(sizes) == 7
    assert [message.value for message in messages[first]] == values("a", 25)
    assert [message.value for message in messages[second]] == values("b", 5)
    assert [message.offset for message in messages[first]] == list(range(25))
    last = messages[first][-1]
    assert (last.key, last.timestamp) == (b"pump-1", NOW_MS)
    assert list(last.headers) == [("content-type", b"application/json")]


def test_a_restart_reads_from_the_committed_position(make: Make, join: Join) -> None:
    """Committed offset, read position and epoch come back; a partition never committed has none, and starts at 0."""
    log = make(partitions=2)
    first, second = Partition(log.topics[0], 0), Partition(log.topics[0], 1)
    log.write(first, values("a", 10))
    log.write(second, values("b", 3))
    member = join(log)
    until(lambda: member.count == 13, member.poll)
    sink = log.sink(member.source)
    sink.commit({first: Position(offset=4, read=9, epoch=7)})
    sink.close()
    member.source.close()

    again = join(log)
    until(lambda: again.count == 9, again.poll)
    assert again.read == {first: values("a", 6, first=4), second: values("b", 3)}
    expected = Position(4, 9, 7) if log.keeps_metadata else Position(4, 4, 0)
    assert again.source.committed([first, second]) == {first: expected}


def test_reading_can_be_moved_held_and_measured(make: Make, join: Join) -> None:
    """Seek reads on from there, pause holds a partition, resume goes on, and lag counts what is left."""
    log = make(partitions=1)
    only = Partition(log.topics[0], 0)
    log.write(only, values("a", 20))
    member = join(log)
    until(lambda: member.count >= 5, lambda: member.poll(5))
    member.read.clear()
    member.source.seek(only, 18)
    assert member.source.lag() == {only: 2}
    until(lambda: member.count == 2, member.poll)
    assert member.read == {only: values("a", 2, first=18)}
    assert member.source.lag() == {only: 0}

    member.source.pause([only])
    log.write(only, values("a", 3, first=20))
    assert [member.poll() for _ in range(3)] == [0, 0, 0]
    member.source.resume([only])
    until(lambda: member.count == 5, member.poll)
    member.source.seek(only, None)
    until(lambda: member.count == 28, member.poll)
    assert member.source.lag() == {only: 0}


def test_a_new_group_may_start_at_the_end(make: Make, join: Join) -> None:
    """With start_from latest, a group without commits reads only what is written after it joined."""
    log = make(partitions=1)
    only = Partition(log.topics[0], 0)
    log.write(only, values("old", 5))
    member = join(log, start_from="latest")
    until(lambda: member.listener.owned, member.poll)
    until(lambda: member.source.lag() == {only: 0}, member.poll)
    log.write(only, values("new", 2))
    until(lambda: member.count == 2, member.poll)
    assert member.read == {only: values("new", 2)}


def test_members_share_and_hand_over(make: Make, join: Join) -> None:
    """Two members share co-partitioned topics by index; one that leaves hands over, and on_revoked may still commit."""
    log = make(topics=2, partitions=4)
    everything = {Partition(topic, index) for topic in log.topics for index in range(4)}
    for partition in sorted(everything):
        log.write(partition, values("a", 3))
    one = join(log)
    until(lambda: one.count == 24, one.poll)
    assert one.listener.owned == everything
    sink = log.sink(one.source)
    one.listener.commit_on_revoke = lambda: sink.commit({p: Position(2, 3, 1) for p in sorted(one.listener.owned)})

    two = join(log)
    until(lambda: len(one.listener.owned) == len(two.listener.owned) == 4, one.poll, two.poll)
    assert one.listener.owned | two.listener.owned == everything
    for member in (one, two):
        indices = {index for _, index in member.listener.owned}
        assert member.listener.owned == {Partition(topic, index) for topic in log.topics for index in indices}
    until(lambda: two.count == 4, one.poll, two.poll)
    assert two.read == {partition: values("a", 1, first=2) for partition in two.listener.owned}

    one.listener.commit_on_revoke = None
    two.source.close()
    until(lambda: one.listener.owned == everything, one.poll)
    sink.close()


def test_what_is_written_can_be_read(make: Make, join: Join) -> None:
    """Alerts arrive as encoded, keyed by asset, with their times; dead letters keep key and value untouched."""
    log = make(partitions=1)
    only = Partition(log.topics[0], 0)
    source = join(log).source
    sink = log.sink(source)
    letters = [
        DeadLetter(only, PlainMessage(3, 5, b"\xff\x00key", b"{\xff broken"), "not-json", "at byte 1"),
        DeadLetter(only, PlainMessage(4, 5, b"pump-1", None), "empty", "a tombstone"),
        DeadLetter(only, PlainMessage(5, 5, None, b"{}"), "no-asset", "in neither key nor value"),
    ]
    sink.write([alert(end_ms=1_583_748_873_000), alert(end_ms=1_583_748_874_000)], letters)
    sink.flush()
    sink.write([alert(asset="pump-2")], [])
    sink.flush()
    sink.close()

    alerts = log.alerts(3)
    assert [message.key for message in alerts] == [b"pump-1", b"pump-1", b"pump-2"]
    assert alerts[0].value == encode_alert(alert())
    assert decode_alert(alerts[1].value or b"").end_ms == 1_583_748_874_000
    headers = dict(alerts[0].headers)
    assert (headers["event-ms"], headers["ingest-ms"]) == (b"1583748873000", b"1583748873020")
    found = log.dead_letters(3)
    assert [(m.key, m.value) for m in found] == [
        (b"\xff\x00key", b"{\xff broken"),
        (b"pump-1", None),
        (None, b"{}"),
    ]
    assert dict(found[0].headers) == {
        "error": b"not-json",
        "detail": b"at byte 1",
        "topic": only.topic.encode(),
        "partition": b"0",
        "offset": b"3",
    }


def test_a_dead_letter_too_large_for_its_topic_loses_its_value(
    kafka: KafkaConfig, unique: Callable[[str], str]
) -> None:
    """It goes with where the original is and how large it was; those around it go whole."""
    log = OnBroker(kafka, unique("large"), [unique("large.in")], 1, True)
    only = Partition(log.topics[0], 0)
    sink = log.sink(log.member())
    # 2 MB: more than the topic takes; 20 MB: more than the client sends.
    letters = [b"small", b"x" * 2_000_000, b"{", b"y" * 20_000_000, b"last"]
    messages = [PlainMessage(i, 5, b"pump-1", value) for i, value in enumerate(letters)]
    sink.write([], [DeadLetter(only, message, "too-large", "as it is") for message in messages])
    sink.flush()
    sink.close()
    found = {dict(message.headers)["offset"]: message for message in log.dead_letters(5)}
    assert [found[b"%d" % i].value for i in range(5)] == [b"small", b"", b"{", b"", b"last"]
    assert dict(found[b"1"].headers)["dropped-bytes"] == b"2000000"
    assert dict(found[b"3"].headers)["dropped-bytes"] == b"20000000"


def test_a_backlog_starves_no_other_partition(make: Make, join: Join) -> None:
    """While a partition catches up, a message on another is handed out within some polls, not after the backlog."""
    log = make(partitions=2)
    behind, live = Partition(log.topics[0], 0), Partition(log.topics[0], 1)
    log.write(behind, [b"x"] * 30_000)
    member = join(log)
    until(lambda: member.count, lambda: member.poll(100))
    log.write(live, values("live", 3))
    polls = 0
    while len(member.read.get(live, [])) < 3:
        member.poll(100)
        time.sleep(0.01)  # a hundred messages' work: the broker has to have the time to answer
        polls += 1
    assert polls < 80
    assert len(member.read[behind]) < 15_000
    until(lambda: member.count == 30_003, lambda: member.poll(10_000))
    assert values("live", 3) == member.read[live]


def test_a_partition_paused_while_another_is_read_goes_on_after_it(make: Make, join: Join) -> None:
    """Paused with messages fetched and not handed out, resumed when the other partition's are all read."""
    log = make(partitions=2)
    first, second = Partition(log.topics[0], 0), Partition(log.topics[0], 1)
    for partition in (first, second):
        log.write(partition, values("a", 300))
    member = join(log)
    until(lambda: member.count, lambda: member.poll(20))
    begun = next(iter(member.read))
    other = second if begun == first else first
    member.source.pause([begun])
    until(lambda: len(member.read.get(other, [])) == 300, lambda: member.poll(150))
    member.poll(150, 0)
    member.source.resume([begun])
    until(lambda: member.count == 600, lambda: member.poll(150))


def test_who_lost_the_partitions_cannot_commit(make: Make, join: Join) -> None:
    """A commit for partitions that are not the member's, or by a member that was put out, is a FencedError."""
    log = make(partitions=1)
    only = Partition(log.topics[0], 0)
    log.write(only, values("a", 3))
    member = join(log)
    until(lambda: member.count == 3, member.poll)
    with pytest.raises(FencedError):
        member.source.commit({Partition(log.topics[0], 9): Position(0, 0)})  # type: ignore[attr-defined]  # both have it
    put_out(member.source)
    with pytest.raises(FencedError):
        member.source.commit({only: Position(3, 3)})  # type: ignore[attr-defined]  # both have it
    until(lambda: member.listener.events[-1][0] == "assigned" and len(member.listener.events) == 3, member.poll)
    assert [name for name, _ in member.listener.events] == ["assigned", "lost", "assigned"]
    assert member.source.committed([only]) == {}


def test_what_the_listener_raises_poll_raises(make: Make, join: Join) -> None:
    """An error in a callback surfaces from poll, and no message is passed over by it."""
    log = make(partitions=1)
    log.write(Partition(log.topics[0], 0), values("a", 3))
    member = join(log)
    member.listener.error = BrokerError("the store is away")

    def step() -> None:
        member.poll()

    with pytest.raises(BrokerError, match="the store is away"):
        until(lambda: False, step)
    member.listener.error = None
    until(lambda: member.count == 3, member.poll)
    assert member.read == {Partition(log.topics[0], 0): values("a", 3)}


def test_topics_must_exist_and_match(make: Make, unique: Callable[[str], str]) -> None:
    """A missing input topic and unequal partition counts are told by name before anything is read."""
    log = make(topics=2, partitions=2)
    if isinstance(log, InMemory):
        log.log.create("wide", 3)
        with pytest.raises(ConfigError, match="nowhere"):
            MemorySource(log.log, [log.topics[0], "nowhere"])
        with pytest.raises(ConfigError, match=f"{log.topics[0]}: 2, wide: 3"):
            MemorySource(log.log, [log.topics[0], "wide"])
        return
    assert isinstance(log, OnBroker)
    wide, listener = unique("wide"), Listener(log.member())
    ensure_topics(log.kafka, {wide: 3, log.topics[1]: 5})
    for topic, message in (("nowhere", "no topic 'nowhere'"), (wide, f"{log.topics[0]}: 2, {wide}: 3")):
        log.topics[1] = topic
        with pytest.raises(ConfigError, match=message):
            log.member().open(listener)


def test_a_flush_says_when_the_log_is_away(tmp_path_factory: pytest.TempPathFactory, kafka_server: KafkaServer) -> None:
    """While a broker is held, flush raises BrokerError; when it goes on, what was written arrives, in order."""
    server = KafkaServer(tmp_path_factory.mktemp("outage"), kafka_server.jars)
    server.start()
    try:
        log = OnBroker(server.config, "outage", ["outage.in0"], 1, True)
        source = KafkaSource(log.config())
        listener = Listener(source)
        source.open(listener)
        until(lambda: listener.owned, lambda: source.poll(100, 10))
        sink = KafkaSink(log.config(), source, delivery_timeout_ms=1_000)
        sink.write([alert(end_ms=1_000)], [])
        sink.flush()
        server.pause()
        sink.write([alert(end_ms=2_000), alert(end_ms=3_000)], [])
        with pytest.raises(BrokerError, match=f"127.0.0.1:{server.port}"):
            sink.flush()
        server.resume()
        until(lambda: flushed(sink))
        ends = [decode_alert(message.value or b"").end_ms for message in log.alerts(3)]
        assert ends[0] == 1_000
        assert ends[-2:] == [2_000, 3_000]
        sink.close()
        source.close()
    finally:
        server.kill()


def flushed(sink: Sink) -> bool:
    """Tell whether a flush went through."""
    try:
        sink.flush()
    except BrokerError:
        return False
    return True


def test_a_memory_log_can_be_away() -> None:
    """While it is away everything raises BrokerError; what was written is kept and arrives later."""
    log = MemoryLog({"in": 1})
    source = MemorySource(log, ["in"])
    source.open(Listener(source))
    sink = MemorySink(log, source)
    source.poll(0, 1)
    sink.write([alert()], [])
    log.available = False
    with pytest.raises(BrokerError):
        sink.flush()
    with pytest.raises(BrokerError):
        sink.commit({Partition("in", 0): Position(0, 0)})
    log.available = True
    sink.flush()
    assert [message.value for message in sink.alerts] == [encode_alert(alert())]
