"""What becomes of partitions when members come and go, on Apache Kafka: cooperative, eager, and both in one group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from stream_detector.adapters.kafka import KafkaSource
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError
from stream_detector.types import Partition
from tests.contracts.logs import Listener, Member, OnBroker, put_out, until, values

TOPICS, PARTITIONS = 2, 6


class Group:
    """Members of one group on two topics."""

    def __init__(self, log: OnBroker) -> None:
        self.log = log
        self.members: list[Member] = []

    def join(self, rebalance: str = "cooperative", start_from: str = "earliest") -> Member:
        config = self.log.config(start_from)
        config = config.model_copy(update={"kafka": config.kafka.model_copy(update={"rebalance": rebalance})})
        source = KafkaSource(config)
        member = Member(source, Listener(source))
        source.open(member.listener)
        self.members.append(member)
        return member

    def leave(self, member: Member) -> None:
        self.members.remove(member)
        member.source.close()

    def settle(self, *sizes: int) -> None:
        """Poll all in turn until they own so many tasks and the group is at rest."""
        until(
            lambda: (
                sorted(sizes) == sorted(len(tasks(one)) for one in self.members)
                and all(one.source.settled() and one.source.trouble() is None for one in self.members)
            ),
            *(one.poll for one in self.members),
        )


def tasks(member: Member) -> set[int]:
    """Return the tasks a member owns, each with its partitions of both topics."""
    found = {partition.index for partition in member.listener.owned}
    assert TOPICS * len(found) == len(member.listener.owned)
    return found


def told(member: Member, name: str) -> set[int]:
    """Return the tasks that came, went or were lost so far."""
    return {partition.index for event, those in member.listener.events if event == name for partition in those}


@pytest.fixture
def group(kafka: KafkaConfig, unique: Callable[[str], str]) -> Iterator[Group]:
    """A group without members yet."""
    stream = unique("group")
    group = Group(OnBroker(kafka, stream, [f"{stream}.in{i}" for i in range(TOPICS)], PARTITIONS, True))
    yield group
    for member in group.members:
        member.source.close()


def test_only_what_moves_is_taken(group: Group) -> None:
    """A third member gets two of six tasks, one of each; the others' stay, and come back when it leaves."""
    first, second = group.join(), group.join()
    group.settle(3, 3)
    before = {id(one): (tasks(one), len(one.listener.events)) for one in (first, second)}
    third = group.join()
    group.settle(2, 2, 2)
    for one in (first, second):
        owned, seen = before[id(one)]
        assert ["revoked"] == [name for name, _ in one.listener.events[seen:]]
        assert 1 == len(owned - tasks(one))
        assert tasks(one) < owned
    assert tasks(third) == told(third, "assigned")
    kept = [tasks(one) for one in (first, second)]
    events = [len(one.listener.events) for one in (first, second)]
    group.leave(third)
    group.settle(3, 3)
    for one, owned, seen in zip((first, second), kept, events, strict=True):
        assert ["assigned"] == [name for name, _ in one.listener.events[seen:]]
        assert owned < tasks(one)


def test_what_stays_is_read_while_the_group_is_joined_anew(group: Group) -> None:
    """While a join waits for a member that is busy, others read on; they commit nothing until it is through."""
    first, busy = group.join(), group.join()
    group.settle(3, 3)
    third = group.join()
    until(lambda: not first.source.settled(), first.poll, third.poll)
    index = min(tasks(first))
    for topic in group.log.topics:
        group.log.write(Partition(topic, index), values("a", 20))
    until(lambda: 40 == first.count, first.poll, third.poll)
    assert not first.source.settled()
    assert first.source.trouble() is None
    group.settle(2, 2, 2)
    assert {Partition(topic, index): values("a", 20) for topic in group.log.topics} == first.read
    assert set() == told(first, "lost") | told(busy, "lost")


def test_who_is_put_out_while_it_joins_gives_up_everything(group: Group) -> None:
    """Others may have had its tasks since: it keeps none over, and gets its share as a new member."""
    first, _ = group.join(), group.join()
    group.settle(3, 3)
    owned = tasks(first)
    third = group.join()
    until(lambda: not first.source.settled(), first.poll, third.poll)
    put_out(first.source)
    until(lambda: told(first, "lost"), first.poll, third.poll)
    assert (owned, set()) == (told(first, "lost"), tasks(first))
    group.settle(2, 2, 2)
    assert list(range(PARTITIONS)) == sorted(index for one in group.members for index in tasks(one))


def test_a_group_goes_from_eager_to_cooperative_member_by_member(group: Group) -> None:
    """Both kinds are in one group for a while, and every task has one owner all along."""
    first, second = group.join("eager"), group.join("eager")
    group.settle(3, 3)
    group.leave(first)
    third = group.join()
    group.settle(3, 3)
    group.leave(second)
    group.join()
    group.settle(3, 3)
    assert set() == told(third, "lost")


@pytest.mark.parametrize("start_from", ["earliest", "latest"])
@pytest.mark.parametrize("rebalance", ["cooperative", "eager"])
def test_added_partitions_are_read_within_seconds(group: Group, rebalance: str, start_from: str) -> None:
    """Of partitions added while a group reads, each has one owner soon, and their first messages are read, too."""
    first, second = group.join(rebalance, start_from), group.join(rebalance, start_from)
    group.settle(3, 3)
    added = time.monotonic()
    group.log.grow(PARTITIONS + 2)
    for topic in group.log.topics:
        for index in (PARTITIONS, PARTITIONS + 1):
            group.log.write(Partition(topic, index), values(f"{topic}.{index}.", 20))
    until(lambda: TOPICS * 2 * 20 == first.count + second.count, first.poll, second.poll)
    took_s = time.monotonic() - added
    assert took_s < 10, f"it took {took_s:.1f} s"
    group.settle(4, 4)
    assert TOPICS * 2 * 20 == first.count + second.count
    read = {partition: got for member in group.members for partition, got in member.read.items()}
    assert all(got == values(f"{p.topic}.{p.index}.", 20) for p, got in read.items())


def test_members_that_know_no_common_way_are_told_what_to_do(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cooperative worker beside one of a version that knows only eager rebalances says how to go on."""
    from stream_detector.adapters.kafka import source

    monkeypatch.setattr(KafkaSource, "_assignors", lambda self: [source.RangePartitionAssignor])
    old = group.join("eager")
    until(lambda: PARTITIONS == len(tasks(old)), old.poll)
    monkeypatch.undo()
    new = group.join()
    with pytest.raises(BrokerError, match=r"kafka\.rebalance: eager"):
        until(lambda: False, old.poll, new.poll)
    assert PARTITIONS == len(tasks(old))
