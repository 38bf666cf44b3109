"""Who processes which task: the partition assignor of the workers' group.

A task is one partition number of all input topics. Tasks are assigned, not partitions, so the partitions with the same
number always stay together. The assignment is sticky: of n tasks and k workers each gets n/k, rounded up or down, and
only the surplus moves.

Both rebalance protocols are supported. Cooperative (KIP-429): a joining worker reports the tasks it owns, and a task
owned by another worker is not assigned to its new worker yet; its owner revokes it first and rejoins. Eager: a worker
has revoked all its tasks before it joins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol

from stream_detector.adapters.kafka.client_patches import member_assignment, member_data


def deal(tasks: int, owned: Mapping[str, Iterable[int]], generations: Mapping[str, int]) -> dict[str, list[int]]:
    """Assign tasks 0 to `tasks` - 1 to members; return each member's tasks in ascending order.

    `owned`: the tasks each member owns now (none: an empty list). `generations`: the group generation in which the
    member got them. If two members claim the same task, the newer generation wins; of equal generations neither does.
    Tasks that their owner has to revoke first are left out; call again once they are revoked.
    """
    owner: dict[int, str] = {}
    held: set[int] = set()  # by any member: not assigned to another one before it is revoked
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
    # The members with the most tasks keep the extra ones, so that the fewest tasks move.
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
    """Assigns tasks to the members of a consumer group."""

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
        """Return the protocol this member follows; an eager member may share a group with cooperative ones."""
        return [RebalanceProtocol.COOPERATIVE if self._cooperative else RebalanceProtocol.EAGER]

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return what the leader gets from this member: topics, owned partitions and their generation."""
        found: dict[str, list[int]] = defaultdict(list)
        for partition in self._owned() if self._cooperative else ():
            found[partition.topic].append(partition.partition)
        return member_data(topics, found, self._generation)

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Record the generation in which this member got its partitions."""
        self._generation = generation
        self._assigned()

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """Return each member's assignment by member id. Topics with the same subscribers are assigned together."""
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
