"""One log, read in polls of any sizes by workers that commit, end and crash anywhere: what they publish and keep.

cuts = Cuts(random.Random(1), sizes=(1, 7, 400), restart=0.1)
assert read_log(material, cuts) == read_log(material, WHOLE)
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import encode_state
from stream_detector.config import Config
from stream_detector.scoring.scorer import Scorer
from stream_detector.types import MessageBatch, Partition, PlainMessage
from stream_detector.worker.pipeline import Pipeline


@dataclass(frozen=True)
class Material:
    """A set-up, its detector, and the messages of each input partition in order."""

    config: Config
    models: ModelSet
    messages: Mapping[Partition, Sequence[PlainMessage]]


@dataclass
class Cuts:
    """Where a log is cut: the sizes of polls, and after which of them workers commit, end or crash."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))
    sizes: Sequence[int] = (1_000_000,)  # of polls, one of them each time
    commit: float = 0.0  # chance that a poll with messages nobody has read before is followed by a commit
    restart: float = 0.0  # … by a commit, the end of the worker, and the next one
    crash: float = 0.0  # … by the end of the worker without a commit, and the next one

    def size(self) -> int:
        """Return how many messages the next poll takes."""
        return self.chance.choice(self.sizes)

    def after(self) -> str:
        """Return what follows a poll."""
        draw = self.chance.random()
        for what, share in (("crash", self.crash), ("restart", self.restart), ("commit", self.commit)):
            if draw < share:
                return what
            draw -= share
        return ""


WHOLE = Cuts()


class _Source(MemorySource):
    """Polls of sizes drawn anew each time."""

    cuts: Cuts

    def poll(self, timeout_ms: int, max_messages: int) -> list[MessageBatch]:
        return super().poll(timeout_ms, min(max_messages, self.cuts.size()))


Published = dict[str, list[bytes]]


def read_log(material: Material, cuts: Cuts) -> Published:
    """Return what was published and kept, by what and by asset, each in order; dead letters by partition."""
    topics = [entry.topic for entry in material.config.inputs]
    log = MemoryLog({topic: sum(p.topic == topic for p in material.messages) for topic in topics})
    for partition, messages in material.messages.items():
        for one in messages:
            log.append(partition, one.key, one.value, one.headers, one.timestamp)
    server = MemoryServer()
    newest = dict.fromkeys(material.messages, 0)  # one past the newest message read, by whichever worker
    while _one_worker(material, cuts, log, server, newest):
        pass
    return _published(material.config, log, server)


def _one_worker(
    material: Material, cuts: Cuts, log: MemoryLog, server: MemoryServer, newest: dict[Partition, int]
) -> bool:
    """Run a worker until it ends; return whether there is more to read."""
    config, models = material.config, material.models
    source = _Source(log, [entry.topic for entry in config.inputs])
    source.cuts = cuts
    sink = MemorySink(log, source, config.alert_topic, config.dead_letter_topic, audit_topic=config.audit_topic)
    now = [0.0]
    pipeline = Pipeline(
        config,
        source,
        sink,
        MemoryStore(server),
        Scorer(models, config.scorer),
        calibrations=[one.calibration for one in models.artifacts],
        clock_ms=lambda: now[0],
        wall_ms=lambda: -1.0,
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
    )
    pipeline.open()
    idle = 0
    while idle < 3:
        idle = 0 if pipeline.step(0) else idle + 1
        now[0] += 1.0
        read = {partition: log.end(partition) - behind for partition, behind in source.lag().items()}
        fresh = [partition for partition, at in read.items() if at > newest[partition]]
        if not fresh:
            continue
        newest.update({partition: read[partition] for partition in fresh})
        what = cuts.after()
        if what == "commit":
            pipeline.commit()
        elif what == "restart":
            pipeline.close()
            return True
        elif what == "crash":
            source.close()
            return True
    pipeline.commit()
    pipeline.close()
    return False


def _published(config: Config, log: MemoryLog, server: MemoryServer) -> Published:
    found: Published = {}
    for name, topic in (("alerts", config.alert_topic), ("audits", config.audit_topic)):
        for one in log.read(Partition(topic, 0)):
            value = one.value or b""
            found.setdefault(f"{name} of {json.loads(value)['asset']}", []).append(_bytes(one))
    for letter in log.read(Partition(config.dead_letter_topic, 0)):
        headers = dict(letter.headers)
        where = b"dead letters of %s %s" % (headers["topic"], headers["partition"])
        found.setdefault(where.decode(), []).append(_bytes(letter))
    for _, asset, state in MemoryStore(server).assets():
        found[f"state of {asset}"] = [encode_state(state, 0)]
    return found


def _bytes(message: PlainMessage) -> bytes:
    headers = b"; ".join(b"%s=%s" % (name.encode(), value) for name, value in message.headers)
    return b" | ".join([message.key or b"-", message.value or b"-", headers])


def differences(one: Published, other: Published) -> list[str]:
    """Return a line for each log that differs, with the first entries that do."""
    found = []
    for name in sorted({*one, *other}):
        ours, theirs = one.get(name, []), other.get(name, [])
        if ours != theirs:
            at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            at = min(len(ours), len(theirs)) if at is None else at
            shown = [lines[at] if at < len(lines) else b"nothing" for lines in (ours, theirs)]
            found.append(f"{name}, entry {at} of {len(ours)} and {len(theirs)}: {shown[0]!r} and {shown[1]!r}")
    return found
