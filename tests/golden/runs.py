"""Messages through the stages of a worker: by `offline.Backtest`, and by workers on a log with broker timestamps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped] # it ships no types

from stream_detector.adapters.memory.log import MemoryLog, MemorySource, make_memory_sink
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import encode_state
from stream_detector.config import Config
from stream_detector.evaluate.offline import Backtest, Encoded
from stream_detector.scoring.scorer import Scorer
from stream_detector.types import Partition
from stream_detector.worker.pipeline import Pipeline
from stream_detector.worker.slices import Scores
from tests.golden.logs import Logs, packed

ARTIFACTS = Path(__file__).parent / "artifacts"
BATCH = 4_000  # messages in a poll, unless a case asks for another
#: Replaces the scorer of a run by one that wraps it.
Wrap = Callable[[Scores], Scores]
#: What operators do before a part of the messages: the store to do it in, and the audit entries so far.
Operators = Callable[[MemoryStore, Sequence[bytes]], None]


@dataclass(frozen=True)
class Sent:
    """A message and where it lies."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp: int = -1  # the broker's, UNIX ms; -1 for unknown
    partition: int = 0
    topic: int = 0  # index of the input topic

    def line(self) -> bytes:
        """Return all of it as one byte string."""
        whole = [self.topic, self.partition, self.timestamp, self.key, self.value, [list(h) for h in self.headers]]
        line: bytes = msgpack.packb(whole)
        return line


def config_of(setup: Mapping[str, Any], artifact: str, **changes: Any) -> Config:
    """Return a configuration that runs a stored artifact; `changes` replace whole sections of the set-up."""
    return Config.model_validate({**setup, **changes, "artifact": ARTIFACTS / f"{artifact}.safetensors"})


def backtest(
    config: Config,
    parts: Sequence[Sequence[Sent]],
    operators: Mapping[int, Operators] | None = None,
    batch: int = BATCH,
    wrap: Wrap = lambda scorer: scorer,
) -> Logs:
    """Run messages in parts, all of partition 0; before part n, `operators[n]` change the controls."""
    models = ModelSet.load(config)
    running = Backtest(
        config,
        wrap(Scorer(models, config.scorer)),
        [one.calibration for one in models.artifacts],
        batch=batch,
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
    )
    logs = Logs()
    for number, part in enumerate(parts):
        messages = [Encoded(one.key, one.value or b"", one.headers) for one in part]
        if operators and number in operators:
            operators[number](running._store, list(running.audits))
            # A worker looks at the controls after a commit that found them changed: from the third message on they hold
            # for every batch size.
            for single in messages[:2]:
                logs.alerts += running.run([single])
            messages = messages[2:]
        logs.alerts += running.run(messages)
        logs.inputs += [one.line() for one in part]
    logs.audits = list(running.audits)
    logs.dead_letters = [packed(letter) for letter in running.refused]
    logs.states = [encode_state(state, 0) for _, state in sorted(running.states(), key=lambda item: item[0])]
    return logs


def workers(
    configs: Sequence[Config], sent: Sequence[Sent], partitions: int = 1, batch: int = BATCH, slice_: int = 20_000
) -> Logs:
    """Run messages through one worker per configuration, each on an equal share of them, the next from the commit.

    Configurations may differ in anything but the topics: the later worker takes over the states of the earlier one.
    """
    topics = [entry.topic for entry in configs[0].inputs]
    log, server = MemoryLog(dict.fromkeys(topics, partitions)), MemoryServer()
    logs = Logs(inputs=[one.line() for one in sent])
    share = -(-len(sent) // len(configs))
    for place, config in enumerate(configs):
        models = ModelSet.load(config)
        source = MemorySource(log, topics, batch=batch)
        sink = make_memory_sink(config, log, source)
        pipeline = Pipeline(
            config,
            source,
            sink,
            MemoryStore(server),
            Scorer(models, config.scorer),
            calibrations=[one.calibration for one in models.artifacts],
            clock_ms=lambda: 0.0,
            wall_ms=lambda: -1.0,
            profiles=[one.profile for one in models.artifacts],
            model_of=models.ref_of,
        )
        pipeline.open()
        mine = sent[place * share : (place + 1) * share]
        for start in range(0, len(mine), slice_):
            for one in mine[start : start + slice_]:
                where = Partition(topics[one.topic], one.partition)
                log.append(where, one.key, one.value, one.headers, one.timestamp)
            while pipeline.step(0):
                pass
            pipeline.commit()
        pipeline.close()
    final = configs[-1]
    alerts = log.read(Partition(final.alert_topic, 0))
    logs.alerts = [alert.value or b"" for alert in alerts]
    logs.alert_headers = [packed(alert) for alert in alerts]
    logs.audits = [entry.value or b"" for entry in log.read(Partition(final.audit_topic, 0))]
    logs.dead_letters = [packed(letter) for letter in log.read(Partition(final.dead_letter_topic, 0))]
    found = sorted(MemoryStore(server).assets(), key=lambda item: (item[1], item[0]))
    logs.states = [encode_state(state, 0) for _, _, state in found]
    return logs


def from_recordings(messages: Iterable[Any], partition: int = 0) -> list[Sent]:
    """Return the messages of recordings as sent, without the broker's timestamp."""
    return [Sent(one.key, one.value, list(one.headers), -1, partition) for one in messages]
