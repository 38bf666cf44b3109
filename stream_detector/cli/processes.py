"""Workers and servers started here, as processes of their own, for commands that need the whole of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_detector.config import Config


def servers(kafka: str | None, redis: str | None, exits: ExitStack) -> dict[str, str]:
    """Return the environment that names broker and store, started here, until `exits` closes, where none was given."""
    environment: dict[str, str] = {}
    if kafka is None or redis is None:
        from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, Embedded

        embedded = exits.enter_context(Embedded())
        if kafka is None:
            kafka = embedded.bootstrap_servers
            environment["STREAM_DETECTOR__KAFKA__SESSION_TIMEOUT_MS"] = str(SESSION_TIMEOUT_MS)
        redis = redis or embedded.redis_url
    environment["STREAM_DETECTOR__KAFKA__BOOTSTRAP_SERVERS"] = json.dumps(str(kafka).split(","))
    environment["STREAM_DETECTOR__REDIS__URL"] = str(redis)
    return environment


def create(config: Config, partitions: int) -> None:
    """Make the topics, and see whether broker and store are there at all: before time goes into training."""
    from stream_detector.adapters.kafka import ensure_topics
    from stream_detector.adapters.redis import RedisStore

    with closing(RedisStore(config.redis, config.stream)) as store:
        store.controls_version()
    wide = [*(entry.topic for entry in config.inputs), config.alert_topic, config.audit_topic]
    ensure_topics(config.kafka, {**dict.fromkeys(wide, partitions), config.dead_letter_topic: 1})


class Child:
    """A child process that ends with its parent."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], exits: ExitStack) -> None:
        """Start it; what it prints goes to standard error."""
        self.process = subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=sys.stderr)
        exits.callback(self.stop)

    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ask it to stop, and wait."""
        if not self.ended():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ends(config: Config) -> dict[int, int]:
    """Return the end of each partition of the first input topic that holds messages."""
    from stream_detector.adapters.kafka import end_offsets

    found = end_offsets(config.kafka, [config.inputs[0].topic])
    return {partition.index: end for partition, end in found.items() if end}


def processed(config: Config, upto: Mapping[int, int]) -> bool:
    """Whether workers have committed all up to these ends."""
    from stream_detector.adapters.redis import RedisStore

    with closing(RedisStore(config.redis, config.stream)) as store:
        return all(
            any(position.read >= end for position in store.load(task).positions.values()) for task, end in upto.items()
        )
