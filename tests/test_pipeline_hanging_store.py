"""A store that answers nothing: every call costs its time-out, and a worker must not spend its time on that."""

import pytest

from stream_detector.adapters.memory.store import MemoryServer
from tests.rig import Plant, make_config, recorded

TIMEOUT_MS = 2_000.0
PARTITIONS = 8


class HangingServer(MemoryServer):
    """A server in memory that can hang: then a call takes its time-out and fails."""

    def __init__(self, clock):
        self.clock_ms, self.hangs, self.asked = clock, False, 0
        super().__init__()

    @property
    def available(self):
        """Whether a call is answered."""
        if self.hangs:
            self.asked += 1
            self.clock_ms.now += TIMEOUT_MS
        return not self.hangs

    @available.setter
    def available(self, _):
        """Only `hangs` says."""


@pytest.fixture(params=["at_least_once", "exactly_once"])
def plant(request):
    """A plant of eight tasks with much to read, and a store that can hang."""
    plant = Plant(make_config(delivery=request.param, commit_interval_ms=100), partitions=PARTITIONS)
    plant.server = HangingServer(plant.clock)
    plant.write(recorded(assets=PARTITIONS, rows=200, partitions=PARTITIONS))
    return plant


def test_a_commit_waits_once_for_a_store_that_hangs(plant):
    """Not once for every task: alerts and offsets go on, and no time-out of the transaction or the session nears."""
    worker = plant.worker(64)
    worker.pipeline.step(0)
    plant.server.hangs = True
    before = plant.clock.now
    worker.pipeline.commit()
    assert plant.clock.now == before + TIMEOUT_MS
    assert 1 == plant.server.asked
    assert 1 == worker.metric("commits_total")
    assert len(plant.log.committed("detector")) == PARTITIONS


def test_a_store_that_hangs_costs_a_fifth_of_the_time(plant):
    """It is left alone for four times what it cost; when it is back, all is saved."""
    undisturbed = Plant(plant.config, partitions=PARTITIONS)
    undisturbed.write(recorded(assets=PARTITIONS, rows=200, partitions=PARTITIONS))
    undisturbed.run(undisturbed.worker(64))
    worker = plant.worker(4)
    worker.pipeline.step(0)
    plant.server.hangs = True
    started = plant.clock.now
    while worker.pipeline.messages < 1_000:
        worker.pipeline.step(0)
        plant.clock.now += 20
    spent = plant.server.asked * TIMEOUT_MS
    assert 0 < spent <= 0.2 * (plant.clock.now - started) + TIMEOUT_MS
    assert worker.pipeline.ready()[0]
    plant.server.hangs = False
    plant.clock.now += 4 * TIMEOUT_MS
    plant.run(worker)
    assert undisturbed.states() == plant.states()
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)


def test_a_worker_that_starts_asks_a_hanging_store_for_one_task(plant):
    """Not for all of them in turn: it polls on meanwhile, and takes all tasks over when the store is back."""
    plant.server.hangs = True
    worker = plant.worker(64)
    worker.pipeline.step(0)
    asked = plant.server.asked
    for _ in range(20):
        worker.pipeline.step(0)
        plant.clock.now += 20
    assert asked == plant.server.asked <= 2  # the operators' settings, and one task
    assert (False, f"waiting for the state of task 0 ({PARTITIONS} in all)") == worker.pipeline.ready()
    plant.server.hangs = False
    plant.run(worker)
    assert (True, f"{PARTITIONS} tasks") == worker.pipeline.ready()
