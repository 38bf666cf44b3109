"""Readings onto the input topic while faults go on: as many as it is time for, each once, whatever happens to brokers.

Not by way of the product's writer: what lies on the topic must not depend on what is tested.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaProducer

from stream_detector.datasets.recording import Headers, Recording
from stream_detector.datasets.replay import Plan, schedule

_PATIENCE_MS = 600_000
_SLICE_S = 0.05
#: After so many readings comes a message that is none, each with a text of its own.
_BROKEN_EVERY = 500


#: Which channels go to which topic where there are two.
APART = (("vibration",), ("temperature", "current"))


class Sent(NamedTuple):
    """A message and where it goes."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers


def messages(recordings: Sequence[Recording], topics: Sequence[str], partitions: int) -> Iterator[Sent]:
    """Yield all messages in their order: readings side by side, each to its asset's partition, some that are none.

    Onto one topic, or onto two, each with channels of its own.
    """
    for count, (_, message) in enumerate(schedule(recordings, Plan(topics[0]), 0.0)):
        partition = zlib.crc32(message.key) % partitions
        if len(topics) == 1:
            yield Sent(topics[0], partition, message.key, message.value, message.headers)
        else:
            whole = json.loads(message.value)
            for topic, names in zip(topics, APART, strict=True):
                if values := {name: whole["values"][name] for name in names if name in whole["values"]}:
                    value = json.dumps({**whole, "values": values}).encode()
                    yield Sent(topic, partition, message.key, value, message.headers)
        if count % _BROKEN_EVERY == 0:
            yield Sent(topics[0], partition, message.key, b"broken %d" % (count // _BROKEN_EVERY), [])


def write_messages(recordings: Sequence[Recording], partitions: int, folder: Path) -> list[Path]:
    """Write the values of each partition's messages on one topic, one a line, in their order; return the paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.jsonl" for index in range(partitions)]
    with ExitStack() as closing:
        files = [closing.enter_context(path.open("wb")) for path in paths]
        for sent in messages(recordings, [""], partitions):
            files[sent.partition].write(sent.value + b"\n")
    return paths


class Feed:
    """Sends recordings side by side, each reading to its asset's partition; a thread of its own."""

    def __init__(
        self,
        bootstrap: list[str],
        topics: Sequence[str],
        partitions: int,
        recordings: Sequence[Recording],
        rate: float,
    ) -> None:
        """`rate`: messages a second at most. Nothing is sent before `allow`."""
        self.total = sum(1 for _ in messages(recordings, topics, partitions))
        self.sent = 0
        self.failure: BaseException | None = None
        self.digests = {(topic, index): hashlib.sha256() for topic in topics for index in range(partitions)}
        """Of the values of each topic's partitions in their order: what they must hold in the end."""
        self._recordings = recordings
        self._topics, self._partitions = topics, partitions
        self.rate = rate
        self._allowed = 0
        self._stopped = False
        self._producer: Any = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=20,
            delivery_timeout_ms=_PATIENCE_MS,
            max_block_ms=_PATIENCE_MS,
            reconnect_backoff_max_ms=1_000,
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
        for sent in messages(self._recordings, self._topics, self._partitions):
            while self.sent >= self._allowed and not self._stopped:
                time.sleep(_SLICE_S)
            if self._stopped or self.failure is not None:
                return
            self._put(sent)
            self.sent += 1
            if self.sent % max(1, int(self.rate * _SLICE_S)) == 0:
                time.sleep(_SLICE_S)

    def _put(self, sent: Sent) -> None:
        self.digests[sent.topic, sent.partition].update(sent.value)
        future = self._producer.send(
            sent.topic, value=sent.value, key=sent.key, headers=sent.headers, partition=sent.partition
        )
        future.add_errback(self._note)

    def _note(self, error: BaseException) -> None:
        self.failure = self.failure or error
