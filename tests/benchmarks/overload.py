"""Whether a worker's memory stays where it is when ten times more comes than it can do: `make soak`.

    python -m tests.benchmarks.overload --seconds 600 --json

One Apache Kafka and one Redis; a worker of each delivery reads the same topic, `--slow-ms` a window slower than it is
(so that the machine has something left to send ten times that much with): 200 assets, 3 channels, every hundredth
message broken, every fortieth reading far from normal. Each second the resident memory of both is noted. Prints one
JSON object: of each delivery the memory after `--after` seconds (a minute), its highest level later, their ratio, how
many times more came than was read (in all, and since then: no window is complete before each asset has sent 64
readings, so the first 12,800 cost next to nothing), and how often the worker lost partitions. Exits with 1 when the
ratio is above 1.2, less came than asked for, or a worker lost something or ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.adapters.kafka import MessageWriter, ensure_topics
from stream_detector.evaluate.offline import windows
from stream_detector.training.train import train
from tests.benchmarks.throughput import ASSETS, CHANNELS, config_for, readings
from tests.integration.site import Program
from tests.servers import KafkaServer, RedisServer, kafka_jars

PARTITIONS = 12
DELIVERIES = ("at_least_once", "exactly_once")
STRIDE = 16
_BATCH_S = 0.02  # messages are sent so often
_DISTINCT = 40_000  # readings prepared; the others repeat them at later times


def slow_worker(config: Path, slow_ms: float) -> int:
    """Run a worker whose detector takes so many milliseconds longer for each window."""
    from stream_detector.__main__ import main as detector
    from stream_detector.scoring.scorer import Scorer

    score = Scorer.score

    def slowly(self: Scorer, batch: Any, shifts: Any = None) -> Any:
        time.sleep(len(batch) * slow_ms / 1_000)
        return score(self, batch, shifts)

    Scorer.score = slowly  # type: ignore[method-assign]  # what is measured is a slow detector
    return detector(["--log-level", "warning", "run", str(config)])


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def prepare() -> list[tuple[bytes, bytes, bytes]]:
    """Return key and value, parted at the time, of readings that repeat: assets in turn, some broken, some far off."""
    found = []
    for index, reading in enumerate(readings(_DISTINCT)):
        value = json.loads(reading.value or b"")
        if index // ASSETS % 40 == 39:
            value["values"] = {name: 50.0 * each for name, each in value["values"].items()}
        before, after = json.dumps(value).encode().split(str(value["ts"]).encode())
        found.append((reading.key or b"", b"{" + before if index % 100 == 50 else before, after))
    return found


def start(folder: Path, kafka: str, redis: str, artifact: Path, delivery: str, topic: str, slow_ms: float) -> Program:
    """Start a worker of a stream of its own on the common topic."""
    port = free_port()
    settings = {
        "stream": f"soak-{delivery.replace('_', '-')}",
        "channels": {name: {} for name in CHANNELS},
        "window": {"cell_ms": 1_000, "length": 64, "stride": STRIDE},
        "model": {"kind": "ae", "hidden": [64], "latent": 8},
        "artifact": str(artifact),
        "delivery": delivery,
        "kafka": {
            "bootstrap_servers": [kafka],
            "inputs": [{"topic": topic}],
            "session_timeout_ms": 6_000,
            "max_poll_interval_ms": 10_000,
        },
        "redis": {"url": redis},
        "metrics": {"port": port},
    }
    path, log = folder / f"{delivery}.yaml", folder / f"{delivery}.log"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", "tests.benchmarks.overload", "--worker", str(path), "--slow-ms", str(slow_ms)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    return Program(process, log, port)


def soak(args: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, Any]:
    """Set it all up, send, watch."""
    broker = KafkaServer(folder / "kafka", kafka_jars())
    broker.start()
    closing.callback(broker.kill)
    store = RedisServer(folder / "redis")
    store.start()
    closing.callback(store.kill)
    kafka, artifact = broker.config.bootstrap_servers[0], folder / "model.safetensors"
    config = config_for(kafka, store.url, artifact, 6_000)
    train(config, windows(config, readings(ASSETS * 400))).save(artifact)
    topic = config.inputs[0].topic
    ensure_topics(config.kafka, {topic: PARTITIONS})
    for delivery in DELIVERIES:
        name = f"soak-{delivery.replace('_', '-')}"
        ensure_topics(config.kafka, {f"{name}.alerts": PARTITIONS, f"{name}.dead-letter": 1, f"{name}.audit": 1})
    workers = {}
    for delivery in DELIVERIES:
        workers[delivery] = start(folder, kafka, store.url, artifact, delivery, topic, args.slow_ms)
        closing.callback(workers[delivery].kill)
    while not all(worker.metric("ready") for worker in workers.values()):
        for worker in workers.values():
            assert worker.process.poll() is None, worker.said()
        time.sleep(0.2)
    # What a worker can do: a window takes slow_ms, and every STRIDE-th reading completes one.
    rate = args.overload * STRIDE * 1_000 / args.slow_ms
    prepared, sent, began = prepare(), 0, time.monotonic()
    with MessageWriter(config.kafka) as writer, Levels({d: one.process.pid for d, one in workers.items()}) as levels:
        settled: tuple[int, dict[str, float]] | None = None
        while (elapsed := time.monotonic() - began) < args.seconds:
            if settled is None and elapsed >= args.after:
                settled = sent, {d: one.metric("messages_total") for d, one in workers.items()}
            for _ in range(min(int(rate * elapsed) - sent, int(rate))):
                key, before, after = prepared[sent % _DISTINCT]
                ts = 1_700_000_000_000 + sent // ASSETS * 1_000
                writer.send(topic, key, before + str(ts).encode() + after)
                sent += 1
            time.sleep(_BATCH_S)
        elapsed = time.monotonic() - began
    sent_then, read_then = settled or (0, dict.fromkeys(DELIVERIES, 0.0))
    found = {d: report(workers[d], levels.seen[d], (sent_then, sent), read_then[d], args.after) for d in DELIVERIES}
    return {"seconds": round(elapsed), "sent_per_s": round(sent / elapsed), "slow_ms": args.slow_ms, **found}


class Levels:
    """Resident memory of some processes, noted each second by a thread: seconds since the start, and MB."""

    def __init__(self, pids: dict[str, int]) -> None:
        """Begin with `with`."""
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(1.0):
            for name, pid in self._pids.items():
                self.seen[name].append((time.monotonic() - began, resident_mb(pid)))

    def __enter__(self) -> Levels:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()


def report(
    worker: Program, levels: list[tuple[float, float]], sent: tuple[int, int], read_then: float, after: int
) -> dict[str, Any]:
    """Return what became of one worker; `sent`, `read_then`: messages after so many seconds (and at the end)."""
    read = worker.metric("messages_total")
    later = [level for seconds, level in levels if seconds >= after]
    level, highest = later[0], max(later)
    found = {
        "rss_mb_then": round(level, 1),
        "rss_mb_highest": round(highest, 1),
        "ratio": round(highest / level, 3),
        "overload": round(sent[1] / max(read, 1), 1),
        "overload_since": round((sent[1] - sent[0]) / max(read - read_then, 1), 1),
        "lag": round(worker.metric("lag")),
        "alerts": round(worker.metric("alerts_total")),
        "dead_letters": round(worker.metric("dead_letters_total")),
        "commits": round(worker.metric("commits_total")),
        "waiting_windows": round(worker.metric("waiting_windows")),
        "lost": round(worker.metric("fencings_total") + worker.metric("aborts_total")),
        "restores": round(worker.metric("restores_total")),
    }
    found["alive"] = worker.process.poll() is None
    worker.process.terminate()
    return {**found, "stopped": worker.process.wait(timeout=180)}


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=600, help="default: 600")
    parser.add_argument("--after", type=int, default=60, help="seconds after which the level is taken (default: 60)")
    parser.add_argument("--overload", type=float, default=14, help="times more than a worker can do (default: 14)")
    parser.add_argument("--slow-ms", type=float, default=250, help="so much longer takes a window (default: 250)")
    parser.add_argument("--least", type=float, default=10, help="least times more that must have come (default: 10)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        return slow_worker(args.worker, args.slow_ms)
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        found = soak(args, folder, closing)
    sys.stdout.write(json.dumps(found) + "\n" if args.json else f"{found}\n")
    each = [found[delivery] for delivery in DELIVERIES]
    enough = all(min(one["overload"], one["overload_since"]) >= args.least for one in each)
    return int(not enough or any(one["ratio"] > 1.2 or one["lost"] or not one["alive"] for one in each))


if __name__ == "__main__":
    sys.exit(main())
