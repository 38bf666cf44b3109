"""Replaying: order, pace, loops and times, on a clock that only moves when somebody waits."""

from __future__ import annotations

import itertools

import numpy as np
import orjson
import pytest

from stream_detector.datasets.recording import Recording
from stream_detector.datasets.replay import Plan, period_ms, replay, schedule
from stream_detector.errors import BrokerError, DataError

NOW_MS = 1_700_000_000_000.0


class FakeClock:
    """Starts at 0 s; sleeping makes it later, and so does each look at it by `cost_s`."""

    def __init__(self, cost_s=0.0):
        self.t, self.cost_s = 0.0, cost_s

    def monotonic(self):
        """Seconds."""
        self.t += self.cost_s
        return self.t

    def now_ms(self):
        """Always the same."""
        return NOW_MS

    def sleep(self, seconds):
        """Let time pass at once."""
        assert seconds > 0
        self.t += seconds


class Recorder:
    """A writer that remembers what was sent, and when."""

    def __init__(self, clock, seconds_a_message=0.0):
        self.clock, self.cost = clock, seconds_a_message
        self.sent, self.flushes = [], 0

    def send(self, topic, key, value, headers, timestamp_ms=None):
        """Note it."""
        assert timestamp_ms is None
        self.clock.t += self.cost
        self.sent.append((round(self.clock.t, 6), topic, key.decode(), orjson.loads(value)["ts"]))

    def flush(self):
        """Count."""
        self.flushes += 1

    def close(self):
        """Nobody's to call."""
        raise AssertionError("who opened the writer closes it")


def recording(asset, *seconds, origin_ms=0.0):
    """Readings of one asset at these seconds."""
    ts_ms = origin_ms + 1_000.0 * np.array(seconds, dtype=float)
    return Recording(asset, ts_ms, {"x": np.arange(len(seconds), dtype=float)})


def run(recordings, clock=None, writer=None, **plan):
    """Replay on a fake clock; return what was sent and the summary."""
    clock = clock or FakeClock()
    writer = writer or Recorder(clock)
    done = replay(recordings, Plan("t", **plan), writer, clock=clock)
    return writer.sent, done


def event_times(recordings, loops, **plan):
    """Event times of so many loops, in the order of sending."""
    planned = schedule(recordings, Plan("t", loops=loops, **plan), NOW_MS)
    return [message.event_ms for _, message in planned]


def test_readings_are_sent_when_they_are_due():
    """At speed 60 a recorded minute takes a second."""
    sent, done = run([recording("a", 0, 60, 90)], speed=60.0)
    assert sent == [(0.0, "t", "a", 0), (1.0, "t", "a", 60_000), (1.5, "t", "a", 90_000)]
    assert (done.sent, done.done, done.elapsed_s, done.event_ms) == (3, True, 1.5, 90_000)


def test_recordings_start_side_by_side():
    """Whatever their dates, recordings start at the same moment and run beside each other; a tie keeps their order."""
    sent, _ = run([recording("a", 0, 2, 4), recording("b", 0, 1, 4, origin_ms=5e9)], speed=1.0)
    assert [(at, key) for at, _, key, _ in sent] == [
        (0.0, "a"),
        (0.0, "b"),
        (1.0, "b"),
        (2.0, "a"),
        (4.0, "a"),
        (4.0, "b"),
    ]


def test_full_speed_keeps_the_same_order_and_waits_for_nothing():
    """max: no sleep, and assets still interleave by time since their start."""
    sent, done = run([recording("a", 0, 100), recording("b", 0, 50, 150)], speed=None)
    assert [(at, key) for at, _, key, _ in sent] == [(0.0, "a"), (0.0, "b"), (0.0, "b"), (0.0, "a"), (0.0, "b")]
    assert done.lag_s == 0.0


def test_a_late_replay_catches_up_without_dropping():
    """A slow broker makes the replay late; what is due is then sent at once, and the lag is told."""
    clock = FakeClock()
    sent, done = run([recording("a", 0, 1, 2, 3)], clock, Recorder(clock, seconds_a_message=1.5), speed=1.0)
    assert [at for at, *_ in sent] == [1.5, 3.0, 4.5, 6.0]
    assert done.lag_s > 0


def test_rows_whose_times_go_back_are_sent_in_the_files_order():
    """A late reading in a recording comes late in the replay too, at once."""
    sent, _ = run([recording("a", 0, 5, 3, 6)], speed=1.0)
    assert [(at, ts) for at, _, _, ts in sent] == [(0.0, 0), (5.0, 5_000), (5.0, 3_000), (6.0, 6_000)]


@pytest.mark.parametrize("times", ["keep", "now"])
def test_loops_never_go_back_in_time(times):
    """Each loop follows the one before by the longest recording's length and one step."""
    recordings = [recording("a", 0, 1, 2), recording("b", 0, 1, origin_ms=9e5)]
    by_asset = {}
    for _, message in schedule(recordings, Plan("t", loops=3, times=times), NOW_MS):
        by_asset.setdefault(message.key, []).append(message.event_ms)
    assert {3_000.0} == {third - first for first, third in zip(by_asset[b"a"], by_asset[b"a"][3:], strict=False)}
    assert {3_000.0} == {third - first for first, third in zip(by_asset[b"b"], by_asset[b"b"][2:], strict=False)}
    assert all(earlier < later for times in by_asset.values() for earlier, later in itertools.pairwise(times))


def test_loops_of_blocks_do_not_overlap():
    """A waveform's last sample comes before the next loop's first, fractions of a ms included."""
    blocks = Recording("b", np.array([0.0, 85.25]), blocks={"v": [np.ones(1_024), np.ones(10)]}, interval_ms=0.08325)
    first, second, third, _ = event_times([blocks], 2)
    assert (first, second) == (0.0, 85.25)
    assert third >= second + 10 * 0.08325


def test_loops_go_on_for_ever_on_schedule():
    """`loops=None` never ends; the third loop's first reading is due after two whole periods."""
    planned = schedule([recording("a", 0, 1)], Plan("t", loops=None), NOW_MS)
    assert [due for due, _ in itertools.islice(planned, 5)] == [0.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0]


def test_times_now_start_now():
    """The first reading of every recording is now, and intervals stay."""
    recordings = [recording("a", 5, 6), recording("b", 0, 2, origin_ms=9e5)]
    assert event_times(recordings, 1, times="now") == [NOW_MS, NOW_MS, NOW_MS + 1_000, NOW_MS + 2_000]


def test_times_until_now_end_now():
    """The last reading of the last loop is now: nothing is ahead of the clock."""
    assert max(event_times([recording("a", 0, 1, 2)], 2, times="until-now")) == NOW_MS


def test_times_kept_are_the_recordings():
    """keep: the first loop is bit for bit what was recorded."""
    assert event_times([recording("a", 0.25, 1)], 1) == [250.0, 1_000.0]


def test_a_stop_ends_a_wait_and_flushes():
    """A signal during a long wait ends the replay at once; what was sent is flushed, the rest is not sent."""
    clock = FakeClock()
    writer = Recorder(clock)
    done = replay([recording("a", 0, 3_600)], Plan("t"), writer, clock=clock, stopped=lambda: clock.t >= 10)
    assert (done.sent, done.done, writer.flushes, len(writer.sent)) == (1, False, 1, 1)
    assert done.elapsed_s < 11


def test_a_stop_at_full_speed():
    """Between two messages is soon enough."""
    clock = FakeClock()
    writer = Recorder(clock, seconds_a_message=1.0)
    done = replay([recording("a", *range(100))], Plan("t", None), writer, clock=clock, stopped=lambda: clock.t >= 5)
    assert (done.sent, done.done, writer.flushes) == (5, False, 1)


def test_progress_is_reported_now_and_then_and_at_the_end():
    """At most five times a second, so that a bar costs nothing; the last report is the summary."""
    clock, reports = FakeClock(), []
    done = replay([recording("a", *range(10))], Plan("t"), Recorder(clock), clock=clock, report=reports.append)
    assert reports[-1] == done
    assert 10 <= len(reports) <= 50
    assert [each.sent for each in reports] == sorted(each.sent for each in reports)


def test_a_broker_that_fails_is_noticed_on_the_way():
    """Failures show at a flush, so a replay for ever flushes every ten seconds."""
    clock = FakeClock()

    class Failing(Recorder):
        def flush(self):
            raise BrokerError("gone")

    writer = Failing(clock)
    with pytest.raises(BrokerError, match="gone"):
        replay([recording("a", *range(100))], Plan("t", loops=None), writer, clock=clock)
    assert 9 <= len(writer.sent) <= 13


@pytest.mark.parametrize("recordings", [[], [recording("a")], [Recording("a", np.zeros(2), {"x": np.full(2, np.nan)})]])
def test_nothing_to_replay_is_said(recordings):
    """Not a replay of no length, nor one that loops for ever over nothing."""
    with pytest.raises(DataError, match="nothing to replay"):
        run(recordings, loops=None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"speed": 0.0}, "speed must be more than 0"),
        ({"speed": float("inf")}, "speed must be more than 0"),
        ({"loops": 0}, "loops must be at least 1"),
        ({"loops": None, "times": "until-now"}, "an endless replay has no last reading"),
    ],
)
def test_plans_that_cannot_be_met(settings, said):
    """Refused before anything is sent."""
    with pytest.raises(DataError, match=said):
        Plan("t", **settings)


def test_a_period_is_the_longest_recordings():
    """From its first reading to where its next one would be due."""
    assert period_ms([recording("a", 0, 1, 2), recording("b", 0, 10)]) == 20_000
