"""Exactly-once delivery, whatever fails at whichever step: alerts, dead letters and states are the undisturbed run's.

On a memory log and store: `tests/integration/test_exactly_once.py` does it with processes, Kafka and Redis.
"""

import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.errors import BrokerError
from stream_detector.types import Partition
from tests.exactly_once import MESSAGES, STEPS, make_plant, same, strike_at, turns, undisturbed
from tests.rig import TOPIC, CrashError, Plant, make_config, recorded

__all__ = ["undisturbed"]  # a fixture


def test_it_is_what_at_least_once_delivers_undisturbed(undisturbed):
    """The delivery changes nothing but what a crash costs."""
    plant = Plant(make_config(commit_interval_ms=100), partitions=2)
    plant.write(MESSAGES)
    plant.run(plant.worker(16))
    same(undisturbed, plant)


def test_an_alert_waits_no_longer_than_its_delay_for_the_commit():
    """It can be read `alert_delay_ms` after it was made; while there is none, commits come at their interval."""
    plant = Plant(make_config(delivery="exactly_once", commit_interval_ms=60_000, alert_delay_ms=40), partitions=2)
    worker = plant.worker(16)
    plant.write(recorded(assets=4, rows=60, partitions=2, faults=False)[:40])
    turns(plant, worker, 100)
    assert [] == worker.faults.steps
    plant.write(MESSAGES[40:])
    while not worker.pipeline.alerts:
        turns(plant, worker, 1)
    assert [] == plant.alerts
    turns(plant, worker, 3)
    assert plant.alerts


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time", [1, 2, 3, 5])
def test_a_crash_at_any_step(undisturbed, step, time):
    """A worker dies at the step, and the next one too, later: nothing missing, nothing repeated."""
    plant = make_plant()
    for again in (time, 2, 3):
        worker = plant.worker(16)
        worker.faults.strike = strike_at(step, again)
        with pytest.raises(CrashError):
            plant.run(worker)
        worker.source.expel()
    plant.run(plant.worker(64))
    same(undisturbed, plant)


@pytest.mark.parametrize("step", ["flush", "flushed", "commit", "committed"])
def test_a_broker_that_fails_at_any_step(undisturbed, step):
    """All is taken back, counted, and done again by the same worker; after `committed` the commit stands."""
    plant = make_plant()
    worker = plant.worker(16)
    for time in (2, 3):
        worker.faults.strike = strike_at(step, time, BrokerError)
        turns(plant, worker, 15)
    worker.faults.strike = lambda at: None
    plant.run(worker)
    same(undisturbed, plant)
    assert worker.metric("aborts_total") >= 1


@pytest.mark.parametrize("step", ["flushed", "saved", "commit"])
def test_a_zombie_changes_nothing(undisturbed, step):
    """A worker put out in the middle of a commit, while another does all its work, commits nothing when it goes on."""
    plant = make_plant()
    zombie = plant.worker(16)
    turns(plant, zombie, 8)
    heir = []

    def strike(at):
        if at == step and not heir:
            zombie.source.expel()
            heir.append(plant.worker(64))
            heir[0].source.assign([Partition(TOPIC, 0), Partition(TOPIC, 1)])
            plant.run(heir[0])

    zombie.faults.strike = strike
    zombie.source.assign([])
    turns(plant, zombie, 8)
    assert heir
    same(undisturbed, plant)
    plant.run(zombie, heir[0])
    same(undisturbed, plant)
    assert zombie.metric("aborts_total") >= 1


def test_partitions_that_go_in_the_middle_of_a_join_take_their_alerts_with_them(undisturbed):
    """No commit is possible then; with the next one, of what stays, alerts of what went must not become readable."""
    plant = make_plant()
    worker = plant.worker(16)
    turns(plant, worker, 6)
    worker.source.joining = True
    theirs = (plant.config.alert_topic, {b"pump-1", b"pump-3"})
    while not any(to.topic == theirs[0] and message.key in theirs[1] for to, message in worker.sink._buffer):
        turns(plant, worker, 1)
    worker.source.revoke([Partition(TOPIC, 1)])
    turns(plant, worker, 1)
    worker.source.joining = False
    heir = plant.worker(16)
    heir.source.assign([Partition(TOPIC, 1)])
    plant.run(worker, heir)
    same(undisturbed, plant)


def test_what_could_not_be_taken_back_is_when_the_tasks_are_gone(undisturbed):
    """An abort that failed is tried again by a worker that has no task any more: readers wait for its transaction."""
    plant = make_plant()
    worker = plant.worker(16)
    turns(plant, worker, 8)
    tries, abort = [], worker.sink.abort

    def fail_twice():
        tries.append(len(tries))
        if len(tries) < 3:
            raise BrokerError("away")
        abort()

    worker.sink.abort = fail_twice
    worker.faults.strike = strike_at("flush", 1, BrokerError)
    worker.source.assign([])
    turns(plant, worker, 200)
    assert [0, 1, 2] == tries
    worker.source.expel()
    plant.run(plant.worker(16))
    same(undisturbed, plant)


def test_states_of_a_commit_that_never_came_to_be_do_not_count(undisturbed):
    """A crash between save and commit leaves a newer epoch in the store; the next worker loads the committed one."""
    plant = make_plant()
    worker = plant.worker(16)
    worker.faults.strike = strike_at("commit", 4)
    with pytest.raises(CrashError):
        plant.run(worker)
    worker.source.expel()
    committed = plant.log.committed("detector")[Partition(TOPIC, 0)]
    store = MemoryStore(plant.server)
    assert committed.epoch + 1 == store.load(0).epoch
    assert store.load(0, committed.epoch).positions[Partition(TOPIC, 0)] == committed
    plant.run(plant.worker(16))
    same(undisturbed, plant)


def test_a_first_try_of_the_epoch_that_counts_is_no_state_of_it(undisturbed):
    """Saved, never committed; the same epoch then committed without the store: what is stored has read too far."""
    plant = make_plant()
    first = plant.worker(64)
    first.faults.strike = strike_at("commit", 2)
    with pytest.raises(CrashError):
        plant.run(first)
    first.source.expel()
    second = plant.worker(4)
    turns(plant, second, 4)
    plant.server.available = False
    second.pipeline.commit()
    second.source.expel()
    plant.server.available = True
    epochs = [MemoryStore(plant.server).load(0).epoch, plant.log.committed("detector")[Partition(TOPIC, 0)].epoch]
    assert epochs[0] == epochs[1]
    plant.run(plant.worker(16))
    same(undisturbed, plant)


@pytest.mark.parametrize("missed", [1, 2, 3])
def test_a_first_try_is_no_part_of_later_epochs(undisturbed, missed):
    """It had read further than the commits that came instead, and missed the store: what it judged is judged again."""
    plant = make_plant()
    first = plant.worker(64)
    first.faults.strike = strike_at("commit", 2)
    with pytest.raises(CrashError):
        plant.run(first)
    first.source.expel()
    second = plant.worker(4)
    turns(plant, second, 1)
    plant.server.available = False
    for _ in range(missed):
        turns(plant, second, 2)
        second.pipeline.commit()
    plant.server.available = True
    turns(plant, second, 2)
    second.pipeline.commit()
    second.source.expel()
    plant.run(plant.worker(16))
    same(undisturbed, plant)
