"""Alerts and dead letters as the messages they become."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.settings import plain, rights_translated, servers, translated
from stream_detector.codec import (
    DEAD_LETTER_HEADERS,
    alert_headers,
    dead_letter_headers,
    encode_alert,
    encode_audit,
)
from stream_detector.config import Config
from stream_detector.errors import BrokerError, BrokerRightsError
from stream_detector.types import Alert, Audit, DeadLetter

#: What the client or a broker says of a message that its topic doesn't take.
TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_OVERHEAD = 1_000  # bytes: headers, the objects around them, and what the client keeps of a message
_KEY_KEPT = 1_024  # bytes: an asset's id is at most 256 characters


class Outgoing(NamedTuple):
    """One message to write, kept until it is acknowledged."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    is_letter: bool

    @property
    def can_shrink(self) -> bool:
        """Whether it may go without its value: a dead letter must not stop the stream."""
        return self.is_letter and "dropped-bytes" not in (name for name, _ in self.headers[-1:])

    @property
    def size(self) -> int:
        """Bytes it takes in memory, about."""
        return _OVERHEAD + self.content

    @property
    def content(self) -> int:
        """Bytes of key, value and the message's own headers."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    def shrunk(self) -> Outgoing:
        """Return it without oversized parts and mark it so; the other headers locate the original."""
        own = self.headers[-len(DEAD_LETTER_HEADERS) :]
        key = self.key if self.key is not None and len(self.key) <= _KEY_KEPT else None
        small = self._replace(key=key, value=b"", headers=own)
        return small._replace(headers=[*own, ("dropped-bytes", b"%d" % (self.content - small.content))])


def outgoing(
    config: Config, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()
) -> list[Outgoing]:
    """Return the messages for alerts, entries of the audit topic and dead letters, published now."""
    now_ms = time.time_ns() // 1_000_000
    written = [
        Outgoing(config.alert_topic, alert.asset.encode(), encode_alert(alert), alert_headers(alert, now_ms), False)
        for alert in alerts
    ]
    for audit in audits:
        written.append(Outgoing(config.audit_topic, audit.asset.encode(), encode_audit(audit), [], False))
    for letter in dead_letters:
        key, value = letter.message.key, letter.message.value
        headers = _sendable(dead_letter_headers(letter))
        written.append(Outgoing(config.dead_letter_topic, key, value, headers, True))
    return written


def _sendable(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    """Return headers as the client can send them: a null value is empty."""
    return [(name, b"" if value is None else value) for name, value in headers]


def send(config: Config, producer: Any, one: Outgoing) -> Any:
    """Hand one message to the client and return its future. Raises BrokerError."""
    # The client takes no message with neither key nor value; an empty value is the nearest it can say.
    value = b"" if one.key is None and one.value is None else one.value
    with translated(config.kafka, f"writing to {one.topic}"):
        try:
            return producer.send(one.topic, value=value, key=one.key, headers=one.headers)
        except TOO_LARGE:
            if not one.can_shrink:
                raise
            small = one.shrunk()
            return producer.send(small.topic, value=small.value, key=small.key, headers=small.headers)


def not_written(config: Config, one: Outgoing, future: Any) -> BrokerError:
    """Return the error of a message that was not acknowledged."""
    if isinstance(future.exception, kafka_errors.KafkaError):
        try:
            with rights_translated(config.kafka, f"writing to {one.topic}"):
                raise future.exception
        except BrokerRightsError as error:
            return error
        except kafka_errors.KafkaError:
            pass
    why = plain(future.exception) if future.exception is not None else "no answer in time"
    return BrokerError(f"Kafka at {servers(config.kafka)}: writing to {one.topic} failed: {why}")
