"""What workers write for `stream-detector assets`: last readings and scores, seldom, beside the states."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.errors import StoreError
from stream_detector.types import AssetReport, Partition, PlainMessage, ReadingBatch
from stream_detector.windowing.windower import Windower
from stream_detector.worker.reporting import AT_ONCE, EVERY_MS
from tests.rig import START_MS, STRANGER, Plant, Sent, Worker, make_config, recorded

NOBODYS = recorded(assets=1, rows=100, partitions=1, faults=False)


def seen(plant: Plant) -> dict[str, AssetReport]:
    """Return what the store has of every asset."""
    return {asset: report for _, asset, report in MemoryStore(plant.server).reports()}


def turns(plant: Plant, worker: Worker, ms: float, step_ms: float = 200.0) -> None:
    """Let time pass."""
    end = plant.clock.now + ms
    while plant.clock.now < end:
        worker.pipeline.step(0)
        plant.clock.now += step_ms


def test_last_readings_and_scores_are_written():
    """Of every asset, with the level that the score was compared with."""
    plant = Plant(partitions=2)
    plant.write(recorded(assets=4, rows=120, partitions=2))
    worker = plant.worker()
    turns(plant, worker, 2 * EVERY_MS)
    found = seen(plant)
    assert set(found) == {f"pump-{n}" for n in range(4)}
    newest = {asset: report.read_ms for asset, report in found.items()}
    assert max(newest.values()) == START_MS + 119_000
    for report in found.values():
        assert report.score is not None
        assert report.level is not None
        assert 0.0 < report.score < 10.0
        assert report.reason == ""


def test_only_what_changed_is_written_and_not_more_often_than_due(monkeypatch: pytest.MonkeyPatch):
    """An asset that sends nothing is not written again; the others once per interval."""
    written: list[set[str]] = []
    report = MemoryStore.report

    def counted(store, task, token, reports):
        written.append(set(reports))
        report(store, task, token, reports)

    monkeypatch.setattr(MemoryStore, "report", counted)
    plant = Plant(partitions=1)
    messages = recorded(assets=2, rows=200, partitions=1, faults=False)
    plant.write(messages[:100])
    worker = plant.worker()
    turns(plant, worker, 2 * EVERY_MS)
    assert {frozenset(names) for names in written[-1:]} == {frozenset({"pump-0", "pump-1"})}
    del written[:]
    turns(plant, worker, 3 * EVERY_MS)
    assert written == []
    plant.write(one for one in messages[100:] if one.asset == "pump-1")
    turns(plant, worker, EVERY_MS + 2_000)
    assert written == [{"pump-1"}]


def test_many_assets_are_written_in_parts(monkeypatch: pytest.MonkeyPatch):
    """No call writes more than AT_ONCE of them, and all have their turn."""
    sizes: list[int] = []
    report = MemoryStore.report

    def counted(store, task, token, reports):
        sizes.append(len(reports))
        report(store, task, token, reports)

    monkeypatch.setattr(MemoryStore, "report", counted)
    plant = Plant(partitions=1)
    plant.write(
        Sent(0, f"a-{n}", START_MS, b'{"asset": "a-%d", "ts": %d, "vibration": 1, "current": 1}' % (n, START_MS))
        for n in range(2 * AT_ONCE + 10)
    )
    turns(plant, plant.worker(), 30_000)
    assert len(seen(plant)) == 2 * AT_ONCE + 10
    assert max(sizes) == AT_ONCE


def test_the_states_are_the_same_without_reports(monkeypatch: pytest.MonkeyPatch):
    """A store that can't take reports changes nothing: commits go on, nothing is missed."""
    messages = recorded(assets=4, rows=120, partitions=2)

    def run() -> tuple[Plant, Worker]:
        plant = Plant(partitions=2)
        plant.write(messages)
        worker = plant.worker()
        plant.run(worker)
        return plant, worker

    plant, _ = run()

    def fail(*_: object) -> None:
        raise StoreError("it can't")

    monkeypatch.setattr(MemoryStore, "report", fail)
    other, worker = run()
    assert not seen(other)
    assert (plant.states(), plant.alerts) == (other.states(), other.alerts)
    assert worker.pipeline.ready()[0]


def test_a_takeover_keeps_the_last_score_until_there_is_a_next():
    """The new owner does not know it, and an asset may have stopped sending."""
    plant = Plant(partitions=1)
    plant.write(recorded(assets=2, rows=100, partitions=1, faults=False))
    worker = plant.worker()
    turns(plant, worker, 2 * EVERY_MS)
    before = seen(plant)
    worker.source.expel()
    turns(plant, plant.worker(), 2 * EVERY_MS)
    assert seen(plant) == before


def test_an_asset_that_is_not_judged_has_its_reason():
    """For as long as it isn't: here a channel is missing, and comes later."""

    def lacking(one: Sent) -> Sent:
        fields = json.loads(one.value)
        del fields["values"]["current"]
        return replace(one, value=json.dumps(fields).encode())

    messages = [one for one in recorded(assets=2, rows=200, partitions=1, faults=False) if one.value.endswith(b"}")]
    plant = Plant(partitions=1)
    plant.write(lacking(one) if one.asset == "pump-1" else one for one in messages[:200])
    worker = plant.worker()
    turns(plant, worker, 2 * EVERY_MS)
    found = seen(plant)
    assert (found["pump-0"].reason, found["pump-0"].detail) == ("", "")
    assert found["pump-1"].reason == "channel-missing"
    assert "current" in found["pump-1"].detail
    plant.write(messages[200:])
    turns(plant, worker, 2 * EVERY_MS)
    assert seen(plant)["pump-1"].reason == ""
    assert seen(plant)["pump-1"].score is not None


def test_an_asset_without_a_detector_has_its_reason():
    """Its windows are not scored."""
    plant = Plant(partitions=1)
    plant.write(replace(one, asset=STRANGER, value=one.value.replace(b"pump-0", STRANGER.encode())) for one in NOBODYS)
    turns(plant, plant.worker(), 2 * EVERY_MS)
    assert seen(plant)[STRANGER].reason == "no-detector"


def test_a_store_that_came_back_empty_is_told_again():
    """What it had is written once more."""
    plant = Plant(make_config(), partitions=1)
    plant.write(recorded(assets=2, rows=100, partitions=1, faults=False))
    worker = plant.worker()
    turns(plant, worker, 2 * EVERY_MS)
    before = seen(plant)
    plant.server.clear()
    plant.write(
        [Sent(0, "pump-0", START_MS + 100_000, b'{"asset":"pump-0","ts":%d,"vibration":1}' % (START_MS + 100_000))]
    )
    turns(plant, worker, 2 * EVERY_MS)
    after = seen(plant)
    assert after["pump-1"] == before["pump-1"]
    assert after["pump-0"].read_ms == START_MS + 100_000


def test_the_last_reading_is_the_newest_of_all_topics():
    """Also while windows wait for the slower topic."""
    window = Windower(make_config().window, make_config().channels, 0, ["a", "b"])
    assert window.last_readings()[0] == []
    for topic, asset, ms in (("a", "x", 1_000.0), ("b", "x", 5_000.0), ("b", "y", 2_000.0), ("b", "y", 1_500.0)):
        window.push(
            ReadingBatch(
                Partition(topic, 0),
                [PlainMessage(0, -1, None, b"")],
                [asset],
                np.array([0]),
                np.array([-1]),
                None,
                np.array([START_MS + ms]),
                np.ones((1, 2)),
            )
        )
    names, read_ms = window.last_readings()
    assert dict(zip(names, read_ms.tolist(), strict=True)) == {"x": START_MS + 5_000.0, "y": START_MS + 2_000.0}
