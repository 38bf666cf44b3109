"""Slow stages slow the reading down, and nothing else: what waits stays bounded, and polls go on."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from stream_detector.types import Partition
from stream_detector.worker.slices import AHEAD_MS, SLICE_MS
from stream_detector.worker.throughput import FIRST, GROWTH, Throughput
from tests.rig import TOPIC, Plant, ids, make_config, recorded

MESSAGES = recorded(assets=6, rows=1_200, partitions=2)
INTERVAL_MS = 10_000


def config(**sections):
    """A worker that leaves its group when it doesn't poll for ten seconds."""
    kafka = {"max_poll_interval_ms": INTERVAL_MS}
    return make_config(**{"adaptation": {"follow": 0}, "kafka": kafka, "commit_interval_ms": 200.0, **sections})


@dataclass
class Watch:
    """What a worker did between its polls."""

    gaps_ms: list[float] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    paused: int = 0


def watched(plant, worker):
    """Look at a worker at each of its polls."""
    watch, last = Watch(), [plant.clock.now]
    poll, pipeline = worker.source.poll, worker.pipeline

    def looking(timeout_ms, most):
        watch.gaps_ms.append(plant.clock.now - last[0])
        watch.windows.append(pipeline._scoring.waiting)
        watch.bytes.append(pipeline._scoring._queue.size)
        watch.unsent.append(worker.sink.waiting_bytes())
        watch.paused += worker.metric("paused_partitions") > 0
        found = poll(timeout_ms, most)
        last[0] = plant.clock.now
        return found

    worker.source.poll = looking
    return watch


def slow(plant, worker, ms):
    """Let each window take so long; `ms` may be a function of the windows scored so far."""
    score, done = worker.scorer.score, [0]

    def slowly(batch, shifts=None):
        done[0] += len(batch)
        plant.clock.now += len(batch) * (ms(done[0]) if callable(ms) else ms)
        return score(batch, shifts)

    worker.scorer.score = slowly


@pytest.fixture(scope="module")
def undisturbed():
    """A run in which nothing is slow."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    plant.run(plant.worker())
    assert len(plant.alerts) > 20
    return plant


def same(undisturbed, plant):
    """Alerts, dead letters and states are those of the undisturbed run."""
    assert ids(undisturbed.alerts) == ids(plant.alerts)
    assert sorted(undisturbed.dead_letters) == sorted(plant.dead_letters)
    assert undisturbed.states() == plant.states()


@pytest.mark.parametrize(
    ("each_ms", "delivery"),
    [(0.1, "at_least_once"), (5, "exactly_once"), (80, "at_least_once"), (80, "exactly_once"), (900, "at_least_once")],
)
def test_a_slow_scorer_never_keeps_the_loop_from_polling(undisturbed, delivery, each_ms):
    """A backlog, and a detector that takes a millisecond or a second a window: the loop turns, and little waits.

    All of it would take an hour; between two polls lies never more than a fraction of max_poll_interval_ms (but for the
    first slice, of whose time nothing is known).
    """
    plant = Plant(config(delivery=delivery), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker()
    watch = watched(plant, worker)
    slow(plant, worker, each_ms)
    plant.run(worker)
    same(undisturbed, plant)
    longest = sorted(watch.gaps_ms)[-2:]
    assert longest[1] <= max(FIRST * each_ms, 3 * SLICE_MS) + 100
    assert longest[0] <= 2 * max(SLICE_MS, each_ms) + 100
    assert max(watch.windows) <= max(AHEAD_MS / each_ms, 1_000)  # a thousand: of the first polls
    assert max(watch.windows[-len(watch.windows) // 2 :]) <= 3 * AHEAD_MS / each_ms + 6
    assert worker.metric("batches_total") > 3


def test_a_scorer_that_becomes_slow_is_noticed_at_once(undisturbed):
    """A hundred times slower from one window to the next: one slice is as much longer, the ones after are not."""
    plant = Plant(config(), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker()
    watch = watched(plant, worker)
    slow(plant, worker, lambda done: 0.05 if done < 800 else 5.0)
    plant.run(worker)
    same(undisturbed, plant)
    assert sum(gap > 2 * SLICE_MS for gap in watch.gaps_ms) <= 2
    assert max(watch.gaps_ms) < INTERVAL_MS


def test_windows_that_wait_are_bounded_in_bytes(undisturbed):
    """scorer.max_waiting_mb: while more waits, partitions are paused and nothing is read."""
    plant = Plant(config(scorer={"max_waiting_mb": 0.01}), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(400)
    watch = watched(plant, worker)
    slow(plant, worker, 4.0)
    plant.run(worker)
    same(undisturbed, plant)
    window = 8 * 2 * (4 + 1)  # cells, channels, value and mark
    assert max(watch.bytes) <= 0.01 * 2**20 + 400 * window
    assert watch.paused > 10


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_flood_of_dead_letters_is_committed_before_it_piles_up(delivery):
    """kafka.max_unsent_mb: the commit comes at once, not when its time has come."""
    limits = {"max_unsent_mb": 0.05, "max_poll_records": 100}
    plant = Plant(config(delivery=delivery, kafka=limits, commit_interval_ms=1e9), partitions=2)
    for number in range(5_000):
        plant.log.append(Partition(TOPIC, number % 2), b"pump-1", b"{" + b"x" * 200)
    worker = plant.worker()
    watch = watched(plant, worker)
    for _ in range(60):
        worker.pipeline.step(0)
    assert 5_000 == worker.metric("dead_letters_total", code="not-json")
    assert max(watch.unsent) <= 0.05 * 2**20 + 100 * 300
    assert worker.metric("commits_total") > 15


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_partitions_that_go_with_too_much_to_score_go_uncommitted(undisturbed, delivery):
    """Their new owner does it again; the group doesn't wait for the old one until it takes it for dead."""
    plant = Plant(config(delivery=delivery), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker()
    for _ in range(4):
        worker.pipeline.step(0)
        plant.clock.now += 20
    score = worker.pipeline._score
    worker.pipeline._score = lambda: None
    worker.pipeline.step(0)
    worker.pipeline._score = score
    worker.pipeline._scoring._throughput.note(10, 10 * 10_000.0)  # it has just become very slow
    assert worker.pipeline._scoring.ahead_ms > INTERVAL_MS / 4
    before = plant.log.committed("detector")
    batches = len(worker.scorer.batches)
    heir = plant.worker()
    worker.source.assign([])
    worker.pipeline.step(0)
    assert (0, before) == (worker.pipeline.task_count, plant.log.committed("detector"))
    assert len(worker.scorer.batches) <= batches + 1
    heir.source.assign([Partition(TOPIC, 0), Partition(TOPIC, 1)])
    plant.run(heir)
    same(undisturbed, plant)


def test_a_slow_flush_lets_nothing_pile_up(undisturbed):
    """A broker that takes three seconds for every commit: reading waits for it."""
    plant = Plant(config(commit_interval_ms=20.0), partitions=2)
    plant.write(MESSAGES)
    worker = plant.worker(300)
    watch = watched(plant, worker)

    def strike(step):
        plant.clock.now += 3_000 if step == "flush" else 0

    worker.faults.strike = strike
    plant.run(worker)
    same(undisturbed, plant)
    assert max(watch.windows) <= 300
    assert max(watch.gaps_ms) < INTERVAL_MS


def test_the_first_slices_are_small_and_grow():
    """Of an unknown scorer's time nothing is known: each slice has at most four times the windows of the last."""
    pace = Throughput()
    sizes = []
    for _ in range(4):
        sizes.append(pace.fit(SLICE_MS))
        pace.note(sizes[-1], 0.0)
    assert [FIRST * GROWTH**k for k in range(4)] == sizes


@pytest.mark.parametrize(("each_ms", "fits"), [(1.0, 500), (100.0, 5), (2_000.0, 1)])
def test_later_slices_fit_the_time(each_ms, fits):
    """However slow it is, at least one window goes."""
    pace = Throughput()
    for _ in range(30):
        count = pace.fit(SLICE_MS)
        pace.note(count, count * each_ms)
    assert fits == pytest.approx(pace.fit(SLICE_MS), abs=1)
