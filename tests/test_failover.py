"""Servers that change their part under a worker: a master that becomes a replica, an address that leads elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from stream_detector.adapters.redis import RedisStore
from stream_detector.config import RedisConfig
from stream_detector.errors import StoreError
from tests.conftest import missing
from tests.rig import Plant, make_config, recorded
from tests.servers import Forwarder, RedisServer, UnavailableError

MESSAGES = recorded(assets=4, rows=120, partitions=2)


def started(folder: Path, closing: ExitStack, **settings: str) -> RedisServer:
    """A Redis of the test's own."""
    try:
        server = RedisServer(folder, settings)
    except UnavailableError as reason:
        missing(str(reason))
    server.start()
    closing.callback(server.stop)
    return server


def call(server: RedisServer, *words: str) -> Any:
    """Run a command and return its answer."""
    with redis.Redis(port=server.port) as client:
        return client.execute_command(*words)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A master with a replica, and one address for them; `fail_over` makes the replica the master."""
    with ExitStack() as closing:
        first = started(tmp_path / "first", closing, **{"repl-diskless-sync-delay": "0"})
        second = started(tmp_path / "second", closing, replicaof=f"127.0.0.1 {first.port}")
        address = Forwarder(first.port)
        closing.callback(address.close)
        deadline = time.monotonic() + 20
        while call(second, "INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.05)

        def fail_over() -> None:
            call(first, "WAIT", "1", "5000")
            call(second, "REPLICAOF", "NO", "ONE")
            call(first, "REPLICAOF", "127.0.0.1", str(second.port))

        config = RedisConfig(url=f"redis://127.0.0.1:{address.port}/0", timeout_ms=2_000)
        yield SimpleNamespace(first=first, second=second, address=address, fail_over=fail_over, config=config)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The store's events, in order."""
    found = [getattr(record, "stream_detector_event", {}).get("event", "") for record in caplog.records]
    return [name for name in found if name.startswith("store-")]


def test_after_a_failover_the_address_is_looked_up_again(pair: SimpleNamespace):
    """The old master answers as a replica; one call later the new one is used, by every kind of call."""
    store = RedisStore(pair.config, "pump")
    token = store.acquire(0)
    store.save(0, token, 1, {}, {})
    pair.fail_over()
    pair.address.target = pair.second.port
    with pytest.raises(StoreError, match=r"is not in charge now: .*looked up again"):
        store.save(0, token, 2, {}, {})
    store.save(0, token, 2, {}, {})
    assert b"2" == call(pair.second, "HGET", "stream-detector:{pump}:task:0", "epoch")
    store.close()


@pytest.mark.parametrize("write", ["pin", "acquire", "verdict"])
def test_every_write_finds_the_new_master(pair: SimpleNamespace, write: str):
    """What operators' tools do as well."""
    calls: dict[str, Callable[[RedisStore], object]] = {
        "pin": lambda store: store.pin("a", 2.0),
        "acquire": lambda store: store.acquire(3),
        "verdict": lambda store: store.reset(None),
    }
    store = RedisStore(pair.config, "pump")
    calls[write](store)
    pair.fail_over()
    pair.address.target = pair.second.port
    with pytest.raises(StoreError):
        calls[write](store)
    calls[write](store)
    store.close()


def test_a_worker_tells_a_failover_once(pair: SimpleNamespace, caplog: pytest.LogCaptureFixture):
    """The replica answers reads all the while: the store is away until a save succeeds, and then nothing is lost."""
    caplog.set_level(logging.INFO, logger="stream_detector")
    plant = Plant(make_config(commit_interval_ms=100), partitions=2)
    plant.write(MESSAGES)
    store = RedisStore(pair.config, "pump")
    worker = plant.worker(16, store)

    def steps(count: int) -> None:
        for _ in range(count):
            worker.pipeline.step(0)
            plant.clock.now += 100

    steps(5)
    pair.fail_over()
    steps(10)  # the name still leads to the old one
    assert ["store-away", "store-behind"] == events(caplog)
    assert worker.metric("store_behind_seconds") > 0.5
    pair.address.target = pair.second.port
    steps(3)
    assert ["store-away", "store-behind", "store-back"] == events(caplog)
    plant.run(worker)
    assert 0 == worker.metric("store_behind_seconds")
    assert ["store-away", "store-behind", "store-back"] == events(caplog)
    found = {asset for _, asset, _ in store.assets()}
    assert {f"pump-{index}" for index in range(4)} == found
    store.close()


def test_a_server_that_loads_its_data_is_away(tmp_path: Path):
    """LOADING is no refusal: the same call works once the data is there."""
    with ExitStack() as closing:
        server = started(
            tmp_path, closing, **{"enable-debug-command": "local", "loading-process-events-interval-bytes": "1024"}
        )
        store = RedisStore(RedisConfig(url=server.url), "pump")
        closing.callback(store.close)
        store.pin("a", 1.0)
        with redis.Redis(port=server.port) as client:
            pipe = client.pipeline(transaction=False)
            for index in range(3_000):
                pipe.set(f"filler:{index}", b"x" * 1_000)
            pipe.execute()
            client.config_set("key-load-delay", "500")  # us
        thread = threading.Thread(target=call, args=(server, "DEBUG", "RELOAD"))
        thread.start()
        time.sleep(0.3)
        with pytest.raises(StoreError, match=r"can't be reached: .*loading"):
            store.pin("a", 2.0)
        thread.join()
        store.pin("a", 2.0)
        assert {"a": 2.0} == store.controls().pins
