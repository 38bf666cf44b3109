"""The state stores' servers as contract tests use them: several connections, and data that can be lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import redis

from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.adapters.redis import RedisStore
from stream_detector.config import RedisConfig
from stream_detector.ports import StateStore
from stream_detector.types import AssetState


class Store(StateStore, Protocol):
    """The port and what operators' tools use beside it."""

    def assets(self, task: int | None = None) -> Iterator[tuple[int, str, AssetState]]:
        """List them."""

    def tasks(self) -> list[int]:
        """List the tasks."""

    def find(self, asset: str) -> tuple[int, AssetState] | None:
        """Find one."""


class Backend(Protocol):
    """A server that stores connect to."""

    def connect(self) -> Store:
        """Return one more connection."""

    def clear(self) -> None:
        """Lose all data, as a server that came back empty."""

    def forget(self, task: int, token: int) -> None:
        """Lose that a task was taken after `token`, as a server that came back without its last seconds."""


class MemoryBackend:
    """Memory, shared by the stores of one test."""

    def __init__(self) -> None:
        self.server = MemoryServer()

    def connect(self) -> MemoryStore:
        """Return one more connection."""
        return MemoryStore(self.server)

    def clear(self) -> None:
        """Lose all data."""
        self.server.clear()

    def forget(self, task: int, token: int) -> None:
        """Set the task's token back."""
        self.server.tasks[task].token = token


class RedisBackend:
    """A stream of its own on a server that tests share."""

    def __init__(self, url: str, stream: str) -> None:
        self.config = RedisConfig(url=url, prefix="contract")
        self.stream = stream
        self.stores: list[RedisStore] = []

    def connect(self) -> RedisStore:
        """Return one more connection."""
        self.stores.append(RedisStore(self.config, self.stream))
        return self.stores[-1]

    def clear(self) -> None:
        """Delete this stream's keys only: the server is shared with other tests."""
        with redis.Redis.from_url(self.config.url) as client:
            for key in client.scan_iter(f"contract:{{{self.stream}}}:*"):
                client.delete(key)
            client.script_flush()

    def forget(self, task: int, token: int) -> None:
        """Set the task's token back."""
        with redis.Redis.from_url(self.config.url) as client:
            client.hset(f"contract:{{{self.stream}}}:task:{task}", "token", str(token))

    def close(self) -> None:
        """Leave nothing behind."""
        self.clear()
        for store in self.stores:
            store.close()
