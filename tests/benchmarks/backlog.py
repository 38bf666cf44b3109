"""Whether a worker with a day's backlog catches up at full speed, and what live partitions feel of it: `make backlog`.

    python -m tests.benchmarks.backlog --hours 24 --json

One Apache Kafka and one Redis. Twelve partitions hold so many hours of readings, one a second of an asset each; four
others hold none. A worker works that off twice, in groups of its own: alone, and while live readings come to all
sixteen partitions, ten assets on each of the four and those with a backlog, one a second each, with an anomaly every
few seconds. Prints one JSON object, of each delivery: messages of the backlog; seconds and rate alone and beside live
readings, and their ratio; of readings on live partitions the time from sent to alert readable (median, worst); how
often partitions were lost, taken over again, or commits taken back. Exits with 1 when that is not never, the ratio is
below `--least`, or an alert came later than `--latest-s`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaConsumer, TopicPartition

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.adapters.kafka import AlertReader, MessageWriter, ensure_topics
from stream_detector.codec import decode_metadata, encode_reading
from stream_detector.config import Config
from stream_detector.config.loading import load
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.training.train import train
from tests.integration.site import DETECTOR, Program, Site, until
from tests.servers import KafkaServer, RedisServer, kafka_jars

DELIVERIES = ("at_least_once", "exactly_once")
DEEP, LIVE = 12, 4  # partitions with a backlog, and without
LIVE_ASSETS = 10  # on each partition without
BLOCK = 4  # readings of a window; the values of every other window are far from normal
TOPIC = "backlog.readings"


def value_of(asset: str, ts_ms: int) -> bytes:
    """Return a reading; live assets' are strange every other block."""
    second = ts_ms // 1_000
    strange = asset.startswith("live") and second // BLOCK % 2
    wobble = (second * 7_919 % 101) / 100 - 0.5  # no noise is needed, but that values differ
    return encode_reading(asset, ts_ms, {"x": 40.0 if strange else wobble, "y": 40.0 if strange else -wobble})


def settings_for(kafka: str, redis: str, artifact: Path, name: str, delivery: str) -> dict[str, Any]:
    """Return the set-up of a worker in a group of its own."""
    return {
        "stream": name,
        "channels": {"x": {}, "y": {}},
        "delivery": delivery,
        "window": {"cell_ms": 1_000, "length": BLOCK, "stride": BLOCK},
        "features": {"keep": 1},
        "model": {"kind": "ae", "hidden": [4], "latent": 1},
        "train": {"epochs": 5},
        "artifact": str(artifact),
        "threshold": {"method": "quantile", "risk": 1e-3},
        "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
        "kafka": {
            "bootstrap_servers": [kafka],
            "inputs": [{"topic": TOPIC}],
            "session_timeout_ms": 6_000,
            "max_poll_interval_ms": 10_000,
        },
        "redis": {"url": redis},
    }


class Feed:
    """Live readings to all partitions, one a second of each asset, until closed."""

    def __init__(self, config: Config) -> None:
        """Begin."""
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Clocks of live assets go behind each other by a second, so that some window is complete every second.
        assets = [
            (f"live-{place}-{index}", DEEP + place, -index * 1_000)
            for place in range(LIVE)
            for index in range(LIVE_ASSETS)
        ]
        assets += [(f"deep-{partition}", partition, 0) for partition in range(DEEP)]
        began, turn = time.time(), 0
        with MessageWriter(self._config.kafka) as writer:
            while not self._stop.is_set():
                ts = (int(began) + turn) * 1_000
                for name, partition, behind in assets:
                    writer.send(TOPIC, name.encode(), value_of(name, ts + behind), partition=partition)
                turn += 1
                self._stop.wait(max(0.0, began + turn - time.time()))

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


class Delays:
    """Of alerts on live assets, by when their reading was sent: seconds until they could be read."""

    def __init__(self, config: Config) -> None:
        """Begin with those from now on."""
        self._reader = AlertReader(config, from_beginning=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: list[tuple[float, float]] = []
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for alert in self._reader.read(20):
                if b'"asset":"live-' in alert.value:
                    sent = int(alert.headers["ingest-ms"]) / 1_000
                    self.seen.append((sent, time.time() - sent))

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self._reader.close()


class Group:
    """How far a group is with the backlog."""

    def __init__(self, config: Config, backlog: int) -> None:
        """Connect."""
        self._each = backlog // DEEP
        self._consumer: Any = KafkaConsumer(
            bootstrap_servers=config.kafka.bootstrap_servers,
            group_id=config.group,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )  # type: ignore[no-untyped-call]

    def read(self) -> int:
        """Return how many messages of the backlog are processed and committed."""
        found = 0
        for index in range(DEEP):
            one = self._consumer.committed(TopicPartition(TOPIC, index), metadata=True)
            if one is not None:
                found += min(self._each, (decode_metadata(one.metadata) or (one.offset, 0))[0])
        return found

    def close(self) -> None:
        """Let go."""
        self._consumer.close(autocommit=False)


def catch_up(folder: Path, settings: dict[str, Any], backlog: int, live: bool) -> dict[str, Any]:
    """Let a worker work the backlog off; return how long it took and what live partitions felt."""
    name = str(settings["stream"])
    path, log, port = folder / f"{name}.yaml", folder / f"{name}.log", free_port()
    path.write_text(yaml.safe_dump({**settings, "metrics": {"port": port}}, sort_keys=False))
    config = load(path, env={})
    outputs = dict.fromkeys((config.alert_topic, config.audit_topic), DEEP + LIVE)
    ensure_topics(config.kafka, {**outputs, config.dead_letter_topic: 1})
    with ExitStack() as closing:
        group = Group(config, backlog)
        closing.callback(group.close)
        delays = Delays(config)
        closing.callback(delays.close)
        if live:
            closing.callback(Feed(config).close)
        site = Site(path, folder, DEEP + LIVE, True)
        closing.callback(site.close)
        worker: Program = site._start("worker", {}, DETECTOR, "--log-level", "warning", "run", path, port=port)
        before = until(group.read, "it has begun", 120, worker)
        began = time.time()
        until(lambda: group.read() >= backlog, "it has caught up", 3_600, worker)
        ended = time.time()
        time.sleep(3.0 if live else 0.0)  # alerts of readings sent before
        found = {
            "seconds": round(ended - began, 1),
            "per_s": round((backlog - before) / (ended - began)),
            "lost": round(worker.metric("fencings_total") + worker.metric("aborts_total")),
            "taken_over": round(worker.metric("restores_total")),
        }
        assert 0 == worker.stop(), worker.said()
    late = sorted(delay for sent, delay in delays.seen if began <= sent < ended)
    if live:
        assert late, f"no alert of a live partition in {found['seconds']} s: give it more --hours"
        found |= {
            "live_alerts": len(late),
            "live_median_s": round(statistics.median(late), 2),
            "live_worst_s": round(late[-1], 2),
        }
    log.unlink(missing_ok=True)
    return found


def measure(args: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, Any]:
    """Set it up, write the backlog, and let workers of both deliveries work it off, alone and beside live readings."""
    broker = KafkaServer(folder / "kafka", kafka_jars())
    broker.start()
    closing.callback(broker.kill)
    store = RedisServer(folder / "redis")
    store.start()
    closing.callback(store.kill)
    kafka, artifact = broker.config.bootstrap_servers[0], folder / "model.safetensors"
    config = Config.model_validate(settings_for(kafka, store.url, artifact, "training", "at_least_once"))
    calm = (Encoded(b"", value_of(f"m-{i % 10}", 1_600_000_000_000 + i // 10 * 1_000), []) for i in range(20_000))
    train(config, windows(config, calm)).save(artifact)
    ensure_topics(config.kafka, {TOPIC: DEEP + LIVE})
    seconds = round(args.hours * 3_600)
    start = (int(time.time()) - seconds) * 1_000
    with MessageWriter(config.kafka) as writer:
        for second in range(seconds):
            for partition in range(DEEP):
                name, ts = f"deep-{partition}", start + second * 1_000
                writer.send(TOPIC, name.encode(), value_of(name, ts), partition=partition)
    backlog = DEEP * seconds
    sys.stderr.write(f"{backlog} messages written\n")
    found: dict[str, Any] = {"hours": args.hours, "backlog": backlog, "partitions": DEEP, "live_partitions": LIVE}
    for delivery in args.deliveries:
        kind = delivery.replace("_", "-")
        runs = {}
        for name in ("alone", "beside_live"):
            settings = settings_for(kafka, store.url, artifact, f"{name}-{kind}", delivery)
            runs[name] = catch_up(folder, settings, backlog, live=name == "beside_live")
        found[delivery] = {**runs, "ratio": round(runs["beside_live"]["per_s"] / runs["alone"]["per_s"], 3)}
        sys.stderr.write(f"{delivery}: {found[delivery]}\n")
    return found


def fine(one: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether a delivery's figures are as they should be."""
    runs = (one["alone"], one["beside_live"])
    undisturbed = all((0, DEEP + LIVE) == (run["lost"], run["taken_over"]) for run in runs)
    return undisturbed and one["ratio"] >= args.least and one["beside_live"]["live_worst_s"] <= args.latest_s


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--hours", type=float, default=24, help="of backlog (default: 24)")
    parser.add_argument("--deliveries", nargs="+", choices=DELIVERIES, default=DELIVERIES, help="default: both")
    parser.add_argument("--least", type=float, default=0.7, help="least ratio of the two rates (default: 0.7)")
    parser.add_argument("--latest-s", type=float, default=5, help="latest alert of a live partition (default: 5)")
    args = parser.parse_args()
    with ExitStack() as closing:
        found = measure(args, Path(closing.enter_context(tempfile.TemporaryDirectory())), closing)
    sys.stdout.write(json.dumps(found) + "\n" if args.json else f"{found}\n")
    return int(not all(fine(found[delivery], args) for delivery in args.deliveries))


if __name__ == "__main__":
    sys.exit(main())
