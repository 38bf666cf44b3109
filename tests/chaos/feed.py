"""Readings onto the input topic while faults go on: as many as it is time for, each once, whatever happens to brokers.

Not by way of the product's writer: what lies on the topic must not depend on what is tested.
"""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer

from producers.recording import Headers, Recording
from producers.replay import Plan, schedule

_PATIENCE_MS = 600_000
_SLICE_S = 0.05
#: After so many readings comes a message that is none, each with a text of its own.
_BROKEN_EVERY = 500


class Feed:
    """Sends recordings side by side, each reading to its asset's partition; a thread of its own."""

    def __init__(
        self, bootstrap: list[str], topic: str, partitions: int, recordings: Sequence[Recording], rate: float
    ) -> None:
        """`rate`: messages a second at most. Nothing is sent before `allow`."""
        self.total = sum(map(len, recordings))
        self.sent = 0
        self.failure: BaseException | None = None
        self.digests = [hashlib.sha256() for _ in range(partitions)]
        """Of the values of each partition in their order: what the topic must hold in the end."""
        self.broken: list[bytes] = []
        """Values of the messages that are no readings: what the dead-letter topic must hold in the end."""
        self._recordings = recordings
        self._topic = topic
        self._rate = rate
        self._allowed = 0
        self._stopped = False
        self._producer: Any = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=20,
            delivery_timeout_ms=_PATIENCE_MS, max_block_ms=_PATIENCE_MS, reconnect_backoff_max_ms=1_000,
            request_timeout_ms=10_000,
        )  # type: ignore[no-untyped-call]
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def allow(self, share: float) -> None:
        """Let so much of everything be sent."""
        self._allowed = max(self._allowed, min(self.total, round(share * self.total)))

    @property
    def done(self) -> bool:
        """Whether all is sent and acknowledged, or nothing more will be."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop."""
        self._stopped = True
        self._thread.join(_SLICE_S * 20)
        self._producer.close(timeout=0)

    def _run(self) -> None:
        try:
            self._send()
            if not self._stopped:
                self._producer.flush(timeout=_PATIENCE_MS / 1_000)
        except Exception as error:
            self.failure = self.failure or error

    def _send(self) -> None:
        for _, message in schedule(self._recordings, Plan(self._topic), 0.0):
            while self.sent >= self._allowed and not self._stopped:
                time.sleep(_SLICE_S)
            if self._stopped or self.failure is not None:
                return
            self._put(message.key, message.value, message.headers)
            if self.sent % _BROKEN_EVERY == 0:
                self.broken.append(b"broken %d" % len(self.broken))
                self._put(message.key, self.broken[-1], [])
            self.sent += 1
            if self.sent % max(1, int(self._rate * _SLICE_S)) == 0:
                time.sleep(_SLICE_S)

    def _put(self, key: bytes, value: bytes, headers: Headers) -> None:
        partition = zlib.crc32(key) % len(self.digests)
        self.digests[partition].update(value)
        future = self._producer.send(self._topic, value=value, key=key, headers=headers, partition=partition)
        future.add_errback(self._note)

    def _note(self, error: BaseException) -> None:
        self.failure = self.failure or error
