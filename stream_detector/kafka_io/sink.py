"""Alerts and dead letters out, and the commit that ties them to the input's offsets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from stream_detector.codec import alert_headers, dead_letter_headers, encode_alert
from stream_detector.config import Config
from stream_detector.errors import BrokerError
from stream_detector.kafka_io.settings import REQUEST_TIMEOUT_MS, connect_producer, plain, servers, translated
from stream_detector.kafka_io.source import KafkaSource
from stream_detector.records import Alert, DeadLetter, Partition, Position

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_RETRY = BrokerError()  # a mark, never raised
_KEY_KEPT = 1_024  # bytes: an asset's id is at most 256 characters


class _Record(NamedTuple):
    """One message to write, kept until it is acknowledged."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]

    def emptied(self) -> _Record:
        """Return it without what is too large, saying so; the other headers tell where the original is."""
        size = f"{len(self.key or b'') + len(self.value or b'')}".encode()
        key = self.key if self.key is not None and len(self.key) <= _KEY_KEPT else None
        return self._replace(key=key, value=b"", headers=[*self.headers, ("dropped-bytes", size)])


class KafkaSink:
    """`ports.Sink` on Kafka, at least once.

    What was written is kept until the broker has acknowledged it. After a failed `flush` the next one sends again from
    the first message that failed, in order, so an outage costs repeats (with the same ids) and loses nothing.
    """

    def __init__(self, config: Config, source: KafkaSource, delivery_timeout_ms: int = 10_000) -> None:
        """Connect. A message not acknowledged within `delivery_timeout_ms` fails the flush. Raises BrokerError."""
        self._kafka = config.kafka
        self._alert_topic = config.alert_topic
        self._dead_letter_topic = config.dead_letter_topic
        self._source = source
        self._timeout_s = delivery_timeout_ms / 1000
        self._unsent: list[_Record] = []
        self._sent: list[tuple[_Record, Any]] = []
        self._producer = connect_producer(
            config.kafka,
            linger_ms=0,  # a commit flushes anyway; until then the sender batches what is waiting
            delivery_timeout_ms=delivery_timeout_ms,
            max_block_ms=delivery_timeout_ms,
            request_timeout_ms=min(REQUEST_TIMEOUT_MS, delivery_timeout_ms),
        )

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter]) -> None:
        """Buffer for sending. Blocks only while the client's buffer is full.

        A broker that is away is `flush`'s to report.
        """
        now_ms = time.time_ns() // 1_000_000
        self._unsent += [
            _Record(self._alert_topic, alert.asset.encode(), encode_alert(alert), alert_headers(alert, now_ms))
            for alert in alerts
        ]
        self._unsent += [
            _Record(self._dead_letter_topic, letter.message.key, letter.message.value, dead_letter_headers(letter))
            for letter in dead_letters
        ]
        with suppress(BrokerError):  # kept: flush tries again and reports it
            self._send()

    def _send(self) -> None:
        """Hand everything unsent to the client, in order."""
        for done, record in enumerate(self._unsent):
            try:
                future = self._send_one(record)
            except BrokerError:
                del self._unsent[:done]
                raise
            self._sent.append((record, future))
        self._unsent.clear()

    def _send_one(self, record: _Record) -> Any:
        # The client takes no message with neither key nor value; an empty value is the nearest it can say.
        value = b"" if record.key is None and record.value is None else record.value
        with translated(self._kafka, f"writing to {record.topic}"):
            try:
                return self._producer.send(record.topic, value=value, key=record.key, headers=record.headers)
            except _TOO_LARGE:
                if record.topic != self._dead_letter_topic or not record.value:
                    raise
                small = record.emptied()
                return self._producer.send(small.topic, value=small.value, key=small.key, headers=small.headers)

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
        with suppress(kafka_errors.KafkaTimeoutError):  # the messages say it themselves
            self._producer.flush(timeout=self._timeout_s + REQUEST_TIMEOUT_MS / 1000)
        failed = next((i for i, (_, future) in enumerate(self._sent) if not future.succeeded()), None)
        if failed is None:
            self._sent.clear()
            return None
        record, future = self._sent[failed]
        again = [entry for entry, _ in self._sent[failed:]]
        self._sent.clear()
        error = future.exception
        if isinstance(error, _TOO_LARGE) and record.topic == self._dead_letter_topic and record.value:
            again[0] = record.emptied()
            self._unsent[:0] = again
            return _RETRY
        self._unsent[:0] = again
        why = plain(error) if error is not None else "no answer in time"
        return BrokerError(f"Kafka at {servers(self._kafka)}: writing to {record.topic} failed: {why}")

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
            self._producer.close(timeout=1)
