"""What exactly-once costs beside at-least-once on one Apache Kafka: throughput, and from produce to readable alert.

    python -m tests.benchmarks.delivery --json

Throughput: the loop of `throughput.py`, both deliveries in turn on the same topic. Latency: a worker of its own
process; 50 assets send a reading a second each, every other one an anomaly, so that every reading opens or closes an
incident; from the time the producer put on the reading to the time a `read_committed` consumer has the alert. Apache
Kafka and Redis are started for it unless named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from stream_detector.adapters.kafka import AlertReader, MessageWriter, ensure_topics
from stream_detector.config.loading import load
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.training.train import train
from tests.benchmarks.throughput import ASSETS, PARTITIONS, config_for, pipeline, readings, tuned
from tests.servers import KafkaServer, RedisServer, kafka_jars

DELIVERIES = ("at_least_once", "exactly_once")
MACHINES, PER_ASSET_S = 50, 1.0
_WARM_S, _PATIENCE_S = 5.0, 60.0  # after the first alert; until it comes


def throughput(kafka: str, redis: str, folder: Path, messages: int, pairs: int, commit_ms: float) -> dict[str, Any]:
    """Return messages a second of both deliveries, medians, and the median of the pairs' ratios."""
    artifact = folder / "throughput.safetensors"
    config = config_for(kafka, redis, artifact, 10_000, commit_interval_ms=commit_ms)
    train(config, windows(config, readings(ASSETS * 400))).save(artifact)
    topic = config.inputs[0].topic
    outputs = (config.alert_topic, config.audit_topic)
    ensure_topics(config.kafka, {**dict.fromkeys((topic, *outputs), PARTITIONS), config.dead_letter_topic: 1})
    with MessageWriter(config.kafka) as writer:
        for message in readings(messages):
            writer.send(topic, message.key, message.value, message.headers)
    rates: dict[str, list[float]] = {delivery: [] for delivery in DELIVERIES}
    for pair in range(pairs):
        for delivery in DELIVERIES if pair % 2 else reversed(DELIVERIES):
            with tuned():
                rate, _ = pipeline(config.model_copy(update={"delivery": delivery}), topic, messages)
            rates[delivery].append(rate)
            sys.stderr.write(f"{delivery}: {rate:,.0f}/s\n")
    ratios = [once / least for least, once in zip(*rates.values(), strict=True)]
    found = {f"{delivery}_per_s": round(statistics.median(rates[delivery])) for delivery in DELIVERIES}
    return {**found, "ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios]}


def latency(kafka: str, redis: str, folder: Path, delivery: str, seconds: float, commit_ms: float) -> dict[str, Any]:
    """Return quantiles, ms, of the time from a reading's timestamp to its alert in a consumer's hands."""
    settings = {
        "stream": f"latency-{uuid.uuid4().hex[:8]}",
        "channels": {"x": {}, "y": {}},
        "delivery": delivery,
        "commit_interval_ms": commit_ms,
        "window": {"cell_ms": 1_000, "length": 2, "stride": 1},
        "features": {"keep": 1},
        "model": {"kind": "ae", "hidden": [4], "latent": 1},
        "train": {"epochs": 5},
        "artifact": str(folder / "latency.safetensors"),
        "threshold": {"method": "quantile", "risk": 1e-3},
        "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
        "kafka": {"bootstrap_servers": [kafka]},
        "redis": {"url": redis},
    }
    path = folder / f"{settings['stream']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    config = load(path, env={})
    if not Path(str(settings["artifact"])).exists():
        train(config, windows(config, (calm(i) for i in range(20_000)))).save(Path(str(settings["artifact"])))
    topic = config.inputs[0].topic
    outputs = {config.alert_topic: PARTITIONS, config.dead_letter_topic: 1, config.audit_topic: 1}
    ensure_topics(config.kafka, {topic: PARTITIONS, **outputs})
    worker = subprocess.Popen([sys.executable, "-m", "stream_detector", "run", str(path)])
    try:
        with MessageWriter(config.kafka) as writer, AlertReader(config, from_beginning=True) as reader:
            return _measure(writer, reader, topic, seconds)
    finally:
        worker.terminate()
        worker.wait(30)


def calm(index: int) -> Encoded:
    """Return the reading of a machine on which nothing happens."""
    values = np.random.default_rng(index).normal(size=2).tolist()
    ts = 1_600_000_000_000 + index // MACHINES * 1_000
    return Encoded(b"", orjson.dumps({"asset": f"m{index % MACHINES}", "ts": ts, "x": values[0], "y": values[1]}), [])


def _measure(writer: MessageWriter, reader: AlertReader, topic: str, seconds: float) -> dict[str, Any]:
    took: list[float] = []
    index, started = 0, time.time()
    begin: float | None = None  # the worker is up, and has had its first windows
    while (now := time.time()) < (started + _PATIENCE_S if begin is None else begin + seconds):
        while index * PER_ASSET_S / MACHINES < now - started:
            name, turn = f"m{index % MACHINES}", index // MACHINES
            value = 0.1 if turn % 2 else 40.0
            ts = 1_600_100_000_000 + turn * 1_000
            writer.send(topic, name.encode(), orjson.dumps({"asset": name, "ts": ts, "x": value, "y": value}), [])
            index += 1
        for alert in reader.read(5):
            begin = time.time() + _WARM_S if begin is None else begin
            if (sent_ms := int(alert.headers["ingest-ms"])) > begin * 1_000:
                took.append(time.time() * 1_000 - sent_ms)
    cuts = np.quantile(took, [0.5, 0.99])
    return {"median_ms": round(float(cuts[0])), "p99_ms": round(float(cuts[1])), "alerts": len(took)}


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--messages", type=int, default=400_000, help="on the topic (default: 400000)")
    parser.add_argument("--pairs", type=int, default=5, help="of throughput runs (default: 5)")
    parser.add_argument("--seconds", type=float, default=20, help="of each latency run (default: 20)")
    parser.add_argument("--commit-ms", type=float, nargs="+", default=[1_000.0, 100.0], help="commit intervals")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker to use")
    parser.add_argument("--redis", metavar="URL", help="a store to use")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        kafka, redis = args.kafka, args.redis
        if kafka is None:
            broker = KafkaServer(folder / "kafka", kafka_jars())
            broker.start()
            closing.callback(broker.stop)
            kafka = broker.config.bootstrap_servers[0]
        if redis is None:
            store = RedisServer(folder / "redis")
            store.start()
            closing.callback(store.stop)
            redis = store.url
        for commit_ms in args.commit_ms:
            here: dict[str, Any] = {}
            if args.pairs:
                here["throughput"] = throughput(kafka, redis, folder, args.messages, args.pairs, commit_ms)
            for delivery in DELIVERIES:
                here[delivery] = latency(kafka, redis, folder, delivery, args.seconds, commit_ms)
            found[f"commit_interval_ms={commit_ms:g}"] = here
            sys.stderr.write(f"{commit_ms:g} ms: {here}\n")
    sys.stdout.write(json.dumps(found) + "\n" if args.json else f"{found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
