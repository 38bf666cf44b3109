"""Stores as they are run, seen from outside: one that evicts, one that fails over, secrets that change."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, free_port
from tests.integration.site import DETECTOR, Program, Site, until, write_config
from tests.integration.test_operations import ready
from tests.servers import RedisServer

pytestmark = pytest.mark.slow


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
