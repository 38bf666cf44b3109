"""Strategies of committing: the contract both keep, and where they differ. On a memory log and store."""

from __future__ import annotations

import pytest

from stream_detector.adapters.memory.log import MemorySource
from stream_detector.codec import ReadingDecoder
from stream_detector.errors import BrokerError, FencedError
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import Partition, Position
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.delivery import AtLeastOnce, ExactlyOnce, make_strategy
from stream_detector.worker.resuming import Start
from stream_detector.worker.saving import Saver
from stream_detector.worker.task import Task
from tests.contracts.logs import alert
from tests.rig import TOPIC, Faults, FaultySink, FaultyStore, FaultyTransactionalSink, Plant, make_config, recorded

BOTH = ["at_least_once", "exactly_once"]
ZERO, ONE = Partition(TOPIC, 0), Partition(TOPIC, 1)


class Bench:
    """One strategy with a source, a sink and a store, and the tasks of two partitions; no scoring, alerts by hand."""

    def __init__(self, delivery, **sections):
        self.plant = Plant(make_config(delivery=delivery, commit_interval_ms=500, **sections), partitions=2)
        self.plant.write(recorded(assets=2, rows=20, partitions=2, faults=False))
        config, self.metrics = self.plant.config, Metrics()
        self.source = MemorySource(self.plant.log, [TOPIC], batch=10)
        sink_of = {"at_least_once": FaultySink, "exactly_once": FaultyTransactionalSink}[delivery]
        self.sink = sink_of(self.plant.log, self.source, config.alert_topic, config.dead_letter_topic)
        self.store = FaultyStore(self.plant.server)
        self.faults = self.sink.faults = self.store.faults = Faults()
        self.assignment = Assignment(self.source, self.plant.clock)
        saver = Saver(self.store, self.plant.clock)
        self.strategy = make_strategy(
            config, self.assignment, self.sink, saver=saver, metrics=self.metrics, clock_ms=self.plant.clock
        )
        self.source.open(self)
        self.work(alerts=0)

    def on_assigned(self, partitions):
        """Load the tasks, as a takeover does."""
        self.assignment.add(partitions)
        for index in self.assignment.waiting:
            self.load(index)

    def load(self, index):
        """Load one task."""
        config, token = self.plant.config, self.store.acquire(index)
        found = self.resume(self.source.committed(self.assignment.assigned[index]), index)
        decoders = {TOPIC: ReadingDecoder(config.inputs[0], config.channels)}
        task = Task(config, index, token, found.loaded, found.starts, decoders=decoders, epoch=found.epoch)
        self.assignment.tasks[index] = task

    def resume(self, committed, index=0):
        """What the strategy goes on with."""
        return self.strategy.resume(self.store, index, committed)

    def work(self, alerts=1):
        """Process a poll, and write alerts for it."""
        for batch in self.source.poll(0, 10):
            self.assignment.tasks[batch.partition.index].take(batch)
        if alerts:
            self.sink.write([alert()] * alerts, [])
            self.strategy.note_alerts([self.plant.clock()] * alerts)

    def commit(self):
        """Commit, as the pipeline does once all is scored."""
        self.strategy.begin()
        self.strategy.commit()

    def fail(self, step, error):
        """Raise at a step."""

        def strike(at):
            if at == step:
                raise error

        self.faults.strike = strike

    @property
    def readable(self):
        """How many alerts can be read."""
        return len(self.sink.alerts)

    @property
    def committed(self):
        """Committed positions of the group."""
        return self.plant.log.committed("detector")

    def metric(self, name):
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"stream_detector_{name}") or 0.0


@pytest.fixture(params=BOTH)
def bench(request):
    """Each strategy in turn."""
    return Bench(request.param)


def test_the_configured_delivery_chooses_the_strategy():
    """And nothing else does."""
    assert [AtLeastOnce, ExactlyOnce] == [type(Bench(delivery).strategy) for delivery in BOTH]


# What both keep ---------------------------------------------------------------------------------------------------


def test_a_commit_flushes_then_saves_each_task_then_commits(bench):
    """In this order; afterwards alerts are readable and positions are committed with the next epoch."""
    bench.work()
    bench.commit()
    assert ["flush", "flushed", "save", "saved", "save", "saved", "commit", "committed"] == bench.faults.steps
    assert {ZERO: 1, ONE: 1} == {partition: at.epoch for partition, at in bench.committed.items()}
    assert (1, 1.0) == (bench.readable, bench.metric("commits_total"))
    assert 1 == bench.metric("window_to_alert_seconds_count")


def test_nothing_new_is_no_commit(bench):
    """A commit without work asks neither Kafka nor the store."""
    bench.commit()
    bench.faults.steps.clear()
    bench.commit()
    assert ([], 1.0) == (bench.faults.steps, bench.metric("commits_total"))


def test_a_commit_is_due_an_interval_after_the_last_one_began(bench):
    """Without alerts both deliveries go by the interval only."""
    assert bench.plant.clock.now + 500 == bench.strategy.due_ms
    bench.plant.clock.now += 200
    bench.commit()
    assert bench.plant.clock.now + 500 == bench.strategy.due_ms


@pytest.mark.parametrize("step", ["flush", "flushed"])
def test_a_flush_that_fails_commits_nothing_and_drops_the_tasks(bench, step):
    """The log is read again; nothing that was written waits in memory for it."""
    bench.work()
    bench.fail(step, BrokerError("away"))
    with pytest.raises(BrokerError, match="away"):
        bench.commit()
    assert ({}, {}, 0) == (bench.committed, bench.assignment.tasks, bench.sink.waiting_bytes())
    assert not {"save", "commit"} & set(bench.faults.steps)
    assert [0, 1] == bench.assignment.waiting


def test_fenced_by_kafka_drops_the_tasks_without_an_error(bench):
    """Their new owner has them."""
    bench.work()
    bench.fail("commit", FencedError("gone"))
    bench.commit()
    assert ({}, {}, 2.0) == (bench.committed, bench.assignment.tasks, bench.metric("fencings_total"))


def test_a_store_that_is_away_is_waited_for_where_the_policy_is_pause():
    """No position is committed whose states are not saved."""
    for delivery in BOTH:
        bench = Bench(delivery, on_store_outage="pause")
        bench.work()
        bench.plant.server.available = False
        bench.commit()
        assert ({}, {}) == (bench.committed, bench.assignment.tasks)


def test_a_store_that_is_away_holds_nothing_up_where_the_policy_is_continue(bench):
    """Positions are committed, alerts readable, the tasks stay."""
    bench.work()
    bench.plant.server.available = False
    bench.commit()
    assert ({ZERO, ONE}, [0, 1], 1) == (set(bench.committed), sorted(bench.assignment.tasks), bench.readable)


def test_dropped_tasks_are_tried_again_after_a_while(bench):
    """A worker that was fenced learns from the group first whether the task is still its own."""
    bench.work()
    bench.fail("commit", FencedError("gone"))
    bench.commit()
    assert not bench.assignment.retry_due
    bench.plant.clock.now += 1_000
    assert bench.assignment.retry_due


def test_a_task_that_nobody_committed_starts_from_nothing(bench):
    """No state, no positions, epoch 0, and none is lost."""
    found = bench.resume({})
    assert ({}, {}, 0, False) == (found.loaded.assets, found.starts, found.epoch, found.lost)


def test_an_operators_offset_gets_the_newest_states(bench):
    """Offsets without an epoch were set by hand: the states go on."""
    bench.commit()
    found = bench.resume({ZERO: Position(3, 3, 0)})
    assert (1, 1, False) == (found.loaded.epoch, found.epoch, found.lost)


# Where they differ ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delivery", "readable"), [("at_least_once", 1), ("exactly_once", 0)])
def test_when_alerts_are_readable(delivery, readable):
    """At least once, when they are flushed; exactly once, with the commit, which is due after `alert_delay_ms`."""
    bench = Bench(delivery, alert_delay_ms=40)
    before, now = bench.strategy.due_ms, bench.plant.clock.now
    bench.work()
    bench.sink.flush()
    assert (readable, readable) == (bench.readable, bench.metric("window_to_alert_seconds_count"))
    assert (before if readable else now + 40) == bench.strategy.due_ms
    bench.commit()
    assert (1, 1.0, before) == (
        bench.readable,
        bench.metric("window_to_alert_seconds_count"),
        bench.strategy.due_ms,
    )


@pytest.mark.parametrize(("delivery", "kept"), [("at_least_once", [1]), ("exactly_once", [])])
def test_a_task_fenced_by_the_store(delivery, kept):
    """At least once, the others are committed; exactly once, all are taken back: their alerts are one transaction."""
    bench = Bench(delivery)
    bench.work()
    bench.store.acquire(0)
    bench.commit()
    assert kept == sorted(bench.assignment.tasks)
    assert {Partition(TOPIC, index) for index in kept} == set(bench.committed)
    assert (len(kept), 1.0) == (bench.readable, bench.metric("fencings_total"))


def test_a_commit_of_which_all_tasks_are_fenced_is_none(bench):
    """Kafka is not asked, and it is not counted."""
    bench.work()
    for index in (0, 1):
        bench.store.acquire(index)
    bench.commit()
    assert ({}, 2.0, 0.0) == (bench.committed, bench.metric("fencings_total"), bench.metric("commits_total"))
    assert "commit" not in bench.faults.steps


@pytest.mark.parametrize(("delivery", "kept"), [("at_least_once", [0, 1]), ("exactly_once", [])])
def test_a_commit_without_an_answer(delivery, kept):
    """At least once, positions go with the next commit; exactly once, it is in doubt: all is taken back."""
    bench = Bench(delivery)
    bench.work()
    bench.fail("commit", BrokerError("no answer"))
    with pytest.raises(BrokerError, match="no answer"):
        bench.commit()
    assert kept == sorted(bench.assignment.tasks)
    bench.faults.strike = lambda step: None
    bench.commit()
    assert ({Partition(TOPIC, index) for index in kept}, bool(kept)) == (set(bench.committed), bench.readable == 1)


@pytest.mark.parametrize(("delivery", "kept", "readable"), [("at_least_once", [1], 1), ("exactly_once", [], 0)])
def test_giving_up_a_task(delivery, kept, readable):
    """At least once it goes alone; exactly once all go, and what was written is aborted."""
    bench = Bench(delivery)
    bench.work()
    bench.strategy.give_up([bench.assignment.tasks[0]], "a test")
    bench.commit()
    assert (kept, readable) == (sorted(bench.assignment.tasks), bench.readable)
    assert not bench.strategy.abort_pending


@pytest.mark.parametrize(("delivery", "kept"), [("at_least_once", [0, 1]), ("exactly_once", [])])
def test_partitions_that_leave_uncommitted(delivery, kept):
    """Exactly once, alerts of what goes must not become readable with a commit of what stays."""
    bench = Bench(delivery)
    bench.work()
    bench.strategy.leave_uncommitted("a test")
    bench.commit()
    assert (kept, len(kept) > 0) == (sorted(bench.assignment.tasks), bench.readable == 1)


def test_an_abort_that_fails_stays_pending():
    """Exactly once: no task may be loaded before it came through. At least once nothing is ever pending."""
    bench = Bench("exactly_once")
    bench.work()
    bench.plant.log.available = False
    bench.strategy.give_up((), "a test")
    assert bench.strategy.abort_pending
    with pytest.raises(BrokerError):
        bench.strategy.take_back()
    bench.plant.log.available = True
    bench.strategy.take_back()
    assert (False, 0) == (bench.strategy.abort_pending, bench.sink.waiting_bytes())


@pytest.mark.parametrize(("delivery", "epoch"), [("at_least_once", 2), ("exactly_once", 1)])
def test_states_newer_than_the_committed_epoch(delivery, epoch):
    """At least once the newest states count; exactly once those of the epoch that Kafka has."""
    bench = Bench(delivery)
    bench.store.save(0, bench.store.acquire(0), 1, {}, {ZERO: Position(2, 5, 1)})
    bench.store.save(0, bench.store.acquire(0), 2, {}, {ZERO: Position(2, 5, 2)})  # it has not read further
    found = bench.resume({ZERO: Position(2, 5, 1)})
    assert (epoch, epoch, False) == (found.loaded.epoch, found.epoch, found.lost)


def test_states_older_than_the_committed_positions(bench):
    """The store missed commits: the log is read again from its positions, and nothing is published up to Kafka's."""
    bench.store.save(0, bench.store.acquire(0), 1, {}, {ZERO: Position(2, 5, 1)})
    found = bench.resume({ZERO: Position(6, 9, 2)})
    assert ({ZERO: Start(2, 9)}, 2) == (found.starts, found.epoch)


def test_a_first_try_of_an_epoch_that_counts_does_not_count():
    """Exactly once: a version that has read further than the committed position is of a commit that came to nothing."""
    bench = Bench("exactly_once")
    bench.store.save(0, bench.store.acquire(0), 1, {}, {ZERO: Position(2, 5, 1)})
    bench.store.save(0, bench.store.acquire(0), 2, {}, {ZERO: Position(6, 12, 2)})
    found = bench.resume({ZERO: Position(6, 9, 2)})
    assert (1, 2, {ZERO: Start(2, 9)}) == (found.loaded.epoch, found.epoch, found.starts)


@pytest.mark.parametrize(("policy", "start"), [("replay", Start(0, 9)), ("recalibrate", Start(6, 9))])
def test_a_store_without_the_states_that_count(policy, start):
    """Exactly once, by `on_state_lost`: read all again up to the commit, or go on from it with the calibration."""
    bench = Bench("exactly_once", on_state_lost=policy)
    found = bench.resume({ZERO: Position(6, 9, 2)})
    assert (True, {ZERO: start}, 2) == (found.lost, found.starts, found.epoch)
