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
from stream_detector.config import RedisConfig, Secret
from stream_detector.errors import StoreError
from tests.conftest import missing
from tests.rig import Plant, make_config, recorded
from tests.servers import Forwarder, RedisServer, SentinelServer, UnavailableError

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


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A master with a replica, and three sentinels with a password that watch them."""
    monkeypatch.setenv("SENTINEL_PASSWORD", "the-sentinels-own")
    with ExitStack() as closing:
        first = started(tmp_path / "first", closing, **{"repl-diskless-sync-delay": "0"})
        second = started(tmp_path / "second", closing, replicaof=f"127.0.0.1 {first.port}")
        sentinels = []
        for number in range(3):
            sentinels.append(SentinelServer(tmp_path / f"sentinel-{number}", first, 2, "the-sentinels-own"))
            sentinels[-1].start()
            closing.callback(sentinels[-1].stop)
        servers = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        config = RedisConfig(
            url=f"redis+sentinel://{servers}/plant/1", sentinel_password=Secret(env="SENTINEL_PASSWORD")
        )

        def known() -> dict[str, Any]:
            with redis.Redis(port=sentinels[0].port, password="the-sentinels-own") as client:
                return client.sentinel_masters()["plant"]

        _until(lambda: known()["num-slaves"] == 1 and known()["num-other-sentinels"] == 2)
        yield SimpleNamespace(first=first, second=second, sentinels=sentinels, config=config, known=known)


def _until(done: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sentinels_say_which_server_is_the_master(watched: SimpleNamespace, caplog: pytest.LogCaptureFixture):
    """A worker goes on when the master dies: away until another is chosen, told once, and nothing is lost."""
    caplog.set_level(logging.INFO, logger="stream_detector")
    plant = Plant(make_config(commit_interval_ms=100), partitions=2)
    plant.write(MESSAGES)
    store = RedisStore(watched.config, "pump")
    worker = plant.worker(16, store)
    for _ in range(5):
        worker.pipeline.step(0)
        plant.clock.now += 100
    key = "stream-detector:{pump}:task:0"
    with redis.Redis(port=watched.first.port, db=1) as client:
        assert client.exists(key)
    call(watched.first, "WAIT", "1", "5000")
    watched.first.kill()

    def back() -> bool:
        worker.pipeline.step(0)
        plant.clock.now += 100
        return "store-back" in events(caplog)

    _until(back)
    plant.run(worker)
    assert watched.known()["port"] == watched.second.port
    assert ["store-away", "store-behind", "store-back"] == events(caplog)
    assert {f"pump-{index}" for index in range(4)} == {asset for _, asset, _ in store.assets()}
    with redis.Redis(port=watched.second.port, db=1) as client:
        assert client.exists(key)
    store.close()


def test_a_sentinel_that_is_away_is_passed_over(watched: SimpleNamespace):
    """The others are asked, within redis.timeout_ms; with none, the error says so, as it does for a wrong password."""
    watched.sentinels[0].kill()
    watched.sentinels[1].pause()
    store = RedisStore(watched.config, "pump")
    store.pin("a", 1.0)
    watched.sentinels[1].resume()
    store.close()
    wrong = RedisConfig(url=watched.config.url)
    with pytest.raises(StoreError, match=r"names a master of that service; one refused the login.*sentinel_password"):
        RedisStore(wrong, "pump").pin("a", 1.0)
    another = watched.config.model_copy(update={"url": watched.config.url.replace("/plant/", "/another/")})
    with pytest.raises(StoreError, match=r"/another/1: no sentinel .* names a master of that service$"):
        RedisStore(another, "pump").pin("a", 1.0)
