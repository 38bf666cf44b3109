"""The commit and what a crash, an outage or another owner does to it: no alert missing, none changed.

A crash is an error nobody catches, raised at a step of the commit; the worker is then left as it is, and a new one
starts on the same log and store. Its predecessor's membership ends as a broker would end it.
"""

from dataclasses import replace

import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.errors import BrokerError, StoreError
from stream_detector.types import Partition
from tests.rig import TOPIC, CrashError, Plant, ids, make_config, recorded

MESSAGES = recorded(assets=4, rows=200, partitions=2)
STEPS = ["flush", "halfway flushed", "flushed", "save", "saved", "commit", "committed"]


def config(**sections):
    """A commit every 100 ms; the plants' clock makes steps of 20 ms, so at every fifth."""
    return make_config(commit_interval_ms=100, **sections)


@pytest.fixture(scope="module")
def undisturbed():
    """What one worker makes of the messages when nothing happens."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    plant.run(plant.worker(16))
    return plant


def crash(plant, worker):
    """Let the worker run until it crashes; then put it out of its group."""
    with pytest.raises(CrashError):
        plant.run(worker)
    worker.source.expel()


def strike_at(step, time):
    """Crash when the step is come to for the so-manieth time."""
    left = [time]

    def strike(at):
        left[0] -= at == step
        if at == step and left[0] == 0:
            raise CrashError(step)

    return strike


def test_a_commit_is_flush_then_save_then_commit(undisturbed):
    """Alerts are acknowledged before the state that knows of them is saved, and that before the offsets move on."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    plant.run(worker)
    one = ["flush", "flushed", "save", "saved", "save", "saved", "commit", "committed"]
    commits = worker.faults.steps.count("commit")
    assert commits >= 5
    assert one * commits == worker.faults.steps


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time", [1, 2, 3, 5])
def test_a_crash_at_any_step_loses_and_changes_nothing(undisturbed, step, time):
    """A crash at the step, and another one later: all alerts are there, repeats have the same id and bytes."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    for again in (time, 2):
        worker = plant.worker(16)
        worker.faults.strike = strike_at(step, again)
        if step == "halfway flushed":
            worker.faults.halfway = True
            worker.faults.strike = strike_at(step, 1)  # few flushes hold more than one message
        crash(plant, worker)
    plant.run(plant.worker(64))
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert set(undisturbed.dead_letters) == set(plant.dead_letters)
    assert undisturbed.states() == plant.states()


@pytest.mark.parametrize("step", ["flush", "committed"])
def test_a_crash_outside_the_commit_repeats_nothing(undisturbed, step):
    """Before the flush a commit's alerts are not out at all, after the offsets' commit they are out for good."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    for time in (2, 3, 1):
        worker = plant.worker(16)
        worker.faults.strike = strike_at(step, time)
        crash(plant, worker)
    plant.run(plant.worker(16))
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)


@pytest.mark.usefixtures("short_reach")
def test_a_restart_reads_again_only_what_open_windows_need(undisturbed):
    """The committed offset is the oldest message an open window needs, not the beginning and not the last one read."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    first = plant.worker(16)
    plant.run(first)
    first.pipeline.close()
    second = plant.worker(16)
    plant.run(second)
    again = second.metric("messages_total", topic=TOPIC)
    # 2 assets a partition, windows of 8 cells, 2 open for lateness: a dozen cells of each, and a gap's value before
    assert 4 * 8 <= again <= 4 * 16
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)


# The broker away ------------------------------------------------------------------------------------------------------


def test_the_broker_away_for_a_while_loses_nothing(undisturbed):
    """Steps raise while it is away and go on when it is back; every alert comes once or again with the same bytes."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    raised = 0
    for turn in range(60):
        plant.log.available = turn % 20 < 13
        try:
            worker.pipeline.step(0)
        except BrokerError:
            raised += 1
        plant.clock.now += 20
    plant.log.available = True
    plant.run(worker)
    assert raised >= 14
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert undisturbed.states() == plant.states()


@pytest.mark.parametrize("step", STEPS)
def test_the_broker_away_at_any_step_of_a_commit_loses_nothing(undisturbed, step):
    """The commit that failed is done again by the same worker, as often as it takes."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    worker.faults.halfway = True
    left = [2, 3, 4]

    def strike(at):
        if at == step and left:
            left[0] -= 1
            if not left[0]:
                left.pop(0)
                raise BrokerError("away")

    worker.faults.strike = strike
    for _ in range(400):
        try:
            worker.pipeline.step(0)
        except BrokerError:
            plant.clock.now += 1_000
        plant.clock.now += 20
    worker.faults.strike = lambda at: None
    plant.run(worker)
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert undisturbed.states() == plant.states()


def test_windows_of_a_lost_task_are_not_judged_any_more():
    """They belong to its new owner, also those that waited for a batch when the task was lost."""
    plant = Plant(config(scorer={"max_wait_ms": 5_000}), partitions=2)
    plant.write(MESSAGES[:200])
    first = plant.worker()
    first.pipeline.step(0)
    assert first.pipeline.windows > 0
    first.source.expel()
    second = plant.worker()
    second.source.assign([Partition(TOPIC, 0), Partition(TOPIC, 1)])
    second.pipeline.step(0)
    first.source.assign([])
    plant.run(first, second)
    assert [] == first.scorer.batches
    assert second.scorer.batches


def test_closing_while_the_broker_is_away_leaves_the_rest_to_the_next(undisturbed):
    """The last commit fails, and says so; a new worker does what was not committed."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    for _ in range(15):
        worker.pipeline.step(0)
        plant.clock.now += 20
    plant.log.available = False
    with pytest.raises(BrokerError):
        worker.pipeline.close()
    plant.log.available = True
    plant.run(plant.worker(16))
    assert ids(undisturbed.alerts) == ids(plant.alerts)


# The store away, lost, taken ------------------------------------------------------------------------------------------


def turns(plant, worker, count):
    """Step so often."""
    for _ in range(count):
        worker.pipeline.step(0)
        plant.clock.now += 20


def test_alerts_go_on_while_the_store_is_away(undisturbed):
    """With the thresholds in memory; what it missed is saved when it is back, and a gauge says for how long it was."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 12)
    plant.server.available = False
    before = len(plant.alerts)
    turns(plant, worker, 60)
    worker.pipeline.commit()
    assert len(plant.alerts) > before
    assert 0.8 < worker.metric("store_behind_seconds") <= 1.3
    assert (True, "the store is behind for 1 s") == worker.pipeline.ready()
    plant.server.available = True
    plant.run(worker)
    assert 0 == worker.metric("store_behind_seconds")
    assert (True, "2 tasks") == worker.pipeline.ready()
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert undisturbed.states() == plant.states()


def test_a_worker_whose_tasks_are_gone_is_not_behind(undisturbed):
    """What the store has missed of them is their new owner's to make good, and no alarm goes on for it here."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 12)
    plant.server.available = False
    turns(plant, worker, 12)
    assert worker.metric("store_behind_seconds") > 0
    worker.source.assign([])
    turns(plant, worker, 60)
    assert 0 == worker.metric("store_behind_seconds")
    assert (True, "no task: there are enough workers for all") == worker.pipeline.ready()


def test_a_crash_while_the_store_is_away_is_caught_up_with_in_silence(undisturbed):
    """The next worker reads the log again from where the store stood; alerts published since are not said again."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 12)
    plant.server.available = False
    turns(plant, worker, 21)
    worker.pipeline.commit()
    worker.source.expel()
    plant.server.available = True
    plant.run(plant.worker(16))
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)
    assert undisturbed.states() == plant.states()


def test_a_worker_that_starts_while_the_store_is_away_waits_for_it(undisturbed):
    """It reads nothing, says so, and begins within a second and a step of the store's return."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    plant.server.available = False
    worker = plant.worker(16)
    turns(plant, worker, 100)
    assert (False, "waiting for the state of task 0 (2 in all)") == worker.pipeline.ready()
    assert 0 == worker.metric("messages_total", topic=TOPIC)
    plant.server.available = True
    turns(plant, worker, 52)
    assert 0 < worker.metric("messages_total", topic=TOPIC)
    plant.run(worker)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert (True, "2 tasks") == worker.pipeline.ready()


def test_a_store_that_came_back_empty_is_given_all_states_anew(undisturbed):
    """Also those of assets that sent nothing since; alerts are as if nothing had happened."""
    plant = Plant(config(), partitions=2)
    gone = [replace(one, asset="gone", value=one.value.replace(b"pump-0", b"gone")) for one in recorded(1, 40)]
    plant.write(gone)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 15)
    before = plant.states()["gone"]
    plant.server.clear()
    plant.run(worker)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert {**undisturbed.states(), "gone": before} == plant.states()


def test_controls_lost_with_the_store_are_gone(undisturbed):
    """A pin in a store that came back empty holds no longer: workers believe what the store says, not their memory."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    worker.store.pin("pump-0", 1e6)
    turns(plant, worker, 15)
    plant.server.clear()
    turns(plant, worker, 40)
    assert {} == worker.store.controls().pins
    plant.run(worker)
    late = [alert for alert in plant.alerts if b'"pump-0"' in alert]
    assert late
    assert all(b'"pinned"' not in alert for alert in late)


def test_a_task_whose_store_token_was_taken_is_dropped_and_taken_again(undisturbed):
    """A zombie took the token: the rightful owner commits nothing then, takes a new one, and does its work again."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    turns(plant, worker, 15)
    MemoryStore(plant.server).acquire(1)
    turns(plant, worker, 10)
    assert (1, 1.0) == (worker.pipeline.task_count, worker.metric("fencings_total"))
    assert (False, "waiting for the state of task 1 (1 in all)") == worker.pipeline.ready()
    turns(plant, worker, 55)
    assert 2 == worker.pipeline.task_count
    plant.run(worker)
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert undisturbed.states() == plant.states()


def test_a_store_that_fails_in_between_loses_nothing(undisturbed):
    """A save whose answer is lost is repeated by the next commit."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    calls = [0]

    def strike(at):
        calls[0] += at in ("save", "saved")
        if at in ("save", "saved") and calls[0] % 3 == 0:
            raise StoreError("no answer")

    worker.faults.strike = strike
    turns(plant, worker, 60)
    worker.faults.strike = lambda at: None
    plant.run(worker)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert undisturbed.states() == plant.states()


def test_dead_letters_are_counted_once_though_read_again():
    """Broken messages among those an open window needs are read again after a restart, and not said again."""
    plant = Plant(config(), partitions=1)
    messages = recorded(1, 60, partitions=1)
    plant.write(messages[:50])
    for _ in range(3):
        plant.log.append(Partition(TOPIC, 0), b"pump-0", b"broken")
    workers = []
    for _ in range(3):
        workers.append(plant.worker())
        plant.run(workers[-1])
        workers[-1].pipeline.close()
    assert 3 == sum(worker.metric("dead_letters_total", code="not-json") for worker in workers)
    assert 3 == sum(code == "not-json" for code, *_ in plant.dead_letters)
    assert workers[1].metric("messages_total", topic=TOPIC) > 3


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_while_the_group_is_joined_anew_nothing_is_committed_and_all_is_read(undisturbed, delivery):
    """A commit would be refused at any moment: readings and windows go on without one, and it comes afterwards."""
    plant = Plant(config(delivery=delivery, kafka={"max_unsent_mb": 0.0002}), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(8)
    for turn in range(1_000):
        worker.source.joining = turn % 50 > 10
        taken, commits = worker.pipeline.messages, worker.faults.steps.count("commit")
        worker.pipeline.step(0)
        plant.clock.now += 20
        if worker.source.joining:
            assert commits == worker.faults.steps.count("commit")
            overfull = worker.sink.waiting_bytes() > 400
            assert overfull or worker.pipeline.messages > taken or worker.pipeline.messages == len(MESSAGES)
    worker.source.joining = False
    plant.run(worker)
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert undisturbed.states() == plant.states()


def test_a_worker_that_stops_waits_for_its_group(undisturbed):
    """Stopped while the group is joined anew, it commits once that is done, and the next one repeats nothing."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(16)
    for _ in range(40):
        worker.pipeline.step(0)
        plant.clock.now += 20
    worker.source.joining = True
    polled = worker.source.poll

    def poll(*args):
        worker.source.joining = False
        return polled(*args)

    worker.source.poll = poll
    commits = worker.faults.steps.count("committed")
    worker.pipeline.close()
    assert commits + 1 == worker.faults.steps.count("committed")
    plant.run(plant.worker(16))
    assert ids(undisturbed.alerts) == ids(plant.alerts)
