"""What a stranger wrote, shown by every command on a person's terminal: Apache Kafka and Redis."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from kafka import KafkaAdminClient, TopicPartition

from stream_detector.adapters.kafka import MessageWriter, ensure_topics
from stream_detector.adapters.redis import RedisStore
from stream_detector.codec import alert_id, encode_alert
from stream_detector.config import Config
from stream_detector.config.loading import load
from stream_detector.types import ChannelShare, RecordedVerdict
from tests.integration.site import ROOT, command, environment
from tests.servers import KafkaServer, RedisServer
from tests.test_cli_thresholds import state
from tests.test_codec_alerts import ALERT

pytestmark = pytest.mark.slow

#: Colours, a forged line, a control sequence of one character, a line backwards, rich's markup.
NAME = "a\nb\x1b[31mred\x9b2J\u202e\u2066evil[bold][/]\r"
SHOWN = r"a\nb\x1b[31mred\x9b2J\u202e\u2066evil[bold][/]\r"


@pytest.fixture
def config(
    kafka_server: KafkaServer, redis_server: RedisServer, tmp_path: Path, unique: Callable[[str], str]
) -> Config:
    """A stream with an alert, a verdict and a state of an asset of such a name, and one named `*`."""
    path = tmp_path / "pump.yaml"
    settings = {
        "stream": unique("terminal"),
        "channels": {"vibration": {}},
        "kafka": {"bootstrap_servers": kafka_server.config.bootstrap_servers},
        "redis": {"url": redis_server.url},
    }
    path.write_text(yaml.safe_dump(settings))
    config = load(path)
    ensure_topics(config.kafka, {config.alert_topic: 1, config.audit_topic: 1})
    alert = replace(ALERT, asset=NAME, channels=(ChannelShare(f"v{NAME}", 1.0, 1.0, 2.0),))
    with MessageWriter(config.kafka) as writer:
        writer.send(config.alert_topic, NAME.encode(), encode_alert(alert))
        writer.send(config.alert_topic, None, json.dumps({"schema": NAME, "asset": NAME}).encode())
        writer.send(config.audit_topic, None, NAME.encode())
    store = RedisStore(config.redis, config.stream)
    store.save(0, store.acquire(0), 1, {NAME: state(4.0), "*": state(5.0)}, {})
    store.record_verdicts([RecordedVerdict(alert.id, "false-alarm", NAME, f"note {NAME}", 1_583_748_873_000, 0, 0)], 10)
    store.close()
    return config


def shown(config_path: Path, *words: str, status: int = 0) -> str:
    """Run a command; nothing of it may move a terminal. Return what it printed."""
    words = tuple(str(config_path) if word == "CONFIG" else word for word in words)
    done = subprocess.run(
        command("stream_detector", *words), cwd=ROOT, env=environment(), capture_output=True, timeout=60, check=False
    )
    assert status == done.returncode, done.stderr
    for text in (done.stdout.decode(), done.stderr.decode()):
        assert [line for line in text.split("\n") if not line.isprintable()] == []
    return done.stdout.decode()


def test_commands_show_names_and_obey_nothing(config: Config, tmp_path: Path):
    """Each command that prints what a stranger wrote, as a table, a line, JSON or an error."""
    path = tmp_path / "pump.yaml"
    assert SHOWN in shown(path, "monitor", "CONFIG", "--from-beginning", "--limit", "1")
    found = shown(path, "monitor", "CONFIG", "--from-beginning", "--limit", "1", "--json")
    assert NAME == json.loads(found)["asset"]
    assert SHOWN in shown(path, "thresholds", "list", "CONFIG")
    assert SHOWN in shown(path, "thresholds", "show", "CONFIG", NAME)
    assert NAME in [row["asset"] for row in json.loads(shown(path, "thresholds", "list", "CONFIG", "--json"))]
    shown(path, "thresholds", "history", "CONFIG", NAME, status=2)
    assert SHOWN in shown(path, "thresholds", "pin", "CONFIG", NAME, "9")
    assert SHOWN in shown(path, "thresholds", "unpin", "CONFIG", NAME)
    shown(path, "thresholds", "accept", "CONFIG", NAME, status=2)
    listed = shown(path, "verdicts", "CONFIG", "--alerts")
    assert f"note {SHOWN}" in listed
    assert listed.count(SHOWN) == 3
    (row,) = json.loads(shown(path, "verdicts", "CONFIG", "--json"))
    assert (NAME, f"note {NAME}") == (row["by"], row["note"])
    assert alert_id("pump", "pump-1", 1_583_748_873_000, "20201103-1f3c", "open") == row["alert"]


def test_a_star_is_an_asset(config: Config, tmp_path: Path):
    """`reset '*'` resets the asset of this name, no other."""
    path = tmp_path / "pump.yaml"
    assert shown(path, "thresholds", "reset", "CONFIG", "*").startswith("* starts from")
    store = RedisStore(config.redis, config.stream)
    assert (set(store.controls().resets), store.controls().reset_all) == ({"*"}, "")
    assert shown(path, "thresholds", "reset", "CONFIG", "--all").startswith("all assets start")
    assert store.controls().reset_all > ""
    store.close()


def test_a_verdict_needs_an_alert(config: Config, tmp_path: Path):
    """An id that no alert has is refused where that can be known; an incident's id names its alert."""
    path = tmp_path / "pump.yaml"
    unknown = "f354e300-8729-52db-b2ed-82bb28adfe45"
    words = ("false-alarm", "--by", "shift 2")
    shown(path, "verdict", "CONFIG", unknown, *words, status=2)
    shown(path, "verdict", "CONFIG", ALERT.incident, *words, status=2)
    assert unknown in shown(path, "verdict", "CONFIG", unknown, *words, "--force")
    assert json.loads(shown(path, "verdict", "CONFIG", ALERT.id, *words, "--json"))["alert"] == ALERT.id
    client = KafkaAdminClient(bootstrap_servers=config.kafka.bootstrap_servers)
    client.delete_records({TopicPartition(config.alert_topic, 0): -1})  # as retention does: nobody can know any more
    client.close()
    assert unknown in shown(path, "verdict", "CONFIG", unknown, *words)
