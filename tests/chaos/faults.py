"""What is done to a site while it works. Each fault tells whether it struck; what it takes away, it gives back."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.assignor import TaskAssignor
from tests.chaos.target import Target
from tests.chaos.worker import MOMENTS
from tests.integration.site import Program
from tests.servers import KafkaServer

Fault = Callable[[Target, random.Random], bool]

# Workers --------------------------------------------------------------------------------------------------------------


def worker_killed(target: Target, chance: random.Random) -> bool:
    """kill -9 a worker and start another."""
    target.replace(chance.choice(target.workers))
    return True


def worker_killed_in_commit(target: Target, chance: random.Random) -> bool:
    """kill -9 a worker between two steps of a commit with alerts, and start another."""
    worker = chance.choice(target.busy())
    struck = _trapped(target, worker, f"{chance.choice(MOMENTS)}:SIGKILL")
    target.replace(worker)
    return struck


def worker_stopped(target: Target, chance: random.Random) -> bool:
    """End a worker cleanly and start another."""
    worker = chance.choice(target.workers)
    worker.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        worker.process.wait(20)
    target.replace(worker)
    return True


def worker_held(target: Target, chance: random.Random) -> bool:
    """Hold a worker for less than its session."""
    return _held(target, chance.choice(target.workers), chance.uniform(0.2, 0.7) * target.session_s)


def worker_zombie(target: Target, chance: random.Random) -> bool:
    """Hold a worker until others have its work, then let it go on; every other time in the middle of a commit."""
    worker = chance.choice(target.busy())
    if chance.random() < 0.5:
        _trapped(target, worker, f"{chance.choice(MOMENTS)}:SIGSTOP")
    return _held(target, worker, target.session_s + chance.uniform(1.0, 3.0))


def _held(target: Target, worker: Program, seconds: float) -> bool:
    worker.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    worker.process.send_signal(signal.SIGCONT)
    return worker.process.poll() is None


def _trapped(target: Target, worker: Program, what: str, patience_s: float = 10.0) -> bool:
    """Set a trap for a worker (tests/chaos/worker.py); tell whether it sprang."""
    trap = target.site.traps[worker.process.pid]
    ready = trap.with_suffix(".new")
    ready.write_text(what)
    ready.rename(trap)
    deadline = time.monotonic() + patience_s
    while trap.exists():
        if time.monotonic() > deadline:
            trap.unlink(missing_ok=True)
            return False
        time.sleep(0.02)
    return True


# The store ------------------------------------------------------------------------------------------------------------


def redis_away(target: Target, chance: random.Random) -> bool:
    """Redis is killed, stays away for a while, and comes back with what it had."""
    target.redis.kill()
    time.sleep(chance.uniform(0.1, 4.0))
    target.redis.start()
    return True


def redis_held(target: Target, chance: random.Random) -> bool:
    """Redis doesn't answer for a while: sometimes for less than the worker's patience, sometimes for more."""
    target.redis.pause()
    time.sleep(chance.uniform(0.2, 5.0))
    target.redis.resume()
    return True


def redis_back_older(target: Target, chance: random.Random) -> bool:
    """Redis is killed and comes back without its last seconds."""
    kept = target.redis.folder / "kept"
    _copy_data(target.redis.folder, kept)
    time.sleep(chance.uniform(0.5, 4.0))
    target.redis.kill()
    data = target.redis.folder / "appendonlydir"
    shutil.rmtree(data)
    kept.rename(data)
    target.redis.start()
    return True


def _copy_data(folder: Path, kept: Path) -> None:
    """Copy the append-only files; again when Redis has begun new ones meanwhile."""
    data = folder / "appendonlydir"
    while True:
        shutil.rmtree(kept, ignore_errors=True)
        before = sorted(path.name for path in data.iterdir())
        with suppress(FileNotFoundError, shutil.Error):
            shutil.copytree(data, kept)
            if before == sorted(path.name for path in kept.iterdir()) == sorted(path.name for path in data.iterdir()):
                return
        time.sleep(0.2)


def redis_back_empty(target: Target, chance: random.Random) -> bool:
    """Redis comes back without anything; workers go on from memory."""
    target.redis.kill()
    time.sleep(chance.uniform(0.1, 1.0))
    shutil.rmtree(target.redis.folder / "appendonlydir")
    target.redis.start()
    return True


def worker_killed_redis_away(target: Target, chance: random.Random) -> bool:
    """A worker dies while Redis is away: its last states were never saved."""
    target.redis.kill()
    time.sleep(chance.uniform(0.5, 3.0))
    worker_killed(target, chance)
    time.sleep(chance.uniform(0.1, 1.0))
    target.redis.start()
    return True


def worker_killed_redis_back_empty(target: Target, chance: random.Random) -> bool:
    """A worker dies and Redis comes back without anything: its tasks' states are nowhere but in the log."""
    worker = chance.choice(target.workers)
    worker.kill()
    redis_back_empty(target, chance)
    target.replace(worker)
    return True


# The brokers ----------------------------------------------------------------------------------------------------------


def broker_killed(target: Target, chance: random.Random) -> bool:
    """A broker is killed and started again."""
    broker = chance.choice(target.brokers)
    broker.kill()
    time.sleep(chance.uniform(0.1, 3.0))
    broker.start()
    _answering([broker])
    return True


def brokers_all_killed(target: Target, chance: random.Random) -> bool:
    """All brokers are gone for a while."""
    for broker in target.brokers:
        broker.kill()
    time.sleep(chance.uniform(0.5, 3.0))
    for broker in target.brokers:
        broker.start()
    _answering(target.brokers)
    return True


def broker_held(target: Target, chance: random.Random) -> bool:
    """A broker doesn't answer for a while, as with a slow disk."""
    broker = chance.choice(target.brokers)
    broker.pause()
    time.sleep(chance.uniform(0.2, 6.0))
    broker.resume()
    return True


def _answering(brokers: list[KafkaServer], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(KafkaServer.ready(broker) for broker in brokers):
        if time.monotonic() > deadline:
            raise RuntimeError("brokers that were killed don't come back")
        time.sleep(0.5)


# The group ------------------------------------------------------------------------------------------------------------


def rebalance_storm(target: Target, chance: random.Random) -> bool:
    """Members that do nothing come and go."""
    struck = False
    for _ in range(chance.randrange(2, 5)):
        with suppress(kafka_errors.KafkaError):
            owned: list[Any] = []  # the member, once there is one: the assignor is asked what it owns
            member: Any = KafkaConsumer(
                bootstrap_servers=target.bootstrap,
                group_id=target.site.config.group,
                enable_auto_commit=False,
                partition_assignment_strategy=[TaskAssignor(partial(_owned, owned), _unconcerned, cooperative=True)],
                client_id=f"storm-{uuid.uuid4().hex[:6]}",
            )
            owned.append(member)
            member.subscribe(topics=[target.site.topic])
            member.partitions_for_topic(target.site.topic)
            member.poll(timeout_ms=int(chance.uniform(100, 1_500)))
            struck = True
            member.close(autocommit=False, timeout_ms=5_000)
    return struck


def _owned(members: list[Any]) -> list[Any]:
    return [partition for member in members for partition in member.assignment() or ()]


def _unconcerned() -> None:
    """Don't mind an assignment."""


def producer_fenced(target: Target, chance: random.Random) -> bool:
    """Somebody takes a worker's transactional id."""
    group = target.site.config.group
    with suppress(kafka_errors.KafkaError):
        admin: Any = KafkaAdminClient(bootstrap_servers=target.bootstrap)  # type: ignore[no-untyped-call]
        try:
            members = admin.describe_groups([group])[group]["members"]
        finally:
            admin.close()
        if names := sorted(member["client_id"] for member in members if member["client_id"].startswith(f"{group}#")):
            thief: Any = KafkaProducer(
                bootstrap_servers=target.bootstrap, transactional_id=chance.choice(names), max_block_ms=5_000
            )  # type: ignore[no-untyped-call]
            try:
                thief.init_transactions()
                return True
            finally:
                thief.close(timeout=0)
    return False


#: Fault -> how often in each round of the schedule.
FAULTS: dict[Fault, int] = {
    worker_killed: 4,
    worker_killed_in_commit: 4,
    worker_stopped: 1,
    worker_held: 3,
    worker_zombie: 3,
    redis_away: 2,
    redis_held: 2,
    redis_back_older: 2,
    redis_back_empty: 1,
    worker_killed_redis_away: 2,
    worker_killed_redis_back_empty: 1,
    broker_killed: 2,
    brokers_all_killed: 1,
    broker_held: 2,
    rebalance_storm: 2,
    producer_fenced: 2,
}
