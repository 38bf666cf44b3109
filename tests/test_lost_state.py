"""A store that has lost states: keys evicted, or everything flushed, seen by workers that run and that start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import redis

from stream_detector.adapters.redis import RedisStore
from stream_detector.config import RedisConfig
from stream_detector.errors import StoreLostError
from stream_detector.ports import WHOLE
from tests.contracts.states import at, state
from tests.rig import Plant, make_config, recorded
from tests.servers import RedisServer

DELIVERIES = ["at_least_once", "exactly_once"]
HALF = recorded(assets=4, rows=120, partitions=2)
REST = recorded(assets=4, rows=240, partitions=2)[len(HALF) :]


@pytest.fixture
def site(redis_server: RedisServer, unique: Callable[[str], str]) -> Iterator[SimpleNamespace]:
    """A stream of its own on a real Redis; `keys(name)` are those that end so."""
    stream, config = unique("lost"), RedisConfig(url=redis_server.url)
    stores: list[RedisStore] = []
    with redis.Redis.from_url(redis_server.url) as client:

        def store() -> RedisStore:
            stores.append(RedisStore(config, stream))
            return stores[-1]

        def lose(end: str) -> None:
            names = [name for name in client.scan_iter(f"*{{{stream}}}*") if name.endswith(end.encode())]
            assert names
            client.delete(*names)

        yield SimpleNamespace(store=store, lose=lose, client=client, key=f"stream-detector:{{{stream}}}:task:0")
        for one in stores:
            one.close()


def made(delivery: str) -> Plant:
    """A plant with half of its messages."""
    plant = Plant(make_config(delivery=delivery, commit_interval_ms=100), partitions=2)
    plant.write(HALF)
    return plant


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    """Those of the events named, in order."""
    found = [getattr(record, "stream_detector_event", {}).get("event", "") for record in caplog.records]
    return [name for name in found if name in names]


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("end", ["0:new", ""])
def test_states_that_are_gone_at_a_start_are_told_and_counted(delivery, end, site, caplog):
    """One key evicted, or all; by the task that lost them, once."""
    plant = made(delivery)
    worker = plant.worker(store=site.store())
    plant.run(worker)
    worker.pipeline.close()
    assert 0 == worker.metric("states_lost_total")
    site.lose(end)
    plant.write(REST)
    caplog.clear()
    worker = plant.worker(store=site.store())
    plant.run(worker)
    lost = 1 if end else 2
    assert lost == worker.metric("states_lost_total")
    assert ["state-lost"] * lost == events(caplog, "state-lost", "store-empty")
    assert 4 == len(list(site.store().assets()))
    caplog.clear()
    worker.pipeline.close()
    plant.run(again := plant.worker(store=site.store()))
    assert (0, []) == (again.metric("states_lost_total"), events(caplog, "state-lost", "store-empty"))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_state_rebuilt_is_what_it_was(delivery, site):
    """Exactly once, what was lost is made again from the log; at least once, it begins with the calibration."""
    undisturbed = made(delivery)
    undisturbed.write(REST)
    undisturbed.run(undisturbed.worker())
    plant = made(delivery)
    worker = plant.worker(store=site.store())
    plant.run(worker)
    worker.pipeline.close()
    site.lose(":new")
    plant.write(REST)
    plant.run(plant.worker(store=site.store()))
    seen = {asset: found.threshold.seen for _, asset, found in site.store().assets()}
    assert set(undisturbed.states()) == set(seen)
    if delivery == "exactly_once":
        assert sorted(undisturbed.alerts) == sorted(plant.alerts)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("end", [":new", ":old"])
def test_a_running_worker_writes_what_was_evicted_again(delivery, end, site, caplog):
    """From memory, at the next commit: nothing is lost, and a warning says that the server evicts."""
    undisturbed = made(delivery)
    undisturbed.write(REST)
    undisturbed.run(undisturbed.worker())
    plant = made(delivery)
    worker = plant.worker(16, site.store())
    plant.run(worker)
    site.lose(end)
    plant.write(REST)
    plant.run(worker)
    assert ["store-empty"] * 2 == events(caplog, "state-lost", "store-empty")
    assert "evicted" in caplog.text
    states = {asset: found for _, asset, found in site.store().assets()}
    assert set(undisturbed.states()) == set(states)
    worker.pipeline.close()
    plant.run(worker := plant.worker(store=site.store()))
    assert 0 == worker.metric("states_lost_total")


def test_no_loss_is_told_where_there_is_none(site, caplog):
    """A first start, and tasks whose assets have no state yet."""
    plant = Plant(make_config(commit_interval_ms=100), partitions=2)
    plant.write(HALF[:4])
    for _ in range(2):
        worker = plant.worker(store=site.store())
        plant.run(worker)
        worker.pipeline.close()
        assert 0 == worker.metric("states_lost_total")
    assert [] == events(caplog, "state-lost", "store-empty")


def test_an_evicted_older_version_matters_only_where_it_is_needed(site):
    """The states of the last commit are whole; those of the one before are not, and are none."""
    store = site.store()
    token = store.acquire(0)
    store.save(0, token, 1, {"a": state(), "b": state()}, at(10, 1))
    store.save(0, token, 2, {"a": state(5.0)}, at(20, 2))
    site.lose("0:old")
    newest, before = store.load(0, 2), store.load(0, 1)
    assert ({"a", "b"}, 2, False) == (set(newest.assets), newest.epoch, newest.lost)
    assert ({}, 0, True) == (before.assets, before.epoch, before.lost)
    with pytest.raises(StoreLostError, match="evicted"):
        store.save(0, token, 3, {"b": state(6.0)}, at(30, 3))
    token = store.acquire(0)
    store.save(0, token, 3, {"a": state(5.0), "b": state(6.0)}, at(30, 3), since=WHOLE)
    assert [{"a", "b"}] * 2 == [set(store.load(0, epoch).assets) for epoch in (2, 3)]
    assert not any(store.load(0, epoch).lost for epoch in (2, 3))


def test_no_version_from_before_a_loss_comes_back(site):
    """When the newest versions are evicted, the older ones of that commit's predecessor are stale."""
    store = site.store()
    token = store.acquire(0)
    store.save(0, token, 1, {"a": state(), "b": state()}, at(10, 1))
    store.save(0, token, 2, {"a": state(5.0), "b": state(5.0)}, at(20, 2))
    site.lose("0:new")
    token = store.acquire(0)
    store.save(0, token, 3, {"a": state(6.0), "b": state(6.0)}, at(30, 3), since=WHOLE)
    assert {"a", "b"} == set(store.load(0, 3).assets)
    assert ({}, {}) == ((found := store.load(0, 2)).assets, found.positions)  # the commit of 3 never came to be


def test_data_of_earlier_versions_are_believed(site):
    """They have no sizes, or those of an epoch before the last save; the next save counts."""
    store = site.store()
    token = store.acquire(0)
    store.save(0, token, 1, {"a": state(), "b": state()}, at(10, 1))
    store.save(0, token, 2, {"a": state(5.0)}, at(20, 2))
    assert b"2:2:1" == site.client.hget(site.key, "sizes")
    for epoch, sizes in ((3, None), (4, "1:9:9")):
        site.client.hdel(site.key, "sizes")
        if sizes is not None:
            site.client.hset(site.key, "sizes", sizes)
        assert not store.load(0).lost
        store.save(0, token, epoch, {f"new-{epoch}": state()}, at(10 * epoch, epoch))
        assert b"%d:%d:1" % (epoch, epoch) == site.client.hget(site.key, "sizes")
    assert {"a", "b", "new-3", "new-4"} == set(store.load(0).assets)


def test_sizes_follow_what_is_taken_back(site):
    """Whatever saves replace: the counts are those of the two hashes."""
    store = site.store()
    token = store.acquire(0)

    def sizes() -> None:
        n, m = site.client.hlen(f"{site.key}:new"), site.client.hlen(f"{site.key}:old")
        assert b"%d:%d" % (n, m) == site.client.hget(site.key, "sizes").partition(b":")[2]

    some = {name: state() for name in "abcd"}
    for epoch, states, since in [
        (1, some, None),
        (2, {"a": state(5.0), "e": state()}, None),
        (2, {"b": state(5.0), "f": state()}, None),
        (3, {"a": state(6.0)}, 1),
        (4, {"a": state(7.0), "g": state()}, WHOLE),
        (5, {"h": state()}, 0),
        (6, {}, None),
    ]:
        store.save(0, token, epoch, states, at(10 * epoch, epoch), since=since)
        sizes()
    assert {"h"} == set(store.load(0).assets)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "noeviction"])
def test_a_policy_that_may_evict_states_is_told(policy, tmp_path):
    """States never expire, so only the allkeys policies take them."""
    server = RedisServer(tmp_path, {"maxmemory": "200mb", "maxmemory-policy": policy})
    server.start()
    try:
        store = RedisStore(RedisConfig(url=server.url), "pump")
        told = store.evicts()
        store.close()
    finally:
        server.stop()
    assert None is store.evicts()  # away: nothing to say, and no error
    if policy == "allkeys-lru":
        assert told is not None
        assert "at 200 MiB: its maxmemory-policy is allkeys-lru" in told
    else:
        assert told is None


def test_operators_settings_that_are_lost_are_told(site, caplog):
    """A running worker notices that the count of changes went back."""
    caplog.set_level(logging.INFO, logger="stream_detector")
    plant = made("at_least_once")
    store = site.store()
    store.pin("pump-1", 3.0)
    plant.run(worker := plant.worker(store=store))
    site.lose("")
    plant.write(REST)
    plant.run(worker)
    assert ["controls-lost"] == events(caplog, "controls-lost")
