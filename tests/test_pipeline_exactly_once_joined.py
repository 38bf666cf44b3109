"""Exactly-once delivery of several joined topics, read at another pace after each crash."""

import itertools
from dataclasses import replace

import pytest

from tests.exactly_once import STEPS, away, same, strike_at, turns
from tests.rig import CrashError, Plant, make_config
from tests.test_pipeline_join import TOPICS, recorded_apart


def joined_messages():
    """Messages of two topics, a channel each, with broken ones in both."""
    for index, message in enumerate(recorded_apart(rows=160)):
        yield message
        if index % 97 == 0:
            yield replace(message, value=b"broken")


def make_joined(fill=True):
    """A plant for them, and all of them on its log."""
    inputs = {"inputs": [{"topic": topic} for topic in TOPICS]}
    plant = Plant(make_config(delivery="exactly_once", commit_interval_ms=100, kafka=inputs), partitions=2)
    if fill:
        plant.write(joined_messages())
    return plant


@pytest.fixture(scope="module")
def joined():
    """What one worker makes of them when nothing happens."""
    plant = make_joined()
    plant.run(plant.worker(16))
    assert len(plant.alerts) > 5
    assert len(plant.dead_letters) > 5
    return plant


@pytest.mark.parametrize("step", STEPS)
def test_several_topics_and_a_crash_at_any_step(joined, step):
    """Joined topics, read at another pace after each crash: nothing missing, nothing repeated."""
    plant = make_joined()
    for time, batch in ((2, 16), (3, 5), (1, 40)):
        worker = plant.worker(batch)
        worker.faults.strike = strike_at(step, time)
        with pytest.raises(CrashError):
            plant.run(worker)
        worker.source.expel()
    plant.run(plant.worker(64))
    same(joined, plant)


@pytest.mark.parametrize("batch", [3, 16, 200])
def test_several_topics_and_a_worker_killed_while_the_store_is_away(joined, batch):
    """Caught up with in silence, at another pace than before: the same windows were published before."""
    plant = make_joined()
    worker = plant.worker(12)
    away(plant, worker, at=16, count=24)
    worker.pipeline.commit()
    worker.source.expel()
    plant.server.available = True
    for _ in range(2):
        worker = plant.worker(batch)
        turns(plant, worker, 7)
        worker.source.expel()
    plant.run(plant.worker(batch))
    same(joined, plant)


def delayed():
    """The messages as they come when one topic's sender is cut off for a while and sends all it has later."""
    messages = list(joined_messages())
    cut = messages[300:420]
    parts = ([message for message in cut if message.topic == topic] for topic in TOPICS)
    return [*messages[:300], *itertools.chain(*parts), *messages[420:]]


def follow(killed_at, away):
    """Let a worker take each message as it comes until it is killed; when 100 more have come, another goes on."""
    plant = make_joined(fill=False)
    worker = plant.worker()
    messages = delayed()
    for index, message in enumerate(messages[:killed_at]):
        plant.write([message])
        plant.server.available = not away or index < 200
        turns(plant, worker, 1)
    worker.pipeline.commit()
    worker.source.expel()
    plant.server.available = True
    plant.write(messages[killed_at : killed_at + 100])
    heir = plant.worker(50)
    plant.run(heir)
    for message in messages[killed_at + 100 :]:
        plant.write([message])
        turns(plant, heir, 1)
    plant.run(heir)
    return plant


@pytest.mark.parametrize("killed_at", [330, 345])
def test_several_topics_one_of_them_cut_off_then_caught_up_with(killed_at):
    """What was read without the other topic is read so again, though its messages have come meanwhile."""
    same(follow(killed_at, away=False), follow(killed_at, away=True))
