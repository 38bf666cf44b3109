"""Stores on each kind of server, and states to put there; import the fixtures where they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from stream_detector.types import AppliedControls, AssetState, IncidentState, Partition, Position, ThresholdState
from tests.stores import Backend, MemoryBackend, RedisBackend, Store

HERE = Partition("pump.readings", 3)


@pytest.fixture(params=["memory", "valkey", "redis"])
def backend(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[Backend]:
    """A server of each kind; narrow with `@pytest.mark.parametrize("backend", ["redis"], indirect=True)`."""
    if request.param == "memory":
        yield MemoryBackend()
        return
    url = request.getfixturevalue("valkey" if request.param == "valkey" else "redis_server")
    over_redis = RedisBackend(url if isinstance(url, str) else url.url, unique("store"))
    yield over_redis
    over_redis.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    """One connection."""
    return backend.connect()


def state(level: float | None = 4.02, judged_ms: int = 1_583_748_873_000, size: int = 200) -> AssetState:
    """A state with every field set to something that is not its default."""
    sample = np.random.default_rng(abs(judged_ms) % 1_000).normal(4, 1, size).astype(np.float32)
    return AssetState(
        threshold=ThresholdState(
            method="spot", level=level, seen=18_233, numbers=(1e-4, 0.1, math.pi, -0.0), sample=sample
        ),
        incident=IncidentState(
            recent=0b101,
            quiet=2,
            first_ms=judged_ms - 9,
            opened_ms=judged_ms - 5,
            incident="an-id",
            severity="warning",
            leader="vibration",
            peak=8.3125,
            windows=17,
        ),
        judged_ms=judged_ms,
        applied=AppliedControls(reset="0001583748873000"),
    )


def same(a: AssetState, b: AssetState) -> bool:
    """Equal to the last bit."""
    s, t = a.threshold, b.threshold
    return (
        (s.method, s.level, s.seen, s.numbers) == (t.method, t.level, t.seen, t.numbers)
        and s.sample.dtype == t.sample.dtype
        and np.array_equal(s.sample, t.sample)
        and (a.incident, a.judged_ms, a.applied) == (b.incident, b.judged_ms, b.applied)
    )


def at(offset: int, epoch: int) -> dict[Partition, Position]:
    """Positions of a commit."""
    return {HERE: Position(offset, offset + 5, epoch)}


def judged(loaded: dict[str, AssetState]) -> dict[str, int]:
    """Tell versions apart by the window they judged last."""
    return {asset: found.judged_ms for asset, found in loaded.items()}
