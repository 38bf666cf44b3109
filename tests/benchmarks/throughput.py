"""What the whole loop costs beside a bare poll of the same topic: messages a second, poll to alert.

    python -m tests.benchmarks.throughput --json

200 assets, 3 channels, one reading a message; windows of 64 cells every 16; a dense autoencoder; SPOT; state in the
store, alerts and offsets committed every second. Both loops run in this process, in turn, several pairs; the figures
are medians, `ratio` the median of the pairs' ratios. `pipeline_per_s` counts from the first message polled to the last
commit. The pipeline runs with the garbage collector tuned as a worker tunes it; the bare loop as Python comes, and
for comparison tuned too (`raw_tuned_per_s`).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import orjson
from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, Embedded
from stream_detector.adapters.kafka import KafkaSource, MessageWriter, ensure_topics, make_sink
from stream_detector.adapters.redis import RedisStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from stream_detector.worker.gc_settings import tune_gc
from stream_detector.worker.pipeline import Pipeline

ASSETS, PARTITIONS = 200, 4
CHANNELS = ("vibration", "temperature", "current")


def readings(count: int, seed: int = 7) -> Iterator[Encoded]:
    """Yield readings of all assets in turn, one a second each."""
    rng = np.random.default_rng(seed)
    names = [f"asset-{index}" for index in range(ASSETS)]
    values = np.round(rng.normal([0.5, 70, 9], [0.05, 1, 0.4], (count, 3)), 4).tolist()
    for index, row in enumerate(values):
        name = names[index % ASSETS]
        ts = 1_700_000_000_000 + index // ASSETS * 1000
        value = orjson.dumps({"asset": name, "ts": ts, "values": dict(zip(CHANNELS, row, strict=True))})
        yield Encoded(name.encode(), value, [])


def config_for(kafka: str, redis: str, artifact: Path, session_ms: int, **more: object) -> Config:
    """Return the set-up measured; a stream of its own each time."""
    return Config.model_validate(
        {
            "stream": f"bench-{uuid.uuid4().hex[:8]}",
            "channels": {name: {} for name in CHANNELS},
            "window": {"cell_ms": 1000, "length": 64, "stride": 16},
            "model": {"kind": "ae", "hidden": [64], "latent": 8},
            "train": {"epochs": 5},
            "artifact": artifact,
            "kafka": {"bootstrap_servers": kafka.split(","), "session_timeout_ms": session_ms},
            "redis": {"url": redis},
            **more,
        }
    )


def raw_poll(bootstrap: str, topic: str, count: int, max_poll_records: int) -> float:
    """Return messages a second of a loop that polls and does nothing else."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=max_poll_records,
    )
    consumer.assign([TopicPartition(topic, index) for index in range(PARTITIONS)])
    consumer.seek_to_beginning()
    seen, started = 0, None
    while seen < count:
        for records in consumer.poll(timeout_ms=1000).values():
            started = started or time.perf_counter()
            seen += len(records)
    elapsed = time.perf_counter() - (started or 0.0)
    consumer.close()
    return count / elapsed


def pipeline(config: Config, topic: str, count: int) -> tuple[float, int]:
    """Return messages a second of the whole loop, and how many windows it scored."""
    entry = config.inputs[0].model_copy(update={"topic": topic})
    kafka = config.kafka.model_copy(update={"inputs": [entry]})
    config = config.model_copy(update={"kafka": kafka, "stream": f"bench-{uuid.uuid4().hex[:8]}"})
    ensure_topics(config.kafka, {config.alert_topic: 1, config.dead_letter_topic: 1, config.audit_topic: 1})
    models = ModelSet.load(config)
    scorer = Scorer(models, config.scorer)
    scorer.warm_up()
    store = RedisStore(config.redis, config.stream)
    source = KafkaSource(config)
    sink = make_sink(config, source)
    loop = Pipeline(
        config,
        source,
        sink,
        store,
        scorer,
        calibrations=[one.calibration for one in models.artifacts],
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
    )
    loop.open()
    while loop.task_count < PARTITIONS:
        loop.step(100)
    started = time.perf_counter()
    seen = loop.messages
    while loop.messages < count:
        loop.step(100)
    loop.commit()
    elapsed = time.perf_counter() - started
    scored = loop.windows
    loop.close()
    store.close()
    return (count - seen) / elapsed, scored


@contextmanager
def tuned() -> Iterator[None]:
    """Tune the collector as a worker does, and put it back after."""
    before = gc.get_threshold()
    tune_gc()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--messages", type=int, default=200_000, help="on the topic (default: 200000)")
    parser.add_argument("--pairs", type=int, default=5, help="of both loops (default: 5)")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker to use instead of the embedded one")
    parser.add_argument("--redis", metavar="URL", help="a store to use instead of the embedded one")
    parser.add_argument(
        "--delivery",
        choices=["at_least_once", "exactly_once"],
        default="at_least_once",
        help="of the pipeline; exactly_once needs --kafka",
    )
    parser.add_argument("--commit-interval-ms", type=float, default=1_000.0, help="of the pipeline (default: 1000)")
    args = parser.parse_args()
    with ExitStack() as closing:
        kafka, redis, session = args.kafka, args.redis, 10_000
        if kafka is None or redis is None:
            embedded = closing.enter_context(Embedded())
            session = session if kafka else SESSION_TIMEOUT_MS
            kafka, redis = kafka or embedded.bootstrap_servers, redis or embedded.redis_url
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        config = config_for(
            str(kafka),
            str(redis),
            folder / "model.safetensors",
            session,
            delivery=args.delivery,
            commit_interval_ms=args.commit_interval_ms,
        )
        train(config, windows(config, readings(ASSETS * 400))).save(folder / "model.safetensors")
        topic = config.inputs[0].topic
        ensure_topics(config.kafka, {topic: PARTITIONS})
        with MessageWriter(config.kafka) as writer:
            for message in readings(args.messages):
                writer.send(topic, message.key, message.value, message.headers)
        pairs = []
        for _ in range(args.pairs):
            raw = raw_poll(str(kafka), topic, args.messages, config.kafka.max_poll_records)
            with tuned():
                whole, scored = pipeline(config, topic, args.messages)
                raw_tuned = raw_poll(str(kafka), topic, args.messages, config.kafka.max_poll_records)
            pairs.append((raw, whole, whole / raw, raw_tuned))
            sys.stderr.write(f"raw {raw:,.0f}/s, pipeline {whole:,.0f}/s, ratio {whole / raw:.3f}, {scored} windows\n")
    raw_median, whole_median, ratio, tuned_median = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "raw_poll_per_s": round(raw_median),
        "pipeline_per_s": round(whole_median),
        "ratio": round(ratio, 3),
        "raw_tuned_per_s": round(tuned_median),
        "ratios": [round(pair[2], 3) for pair in pairs],
        "delivery": args.delivery,
        "messages": args.messages,
        "windows": scored,
    }
    sys.stdout.write(json.dumps(result) + "\n" if args.json else f"{result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
