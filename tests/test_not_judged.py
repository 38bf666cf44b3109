"""Readings that come and are not judged: which assets, why, and how a person learns of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.telemetry.logs import JsonLines
from stream_detector.types import NOT_JUDGED_REASONS, Partition, Position
from tests.rig import START_MS, STRANGER, TOPIC, Plant, Sent, Worker, make_config, recorded

HERE = Partition(TOPIC, 0)


def readings(times_ms: Iterable[float], asset: str = "pump-9", channels: Iterable[str] = ("vibration", "current")):
    """Messages of one asset at these times, each channel with a little noise."""
    noise = np.random.default_rng(0)
    return [
        Sent(
            0,
            asset,
            int(at),
            json.dumps({"asset": asset, "ts": at, "values": {name: noise.normal() for name in channels}}).encode(),
        )
        for at in times_ms
    ]


def seconds(start: float, stop: float, step: float = 1.0) -> list[float]:
    """Times, ms, of readings these seconds after the start."""
    return [START_MS + 1_000.0 * each for each in np.arange(start, stop, step)]


def worked(sent: list[Sent], **sections: object) -> tuple[Plant, Worker]:
    """A worker that has read all of it, beside a healthy pump."""
    plant = Plant(make_config(**sections), partitions=1)
    plant.write(sent)
    worker = plant.worker(50)
    plant.run(worker)
    return plant, worker


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[dict[str, Any]]:
    """The fields of each line whose event begins with one of the names."""
    formatter = JsonLines()
    found = [json.loads(formatter.format(record)) for record in caplog.records]
    return [one for one in found if one["event"].startswith(names)]


def names(caplog: pytest.LogCaptureFixture, begin: str) -> list[str]:
    """The events that begin so, in order."""
    return [one["event"] for one in events(caplog, begin)]


def reported(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Asset and reason of each line that reports an asset."""
    return [(one["asset"], one["reason"]) for one in events(caplog, "not-judged")]


def gauge(worker: Worker) -> dict[str, float]:
    """The metric by reason, without zeros."""
    found = {reason: worker.metric("assets_not_judged", reason=reason) for reason in NOT_JUDGED_REASONS}
    return {reason: count for reason, count in found.items() if count}


CASES = {
    "event-times": readings([at / 1_000 for at in seconds(0, 100)]),
    "channel-missing": readings(seconds(0, 100), channels=["vibration"]),
    "coarse-step": readings(seconds(0, 6_000, 60)),
    "gaps": [one for start in range(0, 400, 9) for one in readings(seconds(start, start + 3))],
    "no-detector": readings(seconds(0, 100), asset=STRANGER),
}


@pytest.mark.parametrize("reason", CASES)
def test_each_cause_is_reported_once(reason, caplog):
    """In the log, in the metric and in the text of /readyz."""
    sent = CASES[reason]
    _, worker = worked(sent)
    asset = sent[0].asset
    if reason == "no-detector":
        assert [asset] == [one["asset"] for one in events(caplog, "no-model")]
    else:
        assert [(asset, reason)] == reported(caplog)
    assert {reason: 1.0} == gauge(worker)
    ready, text = worker.pipeline.ready()
    assert ready
    assert f"1 assets are not judged: {asset!r} ({reason})" in text


def test_event_times_are_compared_with_the_records_own():
    """A reading in tenths of a second is decades from its record; an old recording sent now is judged all the same."""
    for times, expected in (([at / 10 for at in seconds(0, 100)], {"event-times": 1.0}), (seconds(0, 100), {})):
        plant = Plant(make_config(), partitions=1)
        for one in readings(times):
            plant.log.append(HERE, one.asset.encode(), one.value, timestamp=START_MS + 40 * 365 * 86_400_000)
        worker = plant.worker(50)
        plant.run(worker)
        assert expected == gauge(worker)


def test_a_message_names_the_figures_and_the_fix(caplog):
    """The channel, the step, the time as it was read."""
    worked(CASES["coarse-step"] + CASES["channel-missing"])
    worked(CASES["event-times"])
    text = caplog.text
    assert "a reading every 60 s on average; gaps of 'vibration' are filled up to 3 s (max_gap_ms)" in text
    assert "in the year 1970: they look like seconds" in text


def test_nothing_is_reported_of_assets_that_are_judged_or_merely_away(caplog):
    """Healthy ones, one that pauses for an hour, one that is silent from then on, one whose clock is behind."""
    sent = recorded(assets=6, partitions=1)
    sent += readings([*seconds(0, 60), *seconds(3_600, 3_660)], asset="pump-a")
    sent += readings(seconds(0, 60), asset="pump-b") + readings(seconds(-500, -300), asset="pump-c")
    _, worker = worked(sent)
    assert [] == reported(caplog)
    assert {} == gauge(worker)
    assert worker.pipeline.ready() == (True, "1 tasks")


VALID = {"vibration": {"valid": [-50, 50]}, "current": {}}


@pytest.mark.parametrize(
    ("code", "value", "ahead_ms"),
    [("out-of-range", 900.0, 0), ("not-a-number", "x", 0), ("too-far-ahead", 0.1, 7_200_000)],
)
def test_an_asset_whose_readings_are_all_refused_is_reported(code, value, ahead_ms, caplog):
    """With the code of its dead letters, from the twentieth on and until a reading is used; the others are healthy."""
    plant = Plant(make_config(channels=VALID), partitions=1)
    worker = plant.worker(50)

    def send(start: int, count: int, value: float | str, ahead_ms: int) -> None:
        for second in range(start, start + count):
            at = START_MS + 1_000 * second
            for asset, measured, ts in (("pump-8", 0.1, at), ("pump-9", value, at + ahead_ms)):
                fields = {"asset": asset, "ts": ts, "values": {"vibration": measured, "current": 0.1}}
                plant.log.append(HERE, asset.encode(), json.dumps(fields).encode(), timestamp=at)
        plant.run(worker)

    send(0, 19, value, ahead_ms)
    assert {} == gauge(worker)
    send(19, 100, value, ahead_ms)
    assert [("pump-9", "refused")] == reported(caplog)
    assert {"refused": 1.0} == gauge(worker)
    assert f"all dead letters ({code})" in caplog.text
    assert "'pump-9' (refused)" in worker.pipeline.ready()[1]
    send(119, 1, 0.1, 0)
    assert {} == gauge(worker)


def test_a_second_gateway_that_is_late_is_no_coarse_step(caplog):
    """Readings come a second apart from one gateway and ten seconds late from another: the asset is judged."""
    window = {"cell_ms": 1_000, "length": 60, "stride": 60, "lateness_ms": 15_000, "max_gap_ms": 3_000}
    plant = Plant(make_config(window=window), partitions=1)
    first, second = readings(seconds(20, 600)), readings(seconds(10.5, 590))
    plant.write(one for both in zip(first, second, strict=True) for one in both)
    worker = plant.worker(10)
    plant.run(worker, step_ms=1_000.0)
    assert worker.metric("scores_total") > 0
    assert [] == reported(caplog)


def test_it_is_over_with_the_next_window(caplog):
    """The channel comes at last."""
    plant, worker = worked(readings(seconds(0, 100), channels=["vibration"]))
    plant.write(readings(seconds(100, 130)))
    plant.run(worker)
    assert [("pump-9", "channel-missing")] == reported(caplog)
    assert {} == gauge(worker)


# Offsets and topics that are not where the states were left ---------------------------------------------------------


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_offsets_set_back_are_reported_and_a_reset_has_them_judged(delivery, metadata, caplog):
    """Nothing is judged twice by itself; after `thresholds reset --all` it is.

    `metadata`: the tool keeps that of the worker's commit, as Kafka's does.
    """
    plant, worker = worked(recorded(assets=3, rows=800, partitions=1), delivery=delivery)
    worker.pipeline.close()
    alerts = len(plant.alerts)
    assert alerts
    for reset in (False, True):
        if reset:
            MemoryStore(plant.server).reset(None)
        before = plant.log.group("detector").committed[HERE]
        assert before.epoch
        set_back = Position(0, before.read, before.epoch) if metadata else Position(0, 0, 0)
        plant.log.group("detector").committed[HERE] = set_back
        caplog.clear()
        worker = plant.worker(50)
        plant.run(worker)
        worker.pipeline.close()
        assert ["offsets-set-back"] == names(caplog, "offsets")
        assert "thresholds reset CONFIG --all" in caplog.text
        if not reset:
            assert alerts == len(plant.alerts)
            assert {"already-judged": 3.0} == gauge(worker)
            assert {"pump-0", "pump-1", "pump-2"} == {asset for asset, _ in reported(caplog)}
    assert {} == gauge(worker)
    assert alerts < len(plant.alerts)


def set_back(plant: Plant) -> None:
    """Have the log read again from its beginning, as Kafka's tool does: it keeps the metadata of a commit."""
    committed = plant.log.group("detector").committed
    before = committed[HERE]
    assert before.offset
    committed[HERE] = Position(0, before.read, before.epoch)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_reset_holds_for_the_next_worker(delivery):
    """The first one ends before it gets to an asset's readings; they are judged again all the same."""
    every = recorded(assets=2, rows=800, partitions=1)
    one_by_one = [one for asset in ("pump-0", "pump-1") for one in every if one.asset == asset]
    plant, worker = worked(one_by_one, delivery=delivery, commit_interval_ms=100)
    worker.pipeline.close()
    alerts = len(plant.alerts)
    MemoryStore(plant.server).reset(None)
    set_back(plant)
    worker = plant.worker(50)
    for _ in range(4):
        worker.pipeline.step(0)
        plant.clock.now += 50
    worker.pipeline.close()
    worker = plant.worker(50)
    plant.run(worker)
    assert {} == gauge(worker)
    assert {"pump-0", "pump-1"} == {json.loads(alert)["asset"] for alert in plant.alerts[alerts:]}


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_with_another_method_an_old_reset_is_no_new_one(delivery):
    """Thresholds begin anew, but what was judged since the reset is not judged again."""
    plant = Plant(make_config(delivery=delivery), partitions=1)
    MemoryStore(plant.server).reset(None)
    plant.write(recorded(assets=3, rows=800, partitions=1))
    worker = plant.worker(50)
    plant.run(worker)
    worker.pipeline.close()
    alerts = len(plant.alerts)
    set_back(plant)
    plant.config = make_config(delivery=delivery, threshold={"method": "dspot"})
    worker = plant.worker(50)
    plant.run(worker)
    assert alerts == len(plant.alerts)
    assert {"already-judged": 3.0} == gauge(worker)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_an_incident_that_is_judged_again_begins_anew(delivery):
    """The recording ends in the middle of one: what is published the second time is what was the first time."""
    plant, worker = worked(recorded(assets=3, rows=778, partitions=1), delivery=delivery)
    worker.pipeline.close()
    first = plant.alerts
    assert "close" != [alert["event"] for alert in map(json.loads, first) if alert["asset"] == "pump-0"][-1]
    MemoryStore(plant.server).reset(None)
    set_back(plant)
    plant.run(plant.worker(50))
    assert first == plant.alerts[len(first) :]


def test_a_topic_made_again_is_reported_and_a_reset_has_it_judged(caplog):
    """At least once, the states of the old one are found; the group's offsets went with the topic."""
    plant, worker = worked(recorded(assets=3, partitions=1))
    worker.pipeline.close()
    alerts = len(plant.alerts)
    for reset in (False, True):
        if reset:
            MemoryStore(plant.server).reset(None)
        plant.log._topics[TOPIC] = [[]]
        plant.log.group("detector").committed.clear()
        plant.write(recorded(assets=3, partitions=1))
        caplog.clear()
        worker = plant.worker(50)
        plant.run(worker)
        worker.pipeline.close()
        assert ["offsets-missing"] == names(caplog, "offsets")
        assert (alerts < len(plant.alerts)) == reset
    assert {} == gauge(worker)


def test_states_that_do_not_count_for_a_new_topic_are_reported(caplog):
    """Exactly once, the epoch of the states went with the offsets: the new topic is judged from its beginning."""
    plant, worker = worked(recorded(assets=3, partitions=1), delivery="exactly_once")
    worker.pipeline.close()
    alerts = len(plant.alerts)
    plant.log.group("detector").committed.clear()
    plant.run(plant.worker(50))
    assert ["offsets-missing"] == names(caplog, "offsets")
    assert 2 * alerts == len(plant.alerts)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_offsets_set_forward_count_as_skipped(delivery, caplog):
    """What lies between is not processed; the tool has kept the metadata of the worker's commit."""
    plant, worker = worked(recorded(assets=3, partitions=1), delivery=delivery)
    worker.pipeline.close()
    end, before = plant.log.end(HERE), plant.log.group("detector").committed[HERE]
    sent = recorded(assets=3, partitions=1, seed=1)
    plant.write(sent)
    plant.log.group("detector").committed[HERE] = Position(end + 100, before.read, before.epoch)
    worker = plant.worker(50)
    plant.run(worker)
    assert 100 == worker.metric("messages_skipped_total", topic=TOPIC)
    assert len(sent) - 100 == worker.metric("messages_total", topic=TOPIC)
    assert ["offsets-set-forward"] == names(caplog, "offsets")


def test_an_offset_that_is_not_followed_skips_nothing():
    """At least once, one without metadata may be the worker's own: messages are read from the states' position on."""
    plant, worker = worked(recorded(assets=3, partitions=1))
    worker.pipeline.close()
    judged, sent = plant.log.end(HERE), recorded(assets=3, partitions=1, seed=1)
    plant.write(sent)
    plant.log.group("detector").committed[HERE] = Position(judged + 100, judged + 100, 0)
    worker = plant.worker(50)
    plant.run(worker)
    assert len(sent) <= worker.metric("messages_total", topic=TOPIC)
    assert 0 == worker.metric("messages_skipped_total", topic=TOPIC)


def test_messages_that_retention_deleted_are_counted(caplog):
    """Those processed before are told apart from those that never were."""
    plant, worker = worked(recorded(assets=3, partitions=1))
    worker.pipeline.close()
    end = plant.log.end(HERE)
    plant.write(recorded(assets=3, partitions=1, seed=1))
    plant.log.delete_before(HERE, end + 70)
    worker = plant.worker(50)
    plant.run(worker)
    assert 70 == worker.metric("messages_skipped_total", topic=TOPIC)
    (line,) = events(caplog, "messages-skipped")
    assert ("error", 70, end + 70) == (line["level"], line["new"], line["stop"])
    assert "70 of them were never processed" in caplog.text
