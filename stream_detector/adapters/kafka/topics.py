"""Topics: how many partitions they have, making them, where they end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.settings import client_settings, connect_consumer, plain, servers, translated
from stream_detector.config import Config, KafkaConfig
from stream_detector.errors import BrokerError, BrokerRightsError, ConfigError
from stream_detector.types import Partition

_READY_TIMEOUT_S = 15.0


@contextmanager
def _admin(kafka: KafkaConfig, doing: str) -> Iterator[Any]:
    with translated(kafka, doing):
        client: Any = KafkaAdminClient(**client_settings(kafka))  # type: ignore[no-untyped-call]  # ships no types
        try:
            yield client
        finally:
            client.close()


def partition_counts(kafka: KafkaConfig, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each topic that exists; never creates one. Raises BrokerError."""
    with _admin(kafka, "looking up topics") as client:
        return _counts(client, list(topics))


def _counts(client: Any, topics: list[str]) -> dict[str, int]:
    counts = {}
    for topic in client.describe_topics(topics):
        code, name = topic["error_code"], topic["name"]
        if code in (kafka_errors.UnknownTopicOrPartitionError.errno, kafka_errors.LeaderNotAvailableError.errno):
            continue
        if code == kafka_errors.TopicAuthorizationFailedError.errno:
            raise BrokerRightsError(
                f"this user may not see the topic {name!r}; grant DESCRIBE on it, or what it is for (READ, WRITE). "
                "`stream-detector check CONFIG --rights` prints the rights to grant"
            )
        if code == kafka_errors.InvalidTopicError.errno:
            raise ConfigError(f"{name!r} is no valid topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'")
        if code:
            raise _error(code)
        counts[name] = len(topic["partitions"])
    return counts


def _error(code: int) -> kafka_errors.KafkaError:
    error: kafka_errors.KafkaError = kafka_errors.for_code(code)()  # type: ignore[no-untyped-call]  # ships no types
    return error


def ensure_topics(kafka: KafkaConfig, topics: Mapping[str, int], **settings: str) -> None:
    """Create the topics that are missing, with the given partition count and the broker's default replication.

    `settings` are the new topics' own, underscores for dots (`message_timestamp_type="LogAppendTime"`).
    Existing topics are not changed, regardless of their partition count. Returns once every partition has a leader.
    Raises BrokerError.
    """
    with _admin(kafka, "creating topics") as client:
        known = _counts(client, list(topics))
        missing = {name: count for name, count in topics.items() if name not in known}
        if missing:
            configs = {name.replace("_", "."): value for name, value in settings.items()}
            answer = client.create_topics(
                # Replication -1: what the broker's operator chose as default.
                {
                    name: {"num_partitions": count, "replication_factor": -1, "configs": configs}
                    for name, count in missing.items()
                },
                raise_errors=False,
            )
            for topic in answer["topics"]:
                code = topic["error_code"]
                if code not in (0, kafka_errors.TopicAlreadyExistsError.errno):
                    reason = topic.get("error_message") or plain(_error(code))
                    raise BrokerError(f"Kafka at {servers(kafka)}: can't create topic {topic['name']!r}: {reason}")
        client.wait_for_topics(list(topics), timeout_ms=_READY_TIMEOUT_S * 1000)


def require_topics(kafka: KafkaConfig, topics: list[str]) -> dict[str, int]:
    """Return the partition counts; raises ConfigError naming each topic that doesn't exist."""
    counts = partition_counts(kafka, topics)
    if missing := [name for name in topics if name not in counts]:
        raise ConfigError(
            f"Kafka at {servers(kafka)} has no topic {', '.join(map(repr, missing))}; "
            "create it (its partitions set the most workers that can share the work) or run with --create-topics"
        )
    return counts


def require_all_topics(config: Config) -> None:
    """Raise ConfigError when a topic that a worker reads or writes doesn't exist: each write would wait in vain."""
    audited = [config.audit_topic] if config.audit else []
    wanted = [*(entry.topic for entry in config.inputs), config.alert_topic, config.dead_letter_topic, *audited]
    counts = partition_counts(config.kafka, wanted)
    if missing := [name for name in wanted if name not in counts]:
        hint = "; or set audit: false" if missing == audited else ""
        raise ConfigError(
            f"Kafka at {servers(config.kafka)} has no topic {', '.join(map(repr, missing))}; create it (the partitions "
            f"of the input set the most workers that can share the work) or run with --create-topics{hint}"
        )


def end_offsets(kafka: KafkaConfig, topics: Iterable[str]) -> dict[Partition, int]:
    """Return where each partition of the topics ends: one past its last committed message.

    Raises ConfigError when a topic is missing, BrokerError.
    """
    counts = require_topics(kafka, list(topics))
    consumer = connect_consumer(kafka, fetch_max_wait_ms=50)
    with translated(kafka, "looking up end offsets"):
        try:
            partitions = [TopicPartition(topic, index) for topic, count in counts.items() for index in range(count)]
            ends = go_to_ends(consumer, partitions)
        finally:
            consumer.close()
    return {Partition(tp.topic, tp.partition): offset for tp, offset in ends.items()}


def first_offsets(kafka: KafkaConfig, topic: str) -> dict[int, int]:
    """Return by partition the oldest offset that retention has left of a topic; 0: nothing was taken.

    Raises ConfigError when the topic is missing, BrokerError.
    """
    count = require_topics(kafka, [topic])[topic]
    consumer = connect_consumer(kafka, fetch_max_wait_ms=50)
    with translated(kafka, "looking up first offsets"):
        try:
            found = consumer.beginning_offsets([TopicPartition(topic, index) for index in range(count)])
        finally:
            consumer.close()
    return {place.partition: offset for place, offset in found.items()}


def go_to_ends(consumer: Any, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Assign the partitions to the consumer, leave it at their ends, and return those.

    It looks whether there is something after what the broker calls the end: Tansu answers with the first offset of
    the last batch plus one.
    """
    consumer.assign(partitions)
    ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
    for partition, end in ends.items():
        consumer.seek(partition, end)
    deadline = time.monotonic() + 2  # of a busy topic no end is the last
    while time.monotonic() < deadline and (polled := consumer.poll(timeout_ms=150)):
        ends.update({partition: records[-1].offset + 1 for partition, records in polled.items()})
    return ends


def wait_for_topic(kafka: KafkaConfig, topic: str, timeout_s: float) -> int | None:
    """Return the topic's partition count once it exists, None when it doesn't within the time. Raises BrokerError."""
    deadline = time.monotonic() + timeout_s
    with _admin(kafka, "looking up topics") as client:
        while (count := _counts(client, [topic]).get(topic)) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(min(0.2, timeout_s))
    return count
