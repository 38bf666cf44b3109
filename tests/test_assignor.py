"""How tasks are dealt to workers: balanced, the fewest moved, nothing twice, topics together."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from kafka.coordinator.assignors.abstract import RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.structs import TopicPartition

from stream_detector.adapters.kafka.assignor import TaskAssignor, deal

GROUPS = st.integers(1, 40).flatmap(
    lambda tasks: st.tuples(
        st.just(tasks),
        st.dictionaries(
            st.text("abcdefgh", min_size=1, max_size=3),
            st.tuples(st.sets(st.integers(0, tasks - 1)), st.integers(-1, 3)),
            min_size=1,
            max_size=8,
        ),
    )
)


def settle(tasks, owned, generations):
    """Deal until nothing moves any more, each giving up what it lost before the next round; return all rounds."""
    rounds = [deal(tasks, owned, generations)]
    while len(rounds) < 2 or rounds[-1] != rounds[-2]:
        newest = dict.fromkeys(rounds[-1], len(rounds) + 10)
        rounds.append(deal(tasks, rounds[-1], newest))
    return rounds


@given(GROUPS)
def test_every_task_has_one_worker_in_two_rounds(group):
    """Whatever members claim to own: balanced to one, each task once, and nothing moves after the second round."""
    tasks, members = group
    owned = {name: sorted(claim) for name, (claim, _) in members.items()}
    rounds = settle(tasks, owned, {name: since for name, (_, since) in members.items()})
    assert list(range(tasks)) == sorted(task for those in rounds[-1].values() for task in those)
    sizes = [len(those) for those in rounds[-1].values()]
    assert max(sizes) - min(sizes) <= 1
    assert len(rounds) <= 3


@given(GROUPS)
def test_what_one_owns_no_other_is_given(group):
    """A task comes to a worker only when nobody else says that it owns it, not even one that is behind."""
    tasks, members = group
    owned = {name: sorted(claim) for name, (claim, _) in members.items()}
    for name, those in deal(tasks, owned, {name: since for name, (_, since) in members.items()}).items():
        others = {task for other, claim in owned.items() if other != name for task in claim}
        assert set() == (set(those) - set(owned[name])) & others


def test_a_third_worker_takes_only_its_share():
    """Of twelve tasks of two workers four move to a third, and eight stay."""
    two = {"a": list(range(6)), "b": list(range(6, 12)), "c": []}
    rounds = settle(12, two, {"a": 1, "b": 1, "c": -1})
    assert {"a": [0, 1, 2, 3], "b": [6, 7, 8, 9], "c": []} == rounds[0]
    assert {"a": [0, 1, 2, 3], "b": [6, 7, 8, 9], "c": [4, 5, 10, 11]} == rounds[-1]


def test_a_worker_that_leaves_moves_only_its_own():
    """The tasks of one that is gone go to the others at once; what these have stays."""
    assert {"a": [0, 1, 2, 3, 8, 9], "b": [4, 5, 6, 7, 10, 11]} == deal(
        12, {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]}, {"a": 4, "b": 4}
    )


def test_of_two_owners_the_newer_is_believed_and_of_equals_neither():
    """A worker that was away says it owns what another one got meanwhile: that one keeps it."""
    assert {"a": [], "b": [0]} == deal(1, {"a": [0], "b": [0]}, {"a": 3, "b": 4})
    assert {"a": [], "b": []} == deal(1, {"a": [0], "b": [0]}, {"a": 4, "b": 4})


def assignor(owned=(), cooperative=True):
    """Return the assignor of a member that owns these partitions."""
    return TaskAssignor(lambda: owned, lambda: None, cooperative)


def test_topics_stay_together():
    """A member gets the same numbers of all topics, those of a larger topic too; data of members survive the wire."""
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range({"slow": 4, "fast": 4, "wide": 5}[topic])))
    topics = ("slow", "fast", "wide")
    first = assignor([TopicPartition(topic, index) for topic in topics for index in (0, 3)])
    members = [
        SimpleNamespace(member_id=name, metadata=ConsumerProtocolSubscription.decode(one.metadata(topics).encode()))
        for name, one in (("a", first), ("b", assignor()))
    ]
    dealt = first.assign(cluster, members)
    found = {name: ConsumerProtocolAssignment.decode(one.encode()).partitions() for name, one in dealt.items()}
    numbers = {
        name: {topic: {p.partition for p in those if p.topic == topic} for topic in topics}
        for name, those in found.items()
    }
    for those in numbers.values():
        assert {index for index in those["wide"] if index < 4} == those["slow"] == those["fast"]
    assert {0, 3} <= numbers["a"]["slow"]
    assert {0, 1, 2, 3, 4} == numbers["a"]["wide"] | numbers["b"]["wide"]


def test_a_topic_that_only_some_read_goes_to_those():
    """While workers are started with another topic, those without it get none of it."""
    cluster = SimpleNamespace(partitions_for_topic=lambda _: {0, 1})
    members = [
        SimpleNamespace(member_id=name, metadata=assignor().metadata(topics))
        for name, topics in (("old", ("a",)), ("new", ("a", "b")))
    ]
    dealt = {name: dict(one.assigned_partitions) for name, one in assignor().assign(cluster, members).items()}
    assert [0, 1] == dealt["new"]["b"]
    assert [0, 1] == sorted(dealt["new"]["a"] + dealt["old"]["a"])
    assert "b" not in dealt["old"]


def test_an_eager_member_owns_nothing_when_it_joins():
    """It has given up all; so it may be in a group with cooperative ones while they are replaced one by one."""
    one = assignor([TopicPartition("a", 0)], cooperative=False)
    assert [RebalanceProtocol.EAGER] == one.supported_protocols()
    assert [] == list(one.metadata({"a"}).owned_partitions)
