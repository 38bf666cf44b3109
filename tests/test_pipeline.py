"""The loop as its users see it: what goes in and what comes out, whatever the batches, workers and moments."""

import json

import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.types import Partition
from tests.rig import START_MS, STRANGER, TOPIC, Plant, Sent, ids, make_config, recorded

MESSAGES = recorded()
#: Windows that a change overtakes are scored again, which would count as batches.
FOLLOWS_NOTHING = {"follow": 0}


@pytest.fixture(scope="module")
def undisturbed():
    """What one worker makes of the messages in one go."""
    plant = Plant()
    plant.write(MESSAGES)
    plant.run(plant.worker())
    return plant


def test_faults_become_alerts(undisturbed):
    """Every asset's bursts open incidents and end them; the noise between them hardly does."""
    events = [(json.loads(value)["asset"], json.loads(value)["event"]) for value in undisturbed.alerts]
    assert {asset for asset, event in events if event == "open"} == {f"pump-{i}" for i in range(6)}
    assert 12 <= sum(event == "open" for _, event in events) <= 24
    assert sum(event == "close" for _, event in events) >= 10


def test_alerts_are_keyed_by_asset_with_their_times_in_headers(undisturbed):
    """Consumers can partition by asset; times of this run stay out of the value."""
    message = undisturbed.published("pump.alerts")[0]
    headers = dict(message.headers)
    assert json.loads(message.value)["asset"].encode() == message.key
    assert int(headers["scored-ms"]) > START_MS


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 7, 64, 512])
def test_batches_and_workers_change_nothing(undisturbed, batch, workers):
    """1, 2, 5 workers and batches of 1, 7, 64, 512 messages and windows give the same alerts, dead letters, states."""
    plant = Plant(make_config(scorer={"max_batch": batch}))
    plant.write(MESSAGES)
    plant.run(*(plant.worker(batch) for _ in range(workers)), step_ms=20.0 if batch > 1 else 5.0)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)
    assert undisturbed.states() == plant.states()


def test_workers_that_come_and_go_change_nothing(undisturbed):
    """Partitions handed from worker to worker in the middle of the stream lose, repeat and change no alert."""
    plant = Plant()
    plant.write(MESSAGES)
    workers = [plant.worker(16)]
    for turn in range(40):
        if turn % 8 == 4:
            workers.append(plant.worker(16))
        if turn % 16 == 15:
            workers.pop(0).pipeline.close()
        for worker in workers:
            worker.pipeline.step(0)
            plant.clock.now += 30
    plant.run(*workers)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)
    assert undisturbed.states() == plant.states()


def test_a_partition_can_be_taken_away_and_given_back(undisturbed):
    """A worker that lost a task and got it again goes on where it was."""
    plant = Plant()
    plant.write(MESSAGES)
    worker = plant.worker(64)
    mine = [Partition(TOPIC, index) for index in range(3)]
    for wanted in (mine, mine[:1], mine[1:], [], mine):
        worker.source.assign(wanted)
        for _ in range(3):
            worker.pipeline.step(0)
            plant.clock.now += 300
        assert len(wanted) == worker.pipeline.task_count
    plant.run(worker)
    assert sorted(undisturbed.alerts) == sorted(plant.alerts)


def test_an_expelled_worker_drops_its_tasks_and_repeats_nothing_else(undisturbed):
    """A member put out by the broker can't commit; what it did since its last commit is done again, same ids."""
    plant = Plant()
    plant.write(MESSAGES)
    worker = plant.worker(64)
    for _ in range(10):
        worker.pipeline.step(0)
        plant.clock.now += 90
    worker.source.expel()
    worker.pipeline.commit()
    assert (0, 3) == (worker.pipeline.task_count, worker.metric("fencings_total"))
    plant.run(worker)
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert undisturbed.states() == plant.states()


# Batching -------------------------------------------------------------------------------------------------------------


def one_asset(rows, start=0):
    """Readings of a quiet asset: from the tenth on (lateness 2 s), every second one completes a window."""
    return [message for message in recorded(1, start + rows, faults=False) if message.ts_ms >= START_MS + start * 1_000]


def test_windows_wait_for_company_no_longer_than_max_wait():
    """A window is scored `max_wait_ms` after its completion, when no batch was full before."""
    plant = Plant(make_config(scorer={"max_wait_ms": 50}), partitions=1)
    plant.write(one_asset(30))
    worker = plant.worker()
    worker.pipeline.step(0)
    assert [] == worker.scorer.batches
    plant.clock.now += 49
    worker.pipeline.step(0)
    assert [] == worker.scorer.batches
    plant.clock.now += 1
    worker.pipeline.step(0)
    assert 1 == len(worker.scorer.batches)


def test_a_full_batch_does_not_wait():
    """With `max_batch` windows there, they are scored at once."""
    plant = Plant(make_config(scorer={"max_wait_ms": 50, "max_batch": 4}), partitions=1)
    plant.write(one_asset(30))
    worker = plant.worker()
    worker.pipeline.step(0)
    assert 1 == len(worker.scorer.batches)


def test_a_step_waits_no_longer_than_the_next_window_is_due(monkeypatch):
    """A poll that finds nothing returns when the batch, or the commit, falls due."""
    plant = Plant(make_config(scorer={"max_wait_ms": 50}, commit_interval_ms=400), partitions=1)
    worker = plant.worker()
    waits = []
    poll = worker.source.poll
    monkeypatch.setattr(worker.source, "poll", lambda timeout, most: waits.append(timeout) or poll(timeout, most))
    worker.pipeline.step(200)
    plant.write(one_asset(30))
    worker.pipeline.step(200)
    plant.clock.now += 20
    worker.pipeline.step(200)
    plant.clock.now += 350
    worker.pipeline.step(200)
    assert [200, 200, 30, 0] == waits


def test_windows_of_several_partitions_share_a_batch():
    """One forward pass scores what the poll brought, whichever partitions it came from."""
    plant = Plant(make_config(adaptation=FOLLOWS_NOTHING), partitions=3)
    plant.write(recorded(6, 14))
    worker = plant.worker()
    plant.run(worker)
    assert 1 == len(worker.scorer.batches)


def test_nothing_is_scored_when_there_is_nothing():
    """An idle worker commits nothing and scores nothing."""
    plant = Plant()
    worker = plant.worker()
    plant.run(worker)
    assert ([], [], {}) == (worker.scorer.batches, worker.faults.steps, plant.log.committed("detector"))


# Operators ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet():
    """A worker that has judged the first minute of an asset, and the store operators work on."""
    plant = Plant(partitions=1)
    plant.write(one_asset(60))
    worker = plant.worker()
    plant.run(worker)
    return plant, worker, MemoryStore(plant.server)


def within_a_second(plant, worker, more):
    """Let a second pass at the worker, then give it more to judge."""
    for _ in range(5):
        plant.clock.now += 200
        worker.pipeline.step(0)
    plant.write(more)
    plant.run(worker)


def test_a_pin_takes_effect_within_a_second(quiet):
    """A level pinned low makes ordinary readings an incident, judged by the pin."""
    plant, worker, store = quiet
    before = len(plant.alerts)
    store.pin("pump-0", 0.001)
    within_a_second(plant, worker, one_asset(20, start=60))
    alert = json.loads(plant.alerts[before])
    assert ("open", 0.001, "pinned") == (alert["event"], alert["threshold"], alert["state"]["method"])


def test_unpinning_takes_effect_within_a_second(quiet):
    """Back on its adaptive level the same asset's incident closes."""
    plant, worker, store = quiet
    store.pin("pump-0", 0.001)
    within_a_second(plant, worker, one_asset(20, start=60))
    store.unpin("pump-0")
    within_a_second(plant, worker, one_asset(40, start=80))
    assert "close" == json.loads(plant.alerts[-1])["event"]


@pytest.mark.parametrize("who", ["pump-0", None])
def test_a_reset_takes_effect_within_a_second(quiet, who):
    """What was learnt is forgotten: the count of scores learnt from starts at the calibration's again."""
    plant, worker, store = quiet
    learnt = store.find("pump-0")[1].threshold.seen
    store.reset(who)
    within_a_second(plant, worker, one_asset(4, start=60))
    assert 400 < learnt
    assert store.find("pump-0")[1].threshold.seen in (400, 401, 402)


def test_a_reset_is_done_once(quiet):
    """After it the threshold learns on; a restart doesn't repeat it."""
    plant, worker, store = quiet
    store.reset("pump-0")
    within_a_second(plant, worker, one_asset(60, start=60))
    learnt = store.find("pump-0")[1].threshold.seen
    worker.pipeline.close()
    plant.write(one_asset(4, start=120))
    plant.run(plant.worker())
    assert 420 < learnt < store.find("pump-0")[1].threshold.seen


# What is counted ------------------------------------------------------------------------------------------------------


def test_metrics_add_up(undisturbed):
    """messages = readings + dead letters; windows = scores + unscored; alerts by event as published."""
    plant = Plant(make_config(adaptation=FOLLOWS_NOTHING))
    plant.write(MESSAGES)
    worker = plant.worker()
    plant.run(worker)
    dead = {code: worker.metric("dead_letters_total", code=code) for code in ("not-json", "too-late")}
    assert len(MESSAGES) == worker.metric("messages_total", topic=TOPIC)
    assert worker.metric("readings_total") + sum(dead.values()) == len(MESSAGES)
    assert {"not-json": 1.0, "too-late": 24.0} == dead
    assert len(plant.dead_letters) == sum(dead.values())
    assert worker.pipeline.windows == worker.metric("windows_total") == worker.metric("scores_total") > 600
    events = [(json.loads(value)["event"], json.loads(value)["severity"]) for value in plant.alerts]
    assert {pair: events.count(pair) for pair in events} == {
        (event, severity): worker.metric("alerts_total", event=event, severity=severity)
        for event, severity in set(events)
    }
    assert worker.metric("batches_total") == len(worker.scorer.batches) == worker.metric("batch_size_count")
    assert worker.metric("anomalies_total") >= 2 * sum(event == "open" for event, _ in events)
    assert (3.0, 0.0) == (worker.metric("restores_total"), worker.metric("store_behind_seconds"))
    assert 0.0 == worker.metric("lag", topic=TOPIC, partition="1")
    assert 1 <= worker.metric("commits_total") == worker.faults.steps.count("committed")


def test_windows_without_a_detector_are_counted_and_change_nothing():
    """An asset that no model knows makes no alert and no state, and the others go on."""
    plant = Plant(partitions=1)
    strangers = [
        Sent(0, STRANGER, one.ts_ms, one.value.replace(b"pump-0", STRANGER.encode())) for one in recorded(1, 60)
    ]
    plant.write(sorted(strangers + recorded(1, 60, partitions=1), key=lambda one: one.ts_ms))
    worker = plant.worker()
    plant.run(worker)
    assert worker.metric("windows_unscored_total", reason="no-model") == worker.metric("scores_total") > 20
    assert ["pump-0"] == list(plant.states())


def test_the_watermark_tells_how_far_behind_event_time_is(undisturbed):
    """Wall clock less the newest event time, by task."""
    plant = Plant(partitions=1)
    plant.write(one_asset(30))
    worker = plant.worker()
    plant.run(worker)
    plant.clock.now = 100_000.0
    worker.pipeline.commit()
    assert 100.0 - 29.0 == worker.metric("watermark_delay_seconds", task="0")


def test_a_task_of_many_assets():
    """More than the columns of states begin with, all of them new in one poll."""
    plant = Plant(partitions=1)
    plant.write(recorded(assets=150, rows=30, partitions=1, faults=False))
    plant.run(plant.worker(batch=5_000))
    assert len(plant.states()) == 150
