"""Programs as a user runs them, as processes, against servers that are really there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.adapters.kafka import AlertReader, TopicReader, end_offsets, ensure_topics
from stream_detector.adapters.redis import RedisStore
from stream_detector.config import Config
from stream_detector.config.loading import load
from stream_detector.types import Message

ROOT = Path(__file__).parents[2]
DETECTOR, PRODUCERS = "stream_detector", "producers"


def environment() -> dict[str, str]:
    """Return the environment of a child: ours, less settings of the detector that a developer may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAM_DETECTOR__")}


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line of one of our programs."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def call(module: str, *arguments: object, status: int = 0) -> str:
    """Run a program to its end and return its standard output."""
    done = subprocess.run(
        command(module, *arguments),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert status == done.returncode, done.stderr
    return done.stdout


def until(done: Callable[[], object], what: str, seconds: float = 60.0, alive: Program | None = None) -> Any:
    """Look until it is so, and return what was found; fails after a while, or when a program ended over it."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        if alive is not None:
            assert alive.process.poll() is None, f"it ended over it: {what}\n{alive.said()}"
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Program:
    """A running child."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics_port: int = 0

    def said(self) -> str:
        """Return what it wrote on standard error."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value, summed over the labels not given; 0 while it doesn't answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        full = f"stream_detector_{name}"
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{full} ", f"{full}{{")) and all(label in line for label in wanted)
        )


@dataclass
class Site:
    """One stream of its own on a broker and a store, with its configuration file and programs."""

    config_path: Path
    folder: Path
    partitions: int
    keeps_metadata: bool  # of committed offsets: the embedded broker doesn't
    programs: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config: Config = load(self.config_path, env={})
        self.topic = self.config.inputs[0].topic
        inputs = [entry.topic for entry in self.config.inputs]
        topics = (*inputs, self.config.alert_topic, self.config.audit_topic)
        counts = dict.fromkeys(topics, self.partitions)
        ensure_topics(self.config.kafka, {**counts, self.config.dead_letter_topic: 1})

    def worker(self, level: str = "info") -> Program:
        """Start a worker, with metrics on a port of its own; ready some seconds later."""
        port = free_port()
        env = {"STREAM_DETECTOR__METRICS__PORT": str(port)}
        return self._start("worker", env, DETECTOR, "--log-level", level, "run", self.config_path, port=port)

    def replay(self, files: list[Path], speed: object, *options: object) -> Program:
        """Start a replay of recordings."""
        return self._start(
            "replay",
            {},
            PRODUCERS,
            "replay",
            *files,
            "--format",
            "csv",
            "--config",
            self.config_path,
            "--speed",
            speed,
            *options,
        )

    def _start(self, name: str, env: dict[str, str], module: str, *arguments: object, port: int = 0) -> Program:
        log = self.folder / f"{name}-{len(self.programs)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(module, *arguments),
                cwd=ROOT,
                env=environment() | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.programs.append(Program(process, log, port))
        return self.programs[-1]

    def close(self) -> None:
        """End what still runs."""
        for program in self.programs:
            if program.process.poll() is None:
                program.kill()

    def ends(self) -> dict[int, int]:
        """Return the end of each partition of the input topic that holds messages."""
        ends = end_offsets(self.config.kafka, [self.topic])
        return {partition.index: end for partition, end in ends.items() if end}

    def read_up_to(self) -> dict[int, int]:
        """Return by partition how far workers have come, as their last commit says."""
        store = RedisStore(self.config.redis, self.config.stream)
        try:
            found = {task: store.load(task).positions for task in store.tasks()}
        finally:
            store.close()
        return {task: position.read for task, positions in found.items() for position in positions.values()}

    def processed(self) -> bool:
        """Whether all that lies on the input topic is processed and committed."""
        read = self.read_up_to()
        return all(read.get(index, 0) >= end for index, end in self.ends().items())

    def share_read(self, messages: int) -> float:
        """Return how much of so many messages is processed and committed."""
        return sum(self.read_up_to().values()) / messages

    def finish(self, replay: Program, worker: Program) -> None:
        """Wait for the end of a replay, and until all of it is processed."""
        assert 0 == replay.process.wait(timeout=90), replay.said()
        until(self.processed, "all is processed", alive=worker)

    def alerts(self) -> list[bytes]:
        """Return the values of all alerts published so far."""
        with AlertReader(self.config, from_beginning=True) as reader:
            return [alert.value for alert in _all(lambda: reader.read(1_000))]

    def dead_letters(self) -> list[Message]:
        """Return all dead letters published so far."""
        with TopicReader(self.config.kafka, self.config.dead_letter_topic, from_beginning=True) as reader:
            batches = _all(lambda: reader.read(1_000))
        return [message for batch in batches for message in batch.messages]

    def thresholds(self, *arguments: object) -> Any:
        """Run `stream-detector thresholds ACTION CONFIG …` and return what it printed as JSON."""
        action, *rest = arguments
        return json.loads(call(DETECTOR, "thresholds", action, self.config_path, *rest, "--json"))


def _all(read: Callable[[], list[Any]]) -> list[Any]:
    """Read until nothing more comes."""
    found: list[Any] = []
    while more := read():
        found += more
    return found


def write_config(path: Path, name: str, artifact: Path, kafka: dict[str, Any], redis: str, **more: Any) -> Path:
    """Write the set-up of the integration tests: three channels, windows of half a minute.

    Topics, group and keys are called `name`; the stream, which is part of the alerts, is the same for all.
    """
    topics = {
        "alert_topic": f"{name}.alerts",
        "dead_letter_topic": f"{name}.dead-letter",
        "audit_topic": f"{name}.audit",
        "verdict_topic": f"{name}.verdicts",
        "group": name,
    }
    settings = {
        "stream": "plant",
        "channels": {"vibration": {"unit": "g"}, "temperature": {"valid": [-50, 500]}, "current": {"unit": "A"}},
        "window": {"cell_ms": 1_000, "length": 30, "stride": 5, "lateness_ms": 1_000, "max_gap_ms": 5_000},
        "features": {"smoothing": 0.2, "keep": 1},
        "model": {"kind": "ae", "hidden": [8], "latent": 2},
        "train": {"epochs": 10},
        "artifact": str(artifact),
        "threshold": {"method": "spot", "risk": 1e-3},
        "incident": {"open_after": 2, "open_of": 3, "close_after": 6},
        "commit_interval_ms": 300,
        "kafka": {"inputs": [{"topic": f"{name}.readings", "max_message_bytes": 100_000}], **kafka, **topics},
        "redis": {"url": redis, "prefix": name},
        **more,
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def repeats(values: list[bytes]) -> dict[bytes, int]:
    """Return the alerts that came more than once, and how often."""
    return {value: count for value, count in Counter(values).items() if count > 1}
