"""Servers as they are run, seen from outside: a store that evicts, one that fails over, passwords that are replaced."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, free_port
from stream_detector.config.loading import load
from stream_detector.permissions import kafka_permissions
from tests.integration.site import DETECTOR, Program, Site, until, write_config
from tests.integration.test_operations import ready
from tests.secured import Authority, SecuredKafka, TokenEndpoint
from tests.servers import Forwarder, RedisServer

pytestmark = pytest.mark.slow
STORE = ("store-away", "store-behind", "store-back", "store-empty", "state-lost")


def worker_of(site: Site) -> Program:
    """Start a worker that logs JSON, and wait until it is ready."""
    port = free_port()
    env = {"STREAM_DETECTOR__METRICS__PORT": str(port)}
    worker = site._start("worker", env, DETECTOR, "--log-format", "json", "run", site.config_path, port=port)
    until(lambda: ready(port)[0] == 200, "it is ready", 60, worker)
    return worker


def said(worker: Program, *names: str) -> list[dict[str, Any]]:
    """Lines of these events, in order."""
    lines = [json.loads(line) for line in worker.said().splitlines()]
    return [line for line in lines if line["event"] in names]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_key_that_was_evicted_while_no_worker_ran(material, kafka_server, tmp_path, unique, delivery):
    """A warning at the start says that the server may evict; the task whose states are gone is told and counted."""
    server = RedisServer(tmp_path / "redis", {"maxmemory": "500mb", "maxmemory-policy": "allkeys-lru"})
    server.start()
    kafka = {"bootstrap_servers": kafka_server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
    name = unique("evicted")
    path = write_config(tmp_path / "site.yaml", name, material.artifact, kafka, server.url, delivery=delivery)
    site = Site(path, tmp_path, 2, True)
    try:
        worker = worker_of(site)
        site.finish(site.replay(material.files, "max"), worker)
        assert 0 == worker.stop(), worker.said()
        assert ["store-evicts"] == [line["event"] for line in said(worker, "store-evicts", "state-lost")]
        with redis.Redis.from_url(server.url) as client:
            assert 1 == client.delete(f"{name}:{{plant}}:task:0:new")
        worker = worker_of(site)
        until(lambda: len(said(worker, "task-taken-over")) >= 2, "both tasks are taken over", 60, worker)
        assert 1 == worker.metric("states_lost_total")
        assert 0 == worker.stop(), worker.said()
    finally:
        site.close()
        server.stop()
    (lost,) = said(worker, "state-lost")
    assert (0, "error") == (lost["task"], lost["level"])
    assert "maxmemory-policy is allkeys-lru" in said(worker, "store-evicts")[0]["message"]
    assert sorted(material.alerts) == sorted(site.alerts())


def test_a_password_that_is_replaced_is_used_without_a_restart(material, kafka_server, redis_server, tmp_path, unique):
    """The broker asks who we are every few seconds; it knows the new password some seconds before the file has it."""
    authority, endpoint = Authority(tmp_path / "ca"), TokenEndpoint({})
    settings = {"connections.max.reauth.ms": "2000"}
    server = SecuredKafka(tmp_path / "kafka", kafka_server.jars, authority, endpoint, settings=settings)
    server.start()
    file, name = tmp_path / "password", unique("rotated")
    server.add_user(name, "the-first-password")
    file.write_text("the-first-password")
    own = {
        "bootstrap_servers": [f"127.0.0.1:{server.sasl_port}"],
        "session_timeout_ms": SESSION_TIMEOUT_MS,
        "security": {
            "protocol": "SASL_SSL",
            "mechanism": "SCRAM-SHA-512",
            "username": name,
            "password": {"file": str(file)},
            "ca_file": str(authority.file),
        },
    }
    more = {"delivery": "exactly_once", "commit_interval_ms": 100}
    path = write_config(tmp_path / "site.yaml", name, material.artifact, own, redis_server.url, **more)
    server.grant(name, kafka_permissions(load(path, env={})))
    admin = {"bootstrap_servers": server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
    open_path = write_config(tmp_path / "open.yaml", name, material.artifact, admin, redis_server.url, **more)
    site = Site(open_path, tmp_path, 2, True)
    site.config_path = path
    try:
        worker = worker_of(site)
        site.config_path = open_path
        half = site.replay(material.files[:3], "max")
        site.finish(half, worker)
        server.add_user(name, "the-second-password")
        time.sleep(6)  # logins are refused meanwhile
        assert worker.process.poll() is None, worker.said()
        file.write_text("the-second-password\n")
        site.finish(site.replay(material.files[3:], "max"), worker)
        until(lambda: ready(worker.metrics_port)[0] == 200, "it is ready again", 60, worker)
        assert 0 == worker.stop(), worker.said()
    finally:
        site.close()
        server.stop()
        endpoint.close()
    assert "the-second" not in worker.said()
    assert "the-first" not in worker.said()
    assert len(said(worker, "broker-away")) <= 2
    assert len(said(worker, "broker-away")) - len(said(worker, "broker-back")) in (0, 1)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_store_that_fails_over_under_a_worker(material, kafka_server, tmp_path, unique, delivery):
    """The address moves to the new master; the old one stays up as its replica, with the worker's connections."""
    first = RedisServer(tmp_path / "first", {"repl-diskless-sync-delay": "0"})
    first.start()
    second = RedisServer(tmp_path / "second", {"replicaof": f"127.0.0.1 {first.port}"})
    second.start()
    address, name = Forwarder(first.port), unique("failover")
    kafka = {"bootstrap_servers": kafka_server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
    url = f"redis://127.0.0.1:{address.port}/0"
    path = write_config(tmp_path / "site.yaml", name, material.artifact, kafka, url, delivery=delivery)
    site = Site(path, tmp_path, 2, True)
    masters = [redis.Redis(port=one.port) for one in (first, second)]
    try:
        until(lambda: masters[1].info("replication")["master_link_status"] == "up", "the replica is in step")
        worker = worker_of(site)
        site.finish(site.replay(material.files[:3], "max"), worker)
        masters[0].wait(1, 5_000)
        masters[1].replicaof("NO", "ONE")
        masters[0].replicaof("127.0.0.1", second.port)
        replay = site.replay(material.files[3:], "max")
        until(lambda: said(worker, "store-away"), "the old master refuses", 60, worker)
        time.sleep(2)  # commits go on meanwhile
        address.target = second.port
        site.finish(replay, worker)
        until(lambda: said(worker, "store-back"), "the store is back", 30, worker)
        until(lambda: worker.metric("store_behind_seconds") == 0, "nothing is missed any more", 30, worker)
        assert 0 == worker.stop(), worker.said()
        epoch = int(masters[1].hget(f"{name}:{{plant}}:task:0", "epoch"))
        alerts = site.alerts()
    finally:
        site.close()
        for one in masters:
            one.close()
        address.close()
        second.stop()
        first.stop()
    assert ["store-away", "store-behind", "store-back"] == [line["event"] for line in said(worker, *STORE)]
    assert epoch > 1
    assert sorted(material.alerts) == sorted(alerts)
