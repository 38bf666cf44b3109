"""A plant that delivers exactly once, and how its workers are struck: for tests on a memory log and store."""

import pytest

from stream_detector.errors import BrokerError
from tests.rig import CrashError, Plant, make_config, recorded

MESSAGES = recorded(assets=4, rows=200, partitions=2)
STEPS = ["flush", "flushed", "save", "saved", "commit", "committed"]


def make_plant(**sections):
    """A plant with all messages on its log, and a commit at every fifth step of 20 ms."""
    plant = Plant(make_config(delivery="exactly_once", commit_interval_ms=100, **sections), partitions=2)
    plant.write(MESSAGES)
    return plant


@pytest.fixture(scope="module")
def undisturbed():
    """What one worker makes of the messages when nothing happens."""
    plant = make_plant()
    plant.run(plant.worker(16))
    assert len(plant.alerts) > 10
    return plant


def same(expected, plant):
    """Assert that everything that can be read is the same."""
    assert sorted(expected.alerts) == sorted(plant.alerts)
    assert sorted(expected.dead_letters) == sorted(plant.dead_letters)
    assert expected.states() == plant.states()


def strike_at(step, time, error=CrashError):
    """Raise when the step is come to for the so-manieth time."""
    left = [time]

    def strike(at):
        left[0] -= at == step
        if at == step and left[0] == 0:
            raise error(step)

    return strike


def turns(plant, worker, count):
    """Step so often; a broker that is away is tried again a second later, as `run` does."""
    for _ in range(count):
        try:
            worker.pipeline.step(0)
        except BrokerError:
            plant.clock.now += 1_000
        plant.clock.now += 20


def away(plant, worker, at=12, count=21):
    """Take the store away for so many turns."""
    turns(plant, worker, at)
    plant.server.available = False
    turns(plant, worker, count)
