"""The site that faults strike: its servers, its workers, and how to start another."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from stream_detector.adapters.embedded.servers import free_port
from tests.integration.site import Program, Site
from tests.servers import KafkaServer, RedisServer

_BATCHES = (7, 64, 512)


@dataclass
class ChaosSite(Site):
    """A site whose workers can be broken (tests/chaos/worker.py), and differ in what must not matter."""

    broken: str = ""
    pace: str = ""
    chance: random.Random = field(default_factory=random.Random)
    traps: dict[int, Path] = field(default_factory=dict)

    def worker(self, slot: int = 1) -> Program:
        """Start a worker: batches of any size, either policy for a store that is away; in slot 0 a static member."""
        port = free_port()
        trap = self.folder / f"trap-{len(self.programs)}"
        env = {
            "STREAM_DETECTOR__METRICS__PORT": str(port),
            "STREAM_DETECTOR__SCORER__MAX_BATCH": str(self.chance.choice(_BATCHES)),
            "STREAM_DETECTOR__ON_STORE_OUTAGE": self.chance.choice(["continue", "continue", "pause"]),
            **({"STREAM_DETECTOR__KAFKA__INSTANCE_ID": "static"} if slot == 0 else {}),
            "STREAM_DETECTOR_TEST_BREAK": self.broken,
            "STREAM_DETECTOR_TEST_PACE": self.pace,
            "STREAM_DETECTOR_TEST_TRAP": str(trap),
        }
        words = ("--log-level", "info", "run", self.config_path)
        worker = self._start("worker", env, "tests.chaos.worker", *words, port=port)
        self.traps[worker.process.pid] = trap
        return worker


@dataclass
class Target:
    """What there is to strike at."""

    brokers: list[KafkaServer]
    redis: RedisServer
    site: ChaosSite
    session_s: float
    workers: list[Program] = field(default_factory=list)

    @property
    def bootstrap(self) -> list[str]:
        """Addresses of the brokers."""
        return [f"127.0.0.1:{broker.port}" for broker in self.brokers]

    def busy(self) -> list[Program]:
        """Return the workers that have partitions; all when none has."""
        return [worker for worker in self.workers if worker.metric("assigned_partitions")] or self.workers

    def replace(self, worker: Program) -> None:
        """Start another in the place of one that ended, or end it now (SIGKILL)."""
        worker.kill()
        slot = self.workers.index(worker)
        self.workers[slot] = self.site.worker(slot)

    def revive(self) -> list[Program]:
        """Start others in the places of workers that ended on their own, and return those."""
        ended = [worker for worker in self.workers if worker.process.poll() is not None]
        for worker in ended:
            self.replace(worker)
        return ended
