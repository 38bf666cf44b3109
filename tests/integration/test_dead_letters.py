"""Dead letters listed, and sent again after their cause is gone: Apache Kafka and Redis."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_detector.adapters.kafka import MessageWriter, Requeuer, TopicReader, ensure_topics
from stream_detector.adapters.redis import RedisStore
from stream_detector.codec import dead_letter_headers
from stream_detector.codec.letters import read_letter
from stream_detector.config import Config
from stream_detector.config.loading import load
from stream_detector.errors import BrokerError
from stream_detector.types import DeadLetter, Message, Partition, PlainMessage
from tests.integration.site import DETECTOR, ROOT, call, command, environment, until
from tests.servers import KafkaServer, RedisServer
from tests.test_cli_thresholds import state

pytestmark = pytest.mark.slow

TS = 1_583_748_873_000
HEADERS = (("trace", b"\x00\xff"), ("error", b"theirs"))


class Plant:
    """A stream with dead letters on its topic."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: Config = load(path, env={})
        inputs = [entry.topic for entry in self.config.inputs]
        ensure_topics(self.config.kafka, {**dict.fromkeys(inputs, 3), self.config.dead_letter_topic: 2})

    def refuse(self, *letters: tuple[str, str, bytes | None, bytes | None]) -> None:
        """Write dead letters as a worker does: topic, reason, key, value; from partition 2, one after the other."""
        with MessageWriter(self.config.kafka) as writer:
            for at, (topic, code, key, value) in enumerate(letters):
                message = PlainMessage(at, TS, key, value, HEADERS)
                letter = DeadLetter(Partition(topic, 2), message, code, f"detail {at}\n\x1b[31m")
                writer.send(self.config.dead_letter_topic, key, value, dead_letter_headers(letter), partition=0)

    def sent(self, topic: str | None = None) -> list[tuple[int, Message]]:
        """Return what lies on an input topic: partition and message."""
        with TopicReader(self.config.kafka, topic or self.config.inputs[0].topic, from_beginning=True) as reader:
            found = []
            while batches := reader.read(1_500):
                found += [(batch.partition.index, message) for batch in batches for message in batch.messages]
        return found

    def run(self, *words: object, status: int = 0) -> Any:
        """Run `dead-letters ACTION CONFIG … --json` and return what it printed."""
        action, *rest = words
        return json.loads(call(DETECTOR, "dead-letters", action, self.path, *rest, "--json", status=status))


@pytest.fixture(params=["at_least_once", "exactly_once"])
def plant(
    request: pytest.FixtureRequest,
    kafka_server: KafkaServer,
    redis_server: RedisServer,
    unique: Callable[[str], str],
    tmp_path: Path,
) -> Plant:
    """One, of either delivery."""
    path = tmp_path / "pump.yaml"
    settings = {
        "stream": unique("letters"),
        "channels": {"vibration": {"valid": [0, 10]}},
        "delivery": request.param,
        "kafka": {"bootstrap_servers": kafka_server.config.bootstrap_servers},
        "redis": {"url": redis_server.url},
    }
    path.write_text(yaml.safe_dump(settings))
    return Plant(path)


def reading(asset: str, value: object, ts: int = TS) -> bytes:
    """A reading's bytes."""
    return json.dumps({"asset": asset, "ts": ts, "vibration": value}).encode()


def test_the_original_goes_where_it_came_from_once(plant: Plant):
    """Bytes, key and headers to the same partition; a second call sends nothing, --force all."""
    topic = plant.config.inputs[0].topic
    good = [reading("pump-1", 1.0), reading("pump-2", 2.0), reading("pump-3", 3.0)]
    plant.refuse(*((topic, "no-values", b"key", value) for value in good))
    assert {"requeued": 2, "already": 0, "refused": 0, "dry_run": True, "refusals": []} == plant.run(
        "requeue", "--asset", "pump-1", "--asset", "pump-3", "--dry-run"
    )
    assert [] == plant.sent()
    assert 1 == plant.run("requeue", "--asset", "pump-2")["requeued"]
    ((index, message),) = plant.sent()
    assert (2, b"key", good[1], HEADERS) == (index, message.key, message.value, tuple(message.headers))
    done = plant.run("requeue", "--reason", "no-values", "--since", "1h")
    assert (2, 1, 0) == (done["requeued"], done["already"], done["refused"])
    assert sorted(good) == sorted(message.value or b"" for _, message in plant.sent())
    assert (0, 3) == ((done := plant.run("requeue", "--all"))["requeued"], done["already"])
    assert [True, True, True] == [row["requeued"] for row in plant.run("list")]
    assert 1 == plant.run("requeue", "--id", "0:0", "--force")["requeued"]
    assert 4 == len(plant.sent())


def test_what_cannot_help_is_refused(plant: Plant):
    """By the set-up as it is now, and by what has been judged; --force sends it, but for what is not whole."""
    topic = plant.config.inputs[0].topic
    store = RedisStore(plant.config.redis, plant.config.stream)
    store.save(0, store.acquire(0), 1, {"late": state(1.0, judged_ms=TS)}, {})
    store.close()
    plant.refuse(
        (topic, "not-json", None, b"{"),
        (topic, "out-of-range", None, reading("a", 11.0)),
        (topic, "no-values", None, reading("late", 1.0)),
        (topic, "too-far-ahead", None, reading("a", 1.0, ts=4_102_444_800_000)),
        (topic, "too-late", None, reading("a", 1.0)),
        ("gone", "not-json", None, reading("a", 1.0)),
        (topic, "no-values", None, reading("a", 1.0)),
    )
    done = plant.run("requeue", "--all", status=1)
    assert (1, 6) == (done["requeued"], done["refused"])
    whys = {one["id"]: one["why"] for one in done["refusals"]}
    assert ["0:0", "0:1", "0:2", "0:3", "0:4", "0:5"] == list(whys)
    for place, why in zip(
        whys, ("not-json", "out-of-range", "judged beyond", "ahead", "later still", "'gone'"), strict=True
    ):
        assert why in whys[place]
    assert 1 == len(plant.sent())
    assert 1 == plant.run("requeue", "--reason", "out-of-range", "--force")["requeued"]
    assert 2 == len(plant.sent())


def test_a_list_shows_what_and_why(plant: Plant):
    """With filters; what is shown is harmless, JSON has the bytes."""
    topic = plant.config.inputs[0].topic
    plant.refuse(
        (topic, "not-json", b"pump-7", b"\xff"),
        (topic, "out-of-range", None, reading("a\x1b[2J", 11.0)),
        (topic, "empty", None, b""),
    )
    with MessageWriter(plant.config.kafka) as writer:
        writer.send(plant.config.dead_letter_topic, None, b"no letter", [("topic", b"x")])
    rows = plant.run("list")
    assert [("not-json", "pump-7"), ("out-of-range", "a\x1b[2J"), ("empty", None)] == [
        (row["error"], row["asset"]) for row in rows
    ]
    assert ({"base64": "/w=="}, "pump-7", topic, 2, 0) == tuple(
        rows[0][k] for k in ("value", "key", "topic", "partition", "offset")
    )
    assert ["0:1"] == [row["id"] for row in plant.run("list", "--asset", "a\x1b[2J")]
    assert ["0:2"] == [row["id"] for row in plant.run("list", "--limit", 1)]
    assert [] == plant.run("list", "--since", "2200-01-01T00:00:00Z")
    shown = subprocess.run(
        command(DETECTOR, "dead-letters", "list", plant.path),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert all(line.isprintable() for line in shown.stdout.decode().split("\n"))
    assert "3 dead letters (1 not-json, 1 out-of-range, 1 empty)" in shown.stderr.decode()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["requeue", "CONFIG"], "say which"),
        (["list", "CONFIG", "--reason", "nonsense"], "expected one of bad-asset"),
        (["list", "CONFIG", "--since", "noon"], "expected a time such as"),
        (["requeue", "CONFIG", "--id", "0:99"], "no such dead letter: 0:99"),
    ],
)
def test_a_wrong_choice_is_refused(plant: Plant, words: list[str], told: str):
    """With status 2; what is wrong is named."""
    words = [str(plant.path) if word == "CONFIG" else word for word in words]
    done = subprocess.run(
        command(DETECTOR, "dead-letters", *words),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (2, True) == (done.returncode, told in done.stderr), done.stderr


@pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)
def test_after_a_wrong_field_name_nothing_is_lost(make_site, unique):
    """A worker with a wrong set-up refuses all; corrected, and the dead letters sent again, all are readings."""
    site = make_site(partitions=1, delivery="exactly_once")
    settings = yaml.safe_load(site.config_path.read_text())
    right = settings["kafka"]["inputs"]
    settings["kafka"]["inputs"] = [right[0] | {"fields": {"ts": "time"}}]
    site.config_path.write_text(yaml.safe_dump(settings))
    values = {"vibration": 1.0, "temperature": 50.0, "current": 9.0}
    with MessageWriter(site.config.kafka) as writer:
        for row in range(100):
            value = json.dumps({"asset": "machine-1", "ts": TS + 1_000 * row, "values": values}).encode()
            writer.send(site.topic, b"machine-1", value, partition=0)
    worker = site.worker()
    until(lambda: len(site.dead_letters()) == 100, "all are refused", alive=worker)
    assert 0 == worker.stop()
    settings["kafka"]["inputs"] = right
    site.config_path.write_text(yaml.safe_dump(settings))
    out = json.loads(call(DETECTOR, "dead-letters", "requeue", site.config_path, "--reason", "no-timestamp", "--json"))
    assert (100, 0) == (out["requeued"], out["refused"])
    worker = site.worker()
    until(lambda: worker.metric("readings_total") == 100, "all are readings", alive=worker)
    assert 0 == worker.metric("dead_letters_total")
    assert 0 == worker.stop()


@pytest.mark.parametrize("plant", ["exactly_once"], indirect=True)
def test_a_command_that_ends_half_way_has_sent_nothing(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    """Message and note are one transaction; an earlier command can't go on once a later one has begun."""
    topic = plant.config.inputs[0].topic
    plant.refuse((topic, "no-values", b"key", reading("pump-1", 1.0)))
    with TopicReader(plant.config.kafka, plant.config.dead_letter_topic, from_beginning=True) as reader:
        (batch,) = until(lambda: reader.read(500), "it is there")
    letter = read_letter(batch.partition.index, batch.messages[0])
    assert letter is not None
    killed = Requeuer(plant.config)

    def die(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(killed, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            killed.send([letter])
    earlier = Requeuer(plant.config)  # ends what the killed one left open
    assert [] == plant.sent()
    with Requeuer(plant.config) as later:
        with pytest.raises(BrokerError, match="has begun since"):
            earlier.send([letter])
        later.send([letter])
    assert 1 == len(plant.sent())
    assert (0, 1) == ((done := plant.run("requeue", "--all"))["requeued"], done["already"])
    for one in (killed, earlier):
        one.close()
