"""Who processes which task: the partition assignor of the workers' group.

A task is one partition number of all input topics, so it is tasks that are dealt out, not partitions: the partitions of
one number stay together whatever moves. Stays with its worker what can: of n tasks and k workers each has n/k of them,
rounded up or down, and only what is over that moves.

It serves both rebalance protocols. Cooperative (KIP-429): a worker says when it joins what it owns, and a task that
another one owns is not given to its new worker yet; its owner gives it up first, and joins again. Eager: a worker has
given up everything before it joins, and owns nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol

from stream_detector.adapters.kafka.client_patches import member_assignment, member_data


def deal(tasks: int, owned: Mapping[str, Iterable[int]], generations: Mapping[str, int]) -> dict[str, list[int]]:
    """Deal tasks 0 to `tasks` - 1 to members; return each one's, in order.

    `owned`: of every member, what it owns now (nothing: an empty list). `generations`: since which generation of the
    group; of two that own the same task the one of the newer generation is believed, of equals neither. The answer
    leaves out tasks that have to be given up by their owner first; deal again when that is done.
    """
    owner: dict[int, str] = {}
    held: set[int] = set()  # by whomever: given to nobody else before it is given up
    disputed: set[int] = set()
    for member in sorted(owned, key=lambda one: (-generations.get(one, -1), one)):
        for task in sorted(set(owned[member])):
            held.add(task)
            if task not in owner:
                owner[task] = member
            elif generations.get(owner[task], -1) == generations.get(member, -1):
                disputed.add(task)
    mine: dict[str, list[int]] = {member: [] for member in sorted(owned)}
    for task in range(tasks):
        if task in owner and task not in disputed:
            mine[owner[task]].append(task)
    share, over = divmod(tasks, max(1, len(mine)))
    # Those who have most may keep one more than others: so the fewest move.
    ranked = sorted(mine, key=lambda one: (-len(mine[one]), one))
    room = {member: share + (rank < over) for rank, member in enumerate(ranked)}
    kept = {member: mine[member][: room[member]] for member in mine}
    stays = {task for those in kept.values() for task in those}
    going = [task for task in range(tasks) if task not in stays]
    for member in ranked:
        left = room[member] - len(kept[member])
        kept[member] += [task for task in going[:left] if task not in held]
        going = going[left:]
    return {member: sorted(those) for member, those in kept.items()}


class TaskAssignor(AbstractPartitionAssignor):
    """Deals tasks to the members of a group."""

    name = "stream-detector-tasks"

    def __init__(
        self, owned: Callable[[], Iterable[TopicPartition]], assigned: Callable[[], None], cooperative: bool
    ) -> None:
        """`owned`: what this member owns now. `assigned` is called on the client's thread with every assignment."""
        self._owned = owned
        self._assigned = assigned
        self._cooperative = cooperative
        self._generation = -1

    def supported_protocols(self) -> list[RebalanceProtocol]:
        """Return the protocol this member keeps to; an eager one may be in a group with cooperative ones."""
        return [RebalanceProtocol.COOPERATIVE if self._cooperative else RebalanceProtocol.EAGER]

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return what the leader is told of this member: topics, what it owns, and since when."""
        found: dict[str, list[int]] = defaultdict(list)
        for partition in self._owned() if self._cooperative else ():
            found[partition.topic].append(partition.partition)
        return member_data(topics, found, self._generation)

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Note since when this member owns what it owns."""
        self._generation = generation
        self._assigned()

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """Deal; return by member id what it gets now. Topics are dealt together that the same members read."""
        told = {member.member_id: member.metadata for member in members}
        readers: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for topic in sorted({topic for one in told.values() for topic in one.topics}):
            readers[tuple(sorted(name for name, one in told.items() if topic in one.topics))].append(topic)
        dealt: dict[str, list[tuple[str, list[int]]]] = {name: [] for name in told}
        generations = {name: one.generation_id for name, one in told.items()}
        for names, topics in readers.items():
            counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
            owned = {
                name: {
                    index
                    for each in told[name].owned_partitions or ()
                    if each.topic in counts
                    for index in each.partitions
                }
                for name in names
            }
            for name, tasks in deal(max(counts.values()), owned, generations).items():
                dealt[name] += [
                    (topic, those)
                    for topic, count in counts.items()
                    if (those := [task for task in tasks if task < count])
                ]
        return {name: member_assignment(given) for name, given in dealt.items()}
