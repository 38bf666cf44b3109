"""Exactly-once delivery, whatever fails at whichever step: alerts, dead letters and states are the undisturbed run's.

On a memory log and store: `tests/integration/test_exactly_once.py` does it with processes, Kafka and Redis.
"""

import itertools
import json
from dataclasses import replace

import pytest

from stream_detector.errors import BrokerError, StoreError
from stream_detector.memory_store import MemoryStore
from stream_detector.records import Partition, Position
from tests.rig import TOPIC, CrashError, Plant, make_config, recorded
from tests.test_pipeline_join import TOPICS, recorded_apart

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


# The store ------------------------------------------------------------------------------------------------------------


def away(plant, worker, at=12, count=21):
    """Take the store away for so many turns."""
    turns(plant, worker, at)
    plant.server.available = False
    turns(plant, worker, count)


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


def test_offsets_that_an_operator_set_are_taken_as_they_are():
    """An offset without our metadata: read on from there, with the newest states; epochs go on."""
    plant = make_plant()
    worker = plant.worker(16)
    plant.run(worker)
    worker.pipeline.close()
    here = Partition(TOPIC, 0)
    end = plant.log.end(here)
    plant.log.group("detector").committed[here] = Position(end - 100, end - 100, 0)
    epoch, alerts = MemoryStore(plant.server).load(0).epoch, list(plant.alerts)
    again = plant.worker(16)
    plant.run(again)
    assert 100 <= again.metric("messages_total", topic=TOPIC) < 200
    assert alerts == plant.alerts  # windows judged stay judged
    assert epoch + 1 <= plant.log.committed("detector")[here].epoch


# Several topics -------------------------------------------------------------------------------------------------------


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
