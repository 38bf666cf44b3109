"""Readings of several topics, merged by event time.

The timelines: a letter a reading of that topic, its place the second of its event time; `|` where reading stopped.
"""

import numpy as np
import pytest

from stream_detector.config import WindowConfig
from stream_detector.types import Partition, PlainMessage, ReadingBatch
from stream_detector.windowing.join import FULL, Join

A, B = Partition("a", 0), Partition("b", 0)


def batch(partition, seconds, first_offset=0):
    """One reading each at these seconds."""
    count = len(seconds)
    return ReadingBatch(
        partition,
        [PlainMessage(first_offset + i, -1, b"pump", b"") for i in range(count)],
        ["pump"] * count,
        np.arange(first_offset, first_offset + count),
        np.full(count, -1),
        None,
        np.asarray(seconds, np.float64) * 1_000,
        np.zeros((count, 1)),
    )


def merged(passed):
    """The readings passed on, as topic and second, in order."""
    return [f"{one.partition.topic}{ts / 1_000:g}" for one in passed for ts in one.ts_ms]


@pytest.fixture
def join():
    """Two topics, cells of a second, nothing late."""
    return Join([A, B], WindowConfig(cell_ms=1_000))


def nothing_unread(partition):
    """Both topics are read to their ends."""
    return False


def test_one_topic_passes_straight_on():
    """Without another topic there is nothing to wait for."""
    join, only = Join([A], WindowConfig()), batch(A, [3, 1, 2])
    assert [only] == join.push(only)
    assert join.oldest_offset(A) is None


def test_topics_take_turns_by_event_time(join):
    """a: 0 1 2 3 4    b: 0 1 2 3 4    a cell at a time, whichever was pushed first."""
    join.push(batch(B, range(4)))
    join.push(batch(A, range(4)))
    assert "a0 b0 a1 b1 a2 b2 a3 b3" == " ".join(merged(join.release(nothing_unread)))


def test_what_the_other_topic_has_not_come_to_waits(join):
    """a: 0 … 14    b: 0 … 11|    The nine readings after it say whether b's time is to be believed: up to 2 it is.

    So cells up to 1 have no more readings of b; the others wait for its next messages, and pass when they are there.
    """
    join.push(batch(A, range(15)))
    join.push(batch(B, range(12)))
    assert "a0 b0 a1 b1" == " ".join(merged(join.release(lambda partition: partition == B)))
    assert (2, 2) == (join.oldest_offset(A), join.oldest_offset(B))
    join.push(batch(B, range(12, 15), first_offset=12))
    assert "a2 b2 a3 b3 a4 b4" == " ".join(merged(join.release(lambda partition: partition == B)))
    assert [f"{name}{second}" for second in range(5, 15) for name in "ab"] == merged(join.release(nothing_unread))
    assert (None, None) == (join.oldest_offset(A), join.oldest_offset(B))


@pytest.mark.parametrize("seed", range(20))
def test_turns_do_not_depend_on_how_far_each_topic_was_read_when(seed):
    """Read in any pieces, the readings come out in one order: a few of them late, early, or with a clock gone wrong."""
    chance = np.random.default_rng(seed)
    seconds = {
        one: np.sort(chance.integers(0, 60, 150)) + chance.choice([0, 0, 0, 0, 0, 0, 0, -2, 3, 10**6], 150)
        for one in (A, B)
    }

    def order(sizes):
        join, read, passed = Join([A, B], WindowConfig(cell_ms=1_000)), {A: 0, B: 0}, []
        while min(read.values()) < 150:
            for one in (A, B):
                size = int(chance.choice(sizes))
                if size and read[one] < 150:
                    join.push(batch(one, seconds[one][read[one] :][:size], read[one]))
                    read[one] = min(150, read[one] + size)
            passed += merged(join.release(lambda one: read[one] < 150))
        return passed

    whole = order([150])
    assert 300 == len(whole)
    assert whole == order([1])
    assert whole == order([0, 3, 40])


def test_a_topic_never_read_yet_holds_the_other_back(join):
    """Its messages may be of any time."""
    join.push(batch(A, range(6)))
    assert [] == join.release(lambda partition: partition == B)
    assert 6 == len(merged(join.release(nothing_unread)))


def test_each_partitions_order_is_kept(join):
    """A late reading does not overtake those before it on its topic."""
    join.push(batch(A, [0, 1, 5, 2, 6, 7]))
    join.push(batch(B, range(8)))
    passed = merged(join.release(nothing_unread))
    assert ["a0", "a1", "a5", "a2", "a6", "a7"] == [one for one in passed if one[0] == "a"]
    assert passed.index("b3") < passed.index("a6")


def test_a_wrong_clock_passes_with_its_neighbours(join):
    """a: 0 1 (in three years) 2 3 4 5    b keeps its turns."""
    join.push(batch(A, [0, 1, 10**8, 2, 3, 4, 5, 6, 7, 8]))
    join.push(batch(B, range(9)))
    passed = merged(join.release(nothing_unread))
    assert passed.index("a1") < passed.index("a1e+08") < passed.index("a2") < passed.index("b3") < passed.index("a4")


def test_a_wrong_clock_is_not_taken_for_how_far_a_topic_was_read(join):
    """a: 0 1 2 3 (in three years) 4 … 12|    b is held back by where a really is."""
    join.push(batch(A, [0, 1, 2, 3, 10**8, *range(4, 13)]))
    join.push(batch(B, range(50)))
    passed = merged(join.release(lambda partition: partition == A))
    assert ["b0", "b1", "b2"] == [one for one in passed if one[0] == "b"]


def test_a_topic_that_starts_anew_at_older_times_goes_on(join):
    """A recording sent twice: the second time is late throughout, and waits for nobody (but its last few readings)."""
    join.push(batch(A, np.arange(FULL)))
    join.push(batch(A, np.arange(FULL), first_offset=FULL))
    assert 2 * FULL - 20 < len(merged(join.release(lambda partition: partition == A)))
    assert not join.full(A)


def test_lateness_makes_the_turns_longer():
    """With three seconds of lateness a cell is open so long: the topics need not alternate by the cell."""
    join = Join([A, B], WindowConfig(cell_ms=1_000, lateness_ms=3_000))
    join.push(batch(A, range(6)))
    join.push(batch(B, range(6)))
    assert "a0 a1 a2 a3 b0 b1 b2 b3 a4 a5 b4 b5" == " ".join(merged(join.release(nothing_unread)))


def test_blocks_count_by_their_last_sample(join):
    """A block of three seconds' samples could not be sent before its end, and is not cut in two."""
    block = batch(A, [0, 1])
    object.__setattr__(block, "reading", np.repeat([0, 1], 3))
    object.__setattr__(block, "ts_ms", np.array([0, 1, 2, 3, 4, 5]) * 1_000.0)
    object.__setattr__(block, "values", np.zeros((6, 1)))
    join.push(block)
    join.push(batch(B, range(6)))
    assert "b0 b1 a0 a1 a2 b2 b3 b4 a3 a4 a5 b5" == " ".join(merged(join.release(nothing_unread)))


def test_a_partition_is_full_when_so_many_readings_wait(join):
    """Then it should be paused; passing readings on makes room."""
    join.push(batch(A, np.arange(FULL)))
    assert (True, False) == (join.full(A), join.full(B))
    join.release(nothing_unread)
    assert not join.full(A)


@pytest.mark.parametrize("cell_ms", [1_000.0, 0.0833333, 1e-3, 1 / 3])
def test_every_release_comes_to_an_end(cell_ms):
    """Whatever the cell's width, fractions that floats can't hold included."""
    join = Join([A, B], WindowConfig(cell_ms=cell_ms))
    times = (1_583_748_873 + np.random.default_rng(0).random(300)).tolist()
    join.push(batch(A, times[:150]))
    join.push(batch(B, times[150:]))
    assert 300 == len(merged(join.release(nothing_unread)))
