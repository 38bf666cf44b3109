"""Alerts and dead letters out, at least once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import track_topic
from stream_detector.adapters.kafka.outgoing import TOO_LARGE, Outgoing, not_written, outgoing, send
from stream_detector.adapters.kafka.settings import REQUEST_TIMEOUT_MS, connect_producer
from stream_detector.adapters.kafka.source import KafkaSource
from stream_detector.config import Config
from stream_detector.errors import BrokerError
from stream_detector.types import Alert, Audit, DeadLetter, Partition, Position

_RETRY = BrokerError()  # a mark, never raised


class KafkaSink:
    """`ports.Sink` on Kafka, at least once.

    What was written is kept until the broker has acknowledged it. After a failed `flush` the next one sends again from
    the first message that failed, in order, so an outage costs repeats (with the same ids) and loses nothing.
    """

    def __init__(self, config: Config, source: KafkaSource, delivery_timeout_ms: int = 10_000) -> None:
        """Connect. A message not acknowledged within `delivery_timeout_ms` fails the flush. Raises BrokerError."""
        self._config = config
        self._source = source
        self._timeout_ms = delivery_timeout_ms
        self._topics: set[str] = set()
        self._unsent: list[Outgoing] = []
        self._sent: list[tuple[Outgoing, Any]] = []
        self._size = 0  # bytes of both
        self._producer: Any = None
        self._connect()

    def _connect(self) -> None:
        self._producer = connect_producer(
            self._config.kafka,
            linger_ms=0,  # a commit flushes anyway; until then the sender batches what is waiting
            delivery_timeout_ms=self._timeout_ms,
            max_block_ms=self._timeout_ms,
            request_timeout_ms=min(REQUEST_TIMEOUT_MS, self._timeout_ms),
        )

    def _disconnect(self) -> None:
        """Let the producer go; the next message connects another."""
        producer, self._producer = self._producer, None
        self._topics.clear()
        if producer is not None:
            producer.close(timeout=0)

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()) -> None:
        """Buffer for sending. Blocks only while the client's buffer is full.

        A broker that is away is `flush`'s to report.
        """
        written = outgoing(self._config, alerts, dead_letters, audits)
        self._size += sum(one.size for one in written)
        self._unsent += written
        with suppress(BrokerError):  # kept: flush tries again and reports it
            self._send()

    def waiting_bytes(self) -> int:
        """Return the size of what was written since the last flush that went through."""
        return self._size

    def _send(self) -> None:
        """Hand everything unsent to the client, in order."""
        if self._unsent and self._producer is None:
            self._connect()
        for done, record in enumerate(self._unsent):
            if record.topic not in self._topics:
                track_topic(self._producer, record.topic)
                self._topics.add(record.topic)
            try:
                future = send(self._config, self._producer, record)
            except BrokerError:
                del self._unsent[:done]
                raise
            self._sent.append((record, future))
        self._unsent.clear()

    def flush(self) -> None:
        """Return once all that was written is acknowledged. Raises BrokerError when it can't be; call again to retry.

        A dead letter that its topic finds too large goes without its value (header `dropped-bytes`): it must not stop
        the stream.
        """
        self._send()
        while (error := self._settle()) is not None:
            if error is not _RETRY:
                raise error
            self._send()

    def _settle(self) -> BrokerError | None:
        """Wait for the answers; put what failed, and all after it, back in line. None when nothing failed."""
        if self._producer is None:
            return None
        with suppress(kafka_errors.KafkaTimeoutError):  # the messages say it themselves
            self._producer.flush(timeout=(self._timeout_ms + REQUEST_TIMEOUT_MS) / 1000)
        failed = next((i for i, (_, future) in enumerate(self._sent) if not future.succeeded()), None)
        if failed is None:
            self._sent.clear()
            self._size = 0
            return None
        record, future = self._sent[failed]
        again = [entry for entry, _ in self._sent[failed:]]
        self._sent.clear()
        self._unsent[:0] = again
        error = not_written(self._config, record, future)
        if not getattr(future.exception, "retriable", True):
            self._disconnect()  # the broker's refusal of one message ends an idempotent producer, and all it holds
        letters = [i for i, one in enumerate(again) if one.can_shrink]
        if isinstance(future.exception, TOO_LARGE) and letters:
            # All messages not acknowledged fail with the error of one of them: it must be the largest.
            largest = max(letters, key=lambda i: again[i].content)
            self._unsent[largest] = again[largest].shrunk()
            return _RETRY
        return error

    def abort(self) -> None:
        """Forget what was not sent yet; what was stays: consumers drop repeats by id."""
        self._unsent.clear()
        self._sent.clear()
        self._size = 0

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commit the positions to the group. Call only after `flush`.

        Raises FencedError when another worker owns the partitions, BrokerError.
        """
        self._source.commit(positions)

    def close(self) -> None:
        """Flush what can be flushed and let go."""
        try:
            self.flush()
        except BrokerError:
            pass  # not committed, so a restart says it again
        finally:
            self._disconnect()
