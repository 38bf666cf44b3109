"""Partitions that are far behind take turns with those that are not.

The client hands out what it has fetched partition by partition, megabytes of one before the first message of the next:
a worker that catches up with a day's backlog would leave its other partitions waiting for as long as that takes. So
every so many polls those far behind stand back for one, and what was fetched of them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition

#: Messages from which on a partition is far behind.
FAR = 10_000
#: One poll in so many is for the partitions that are not.
EVERY = 8


class Turns:
    """Whose turn a poll is."""

    def __init__(self) -> None:
        """Everybody's."""
        self._count = 0

    def due(self) -> bool:
        """Whether this poll is for partitions that are not far behind, if there are both kinds."""
        self._count = (self._count + 1) % EVERY
        return self._count == 0

    def poll(self, consumer: Any, lag: Mapping[TopicPartition, int], most: int) -> Any:
        """Return at most so many messages of the partitions that are not far behind, without waiting; perhaps none."""
        paused = consumer.paused()
        far = [name for name, behind in lag.items() if behind > FAR and name not in paused]
        if not far or len(far) + len(paused) >= len(consumer.assignment()):
            return {}
        consumer.pause(*far)
        try:
            return consumer.poll(timeout_ms=0, max_records=most)
        finally:
            consumer.resume(*consumer.assignment().intersection(far))  # a poll may end with other partitions
