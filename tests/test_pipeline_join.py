"""Channels of one asset on two topics: the same windows however unevenly the topics are read."""

import json

import pytest

from stream_detector.codec import encode_reading
from stream_detector.types import Partition
from stream_detector.windowing.join import FULL
from tests.rig import START_MS, Plant, Sent, ids, make_config, recorded

TOPICS = ["vibrations", "currents"]


def config(**sections):
    """Two topics, one a channel."""
    return make_config(kafka={"inputs": [{"topic": topic} for topic in TOPICS]}, **sections)


def recorded_apart(rows=240, seed=0):
    """The readings of `recorded` without its late and broken ones, each split in two messages, in step."""
    sent = []
    for one in recorded(4, rows, seed, partitions=2):
        if b'"values"' in one.value and one.ts_ms >= (sent[-1].ts_ms if sent else 0):
            values = json.loads(one.value)["values"]
            for topic, channel in zip(TOPICS, ("vibration", "current"), strict=True):
                value = encode_reading(one.asset, one.ts_ms, {channel: values[channel]})
                sent.append(Sent(one.partition, one.asset, one.ts_ms, value, topic))
    return sent


MESSAGES = recorded_apart()


@pytest.fixture(scope="module")
def in_step():
    """What a worker makes of the topics when it reads each message soon after it was written."""
    plant = Plant(config(), partitions=2)
    worker = plant.worker()
    for start in range(0, len(MESSAGES), 16):
        plant.write(MESSAGES[start : start + 16])
        worker.pipeline.step(0)
        plant.clock.now += 20
    plant.run(worker)
    assert [] == plant.dead_letters
    assert len(plant.alerts) > 10
    return plant


@pytest.mark.parametrize("batch", [3, 16, 100, 10_000])
def test_catching_up_gives_the_same_as_in_step(in_step, batch):
    """A backlog of both topics, in polls of any size: no reading is late, and alerts and states are the same."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    plant.run(plant.worker(batch))
    assert [] == plant.dead_letters
    assert sorted(in_step.alerts) == sorted(plant.alerts)
    assert in_step.states() == plant.states()


@pytest.mark.parametrize("batch", [16, 100, 10_000])
@pytest.mark.parametrize("ahead", TOPICS)
def test_a_topic_hours_ahead_waits_for_the_other(in_step, batch, ahead):
    """The other topic's messages are read by trickles only: the one ahead waits, whichever it is."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(batch)
    read = plant.log.read
    slow = next(topic for topic in TOPICS if topic != ahead)

    def uneven(partition, offset=0, limit=None):
        return read(partition, offset, min(limit, 5) if limit and partition.topic == slow else limit)

    plant.log.read = uneven
    plant.run(worker)
    assert [] == plant.dead_letters
    assert sorted(in_step.alerts) == sorted(plant.alerts)
    assert in_step.states() == plant.states()


def test_readings_that_wait_are_bounded():
    """A partition far ahead is paused once FULL readings of it wait, and read on when the other has come up."""
    plant = Plant(config(), partitions=1)
    ahead = [Sent(0, "pump-0", START_MS + 100 * i, reading("vibration", i), "vibrations") for i in range(FULL + 8_000)]
    behind = [Sent(0, "pump-0", START_MS + 100 * i, reading("current", i), "currents") for i in range(FULL + 8_000)]
    plant.write(ahead + behind)
    worker = plant.worker(1_000)
    read = plant.log.read
    plant.log.read = lambda partition, offset=0, limit=None: read(
        partition, offset, min(limit, 10) if limit and partition.topic == "currents" else limit
    )
    paused = Partition("vibrations", 0)
    for _ in range(60):
        worker.pipeline.step(0)
    assert {paused} == worker.source._paused
    assert FULL <= worker.source._owned[paused] < FULL + 2_000
    plant.log.read = read
    plant.run(worker)
    assert set() == worker.source._paused
    assert 2 * (FULL + 8_000) == worker.metric("readings_total")


def reading(channel, i):
    """The i-th reading, ten a second."""
    return encode_reading("pump-0", START_MS + 100 * i, {channel: 0.1})


def test_a_topic_that_fell_silent_does_not_hold_the_other_up():
    """Live, with no message of the other topic to come, windows go on once its gap is too long to fill: cut off."""
    plant = Plant(config(), partitions=2)
    plant.write(one for one in MESSAGES if one.topic == "vibrations" or one.ts_ms < START_MS + 100_000)
    worker = plant.worker()
    plant.run(worker)
    assert worker.metric("readings_total") == worker.metric("messages_total", topic="vibrations") + worker.metric(
        "messages_total", topic="currents"
    )
    # 4 assets, windows of 8 cells every 2, from 8 to 100 s and a filled gap of 3
    assert 4 * 40 < worker.pipeline.windows <= 4 * 49


@pytest.mark.parametrize("moments", [(7, 20), (12, 15), (3, 30)])
def test_a_crash_while_readings_wait_loses_none(in_step, moments):
    """The committed offset is below what waits for the other topic; alerts are as if nothing had happened."""
    plant = Plant(config(commit_interval_ms=100), partitions=2)
    plant.write(MESSAGES)
    read = plant.log.read
    plant.log.read = lambda partition, offset=0, limit=None: read(
        partition, offset, min(limit, 9) if limit and partition.topic == "currents" else limit
    )
    for moment in moments:
        worker = plant.worker(100)
        for _ in range(moment):
            worker.pipeline.step(0)
            plant.clock.now += 20
        worker.source.expel()
    plant.run(plant.worker(100))
    assert [] == plant.dead_letters
    assert ids(in_step.alerts) == ids(plant.alerts)
    assert in_step.states() == plant.states()


@pytest.mark.parametrize("batch", [16, 100, 10_000])
def test_a_clock_gone_wrong_holds_nobody_up(in_step, batch):
    """Readings years ahead in one topic do not make the other's readings run ahead of those behind them."""
    plant = Plant(config(), partitions=2)
    wrong = [Sent(0, "lost", START_MS + 10**11, wrong_reading("vibration"), "vibrations")]
    messages = []
    for place, message in enumerate(MESSAGES):
        messages += [message, *(wrong if place % 97 == 50 else [])]
    plant.write(messages)
    plant.run(plant.worker(batch))
    assert [] == plant.dead_letters
    assert sorted(in_step.alerts) == sorted(plant.alerts)


def wrong_reading(channel):
    """A reading of an asset whose clock runs three years ahead."""
    return encode_reading("lost", START_MS + 10**11, {channel: 0.1})
