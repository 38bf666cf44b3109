"""A worker as those who operate it see it: its log as JSON, /readyz, and what it says of a broker that goes away."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, free_port
from stream_detector.adapters.kafka import partition_counts
from tests.integration.site import DETECTOR, Site, until, write_config
from tests.servers import KafkaServer

pytestmark = pytest.mark.slow
PASSWORD = "correct horse battery staple"


def ready(port):
    """Return the status of /readyz and what it says; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError:
        return 0, ""


def test_a_worker_from_start_to_stop(material, kafka_server, redis_server, tmp_path_factory, tmp_path, unique):
    """Every line it writes is a JSON object with what it is about; /readyz follows its broker; no secret is said."""
    server = KafkaServer(tmp_path_factory.mktemp("operations"), kafka_server.jars)
    server.start()
    kafka = {"bootstrap_servers": server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
    path = write_config(
        tmp_path / "site.yaml", unique("ops"), material.artifact, kafka, redis_server.url, delivery="exactly_once"
    )
    site = Site(path, tmp_path, 2, True)
    try:
        port = free_port()
        env = {"STREAM_DETECTOR__METRICS__PORT": str(port), "UNUSED_SECRET": PASSWORD}
        words = ("--log-format", "json", "--log-level", "debug", "run", path)
        worker = site._start("worker", env, DETECTOR, *words, port=port)
        until(lambda: ready(port) == (200, "2 tasks"), "it is ready", 60, worker)
        site.finish(site.replay(material.files, "max"), worker)
        assert 1 == worker.metric("ready")
        server.pause()
        status, why = until(lambda: (found := ready(port))[0] == 503 and found, "it is not ready", 30, worker)
        assert 0 == worker.metric("ready")
        server.resume()
        until(lambda: ready(port) == (200, "2 tasks"), "it is ready again", 60, worker)
        assert 0 == worker.stop(), worker.said()
        assert 0 == ready(port)[0]
    finally:
        site.close()
        server.kill()
    assert status == 503
    assert "group" in why or "broker" in why or "Kafka" in why
    lines = [json.loads(line) for line in worker.said().splitlines()]
    assert all({"ts", "level", "event", "message", "logger"} <= set(line) for line in lines)
    ours = [line for line in lines if line["event"] != "log"]
    assert {"plant"} == {line.get("stream", "plant") for line in ours}
    events = [line["event"] for line in ours]
    assert {"metrics-served", "worker-started", "task-taken-over", "alert", "worker-stopped"} <= set(events)
    assert {0, 1} == {line["task"] for line in ours if line["event"] == "task-taken-over"}
    alerts = [line for line in ours if line["event"] == "alert"]
    assert {json.loads(alert)["asset"] for alert in material.alerts} == {line["asset"] for line in alerts}
    assert PASSWORD not in worker.said()
    assert len(material.alerts) <= ours[-1]["alerts"]


def test_a_worker_that_starts_before_its_broker_waits_for_it(
    material, kafka_server, redis_server, tmp_path_factory, tmp_path, unique
):
    """It says so once, is alive and not ready meanwhile, and works once the broker is there; with no time it ends."""
    server = KafkaServer(tmp_path_factory.mktemp("awaited"), kafka_server.jars)
    kafka = {"bootstrap_servers": server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
    name = unique("awaited")
    path = write_config(tmp_path / "site.yaml", name, material.artifact, kafka, redis_server.url)
    site = Site.__new__(Site)
    site.config_path, site.folder, site.partitions, site.programs = path, tmp_path, 2, []
    try:
        env = {"STREAM_DETECTOR__KAFKA__START_TIMEOUT_MS": "0"}
        hasty = site._start("hasty", env, DETECTOR, "run", path)
        port = free_port()
        env = {"STREAM_DETECTOR__METRICS__PORT": str(port)}
        worker = site._start("worker", env, DETECTOR, "run", path, "--create-topics", "2", port=port)
        until(lambda: "can't be reached yet" in worker.said(), "it waits", 60, worker)
        assert 503 == ready(port)[0]
        assert 1 == hasty.process.wait(60)
        server.start()
        until(lambda: ready(port) == (200, "2 tasks"), "it works", 60, worker)
        assert 1 == worker.said().count("can't be reached")
        counts = partition_counts(server.config, [f"{name}.{topic}" for topic in ("readings", "audit", "verdicts")])
        assert [2, 2, 1] == list(counts.values())
        assert 0 == worker.stop(), worker.said()
    finally:
        site.close()
        server.kill()
