"""Workers on a log and store in memory, with clocks in the test's hands and a detector whose scores are plain to see.

plant = Plant(partitions=3)
plant.write(recorded(assets=6, rows=300))
worker = plant.worker()
plant.run(worker)
plant.alerts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource, TransactionalMemorySink
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.codec import encode_reading, encode_state
from stream_detector.config import Config
from stream_detector.ports import StateStore
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import ModelRef, Partition, PlainMessage, ScoreBatch, Shifts, WindowBatch
from stream_detector.worker.pipeline import Pipeline

START_MS = 1_600_000_000_000
TOPIC = "pump.readings"
STRANGER = "stranger"  # an asset no detector knows


class LastValue:
    """A detector whose score is the mean of the last cell's absolute values, less the shift: all is to be seen."""

    refs = (ModelRef("last-value", "1"),)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, batch: WindowBatch, shifts: Shifts | None = None) -> ScoreBatch:
        self.batches.append(len(batch))
        last = batch.values[:, -1].astype(np.float64)  # (W, C)
        usual = np.zeros_like(last) if shifts is None else shifts.values
        known = np.array([asset != STRANGER for asset in batch.assets])
        score = np.where(known, np.abs(last - usual).mean(axis=1), np.nan)
        parts, observed = np.abs(last - usual).astype(np.float32), last.astype(np.float32)
        model = np.where(known, 0, -1).astype(np.int32)
        return ScoreBatch(score, parts, observed, usual.astype(np.float32), model, self.refs, last.astype(np.float32))


#: Scores of normal windows, as `recorded` makes them without faults.
CALIBRATION = np.abs(np.random.default_rng(7).normal(size=(400, 2))).mean(axis=1)


def make_config(**sections: Any) -> Config:
    """Return a set-up of two channels with short windows; sections given replace the defaults."""
    return Config.model_validate(
        {
            "stream": "pump",
            "channels": {"vibration": {}, "current": {}},
            "window": {"cell_ms": 1_000, "length": 8, "stride": 2, "lateness_ms": 2_000, "max_gap_ms": 3_000},
            "threshold": {"method": "quantile", "risk": 0.01, "memory": 200, "margin": 1.0, "learn_after": 0},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 4, "exit_ratio": 1.0},
            "adaptation": {"follow": 5.0, "block": 8, "flat_ms": 20_000},
            **sections,
        }
    )


@dataclass(frozen=True)
class Sent:
    """A message and where it goes."""

    partition: int
    asset: str
    ts_ms: int
    value: bytes
    topic: str = TOPIC


def recorded(
    assets: int = 6, rows: int = 240, seed: int = 0, partitions: int = 3, faults: bool = True, step_ms: int = 1_000
) -> list[Sent]:
    """Return messages of some assets in step, a reading every step each: noise, faults, gaps, late and broken ones."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(assets, rows, 2))
    gone = rng.random((assets, rows)) < 0.05
    sent: list[Sent] = []
    for row in range(rows):
        for asset in range(assets):
            name, place, ts = f"pump-{asset}", asset % partitions, START_MS + row * step_ms
            values = noise[asset, row] * (8.0 if faults and (row + 37 * asset) % 110 < 9 else 1.0)
            if row == 100 and asset == 1:
                sent.append(Sent(place, name, ts, b'{"asset": "pump-1", "ts": '))
            if row % 60 == 50:  # its cell is closed long since
                sent.append(Sent(place, name, ts - 30_000, _reading(name, ts - 30_000, (0.0, 0.0))))
            if not gone[asset, row]:
                sent.append(Sent(place, name, ts, _reading(name, ts, values)))
    return sent


def _reading(asset: str, ts_ms: int, values: Sequence[float] | np.ndarray) -> bytes:
    return encode_reading(asset, ts_ms, {"vibration": float(values[0]), "current": float(values[1])})


class Clock:
    """Milliseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class CrashError(Exception):
    """The worker's sudden end: nobody in it catches this."""


@dataclass
class Faults:
    """What a worker's ports do wrong: called with the name of each step they are about to take or have just taken."""

    strike: Callable[[str], None] = lambda step: None
    steps: list[str] = field(default_factory=list)

    def at(self, step: str) -> None:
        self.steps.append(step)
        self.strike(step)


class FaultySink(MemorySink):
    """A sink that tells of its steps; `FaultyTransactionalSink` too."""

    faults: Faults

    def flush(self) -> None:
        self.faults.at("flush")
        if len(self._buffer) > 1 and "halfway" in self.faults.__dict__:
            rest = self._buffer[len(self._buffer) // 2 :]
            del self._buffer[len(self._buffer) // 2 :]
            super().flush()
            self._buffer = rest
            self.faults.at("halfway flushed")
        super().flush()
        self.faults.at("flushed")

    def commit(self, positions: Any) -> None:
        self.faults.at("commit")
        super().commit(positions)
        self.faults.at("committed")


class FaultyTransactionalSink(FaultySink, TransactionalMemorySink):
    """A sink that delivers exactly once and tells of its steps."""


class FaultyStore(MemoryStore):
    """A store that tells of its steps."""

    faults: Faults

    def save(self, *args: Any, **options: Any) -> int:
        self.faults.at("save")
        version = super().save(*args, **options)
        self.faults.at("saved")
        return version


@dataclass
class Worker:
    """One worker and what it holds."""

    pipeline: Pipeline
    source: MemorySource
    sink: FaultySink
    store: StateStore
    scorer: LastValue
    metrics: Metrics
    faults: Faults

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 for one never touched."""
        return self.metrics.registry.get_sample_value(f"stream_detector_{name}", labels) or 0.0


class Plant:
    """A log, a store and a clock that workers share."""

    def __init__(self, config: Config | None = None, partitions: int = 3) -> None:
        self.config = config or make_config()
        self.log = MemoryLog({entry.topic: partitions for entry in self.config.inputs})
        self.server = MemoryServer()
        self.clock = Clock()

    def write(self, sent: Iterable[Sent]) -> None:
        """Append messages to the input topics."""
        for one in sent:
            self.log.append(Partition(one.topic, one.partition), one.asset.encode(), one.value)

    def worker(self, batch: int | None = None, store: StateStore | None = None) -> Worker:
        """Start a worker that takes at most `batch` messages a poll; `store`: in place of the plant's."""
        source = MemorySource(self.log, [entry.topic for entry in self.config.inputs], batch=batch)
        sink_of = {"at_least_once": FaultySink, "exactly_once": FaultyTransactionalSink}[self.config.delivery]
        topics = (self.config.alert_topic, self.config.dead_letter_topic)
        sink = sink_of(self.log, source, *topics, audit_topic=self.config.audit_topic)
        faults = sink.faults = Faults()
        if store is None:
            store = FaultyStore(self.server)
            store.faults = faults
        scorer, metrics = LastValue(), Metrics()
        pipeline = Pipeline(
            self.config,
            source,
            sink,
            store,
            scorer,
            calibrations=[CALIBRATION],
            metrics=metrics,
            clock_ms=self.clock,
            wall_ms=lambda: START_MS + self.clock(),
        )
        pipeline.open()
        return Worker(pipeline, source, sink, store, scorer, metrics, faults)

    def run(self, *workers: Worker, step_ms: float = 20.0, most: int = 100_000) -> None:
        """Let workers step in turn until all is read and committed."""
        idle = 0
        for _ in range(most):
            busy = [worker.pipeline.step(0) for worker in workers]
            self.clock.now += step_ms
            idle = 0 if any(busy) else idle + 1
            # idle for long enough that tasks dropped were taken again and commits fell due
            if idle * step_ms > 2_500 and all(worker.pipeline.ready()[0] for worker in workers):
                return
        raise AssertionError("the workers did not come to rest")

    @property
    def alerts(self) -> list[bytes]:
        """Values of the alerts published, in order."""
        return [message.value or b"" for message in self.published(self.config.alert_topic)]

    @property
    def dead_letters(self) -> list[tuple[str, str, int, int]]:
        """Code, topic, partition and offset of the dead letters published, in order."""
        found = []
        for message in self.published(self.config.dead_letter_topic):
            headers = {name: value.decode() for name, value in message.headers}
            found.append((headers["error"], headers["topic"], int(headers["partition"]), int(headers["offset"])))
        return found

    def published(self, topic: str) -> Sequence[PlainMessage]:
        """Return what lies on one of the output topics."""
        return self.log.read(Partition(topic, 0))

    def states(self) -> dict[str, bytes]:
        """Return the state of every asset as the store would write it, less the epoch."""
        store = MemoryStore(self.server)
        return {asset: encode_state(state, 0) for _, asset, state in store.assets()}


def ids(values: Iterable[bytes]) -> dict[str, bytes]:
    """Return alert values by id, and check that an id never stands for two of them."""
    found: dict[str, bytes] = {}
    for value in values:
        assert found.setdefault(json.loads(value)["id"], value) == value
    return found
