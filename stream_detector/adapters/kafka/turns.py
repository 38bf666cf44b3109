"""Partitions that are far behind take turns with those that are not.

The client returns fetched messages partition by partition, megabytes of one before the first message of the next: a
worker that catches up with a day's backlog would starve its other partitions meanwhile. So at a fixed interval one poll
skips the partitions that are far behind; messages already fetched from them are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition

#: Lag, in messages, from which a partition counts as far behind.
FAR = 10_000
#: One poll in this number is for the partitions that are not.
EVERY = 8


class Turns:
    """Decides which partitions a poll reads."""

    def __init__(self) -> None:
        """Start with a poll of all partitions."""
        self._count = 0

    def due(self) -> bool:
        """Whether this poll is for partitions that are not far behind, if there are both kinds."""
        self._count = (self._count + 1) % EVERY
        return self._count == 0

    def poll(self, consumer: Any, lag: Mapping[TopicPartition, int], most: int) -> Any:
        """Return at most `most` messages of the partitions that are not far behind, without waiting; perhaps none."""
        paused = consumer.paused()
        far = [name for name, behind in lag.items() if behind > FAR and name not in paused]
        if not far or len(far) + len(paused) >= len(consumer.assignment()):
            return {}
        consumer.pause(*far)
        try:
            return consumer.poll(timeout_ms=0, max_records=most)
        finally:
            consumer.resume(*consumer.assignment().intersection(far))  # a poll may end with other partitions
