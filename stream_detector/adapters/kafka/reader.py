"""Follow a topic from outside any group: what the monitor, the demo and checks use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from kafka import TopicPartition

from stream_detector.adapters.kafka.settings import connect_consumer, translated
from stream_detector.adapters.kafka.topics import end_offsets, go_to_ends, wait_for_topic
from stream_detector.config import Config, KafkaConfig
from stream_detector.types import MessageBatch, Partition

_RECHECK_S = 1.0


class TopicReader:
    """Reads all partitions of one topic, committed messages only, from its beginning or from now on.

    A topic that doesn't exist yet is waited for: reads return nothing until it does, and then everything in it.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, from_beginning: bool) -> None:
        """Connect and take the place to start. Raises BrokerError, ConfigError."""
        self._kafka = kafka
        self._topic = topic
        self._next_check = 0.0
        self._assigned = False
        self._consumer = connect_consumer(kafka, fetch_max_wait_ms=100)
        try:
            self._look(from_beginning)
        except BaseException:
            self.close()
            raise

    def _look(self, from_beginning: bool) -> None:
        """Assign the topic's partitions if it exists."""
        count = wait_for_topic(self._kafka, self._topic, 0)
        self._next_check = time.monotonic() + _RECHECK_S
        if count is None:
            return
        partitions = [TopicPartition(self._topic, index) for index in range(count)]
        with translated(self._kafka, f"reading {self._topic}"):
            if from_beginning:
                self._consumer.assign(partitions)
                self._consumer.seek_to_beginning(*partitions)
            else:  # resolve the positions now: messages written after this are read, however late the first read
                go_to_ends(self._consumer, partitions)
        self._assigned = True

    def read(self, timeout_ms: int, max_messages: int = 500) -> list[MessageBatch]:
        """Return what is there; wait up to `timeout_ms` only when nothing is. Raises BrokerError."""
        deadline = time.monotonic() + timeout_ms / 1000
        while not self._assigned:
            if time.monotonic() >= self._next_check:
                self._look(from_beginning=True)  # all in a topic younger than this reader is news
                continue
            if time.monotonic() >= deadline:
                return []
            time.sleep(max(0.0, min(deadline, self._next_check) - time.monotonic()))
        with translated(self._kafka, f"reading {self._topic}"):
            polled = self._consumer.poll(
                timeout_ms=max(0.0, (deadline - time.monotonic()) * 1000), max_records=max_messages
            )
        return [MessageBatch(Partition(tp.topic, tp.partition), records) for tp, records in polled.items()]

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def __enter__(self) -> TopicReader:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def read_to_end(kafka: KafkaConfig, topic: str) -> Iterator[MessageBatch]:
    """Yield the committed messages that a topic holds now, each partition's in order.

    Raises ConfigError when there is no such topic, BrokerError.
    """
    ends = {place: end for place, end in end_offsets(kafka, [topic]).items() if end}
    idle = 0
    with TopicReader(kafka, topic, from_beginning=True) as reader:
        while ends and idle < 3:  # transactions' markers stand after the last message: the very end may not be read
            batches = reader.read(timeout_ms=500)
            idle = 0 if batches else idle + 1
            for batch in batches:
                yield batch
                if batch.messages[-1].offset + 1 >= ends.get(batch.partition, 0):
                    ends.pop(batch.partition, None)


class AlertRecord(NamedTuple):
    """An alert as published."""

    value: bytes
    headers: dict[str, bytes]
    partition: int
    offset: int


class AlertReader:
    """Reads the alerts of one configuration's stream, committed ones only."""

    def __init__(self, config: Config, from_beginning: bool) -> None:
        """Connect. Raises BrokerError, ConfigError."""
        self._reader = TopicReader(config.kafka, config.alert_topic, from_beginning)

    def read(self, timeout_ms: int) -> list[AlertRecord]:
        """Return what is there; wait up to `timeout_ms` only when nothing is. Raises BrokerError."""
        return [
            AlertRecord(message.value or b"", dict(message.headers), batch.partition.index, message.offset)
            for batch in self._reader.read(timeout_ms)
            for message in batch.messages
        ]

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()

    def __enter__(self) -> AlertReader:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()
