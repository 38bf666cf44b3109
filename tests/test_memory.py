"""The log in memory: what it does beyond the contract every Source and Sink keeps (tests/contracts/test_log.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from stream_detector.adapters.memory.log import MemoryLog, MemorySource
from stream_detector.errors import BrokerError, ConfigError, FencedError
from stream_detector.types import Partition, PlainMessage, Position

A, B, C = (Partition("in", index) for index in range(3))


@dataclass
class Listener:
    """Notes what comes and goes."""

    events: list[tuple[str, list[Partition]]] = field(default_factory=list)

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        self.events.append(("assigned", list(partitions)))

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        self.events.append(("revoked", list(partitions)))

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        self.events.append(("lost", list(partitions)))


def filled(*counts: int) -> MemoryLog:
    """Return a log whose topic `in` has partitions of so many messages."""
    log = MemoryLog({"in": len(counts)})
    for index, count in enumerate(counts):
        for number in range(count):
            log.append(Partition("in", index), b"key", b"%d" % number)
    return log


def opened(source: MemorySource) -> Listener:
    """Open a source with a listener that takes notes."""
    listener = Listener()
    source.open(listener)
    return listener


def polled(source: MemorySource, most: int = 100) -> dict[int, list[int]]:
    """Poll once; return the offsets read by partition index."""
    return {batch.partition.index: [m.offset for m in batch.messages] for batch in source.poll(0, most)}


def test_a_small_poll_is_shared_and_starves_nobody() -> None:
    """A limit below what is there is shared evenly, and odd messages go to another partition each time."""
    source = MemorySource(filled(10, 10, 10), ["in"])
    opened(source)
    assert polled(source, 6) == {1: [0, 1], 2: [0, 1], 0: [0, 1]}
    assert polled(source, 1) == {2: [2]}
    assert polled(source, 1) == {0: [2]}
    assert polled(source, 1) == {1: [2]}


def test_what_an_empty_partition_leaves_others_take() -> None:
    """A partition with little left doesn't keep the others from filling the poll."""
    source = MemorySource(filled(1, 0, 10), ["in"])
    opened(source)
    assert sum(len(offsets) for offsets in polled(source, 8).values()) in (5, 8)
    assert polled(source, 100).get(2, [])[-1:] == [9]


def test_the_poll_size_can_be_set_on_the_source() -> None:
    """`batch` caps a poll below what the caller asks for: the same stream in pieces of any size."""
    source = MemorySource(filled(5), ["in"], batch=2)
    opened(source)
    assert [polled(source) for _ in range(4)] == [{0: [0, 1]}, {0: [2, 3]}, {0: [4]}, {}]


def test_a_test_can_take_and_give_partitions() -> None:
    """`assign` and `revoke` act in the next poll, through the listener; one taken back is read from its commit."""
    source = MemorySource(filled(4, 4, 4), ["in"])
    listener = opened(source)
    source.assign([A, B])
    assert polled(source) == {1: [0, 1, 2, 3], 0: [0, 1, 2, 3]}
    source.commit({A: Position(2, 4, 1)})
    source.revoke([A])
    assert polled(source) == {}
    source.assign([A, B])
    assert polled(source) == {0: [2, 3]}
    assert listener.events == [("assigned", [A, B]), ("revoked", [A]), ("assigned", [A])]
    with pytest.raises(BrokerError, match=r"in\[2\] is not assigned"):
        source.seek(C, 0)


def test_members_get_ranges_as_they_come_and_go() -> None:
    """Three members of three partitions get one each; what one that left had goes to those that stay."""
    log = filled(1, 1, 1)
    sources = [MemorySource(log, ["in"]) for _ in range(3)]
    listeners = [opened(source) for source in sources]
    for source in sources:
        source.poll(0, 0)
    assert [listener.events for listener in listeners] == [[("assigned", [p])] for p in (A, B, C)]
    sources[0].close()
    for source in sources[1:] * 2:
        source.poll(0, 0)
    assert listeners[0].events == [("assigned", [A])]
    assert listeners[1].events[-1] == ("assigned", [A])
    assert listeners[2].events == [("assigned", [C])]


def test_an_expelled_member_is_fenced_and_told() -> None:
    """Its commit is refused even before it learns of it; then it is told what it lost and joins again."""
    log = filled(2)
    source, other = MemorySource(log, ["in"]), MemorySource(log, ["in"])
    listener = opened(source)
    source.poll(0, 1)
    source.expel()
    opened(other)
    other.poll(0, 1)
    with pytest.raises(FencedError):
        source.commit({A: Position(1, 1)})
    other.commit({A: Position(1, 1, 5)})
    source.poll(0, 1)
    assert listener.events == [("assigned", [A]), ("lost", [A])]
    assert log.committed("detector") == {A: Position(1, 1, 5)}


def test_offsets_may_have_gaps() -> None:
    """Reading from an offset that isn't there goes on with the next one that is."""
    log = filled(5)
    assert log.read(A, 3) == [PlainMessage(3, -1, b"key", b"3"), PlainMessage(4, -1, b"key", b"4")]
    assert log.read(A, 9) == []
    assert log.end(A) == 5


def test_an_unknown_topic_is_told_with_the_known_ones() -> None:
    """The message names what was asked for and what there is."""
    with pytest.raises(ConfigError, match=r"no topic 'out'; known are \['in'\]"):
        MemoryLog({"in": 1}).partitions("out")
