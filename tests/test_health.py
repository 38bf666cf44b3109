"""When a worker says that it is ready, and when that it lives."""

from __future__ import annotations

import pytest

from stream_detector.errors import BrokerError
from stream_detector.worker.health import STUCK_S, Health
from tests.rig import Clock, Plant, make_config, recorded


class Loop:
    """A loop that is ready."""

    def ready(self):
        """Say so."""
        return True, "2 tasks"


def test_a_worker_is_ready_when_its_loop_is_and_kafka_answers():
    """Not while it starts, nor from a failed turn to one that went well."""
    health = Health()
    assert (False, "it is starting") == health.ready()
    health.watch(Loop())
    assert (True, "2 tasks") == health.ready()
    health.kafka(BrokerError("Kafka at k:9092: writing failed"))
    assert (False, "Kafka at k:9092: writing failed") == health.ready()
    health.kafka(None)
    assert (True, "2 tasks") == health.ready()


def test_a_loop_that_hangs_is_not_alive():
    """A supervisor starts the worker again."""
    clock = Clock()
    health = Health(lambda: clock.now)
    clock.now += STUCK_S - 1
    assert (True, "the loop turned 59.0 s ago") == health.alive()
    clock.now += 1
    assert (False, "the loop turned 60.0 s ago") == health.alive()
    health.turning()
    assert health.alive()[0]


MESSAGES = recorded(assets=4, rows=160, partitions=2)


def turns(plant, worker, count):
    """Step so often."""
    for _ in range(count):
        worker.pipeline.step(0)
        plant.clock.now += 20


def test_a_worker_that_has_no_share_yet_is_not_ready():
    """It becomes so with its tasks, and stays so when others take them all: it stands by."""
    plant = Plant(make_config(), partitions=2)
    worker = plant.worker()
    assert (False, "it has not joined its group yet") == worker.pipeline.ready()
    turns(plant, worker, 1)
    assert (True, "2 tasks") == worker.pipeline.ready()
    worker.source.assign([])
    turns(plant, worker, 1)
    assert (True, "no task: there are enough workers for all") == worker.pipeline.ready()


def test_a_worker_without_its_broker_is_not_ready():
    """And is again when it is back."""
    plant = Plant(make_config(), partitions=2)
    worker = plant.worker()
    turns(plant, worker, 1)
    plant.log.available = False
    assert (False, "the memory log is away") == worker.pipeline.ready()
    plant.log.available = True
    assert worker.pipeline.ready()[0]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_that_catches_up_in_silence_is_not_ready(delivery):
    """It says how much is left, the gauge too; the store was away while its predecessor went on, and died."""
    plant = Plant(make_config(delivery=delivery, commit_interval_ms=100.0), partitions=2)
    plant.write(MESSAGES)
    first = plant.worker(16)
    turns(plant, first, 8)
    plant.server.available = False
    turns(plant, first, 12)
    first.pipeline.commit()
    first.source.expel()
    plant.server.available = True
    worker = plant.worker(4)
    turns(plant, worker, 2)
    worker.pipeline.commit()
    left = int(worker.metric("catching_up_messages"))
    assert left > 0
    assert (False, f"replaying: {left} messages are read again") == worker.pipeline.ready()
    plant.run(worker)
    assert ((True, "2 tasks"), 0) == (worker.pipeline.ready(), worker.metric("catching_up_messages"))


def test_a_worker_that_pauses_for_the_store_is_not_ready():
    """With on_store_outage: pause; the gauge of the store tells for how long, commit or not."""
    plant = Plant(make_config(on_store_outage="pause", commit_interval_ms=100.0), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 8)
    plant.server.available = False
    turns(plant, worker, 100)
    assert (False, "waiting for the state of task 0 (2 in all)") == worker.pipeline.ready()
    assert 1.8 < worker.metric("store_behind_seconds") < 2.1
    plant.server.available = True
    plant.run(worker)
    assert ((True, "2 tasks"), 0) == (worker.pipeline.ready(), worker.metric("store_behind_seconds"))
