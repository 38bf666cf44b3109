"""Recordings without a broker: the windows to train on, and backtests that run the very stages a worker runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config, InputConfig
from stream_detector.memory import MemoryLog, MemorySink, MemorySource
from stream_detector.memory_store import MemoryServer, MemoryStore
from stream_detector.metrics import Metrics
from stream_detector.pipeline import Pipeline, Scores
from stream_detector.records import AssetState, MessageBatch, Partition, PlainMessage, WindowBatch
from stream_detector.window import Windower

TOPIC = "recording"
_CHUNK = 4_000  # messages at a time


class Encoded(NamedTuple):
    """A reading as it would lie on a topic."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def offline(config: Config, batch: int = _CHUNK) -> Config:
    """Return the set-up reading one topic in memory, with the standard field names, instead of the configured ones."""
    topic = InputConfig(topic=TOPIC, max_message_bytes=2**31)
    kafka = config.kafka.model_copy(update={"inputs": [topic], "max_poll_records": batch})
    return config.model_copy(update={"kafka": kafka, "delivery": "at_least_once"})  # of one that never fails


def windows(config: Config, messages: Iterable[Encoded]) -> Iterator[WindowBatch]:
    """Yield the windows of recorded readings, cut as a worker would cut them; unusable readings are left out."""
    config = offline(config)
    decoder = ReadingDecoder(config.inputs[0], config.channels)
    windower = Windower(config.window, config.channels, 0, [TOPIC])
    partition = Partition(TOPIC, 0)
    for chunk in _chunks(messages):
        readings, _ = decoder.decode(MessageBatch(partition, chunk))
        if readings is None:
            continue
        found, _ = windower.push(readings)
        if found is not None:
            yield found


class Backtest:
    """A worker in memory: the same pipeline on a memory log, sink and store. Its clock stands still."""

    def __init__(
        self, config: Config, scorer: Scores, calibrations: list[NDArray[np.float64]], batch: int = _CHUNK
    ) -> None:
        """`batch`: most messages in a poll; results don't depend on it."""
        self._config = offline(config, batch)
        self._log = MemoryLog({TOPIC: 1})
        source = MemorySource(self._log, [TOPIC])
        self._sink = MemorySink(self._log, source, config.alert_topic, config.dead_letter_topic)
        self._offset = 0
        self._seen = [0, 0]  # alerts, dead letters handed out
        self.metrics = Metrics()
        self._store = MemoryStore(MemoryServer())
        self.pipeline = Pipeline(
            self._config, source, self._sink, self._store, scorer, calibrations, self.metrics,
            clock_ms=lambda: 0.0, wall_ms=lambda: -1.0,
        )  # fmt: skip
        self.pipeline.open()

    def run(self, messages: Iterable[Encoded]) -> Iterator[bytes]:
        """Take readings through all stages; yield the alerts, the very bytes a worker would publish."""
        for chunk in _chunks(messages):
            for message in chunk:
                self._log.append(Partition(TOPIC, 0), message.key, message.value, message.headers)
            while self.pipeline.step(0):
                pass
            self.pipeline.commit()
            published = self._sink.alerts
            for alert in published[self._seen[0] :]:
                assert alert.value is not None
                yield alert.value
            self._seen[0] = len(published)

    def states(self) -> Iterator[tuple[str, AssetState]]:
        """Yield each asset with its state after all that was run."""
        yield from ((asset, state) for _, asset, state in self._store.assets())

    @property
    def dead_letters(self) -> int:
        """How many messages could not be used."""
        return len(self._sink.dead_letters)


def _chunks(messages: Iterable[Encoded]) -> Iterator[list[PlainMessage]]:
    offset = 0
    source = iter(messages)
    while chunk := list(islice(source, _CHUNK)):
        yield [PlainMessage(offset + i, -1, one.key, one.value, one.headers) for i, one in enumerate(chunk)]
        offset += len(chunk)
