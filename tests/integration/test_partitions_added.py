"""Partitions added to the topic of running workers, and messages without keys: on Apache Kafka and Redis."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from stream_detector.adapters.kafka import MessageWriter
from stream_detector.codec import encode_reading
from tests.integration.site import until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]

MOVING = "machine-1"  # in the middle of an incident
SHARE = 0.52  # of the readings come before


def rows(topic: str, files: list[Path]) -> list[tuple[str, bytes, bytes]]:
    """Return topic, key and value of the recordings, side by side in time."""
    read = []
    for path in files:
        with path.open(newline="") as file:
            read += [(row.pop("timestamp"), path.stem, row) for row in csv.DictReader(file)]
    found = []
    for timestamp, asset, row in sorted(read, key=lambda one: one[:2]):
        ts = round(datetime.fromisoformat(timestamp).timestamp() * 1_000)
        values = {name: float(row[name]) for name in ("vibration", "temperature", "current") if row[name]}
        found.append((topic, asset.encode(), encode_reading(asset, ts, values)))
    return found


def send(site: Any, sent: Iterable[tuple[str, bytes, bytes, int]]) -> None:
    """Write messages to the partitions given."""
    with MessageWriter(site.config.kafka) as writer:
        for topic, asset, value, partition in sent:
            writer.send(topic, asset, value, partition=partition)


def add_partition(site: Any) -> int:
    """Add a partition to the input topic; return its number."""
    client: Any = KafkaAdminClient(bootstrap_servers=list(site.config.kafka.bootstrap_servers))
    try:
        client.create_partitions({site.topic: site.partitions + 1})
    finally:
        client.close()
    return site.partitions


def test_an_asset_moves_to_an_added_partition(make_site, material):
    """It is read there within seconds; where it was, its incident ends with the reason, and it isn't silent."""
    site = make_site(partitions=3)
    workers = [site.worker(), site.worker()]
    until(lambda: sorted(w.metric("assigned_partitions") for w in workers) == [1, 2], "both share", 60, workers[0])
    listed = rows(site.topic, material.files)
    cut = int(SHARE * len(listed))
    homes = {asset: place % 3 for place, asset in enumerate(sorted({asset for _, asset, _ in listed}))}
    send(site, [(*one, homes[one[1]]) for one in listed[:cut]])
    until(site.processed, "the first part is processed", 60, workers[0])
    before = [json.loads(value) for value in site.alerts()]
    mine = [one["event"] for one in before if one["asset"] == MOVING]
    assert mine.count("open") == mine.count("close") + 1, "it moves in the middle of an incident"
    added = add_partition(site)
    grown = time.monotonic()
    homes[MOVING.encode()] = added
    later = [(*one, homes[one[1]]) for one in listed[cut:]]
    send(site, [one for one in later if one[3] == added])
    until(lambda: site.read_up_to().get(added), "the new partition is read", 30, workers[0])
    send(site, [one for one in later if one[3] != added])  # live, twenty seconds later: who is silent comes out then
    assert time.monotonic() - grown < 15
    until(site.processed, "all is processed", 60, workers[0])
    moved = until(
        lambda: [one for one in map(json.loads, site.alerts()) if one.get("reason") == "moved"],
        "it ends",
        30,
        workers[0],
    )
    assert [(MOVING, "close")] == [(one["asset"], one["event"]) for one in moved]
    alerts = [json.loads(value) for value in site.alerts()]
    assert moved[0]["incident"] in {one["incident"] for one in before if one["event"] == "open"}
    silent = [one for one in alerts if one.get("sensor", {}).get("fault") == "silent"]
    assert [] == silent
    said = "".join(worker.said() for worker in workers)
    assert 1 == said.count(f"asset {MOVING} has left partition")
    assert "comes on partitions" not in said
    for worker in workers:
        assert 0 == worker.stop(), worker.said()


def test_messages_without_keys_are_warned_of(make_site, material):
    """Two workers see it together, by the store: each asset is named, with the fix."""
    site = make_site(partitions=2)
    workers = [site.worker(), site.worker()]
    until(lambda: [1, 1] == [w.metric("assigned_partitions") for w in workers], "both share", 60, workers[0])
    listed = rows(site.topic, material.files)
    send(site, [(*one, place // 7 % 2) for place, one in enumerate(listed[: len(listed) // 3])])
    assets = {asset.decode() for _, asset, _ in listed}
    said = until(
        lambda: (
            all(f"asset {asset} comes on partitions 0, 1" in said for asset in assets)
            if (said := "".join(worker.said() for worker in workers))
            else None
        ),
        "all are warned of",
        60,
        workers[0],
    )
    assert said
    assert len(assets) == sum(worker.metric("assets_in_several_tasks") for worker in workers)
