"""Who is heard, message by message: what each event belongs to, wherever batches end and a worker starts again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.config import ChannelConfig, SensorsConfig, WindowConfig
from stream_detector.liveness.tracker import LivenessTracker
from stream_detector.types import DeadLetter, LivenessEvent, Partition, PlainMessage, ReadingBatch, WindowBatch

pytestmark = pytest.mark.usefixtures("short_reach")

WHERE = Partition("hall", 0)
CHANNELS = {"flow": ChannelConfig(), "heat": ChannelConfig()}
#: Asset, second, channels carried; None instead of them: a message that is no reading, of this asset.
Heard = tuple[str, float, str | None]


def tracker(silent_after_s: float = 10.0, **sensors: int) -> LivenessTracker:
    """Return a tracker of a task of which nothing is known; channels drop out after five seconds."""
    config = SensorsConfig(silent_after_ms=1_000 * silent_after_s, **sensors)
    return LivenessTracker(config, WindowConfig(cell_ms=1_000, length=1, max_gap_ms=2_000), CHANNELS, {})


def push(
    one: LivenessTracker, heard: list[Heard], first: int = 0, windows: dict[str, int] | None = None, processed=False
) -> list[tuple[int, LivenessEvent]]:
    """Push messages as one batch whose first offset is `first`; return events with the offsets they belong to.

    `windows`: offset of the message that completes the first window of an asset; left out, each one's first reading.
    """
    readings = [(first + n, *row) for n, row in enumerate(heard) if row[2] is not None]
    letters = [
        DeadLetter(WHERE, PlainMessage(first + n, -1, b"", b""), "out-of-range", "", asset, "flow")
        for n, (asset, _, carried) in enumerate(heard)
        if carried is None
    ]
    offsets = np.array([offset for offset, *_ in readings], np.int64)
    batch, cut = None, None
    if readings:
        batch = ReadingBatch(
            WHERE,
            [PlainMessage(offset, -1, b"", b"") for offset, *_ in readings],
            [asset for _, asset, *_ in readings],
            offsets,
            np.full(len(readings), -1),
            None,
            np.array([1_000.0 * second for _, _, second, _ in readings]),
            np.array([[1.0 if name[0] in carried else np.nan for name in CHANNELS] for *_, carried in readings]),
        )
        if windows is None:
            windows = {asset: offset for offset, asset, *_ in reversed(readings)}
        places = {asset: int(np.searchsorted(offsets, at)) for asset, at in windows.items() if at in offsets}
        nothing = np.zeros((len(places), 1, 2), np.float32)
        by = np.array(list(places.values()), np.int64)
        cut = WindowBatch(0, list(places), by, nothing, nothing > 0, by, by)
    events = one.push(WHERE, batch, letters, windows=cut, processed=processed)
    # before the windows of which reading: the next one, for a message that is none
    return [(int(offsets[event.place]) if event.place < len(offsets) else -1, event) for event in events]


def told(events: list[tuple[int, LivenessEvent]]) -> list[tuple[int, str, str, bool]]:
    """Return offset, asset, fault and whether it begins."""
    return [(at, event.asset, event.fault, event.begins) for at, event in events]


def turns(assets: str, seconds: range) -> list[Heard]:
    """Return messages of some assets in turn, one each a second."""
    return [(asset, float(second), "fh") for second in seconds for asset in assets]


def test_a_silence_is_told_by_the_message_with_which_the_others_have_outlasted_it():
    """a and b until 4 s, then b alone: eleven seconds later a is silent, and it speaks again at 20 s."""
    heard = [*turns("ab", range(5)), *turns("b", range(5, 20)), ("a", 20.0, "fh")]
    [begin, end] = push(tracker(), heard)
    assert [(20, "a", "silent", True), (25, "a", "silent", False)] == told([begin, end])
    assert heard[20] == ("b", 15.0, "fh")
    assert (begin[1].since_ms, begin[1].at_ms, end[1].at_ms) == (4_000, 14_000, 20_000)


def test_an_asset_first_heard_later_is_no_evidence():
    """a until 4 s, then b: two recordings, one after the other, and b began after a's last message."""
    assert [] == push(tracker(), [*turns("a", range(5)), *turns("b", range(5, 60))])


def test_one_heard_just_before_is():
    """b's first message comes before a's last one."""
    heard = [*turns("a", range(4)), ("b", 4.0, "fh"), ("a", 4.0, "fh"), *turns("b", range(5, 60))]
    assert [("a", "silent", True)] == [row[1:] for row in told(push(tracker(), heard))]


def test_an_asset_that_comes_back_is_no_evidence_against_those_before():
    """b rests while a goes on, and begins anew after a's last message: the two were never heard side by side since."""
    heard = [*turns("ab", range(5)), *turns("a", range(5, 30)), *turns("b", range(30, 90))]
    assert [("b", "silent", True), ("b", "silent", False)] == [row[1:] for row in told(push(tracker(), heard))]


def test_one_clock_that_leaps_makes_nobody_silent():
    """A leap counts as an eighth of the time it takes to be silent."""
    heard = [*turns("ab", range(5)), *(("b", 1_000.0 * second, "fh") for second in range(1, 8))]
    assert [] == push(tracker(), heard)
    assert [("a", "silent", True)] == [
        row[1:] for row in told(push(tracker(), [*heard, *turns("b", range(7_001, 7_005))]))
    ]


def test_a_channel_that_comes_back_far_behind_its_assets_clock_has_not_come_back():
    """Old readings, flushed from some buffer, are no news of the channel."""
    heard: list[Heard] = [("a", 0.0, "fh"), *(("a", float(second), "f") for second in range(1, 20))]
    heard += [("a", 3.0, "h"), ("a", 4.0, "h"), ("a", 20.0, "f"), ("a", 21.0, "fh")]
    assert [(6, "a", "dropout", True), (23, "a", "dropout", False)] == told(push(tracker(), heard))


def test_an_asset_that_comes_back_from_silence_brings_its_channels_or_they_have_dropped_out():
    """a comes back at 30 s without heat: five seconds later heat has dropped out."""
    heard = [*turns("ab", range(5)), *turns("b", range(5, 30))]
    for second in range(30, 40):
        heard += [("a", float(second), "f"), ("b", float(second), "fh")]
    events = [event for _, event in push(tracker(), heard)]
    assert [("silent", True), ("silent", False), ("dropout", True)] == [(one.fault, one.begins) for one in events]
    assert 35_000 >= events[2].at_ms > 30_000


def test_nothing_is_told_of_channels_and_refusals_before_the_first_window():
    """The asset has no state yet: a worker that starts again could not know what was told."""
    heard: list[Heard] = [("a", 0.0, "fh"), *(("a", float(second), "f") for second in range(1, 20))]
    heard += [("a", 20.0, None)] * 5
    one = tracker()
    assert [] == push(one, heard, 0, {})
    assert {} == one.counts()


def test_a_clock_that_was_ahead_for_a_moment_is_known_after_a_restart():
    """b falls silent while event time stands still, for a's clock was twenty seconds ahead once."""
    heard = [*turns("ab", range(20)), ("a", 40.0, "fh"), *turns("ab", range(20, 23)), *turns("a", range(23, 60))]
    whole = push(tracker(), heard)
    assert [("b", 51.0)] == [(event.asset, heard[at][1]) for at, event in whole]
    first, again, at = tracker(), tracker(), 60
    for n in range(at):
        push(first, heard[n : n + 1], n)
    oldest = first.oldest_offsets({}, {WHERE: at})[WHERE]
    push(again, heard[oldest:at], oldest, processed=True)
    assert told(whole) == told(push(again, heard[at:], at))


def test_a_dropout_is_told_once_there_was_a_window():
    """The sixth reading would tell of it, but the first window is completed by the eleventh."""
    heard: list[Heard] = [("a", 0.0, "fh"), *(("a", float(second), "f") for second in range(1, 20))]
    assert [(11, "a", "dropout", True)] == told(push(tracker(), heard, 0, {"a": 10}))


def test_a_restart_reads_what_makes_an_asset_evidence():
    """b, which sends seldom, was heard eight seconds before a's last message; nobody else who was is heard after it."""
    heard = [
        *turns("x", range(22)),
        ("b", 22.0, "fh"),
        *turns("x", range(23, 30)),
        ("a", 30.0, "fh"),
        *turns("b", range(31, 34)),
    ]
    heard += [*turns("c", range(32, 41)), ("b", 40.0, "fh"), ("c", 41.0, "fh"), ("b", 42.0, "fh")]
    whole = push(tracker(), heard)
    assert (len(heard) - 1, "a", "silent", True) in told(whole)
    first, again, at = tracker(), tracker(), 37
    for n in range(at):
        push(first, heard[n : n + 1], n)
    oldest = first.oldest_offsets({}, {WHERE: at})[WHERE]
    push(again, heard[oldest:at], oldest, processed=True)
    assert [event for event in told(whole) if event[0] >= at] == told(push(again, heard[at:], at))


@pytest.mark.parametrize("refused_after", [1, 3])
def test_readings_refused_in_a_row_belong_to_the_message_that_makes_them_so_many(refused_after):
    """And so does the end, once as many good ones have come."""
    heard = [*turns("a", range(3)), *[("a", 3.0, None)] * 4, *turns("a", range(4, 9))]
    events = push(tracker(refused_after=refused_after), heard)
    assert [("out-of-range", True), ("out-of-range", False)] == [(one.fault, one.begins) for _, one in events]
    assert [7, 6 + refused_after] == [at for at, _ in events]


# Any messages, cut anywhere -----------------------------------------------------------------------------------------


@st.composite
def logs(draw) -> list[Heard]:
    """Messages of a few assets: pauses, absences, missing channels, wrong clocks, and some that are no readings."""
    heard: list[Heard] = []
    now = 0.0
    assets = "abcd"[: draw(st.integers(1, 4))]
    while len(heard) < draw(st.sampled_from([20, 60, 120])):
        mine = draw(st.lists(st.sampled_from(assets), min_size=1, max_size=3))
        for _ in range(draw(st.integers(1, 12))):
            now += draw(st.sampled_from([0.0, 0.4, 1.0, 1.0, 1.0, 1.0, 3.0, 60.0]))
            for asset in mine:
                off = draw(st.sampled_from([0.0] * 12 + [-0.7, -4.0, 2.5, 25.0]))
                carried = draw(st.sampled_from(["fh"] * 8 + ["f", "f", "f", "h", None]))
                heard.append((asset, max(0.0, now + off), carried))
    return heard


def first_windows(heard: list[Heard]) -> dict[str, int]:
    """Return the offset of each asset's first reading with both channels: it completes a window."""
    return {asset: n for n, (asset, _, carried) in reversed(list(enumerate(heard))) if carried == "fh"}


def readings_told(
    heard: list[Heard], batches: list[tuple[int, int]], one: LivenessTracker, **more
) -> list[LivenessEvent]:
    """Return what messages tell in batches (from, to), with the offset of the next reading as the place."""
    found = []
    for start, stop in batches:
        for at, event in push(one, heard[start:stop], start, first_windows(heard), **more):
            following = next((n for n in range(stop, len(heard)) if heard[n][2] is not None), -1)
            found.append(event._replace(place=following if at < 0 else at))
    return found


def cut(start: int, stop: int, sizes: list[int]) -> list[tuple[int, int]]:
    """Return batches of these sizes in turn."""
    found = []
    while start < stop:
        found.append((start, min(stop, start + sizes[len(found) % len(sizes)])))
        start = found[-1][1]
    return found


@settings(max_examples=150, deadline=None)
@given(heard=logs(), silent_after_s=st.sampled_from([2.5, 6.0, 30.0]), sizes=st.lists(st.integers(1, 40), min_size=1))
def test_batches_change_nothing(heard, silent_after_s, sizes):
    """The same events of the same messages, in the same order, as one by one."""
    expected = readings_told(heard, cut(0, len(heard), [1]), tracker(silent_after_s, refused_after=2))
    assert expected == readings_told(heard, cut(0, len(heard), sizes), tracker(silent_after_s, refused_after=2))
    assert expected == readings_told(heard, [(0, len(heard))], tracker(silent_after_s, refused_after=2))


@settings(max_examples=150, deadline=None)
@given(
    heard=logs(),
    silent_after_s=st.sampled_from([2.5, 6.0, 30.0]),
    at=st.integers(1, 120),
    size=st.sampled_from([1, 1, 7, 40]),
)
def test_silences_outlive_a_restart(heard, silent_after_s, at, size):
    """From the oldest offset on, what others tell is the same: no silence lasts that a state would have to hold."""
    at = min(at, len(heard))
    first = tracker(silent_after_s)
    before = readings_told(heard, cut(0, at, [size]), first)
    lasting = {event.asset for event in before if event.fault == "silent" and event.begins} - {
        event.asset for event in before if event.fault == "silent" and not event.begins
    }
    oldest = first.oldest_offsets({}, {WHERE: at}).get(WHERE, 0)
    expected = readings_told(heard, cut(at, len(heard), [size]), first)
    again = tracker(silent_after_s)
    readings_told(heard, cut(min(at, oldest), at, [size]), again, processed=True)
    found = readings_told(heard, cut(at, len(heard), [size]), again)

    def new(events: list[LivenessEvent]) -> list[LivenessEvent]:
        return [event for event in events if event.fault == "silent" and event.asset not in lasting]

    assert new(expected) == new(found)
