"""100,000 fuzzed messages and as many fuzzed verdicts: nothing ends a worker, every one is accounted for."""

from __future__ import annotations

from collections import Counter

import pytest

from stream_detector.adapters.memory.log import MemoryLog, MemorySource, make_memory_sink
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.feedback.stage import VerdictStage, verdict_config
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import DEAD_LETTER_CODES, Partition
from tests.fuzz import fuzzed_readings, fuzzed_verdicts, untouched
from tests.rig import TOPIC, Plant, make_config

COUNT = 100_000


@pytest.mark.slow
def test_100_000_fuzzed_messages():
    """Readings + dead letters = messages; each dead letter is its message, untouched, with a documented reason."""
    messages = fuzzed_readings(COUNT, seed=11)
    plant = Plant(make_config(delivery="exactly_once"), partitions=1)
    for one in messages:
        plant.log.append(Partition(TOPIC, 0), one.key, one.value, one.headers, one.timestamp)
    worker = plant.worker()
    plant.run(worker, step_ms=200)
    letters = plant.published(plant.config.dead_letter_topic)
    seen = Counter()
    for letter in letters:
        headers = {name: value.decode() for name, value in list(letter.headers)[-5:]}
        offset = int(headers["offset"])
        seen[offset] += 1
        assert [] == untouched(letter, messages[offset])
        assert headers["error"] in DEAD_LETTER_CODES
        assert (TOPIC, "0") == (headers["topic"], headers["partition"])
        assert 0 < len(headers["detail"]) <= 500
    assert {1} == set(seen.values())
    assert COUNT == worker.pipeline.messages == worker.metric("messages_total", topic=TOPIC)
    assert COUNT == worker.metric("readings_total") + len(letters)
    codes = Counter(dict(letter.headers)["error"].decode() for letter in letters)
    assert {code: float(count) for code, count in codes.items()} == {
        code: worker.metric("dead_letters_total", code=code) for code in codes
    }
    assert 0.2 * COUNT < len(letters) < 0.7 * COUNT  # the generator makes both
    assert len(codes) > 10
    assert plant.alerts  # and it worked on meanwhile


@pytest.mark.slow
def test_100_000_fuzzed_verdicts():
    """Verdicts accepted + dead letters = messages; each dead letter is its message, untouched, with its reason."""
    messages = fuzzed_verdicts(COUNT, seed=12)
    config = make_config(delivery="exactly_once", verdicts={"per_sender": 30, "in_all": 200})
    log, here, metrics, server = (
        MemoryLog({config.verdict_topic: 1}),
        Partition(config.verdict_topic, 0),
        Metrics(),
        (MemoryServer()),
    )
    for one in messages:
        log.append(here, one.key, one.value, one.headers, one.timestamp)
    source = MemorySource(log, [config.verdict_topic], group=verdict_config(config).group)
    sink = make_memory_sink(config, log, source)
    stage = VerdictStage(config, source, sink, MemoryStore(server), metrics)
    stage.open()
    while stage.step(0):
        pass
    codes = Counter()
    for letter in sink.dead_letters:
        headers = dict(list(letter.headers)[-5:])
        assert [] == untouched(letter, messages[int(headers["offset"])])
        codes[headers["error"].decode()] += 1
    accepted = sum(
        metrics.registry.get_sample_value("stream_detector_verdicts_total", {"verdict": kind}) or 0
        for kind in ("true-alarm", "false-alarm", "maintenance")
    )
    assert COUNT == accepted + len(sink.dead_letters)
    assert {"bad-verdict", "rate-limited", "not-json", "not-an-object", "empty"} <= set(codes) <= set(DEAD_LETTER_CODES)
    assert len(MemoryStore(server).verdicts()) >= 500  # those sent, and some that mutation made
