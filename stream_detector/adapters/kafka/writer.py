"""Send messages to topics: what producers use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from stream_detector.adapters.kafka.client_patches import track_topic
from stream_detector.adapters.kafka.settings import (
    REQUEST_TIMEOUT_MS,
    connect_producer,
    plain,
    servers,
    translated,
)
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError

_DELIVERY_TIMEOUT_MS = 30_000


class MessageWriter:
    """Writes messages in the order given, each once (idempotent producer), in large batches."""

    def __init__(self, kafka: KafkaConfig, client_id: str = "stream-detector-writer") -> None:
        """Connect. Raises BrokerError when no broker answers, ConfigError when a secret can't be read."""
        self._kafka = kafka
        self._lock = threading.Lock()
        self._topics: set[str] = set()
        self._failed = 0
        self._first: BaseException | None = None
        self._producer = connect_producer(
            kafka,
            client_id=client_id,
            linger_ms=10,
            batch_size=131_072,
            delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
            max_block_ms=_DELIVERY_TIMEOUT_MS,
        )

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> None:
        """Buffer one message. Blocks while the buffer is full; failures show at the next `flush`.

        Raises BrokerError when the topic doesn't come up within 30 s.
        """
        with translated(self._kafka, f"writing to {topic}"):
            if topic not in self._topics:
                track_topic(self._producer, topic)
                self._topics.add(topic)
            future: Any = self._producer.send(
                topic, value=value, key=key, headers=list(headers), timestamp_ms=timestamp_ms, partition=partition
            )
        future.add_errback(self._note)

    def _note(self, error: BaseException) -> None:
        with self._lock:  # called on the client's thread
            self._failed += 1
            self._first = self._first or error

    def flush(self) -> None:
        """Return once all messages are acknowledged. Raises BrokerError: how many failed, and why the first did."""
        with translated(self._kafka, "writing"):
            self._producer.flush(timeout=(_DELIVERY_TIMEOUT_MS + REQUEST_TIMEOUT_MS) / 1000)
        with self._lock:
            failed, first = self._failed, self._first
            self._failed, self._first = 0, None
        if first is not None:
            raise BrokerError(f"Kafka at {servers(self._kafka)}: {failed} messages were not written: {plain(first)}")

    def close(self) -> None:
        """Flush and let go. Raises BrokerError like `flush`."""
        try:
            self.flush()
        finally:
            self._producer.close(timeout=1)

    def __enter__(self) -> MessageWriter:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Flush and close; after an error, only close."""
        if kind is None:
            self.close()
        else:
            self._producer.close(timeout=1)
