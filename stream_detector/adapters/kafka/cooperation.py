"""What the client (kafka-python 3.0.12) lacks for rebalances that disturb little, added to one consumer.

- A join that ends while the caller is not in `poll` is forgotten, and the group joined once more: a group of busy
  members is never at rest.
- While the group is joined anew `poll` returns nothing, of partitions that stay (KIP-429) either.
- A member that learns in the middle of a join that it was put out joins as a new one, keeping partitions that others
  may have got meanwhile.
"""

from __future__ import annotations

from typing import Any

#: So long a poll waits for the join before it looks for messages, ms.
_JOIN_WAIT_MS = 10


def joining(consumer: Any) -> bool:
    """Whether this member is joining its group anew.

    It begins and ends in `poll` only. In between the group may go on to its next generation at any moment, and offsets
    of this member's last one are refused.
    """
    return bool(consumer._coordinator.rejoining)


def put_out(consumer: Any) -> bool:
    """Whether the group has gone on without this member, as far as it knows."""
    return bool(consumer._coordinator._generation.is_lost())


def keep_joins(consumer: Any) -> None:
    """Let the next poll have the outcome of a join that ended since the last one."""
    coordinator = consumer._coordinator
    join = coordinator.join_group_async

    async def join_or_take_outcome(timeout_ms: float | None = None) -> Any:
        ended = coordinator._join_task
        if ended is not None and ended.is_done:

            def outcome() -> Any:
                if ended.exception is not None:
                    raise ended.exception
                return ended.value

            coordinator._join_task = coordinator._manager.call_soon(outcome)  # done once the loop turns: waited for
        return await join(timeout_ms=timeout_ms)

    coordinator.join_group_async = join_or_take_outcome


def cooperate(consumer: Any) -> None:
    """Let this consumer read on during a join, and give up all it had once it knows that it was put out."""
    coordinator = consumer._coordinator
    poll, reset_generation = coordinator.poll, coordinator.reset_generation

    def poll_and_read_on(timeout_ms: float | None = None) -> bool:
        if put_out(consumer) or not consumer.assignment() or not coordinator.need_rejoin():
            return bool(poll(timeout_ms=timeout_ms))
        poll(timeout_ms=_JOIN_WAIT_MS if timeout_ms is None else min(timeout_ms, _JOIN_WAIT_MS))
        return True

    def reset_and_begin_anew(*args: Any, **kwargs: Any) -> None:
        reset_generation(*args, **kwargs)
        coordinator.rejoining = False  # so that the next attempt begins with giving up what it had

    coordinator.poll, coordinator.reset_generation = poll_and_read_on, reset_and_begin_anew
