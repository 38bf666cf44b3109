"""Recordings without a broker: windows for training, and backtests that run the same stages as a worker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.codec import ReadingDecoder
from stream_detector.config import Config, InputConfig
from stream_detector.errors import DataError
from stream_detector.ports import TaskState
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import (
    AssetState,
    DeadLetter,
    LivenessEvent,
    MessageBatch,
    ModelRef,
    NotJudged,
    Partition,
    PlainMessage,
    ReadingBatch,
    WindowBatch,
)
from stream_detector.windowing.channel_profile import ChannelProfile
from stream_detector.windowing.jumps import Jumps
from stream_detector.windowing.records import RecordsWindower
from stream_detector.worker.batching import no_windows
from stream_detector.worker.pipeline import Pipeline
from stream_detector.worker.slices import Scores, Watch
from stream_detector.worker.task import Task, make_windower

log = logging.getLogger(__name__)

TOPIC = "recording"
_CHUNK = 4_000  # messages at a time


class Encoded(NamedTuple):
    """A reading as a message on a topic."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


def offline(config: Config, batch: int = _CHUNK, as_sent: bool = False) -> Config:
    """Return the configuration with one topic in memory, with the standard field names, as its only input.

    `as_sent`: keep the field names and the format of the first configured input.
    """
    topic = InputConfig(topic=TOPIC, max_message_bytes=2**31)
    if as_sent:
        topic = config.inputs[0].model_copy(update={"topic": TOPIC})
    kafka = config.kafka.model_copy(update={"inputs": [topic], "max_poll_records": batch})
    return config.model_copy(update={"kafka": kafka, "delivery": "at_least_once"})  # the memory log never fails


def windows(config: Config, messages: Iterable[Encoded]) -> Iterator[WindowBatch]:
    """Yield the windows of recorded readings, cut as a worker would cut them.

    Unusable readings are skipped and logged. Raises DataError, with the reasons, when more than half are unusable: the
    rest would be too incomplete a history to learn from.
    """
    config, unusable = offline(config), _Unusable()
    decoder = ReadingDecoder(config.inputs[0], config.channels)
    windower = make_windower(config, 0)
    jumps = None if isinstance(windower, RecordsWindower) else Jumps(config.window, windower.hold_ms, windower.clock_of)
    for chunk in _chunks(messages):
        readings, dead = decoder.decode(MessageBatch(Partition(TOPIC, 0), chunk))
        if readings is None:
            pieces: list[ReadingBatch | DeadLetter] = []
        else:
            pieces = [readings] if jumps is None else [piece.what for piece in jumps.push(readings)]
        for piece in pieces:
            if isinstance(piece, DeadLetter):
                dead.append(piece)
                continue
            found, late = windower.push(piece)
            dead += late
            if found is not None:
                yield found
        unusable.count(dead, len(chunk))
    unusable.report()


def followed(
    config: Config, messages: Iterable[Encoded], usual_gap_ms: float = 0.0
) -> Iterator[tuple[WindowBatch, list[LivenessEvent]]]:
    """Yield windows as `windows` does, each batch with the liveness events before it, as in a worker.

    The last batch may be empty, for events after the last window. `usual_gap_ms`: longest pause in the training data.
    """
    config, unusable = offline(config), _Unusable()
    decoders = {entry.topic: ReadingDecoder(entry, config.channels) for entry in config.inputs}
    task = Task(config, 0, 0, TaskState({}, 0, {}), {}, decoders=decoders, usual_gap_ms=usual_gap_ms)
    events: list[LivenessEvent] = []
    for chunk in _chunks(messages):
        cut = task.take(MessageBatch(Partition(TOPIC, 0), chunk))
        unusable.count(cut.dead, len(chunk))
        for place, (batch, _) in enumerate(cut.windows):
            events += [event for at, event, _ in cut.liveness if at == place]
            yield batch, events
            events = []
        events += [event for at, event, _ in cut.liveness if at == len(cut.windows)]
    if events:
        yield no_windows(0), events
    unusable.report()


class _Unusable:
    """Counts readings that can't be used, with their reasons."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._total = 0

    def count(self, dead: Iterable[DeadLetter], messages: int) -> None:
        """Count the dead letters among `messages` messages."""
        self._total += messages
        for letter in dead:
            self._reasons[letter.code] += 1
            self._examples.setdefault(letter.code, letter.detail)

    def report(self) -> None:
        """Log the unusable readings. Raises DataError when they are more than half of all."""
        count, total = self._reasons.total(), self._total
        if not count:
            return
        reasons = "; ".join(
            f"{count} {code}, such as: {self._examples[code]}" for code, count in self._reasons.most_common()
        )
        if count > total / 2:
            raise DataError(f"{count} of {total} readings can't be used: {reasons}")
        log.warning("%d of %d readings can't be used: %s", count, total, reasons)


class Backtest:
    """A worker in memory: the same pipeline on a memory log, sink and store, with a constant clock."""

    def __init__(
        self,
        config: Config,
        scorer: Scores,
        calibrations: list[NDArray[np.float64]],
        *,
        batch: int = _CHUNK,
        profiles: Sequence[ChannelProfile | None] = (),
        model_of: Callable[[str], ModelRef | None] = lambda _: None,
        partitions: int = 1,
        as_sent: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """`batch`: maximum number of messages per poll; results don't depend on it.

        `profiles`, `model_of`, `watch`: as for a `Pipeline`. `partitions`: number of partitions of the input topic.
        `as_sent`: messages have the field names and the format of the first configured input.
        """
        self._config = offline(config, batch, as_sent)
        self._log = MemoryLog({TOPIC: partitions})
        source = MemorySource(self._log, [TOPIC])
        self._sink = MemorySink(
            self._log, source, config.alert_topic, config.dead_letter_topic, audit_topic=config.audit_topic
        )
        self._seen = 0  # alerts handed out
        self.metrics = Metrics()
        self._store = MemoryStore(MemoryServer())
        self.pipeline = Pipeline(
            self._config,
            source,
            self._sink,
            self._store,
            scorer,
            calibrations=calibrations,
            metrics=self.metrics,
            clock_ms=lambda: 0.0,
            wall_ms=lambda: -1.0,
            profiles=profiles,
            model_of=model_of,
            watch=watch,
        )
        self.pipeline.open()

    def run(self, messages: Iterable[Encoded], partition: int = 0) -> Iterator[bytes]:
        """Run readings through all stages; yield the alerts, byte for byte as a worker would publish them."""
        for chunk in _chunks(messages):
            for message in chunk:
                self._log.append(Partition(TOPIC, partition), message.key, message.value, message.headers)
            while self.pipeline.step(0):
                pass
            self.pipeline.commit()
            published = self._sink.alerts
            for alert in published[self._seen :]:
                assert alert.value is not None
                yield alert.value
            self._seen = len(published)

    @property
    def scored(self) -> int:
        """Windows scored so far."""
        return int(self.metrics.registry.get_sample_value("stream_detector_scores_total") or 0)

    def not_judged(self) -> list[NotJudged]:
        """Return the assets of which no window was judged, with the reason, once everything was run."""
        return self.pipeline.not_judged(final=True)

    def states(self) -> Iterator[tuple[str, AssetState]]:
        """Yield each asset with its current state."""
        yield from ((asset, state) for _, asset, state in self._store.assets())

    @property
    def audits(self) -> Iterator[bytes]:
        """The entries of the audit topic so far, byte for byte as a worker would publish them."""
        return (entry.value for entry in self._sink.audits if entry.value is not None)

    @property
    def refused(self) -> Iterator[PlainMessage]:
        """The dead letters so far, as a worker would publish them."""
        return iter(self._sink.dead_letters)

    @property
    def dead_letters(self) -> Counter[str]:
        """The number of unusable messages by reason."""
        return Counter(dict(letter.headers)["error"].decode() for letter in self._sink.dead_letters)


def _chunks(messages: Iterable[Encoded]) -> Iterator[list[PlainMessage]]:
    offset = 0
    source = iter(messages)
    while chunk := list(islice(source, _CHUNK)):
        yield [PlainMessage(offset + i, -1, one.key, one.value, one.headers) for i, one in enumerate(chunk)]
        offset += len(chunk)
