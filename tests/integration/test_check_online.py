"""`check --online`: what a worker would meet, on Apache Kafka and Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.adapters.kafka import ensure_topics
from stream_detector.config.loading import load
from stream_detector.permissions import kafka_permissions
from tests.integration.site import ROOT, command, environment
from tests.servers import KafkaServer, RedisServer

pytestmark = [pytest.mark.slow]


def checked(path: Path) -> tuple[int, list[str]]:
    """Return status and standard error's lines."""
    words = command("stream_detector", "check", path, "--online")
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert "stream" in yaml.safe_load(done.stdout)
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("warning: artifact")]


@pytest.fixture
def settings(
    kafka_server: KafkaServer, redis_server: RedisServer, unique: Callable[[str], str], tmp_path: Path
) -> tuple[Path, dict[str, Any]]:
    """A set-up's file, and what it holds."""
    found = {
        "stream": unique("check"),
        "channels": {"vibration": {}},
        "delivery": "exactly_once",
        "kafka": {"bootstrap_servers": kafka_server.config.bootstrap_servers},
        "redis": {"url": redis_server.url},
    }
    path = tmp_path / "pump.yaml"
    path.write_text(yaml.safe_dump(found))
    return path, found


def test_topics_that_are_missing_are_named(settings: tuple[Path, dict[str, Any]]):
    """All of them, with status 2; what is there is said, too."""
    path, found = settings
    status, lines = checked(path)
    assert 2 == status
    missing = [line for line in lines if "has no topic" in line]
    for name in ("readings", "alerts", "dead-letter", "audit", "verdicts"):
        assert 1 == sum(f"'{found['stream']}.{name}'" in line for line in missing)
    assert any(line.startswith("ok: the store at") for line in lines)


def test_what_is_right_is_said(settings: tuple[Path, dict[str, Any]]):
    """Topics, permissions, transactions, the store; status 0."""
    path, _ = settings
    config = load(path)
    topics = (config.inputs[0].topic, config.alert_topic, config.audit_topic, config.dead_letter_topic)
    ensure_topics(config.kafka, {**dict.fromkeys(topics, 3), config.verdict_topic: 1})
    status, lines = checked(path)
    assert (0, ["ok"] * 4) == (status, [line.partition(":")[0] for line in lines])
    assert f"{config.inputs[0].topic} (3)" in lines[0]


def test_joined_topics_need_equally_many_partitions(settings: tuple[Path, dict[str, Any]]):
    """With status 2."""
    path, found = settings
    found["kafka"]["inputs"] = [{"topic": f"{found['stream']}.{name}"} for name in ("a", "b")]
    path.write_text(yaml.safe_dump(found))
    config = load(path)
    ensure_topics(config.kafka, dict.fromkeys((config.alert_topic, config.audit_topic, config.dead_letter_topic), 1))
    ensure_topics(config.kafka, {f"{found['stream']}.a": 1, f"{found['stream']}.b": 2})
    status, lines = checked(path)
    assert 2 == status
    assert any("need equally many partitions" in line for line in lines)


@pytest.mark.parametrize("away", ["kafka", "redis"])
def test_a_server_that_is_away_is_named(settings: tuple[Path, dict[str, Any]], away: str):
    """With status 1, and the other one is looked at all the same."""
    path, found = settings
    config = load(path)
    topics = (config.inputs[0].topic, config.alert_topic, config.audit_topic, config.dead_letter_topic)
    ensure_topics(config.kafka, dict.fromkeys(topics, 1))
    if away == "kafka":
        found["kafka"]["bootstrap_servers"] = [f"127.0.0.1:{free_port()}"]
    else:
        found["redis"]["url"] = f"redis://127.0.0.1:{free_port()}/0"
    path.write_text(yaml.safe_dump(found))
    status, lines = checked(path)
    assert 1 == status
    assert ["Kafka at 127.0.0.1" if away == "kafka" else "the store at redis://127.0.0.1"] == [
        line.partition(":")[0] if away == "kafka" else line.rpartition(":")[0][:30]
        for line in lines
        if not line.startswith(("ok:", "warning:"))
    ]
    assert any(line.startswith("ok: ") for line in lines)


@pytest.mark.usefixtures("revealed")
def test_a_missing_permission_is_named(make_secured: Callable[..., Any]):
    """With status 2 and what to grant."""
    config = make_secured().config
    number = [right.name for right in kafka_permissions(config)].index(config.alert_topic)
    site = make_secured(without=number)
    status, lines = checked(site.config_path)
    assert 2 == status
    assert any("WRITE on topic" in line and ".alerts" in line for line in lines), lines
