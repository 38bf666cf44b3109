"""Several input topics joined by co-partitioned tasks, exactly once, on Apache Kafka: killed workers change nothing."""

from __future__ import annotations

import csv
import signal
from datetime import datetime

import pytest
import yaml

from stream_detector.adapters.kafka import MessageWriter, ensure_topics
from stream_detector.codec import encode_reading
from tests.integration.plant import FINE

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]

APART = [["vibration"], ["temperature", "current"]]


def add_topic(plant) -> list[str]:
    """Let the set-up read a second topic; return both."""
    settings = yaml.safe_load(plant.config_path.read_text())
    topics = [plant.topic, f"{plant.topic}.slow"]
    settings["kafka"]["inputs"] = [{"topic": topic} for topic in topics]
    plant.config_path.write_text(yaml.safe_dump(settings, sort_keys=False))
    ensure_topics(plant.config.kafka, {topics[1]: plant.partitions})
    return topics


def rows(topics, files):
    """Yield topic, key and value of the recordings side by side in time, each channel on its topic."""
    read = []
    for path in files:
        with path.open(newline="") as file:
            read += [(row["timestamp"], path.stem, row) for row in csv.DictReader(file)]
    for timestamp, asset, row in sorted(read, key=lambda one: one[:2]):
        ts = round(datetime.fromisoformat(timestamp).timestamp() * 1_000)
        for topic, channels in zip(topics, APART, strict=True):
            if values := {name: float(row[name]) for name in channels if row[name]}:
                yield topic, asset.encode(), encode_reading(asset, ts, values)


def test_two_topics_and_workers_that_are_killed(make_plant, material):
    """A channel on a topic, two on another: workers killed in commits, then two at work: alerts as the backtest's."""
    plant = make_plant(poll=200, fill=False)
    topics = add_topic(plant)
    with MessageWriter(plant.config.kafka) as writer:
        for topic, key, value in rows(topics, material.files):
            writer.send(topic, key, value)
    for moment in ("flushed", "saved"):
        worker = plant.start(f"{moment}:2:SIGKILL")
        assert -signal.SIGKILL == worker.process.wait(60), worker.said()
    workers = [plant.start(), plant.start()]
    assert FINE == plant.finish(*workers, seconds=240)
    assert 0 == sum(worker.metric("dead_letters_total") for worker in workers)
