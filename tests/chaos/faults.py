"""What is done to a site while it works: each fault by name, undone before it returns, or later by itself."""

from __future__ import annotations

import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.range import RangePartitionAssignor

from tests.integration.site import Program
from tests.servers import KafkaServer, RedisServer


@dataclass
class Target:
    """The site: its servers, and its workers with how to start one."""

    brokers: list[KafkaServer]
    redis: RedisServer
    group: str
    topic: str
    session_s: float
    start: Callable[[str], Program]
    """Start a worker; the text says when it kills itself (STREAM_DETECTOR_TEST_AT of tests/chaos/worker.py)."""
    workers: list[Program] = field(default_factory=list)

    @property
    def bootstrap(self) -> list[str]:
        """Addresses of the brokers."""
        return [f"127.0.0.1:{broker.port}" for broker in self.brokers]

    def revive(self) -> int:
        """Start workers anew that ended on their own; return how many did."""
        ended = [index for index, worker in enumerate(self.workers) if worker.process.poll() is not None]
        for index in ended:
            self.workers[index] = self.start("")
        return len(ended)


def worker_kill(target: Target, chance: random.Random) -> None:
    """kill -9 a worker and start another."""
    index = chance.randrange(len(target.workers))
    target.workers[index].kill()
    target.workers[index] = target.start("")


def worker_kill_in_commit(target: Target, chance: random.Random) -> None:
    """kill -9 a worker and start one that dies between two steps of a commit; then it is started anew."""
    index = chance.randrange(len(target.workers))
    target.workers[index].kill()
    moment = chance.choice(["flushed", "saved", "saved", "committed"])
    worker = target.workers[index] = target.start(f"{moment}:{chance.randrange(1, 6)}:SIGKILL")
    with suppress(subprocess.TimeoutExpired):
        worker.process.wait(chance.uniform(8, 12))


def worker_term(target: Target, chance: random.Random) -> None:
    """End a worker cleanly and start another."""
    index = chance.randrange(len(target.workers))
    target.workers[index].process.terminate()
    with suppress(Exception):
        target.workers[index].process.wait(20)
    target.workers[index].kill()
    target.workers[index] = target.start("")


def worker_pause(target: Target, chance: random.Random) -> None:
    """Hold a worker for less than its session."""
    _hold(target, chance, chance.uniform(0.2, 0.8) * target.session_s)


def worker_zombie(target: Target, chance: random.Random) -> None:
    """Hold a worker until others have its work, then let it go on."""
    _hold(target, chance, target.session_s + chance.uniform(1.0, 3.0))


def _hold(target: Target, chance: random.Random, seconds: float) -> None:
    process = chance.choice(target.workers).process
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def redis_restart(target: Target, chance: random.Random) -> None:
    """Redis is killed, stays away for a while, and comes back with what it had."""
    target.redis.kill()
    time.sleep(chance.uniform(0.1, 3.0))
    target.redis.start()


def redis_restart_and_worker_kill(target: Target, chance: random.Random) -> None:
    """A worker dies while Redis is away, so its last states were never saved."""
    target.redis.kill()
    time.sleep(chance.uniform(0.5, 2.5))
    worker_kill(target, chance)
    time.sleep(chance.uniform(0.1, 1.0))
    target.redis.start()


def redis_empty(target: Target, chance: random.Random) -> None:
    """Redis comes back without anything."""
    target.redis.kill()
    time.sleep(chance.uniform(0.1, 1.0))
    for path in target.redis.folder.rglob("appendonly*"):
        if path.is_file():
            path.unlink()
    target.redis.start()


def redis_pause(target: Target, chance: random.Random) -> None:
    """Redis doesn't answer for a while."""
    target.redis.pause()
    time.sleep(chance.uniform(0.2, 4.0))
    target.redis.resume()


def broker_restart(target: Target, chance: random.Random) -> None:
    """A broker is killed and started again."""
    broker = chance.choice(target.brokers)
    broker.kill()
    time.sleep(chance.uniform(0.1, 2.0))
    broker.start()


def broker_pause(target: Target, chance: random.Random) -> None:
    """A broker doesn't answer for a while, as with a slow disk."""
    broker = chance.choice(target.brokers)
    broker.pause()
    time.sleep(chance.uniform(0.2, 5.0))
    broker.resume()


def rebalance_storm(target: Target, chance: random.Random) -> None:
    """Members that do nothing come and go."""
    for _ in range(chance.randrange(2, 5)):
        with suppress(kafka_errors.KafkaError):
            member: Any = KafkaConsumer(
                target.topic, bootstrap_servers=target.bootstrap, group_id=target.group, enable_auto_commit=False,
                partition_assignment_strategy=[RangePartitionAssignor], client_id=f"storm-{uuid.uuid4().hex[:6]}",
            )  # fmt: skip
            member.poll(timeout_ms=int(chance.uniform(100, 1_500)))
            member.close(autocommit=False)


def producer_fenced(target: Target, chance: random.Random) -> None:
    """Somebody takes a worker's transactional id."""
    with suppress(kafka_errors.KafkaError):
        admin: Any = KafkaAdminClient(bootstrap_servers=target.bootstrap)  # type: ignore[no-untyped-call]
        try:
            members = admin.describe_groups([target.group])[target.group]["members"]
        finally:
            admin.close()
        names = sorted(member["client_id"] for member in members)
        if names:
            thief: Any = KafkaProducer(
                bootstrap_servers=target.bootstrap, transactional_id=chance.choice(names), max_block_ms=5_000
            )  # type: ignore[no-untyped-call]
            try:
                thief.init_transactions()
            finally:
                thief.close(timeout=0)


#: Fault -> how often beside the others.
FAULTS: dict[Callable[[Target, random.Random], None], int] = {
    worker_kill: 4,
    worker_kill_in_commit: 3,
    worker_term: 1,
    worker_pause: 3,
    worker_zombie: 2,
    redis_restart: 2,
    redis_restart_and_worker_kill: 2,
    redis_empty: 1,
    redis_pause: 2,
    broker_restart: 1,
    broker_pause: 2,
    rebalance_storm: 2,
    producer_fenced: 2,
}
