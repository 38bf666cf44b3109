"""Whether a broker keeps what exactly-once delivery needs; found out by trying, for some say they do and don't."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import end_transaction, send_offsets
from stream_detector.adapters.kafka.settings import (
    client_settings,
    connect_consumer,
    connect_producer,
    plain,
    rights_translated,
    servers,
)
from stream_detector.config import Config, KafkaConfig
from stream_detector.errors import BrokerError, ConfigError

_STEP_MS = 5_000
_METADATA = "sd1:probe"


def require_transactions(config: Config) -> None:
    """Raise ConfigError, saying what is lacking, unless the broker has real transactions. Raises BrokerError.

    Under a group of its own (`<group>#probe#…`, deleted at the end) it commits an offset and looks whether its
    metadata was kept, then aborts another together with a message on the dead-letter topic, and looks for both. Takes
    about half a second. A broker that fails the last look keeps that one message, marked `probe`.
    """
    kafka = config.kafka
    name = f"{config.group}#probe#{uuid.uuid4().hex[:12]}"  # not of a worker's form: see leftovers
    place = TopicPartition(config.inputs[0].topic, 0)
    lacking: str | None = None
    try:
        ids = f"s that begin with {config.group + '#'!r}"
        with _clients(kafka, name) as (producer, consumer), rights_translated(kafka, "trying transactions", ids):
            lacking = _lacking(producer, consumer, name, place, config.dead_letter_topic)
    except (kafka_errors.KafkaError, AttributeError, TypeError) as error:  # the last two: answers out of place
        if isinstance(error, kafka_errors.RetriableError):  # no answer, or not now: brokers that start, or are busy
            raise BrokerError(
                f"Kafka at {servers(kafka)}: trying its transactions failed: {plain(error)}; are all brokers up? "
                "Start again, or set `delivery: at_least_once` for a broker that has no transactions"
            ) from error
        lacking = f"it doesn't carry a transaction through: {plain(error)}"
    if lacking is not None:
        raise ConfigError(
            f"delivery: exactly_once can't be kept by the broker at {servers(kafka)}: {lacking}. "
            "Use Apache Kafka 2.5 or newer, or set `delivery: at_least_once`"
        )


def _lacking(producer: Any, consumer: Any, group: str, place: TopicPartition, topic: str) -> str | None:
    producer.init_transactions()
    producer.begin_transaction()
    _finish(producer, group, place, 7, committed=True)
    found = consumer.committed(place, metadata=True, timeout_ms=_STEP_MS)
    if found is None or found.offset != 7:
        return "offsets committed in a transaction are lost"
    if found.metadata != _METADATA:
        return "it drops the metadata of committed offsets"

    producer.begin_transaction()
    sent = producer.send(topic, value=b"", headers=[("error", b"probe")])
    written = sent.get(timeout=_STEP_MS / 1000)
    _finish(producer, group, place, 8, committed=False)
    if consumer.committed(place, timeout_ms=_STEP_MS) != 7:
        return "offsets of an aborted transaction count"
    if _readable(consumer, TopicPartition(topic, written.partition), written.offset):
        return "it shows messages of aborted transactions to `read_committed`"
    return None


def _finish(producer: Any, group: str, place: TopicPartition, offset: int, committed: bool) -> None:
    send_offsets(producer, {place: OffsetAndMetadata(offset, _METADATA, -1)}, group, _STEP_MS)
    end_transaction(producer, commit=committed, timeout_ms=_STEP_MS)


def _readable(consumer: Any, partition: TopicPartition, offset: int) -> bool:
    """Whether the message at `offset` can be read, once the broker has decided about it."""
    consumer.assign([partition])
    deadline = time.monotonic() + _STEP_MS / 1000
    while consumer.end_offsets([partition])[partition] <= offset and time.monotonic() < deadline:
        time.sleep(0.01)
    consumer.seek(partition, offset)
    records = consumer.poll(timeout_ms=200, max_records=1).get(partition, [])
    return any(record.offset == offset for record in records)


@contextmanager
def _clients(kafka: KafkaConfig, name: str) -> Iterator[tuple[Any, Any]]:
    times = {"max_block_ms": _STEP_MS, "delivery_timeout_ms": _STEP_MS, "request_timeout_ms": _STEP_MS}
    producer = connect_producer(kafka, transactional_id=name, linger_ms=0, retry_backoff_ms=5, **times)
    try:
        consumer = connect_consumer(kafka, group_id=name, fetch_max_wait_ms=50)
        try:
            yield producer, consumer
        finally:
            consumer.close(autocommit=False)
            with suppress(kafka_errors.KafkaError):  # without the right to, the group expires by itself
                admin: Any = KafkaAdminClient(**client_settings(kafka))  # type: ignore[no-untyped-call]
                try:
                    admin.delete_groups([name])
                finally:
                    admin.close()
    finally:
        with suppress(kafka_errors.KafkaError):
            producer.close(timeout=0)
