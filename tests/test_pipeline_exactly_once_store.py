"""Exactly-once delivery while the store is away, comes back without its data, or is somebody else's."""

import json

import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.errors import StoreError
from stream_detector.types import Partition, Position
from tests.exactly_once import away, make_plant, same, strike_at, turns, undisturbed
from tests.rig import TOPIC

__all__ = ["undisturbed"]  # a fixture


def test_a_worker_killed_while_the_store_is_away(undisturbed):
    """The next one catches up in silence from where the store stood."""
    plant = make_plant()
    worker = plant.worker(16)
    away(plant, worker)
    worker.pipeline.commit()
    published = len(plant.alerts)
    worker.source.expel()
    plant.server.available = True
    heir = plant.worker(16)
    turns(plant, heir, 3)
    assert published == len(plant.alerts)
    plant.run(heir)
    same(undisturbed, plant)


@pytest.fixture(scope="module")
def undisturbed_records():
    """What one worker makes of the messages when every reading is a window of its own."""
    plant = make_plant(window={"mode": "records", "length": 1})
    plant.run(plant.worker(16))
    assert len(plant.alerts) > 10
    return plant


@pytest.mark.parametrize("mode", ["grid", "records"])
def test_workers_killed_while_they_catch_up(undisturbed, undisturbed_records, mode):
    """Catching up in small steps and killed over it, again and again: still nothing is said twice."""
    records = mode == "records"
    plant = make_plant(window={"mode": "records", "length": 1}) if records else make_plant()
    undisturbed = undisturbed_records if records else undisturbed
    worker = plant.worker(16)
    away(plant, worker)
    worker.pipeline.commit()
    worker.source.expel()
    plant.server.available = True
    for _ in range(6):
        worker = plant.worker(8)
        turns(plant, worker, 7)
        worker.source.expel()
    plant.run(plant.worker(16))
    same(undisturbed, plant)


def test_pause_waits_for_the_store(undisturbed):
    """With on_store_outage: pause nothing is published without its state saved; the worker isn't ready meanwhile."""
    plant = make_plant(on_store_outage="pause")
    worker = plant.worker(16)
    away(plant, worker, count=6)
    before = plant.log.committed("detector")
    turns(plant, worker, 60)
    assert before == plant.log.committed("detector")
    assert (False, "waiting for the state of task 0 (2 in all)") == worker.pipeline.ready()
    plant.server.available = True
    plant.run(worker)
    assert (True, "2 tasks") == worker.pipeline.ready()
    same(undisturbed, plant)


def test_the_store_back_without_its_last_seconds(undisturbed):
    """A running worker writes everything anew; a starting one catches up from the older states."""
    for restart in (False, True):
        plant = make_plant()
        worker = plant.worker(16)
        turns(plant, worker, 8)
        kept = snapshot(plant)
        turns(plant, worker, 20)
        restore(plant, kept)
        if restart:
            worker.source.expel()
            worker = plant.worker(16)
        plant.run(worker)
        same(undisturbed, plant)


def test_the_store_back_without_its_newest_owner(undisturbed):
    """A running worker whose taking over the store has forgotten writes all anew, and goes on without a break."""
    plant = make_plant()
    first = plant.worker(16)
    turns(plant, first, 8)
    kept = snapshot(plant)
    first.source.expel()
    worker = plant.worker(16)
    turns(plant, worker, 1)
    restore(plant, kept)
    plant.run(worker)
    same(undisturbed, plant)
    assert (2, 0) == (worker.metric("restores_total"), worker.metric("aborts_total"))


def snapshot(plant):
    """Return what the store holds."""
    return {
        index: (task.token, list(task.saves), dict(task.new), dict(task.old))
        for index, task in plant.server.tasks.items()
    }


def restore(plant, kept):
    """Put the store back to what it held."""
    for index, (token, saves, new, old) in kept.items():
        task = plant.server.tasks[index]
        task.token, task.saves, task.new, task.old = token, saves, new, old


def test_the_store_back_empty_under_a_running_worker(undisturbed):
    """All states are in memory and are written anew."""
    plant = make_plant()
    worker = plant.worker(16)
    turns(plant, worker, 20)
    plant.server.clear()
    plant.run(worker)
    same(undisturbed, plant)
    assert 0 == worker.metric("states_lost_total")


@pytest.mark.usefixtures("short_reach")
@pytest.mark.parametrize("policy", ["replay", "recalibrate"])
def test_the_store_back_empty_before_a_worker_starts(undisturbed, policy):
    """Nothing is said twice, it is counted, and with `replay` thresholds come out the same."""
    plant = make_plant(on_state_lost=policy)
    worker = plant.worker(16)
    turns(plant, worker, 20)
    worker.pipeline.commit()
    worker.source.expel()
    plant.server.clear()
    heir = plant.worker(16)
    plant.run(heir)
    assert 2 == heir.metric("states_lost_total")
    if policy == "replay":
        same(undisturbed, plant)
    else:
        assert len(plant.alerts) == len({json.loads(alert)["id"] for alert in plant.alerts})
        assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)
        learnt = {asset: state.threshold.seen for _, asset, state in MemoryStore(plant.server).assets()}
        whole = {asset: state.threshold.seen for _, asset, state in MemoryStore(undisturbed.server).assets()}
        assert all(learnt[asset] < whole[asset] for asset in whole)


def test_a_store_that_fails_in_between(undisturbed):
    """Answers of saves that are lost leave nothing missing and nothing repeated, also when the worker dies over it."""
    plant = make_plant()
    for time in (1, 2, 3, 4):
        worker = plant.worker(16)
        worker.faults.strike = strike_at("saved", time, StoreError)
        turns(plant, worker, 9)
        worker.source.expel()
    plant.run(plant.worker(16))
    same(undisturbed, plant)


def test_a_task_whose_token_was_taken(undisturbed):
    """What this commit wrote for all tasks is taken back, and done again."""
    plant = make_plant()
    worker = plant.worker(16)
    turns(plant, worker, 15)
    MemoryStore(plant.server).acquire(1)
    plant.run(worker)
    same(undisturbed, plant)
    assert worker.metric("aborts_total") == 1


def set_back():
    """A plant read to its end, of which an operator then set one partition back by 100; that partition, and its end."""
    plant = make_plant()
    worker = plant.worker(16)
    plant.run(worker)
    worker.pipeline.close()
    here = Partition(TOPIC, 0)
    end = plant.log.end(here)
    plant.log.group("detector").committed[here] = Position(end - 100, end - 100, 0)
    return plant, here, end


@pytest.mark.usefixtures("short_reach")
def test_offsets_that_an_operator_set_are_taken_as_they_are():
    """An offset without our metadata: read on from there, with the newest states; epochs go on."""
    plant, here, _ = set_back()
    epoch, alerts = MemoryStore(plant.server).load(0).epoch, list(plant.alerts)
    again = plant.worker(16)
    plant.run(again)
    assert 100 <= again.metric("messages_total", topic=TOPIC) < 200
    assert alerts == plant.alerts  # windows judged stay judged
    assert epoch + 1 <= plant.log.committed("detector")[here].epoch


def test_a_worker_killed_while_it_reads_from_offsets_that_an_operator_set():
    """The states are newer than what was read since: they count all the same, and none is lost."""
    plant, here, end = set_back()
    alerts = list(plant.alerts)
    again = plant.worker(16)
    turns(plant, again, 3)
    again.pipeline.commit()
    assert end - 100 < plant.log.committed("detector")[here].read < end
    again.source.expel()
    heir = plant.worker(16)
    plant.run(heir)
    assert 0 == heir.metric("states_lost_total")
    assert alerts == plant.alerts
