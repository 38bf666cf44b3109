"""Verdicts from a person's command line to Redis, past a worker, on servers that ask who comes."""

from __future__ import annotations

import json

import pytest
import yaml

from stream_detector.adapters.kafka import MessageWriter, TopicReader, ensure_topics
from stream_detector.permissions import kafka_permissions
from tests.integration.site import DETECTOR, call, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("revealed")]

ALERT = "f354e300-8729-52db-b2ed-82bb28adfe45"


def test_a_verdict_comes_to_the_store(make_secured, fortress):
    """Sent by a user who may do nothing else, it is listed a moment later; what is no verdict is a dead letter."""
    site = make_secured(verdicts={"per_sender": 3})
    topic = site.config.verdict_topic
    ensure_topics(site.config.kafka, {topic: 1}, message_timestamp_type="LogAppendTime")
    sender = f"{site.config.group}-person"
    fortress.user(sender)
    fortress.kafka.grant(sender, kafka_permissions(site.config, "verdict"))
    theirs = site.config_path.with_name("person.yaml")
    settings = yaml.safe_load(site.config_path.read_text())
    settings["kafka"]["security"]["username"] = sender
    theirs.write_text(yaml.safe_dump(settings))

    worker = site.worker()
    call(DETECTOR, "verdict", theirs, ALERT, "false-alarm", status=2)
    words = ("false-alarm", "--by", "shift 2", "--note", "moved", "--force")
    said = call(DETECTOR, "verdict", theirs, ALERT.upper(), *words)
    assert f"false-alarm on {ALERT}" in said
    call(DETECTOR, "verdict", theirs, ALERT, "no-idea", status=2)
    call(DETECTOR, "verdict", theirs, "not-an-id", "true-alarm", status=2)
    with MessageWriter(site.config.kafka) as writer:
        for _ in range(5):
            writer.send(topic, None, json.dumps({"alert": ALERT, "verdict": "maintenance", "by": "loud"}).encode())
        writer.send(topic, b"key", b"?", [("theirs", b"x")])
    until(lambda: worker.metric("messages_total", topic=topic) == 7, "all are taken", alive=worker)
    assert 1 == worker.metric("verdicts_total", verdict="false-alarm")
    assert 3 == worker.metric("verdicts_total", verdict="maintenance")
    assert 2 == worker.metric("dead_letters_total", code="rate-limited")
    assert 1 == worker.metric("dead_letters_total", code="not-json")
    assert 0 == worker.stop(), worker.said()
    assert "WARNING" not in worker.said()
    (listed,) = json.loads(call(DETECTOR, "verdicts", site.config_path, "--json"))
    assert ("maintenance", "loud", None) == (listed["verdict"], listed["by"], listed["note"])
    with TopicReader(site.config.kafka, site.config.dead_letter_topic, from_beginning=True) as reader:
        letters = until(lambda: [one for batch in reader.read(500) for one in batch.messages][-1:], "it is there")
    own = [("theirs", b"x"), ("error", b"not-json")]
    assert (b"key", b"?", own) == (letters[0].key, letters[0].value, list(letters[0].headers)[:2])


def test_a_worker_that_may_not_read_verdicts_works_on(make_secured):
    """It says which right it lacks, once, and does the rest of its work."""
    config = make_secured().config
    number = [right.name for right in kafka_permissions(config)].index(config.verdict_topic)
    site = make_secured(without=number)
    ensure_topics(site.config.kafka, {site.config.verdict_topic: 1})
    worker = site.worker()
    until(lambda: "verdicts are not read" in worker.said(), "it says so", alive=worker)
    until(lambda: worker.metric("restores_total") == 2, "it works", alive=worker)
    assert 0 == worker.stop()
    assert 1 == worker.said().count("verdicts are not read")
    assert site.config.verdict_topic in worker.said()
