"""How long partitions of a worker that was killed (kill -9) go unserved.

    python -m tests.benchmarks.recovery --kills 5

Three workers share twelve partitions on Apache Kafka and Redis; readings come to every partition five times a second.
One worker after another is killed. A partition is served again once a reading sent after the kill is processed and
committed, exactly once. Prints one JSON object: the session timeout, and of each kill the seconds until the last
partition was served again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_detector.codec import decode_metadata, encode_reading
from tests.chaos.cluster import start_brokers
from tests.chaos.material import make_material
from tests.integration.site import Site, until, write_config
from tests.servers import RedisServer, kafka_jars

PARTITIONS = 12
_EVERY_S = 0.2


class Traffic:
    """A reading to every partition a few times a second, until closed."""

    def __init__(self, bootstrap: list[str], topic: str) -> None:
        """Begin."""
        self._producer: Any = KafkaProducer(bootstrap_servers=bootstrap, acks="all")  # type: ignore[no-untyped-call]
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        values = {"vibration": 0.1, "temperature": 60.0, "current": 8.0}
        while not self._stop.wait(_EVERY_S):
            now = int(time.time() * 1_000)
            for partition in range(PARTITIONS):
                value = encode_reading(f"machine-{partition}", now, values)
                self._producer.send(self._topic, value=value, partition=partition)

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self._producer.close(timeout=5)


class Offsets:
    """What the group has committed, and how much there is."""

    def __init__(self, bootstrap: list[str], group: str, topic: str) -> None:
        """Connect."""
        self._consumer: Any = KafkaConsumer(
            bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, isolation_level="read_committed"
        )  # type: ignore[no-untyped-call]
        self._partitions = [TopicPartition(topic, index) for index in range(PARTITIONS)]

    def read(self) -> list[int]:
        """Return by partition how many messages are processed and committed."""
        found = [self._consumer.committed(partition, metadata=True) for partition in self._partitions]
        return [(decode_metadata(one.metadata) or (0, 0))[0] if one is not None else 0 for one in found]

    def ends(self) -> list[int]:
        """Return by partition how many there are."""
        ends = self._consumer.end_offsets(self._partitions)
        return [ends[partition] for partition in self._partitions]

    def served(self, ends: list[int]) -> bool:
        """Whether every partition is committed beyond these ends."""
        return all(read > end for read, end in zip(self.read(), ends, strict=True))

    def close(self) -> None:
        """Let go."""
        self._consumer.close(autocommit=False)


def measure(args: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, Any]:
    """Start everything, kill workers in turn, and return what it took."""
    brokers = start_brokers(folder, kafka_jars(), args.brokers, closing)
    redis = RedisServer(folder / "redis")
    redis.start()
    closing.callback(redis.kill)
    material = make_material(folder, 4, 30.0, 1)
    bootstrap = [f"127.0.0.1:{broker.port}" for broker in brokers]
    kafka = {"bootstrap_servers": bootstrap, "session_timeout_ms": args.session_ms}
    path = write_config(
        folder / "site.yaml",
        "recovery",
        material.artifact,
        kafka,
        redis.url,
        delivery="exactly_once",
        commit_interval_ms=1_000,
    )
    site = Site(path, folder, PARTITIONS, True)
    closing.callback(site.close)
    traffic, offsets = Traffic(bootstrap, site.topic), Offsets(bootstrap, site.config.group, site.topic)
    closing.callback(traffic.close)
    closing.callback(offsets.close)
    workers = [site.worker() for _ in range(args.workers)]
    share = PARTITIONS / args.workers
    took = []
    for kill in range(args.kills):
        until(lambda: all(worker.metric("assigned_partitions") == share for worker in workers), "all have work", 120)
        wait_until_served(offsets)
        workers[kill % args.workers].kill()
        began = time.monotonic()
        wait_until_served(offsets)
        took.append(round(time.monotonic() - began, 2))
        sys.stderr.write(f"killed a worker, all partitions served again after {took[-1]} s\n")
        workers[kill % args.workers] = site.worker()
    return {
        "session_timeout_s": args.session_ms / 1_000,
        "served_again_after_s": took,
        "longest_s": max(took),
        "beyond_session_s": round(max(took) - args.session_ms / 1_000, 2),
    }


def wait_until_served(offsets: Offsets) -> None:
    """Return once every partition is committed beyond its end of now."""
    ends = offsets.ends()
    until(lambda: offsets.served(ends), "all is served", 120)


def main() -> int:
    """Run it; 1 when a partition was not served again within the session timeout and 3 s."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="default: 5")
    parser.add_argument("--workers", type=int, default=3, choices=[2, 3, 4], help="default: 3")
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3], help="default: 1")
    parser.add_argument("--session-ms", type=int, default=10_000, help="default: 10000, as kafka.session_timeout_ms")
    args = parser.parse_args()
    with ExitStack() as closing:
        found = measure(args, Path(closing.enter_context(tempfile.TemporaryDirectory())), closing)
    sys.stdout.write(json.dumps(found) + "\n")
    return int(found["beyond_session_s"] > 3)


if __name__ == "__main__":
    sys.exit(main())
