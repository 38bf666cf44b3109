"""Windows on the event-time grid, held against a slow and obvious implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.config import ChannelConfig, WindowConfig
from stream_detector.types import Partition, PlainMessage, ReadingBatch
from stream_detector.windowing.windower import Windower, part
from tests.window_oracle import OracleAsset

CHANNELS = {"a": ChannelConfig(), "b": ChannelConfig(cell="last"), "c": ChannelConfig(cell="max", max_gap_ms=3_000)}
ONE = {"a": ChannelConfig()}
Reading = tuple[str, float, dict[str, float]]


def batch_of(readings: list[Reading], channels=ONE, topic="t", offset=0, ingest_ms=-1) -> ReadingBatch:
    """Readings as the decoder hands them on."""
    values = np.array([[row.get(name, np.nan) for name in channels] for _, _, row in readings], float)
    messages = [PlainMessage(offset + i, ingest_ms, asset.encode(), b"") for i, (asset, *_) in enumerate(readings)]
    return ReadingBatch(
        Partition(topic, 0),
        messages,
        [asset for asset, *_ in readings],
        np.arange(offset, offset + len(readings)),
        np.full(len(readings), ingest_ms),
        None,
        np.array([ts for _, ts, _ in readings], float),
        values.reshape(len(readings), len(channels)),
    )


def windows_of(windower: Windower, batches) -> tuple[dict[tuple[str, int], np.ndarray], list]:
    """Push batches; return windows by asset and end, and the dead letters."""
    found, dead = {}, []
    for batch in batches:
        windows, letters = windower.push(batch)
        dead += letters
        if windows is not None:
            for asset, end, values in zip(windows.assets, windows.end_ms.tolist(), windows.values, strict=True):
                assert (asset, end) not in found
                found[asset, end] = values
    return found, dead


def ends(found: dict[tuple[str, int], np.ndarray], asset: str) -> list[int]:
    """Ends of an asset's windows in order."""
    return [end for name, end in found if name == asset]


def steady(asset: str, cells, value=lambda cell: float(cell)) -> list[Reading]:
    """One reading in the middle of each of these one-second cells."""
    return [(asset, cell * 1000 + 500, {"a": value(cell)}) for cell in cells]


def test_windows_end_on_whole_multiples_of_the_stride_and_hold_the_cells_before():
    """length 4, stride 2 from cell 3 on: the first window with all its cells ends at 8."""
    windower = Windower(WindowConfig(length=4, stride=2), ONE, 0, ["t"])
    found, dead = windows_of(windower, [batch_of(steady("p", range(3, 13)))])
    assert [8_000, 10_000, 12_000] == ends(found, "p")
    assert [4, 5, 6, 7] == found["p", 8_000][:, 0].tolist()
    assert [] == dead


def test_a_short_gap_is_filled_with_the_last_value_and_marked():
    """Cells 5 and 6 have no reading; max_gap is 2 cells."""
    windower = Windower(WindowConfig(length=4, stride=4, max_gap_ms=2_000), ONE, 0, ["t"])
    windows, _ = windower.push(batch_of(steady("p", [4, 7, 8])))
    assert windows is not None
    assert [4, 4, 4, 7] == windows.values[0, :, 0].tolist()
    assert [False, True, True, False] == windows.filled[0, :, 0].tolist()


def test_a_gap_at_the_start_of_a_window_is_filled_from_before_it():
    """Cell 4 is missing; its value is cell 3's, which lies in the window before."""
    windower = Windower(WindowConfig(length=4, stride=4, max_gap_ms=1_000), ONE, 0, ["t"])
    found, _ = windows_of(windower, [batch_of(steady("p", [0, 1, 2, 3, 5, 6, 7, 8]))])
    assert [3, 5, 6, 7] == found["p", 8_000][:, 0].tolist()


def test_a_long_gap_cuts_the_window():
    """Three missing cells with max_gap 2: no window holds them, and windows begin anew after."""
    windower = Windower(WindowConfig(length=4, stride=1, max_gap_ms=2_000), ONE, 0, ["t"])
    found, _ = windows_of(windower, [batch_of(steady("p", [0, 1, 2, 3, 4, 8, 9, 10, 11, 12]))])
    assert [4_000, 5_000, 6_000, 7_000, 12_000] == ends(found, "p")


def test_a_late_reading_is_refused_with_its_reason_and_changes_nothing():
    """The cell of second 2 is closed once the asset's clock passes 3 s + 1 s lateness."""
    windower = Windower(WindowConfig(length=2, stride=2, lateness_ms=1_000), ONE, 0, ["t"])
    late = ("p", 2_500.0, {"a": 99.0})
    found, dead = windows_of(windower, [batch_of([*steady("p", [2, 3, 4]), late, *steady("p", [5, 6])])])
    assert ["too-late"] == [letter.code for letter in dead]
    assert 3 == dead[0].message.offset
    assert [2, 3] == found["p", 4_000][:, 0].tolist()


def test_an_out_of_order_reading_within_the_lateness_counts():
    """Second 2 comes after second 3 and still lands in its cell."""
    windower = Windower(WindowConfig(length=2, stride=2, lateness_ms=2_000), ONE, 0, ["t"])
    found, dead = windows_of(windower, [batch_of(steady("p", [3, 2, 4, 5, 6]))])
    assert [] == dead
    assert [2, 3] == found["p", 4_000][:, 0].tolist()


def test_a_clock_far_ahead_is_refused_and_does_not_close_others_cells():
    """A reading two minutes ahead of the broker's time goes to the dead letters; the asset goes on."""
    windower = Windower(WindowConfig(length=2, stride=2, max_ahead_ms=60_000), ONE, 0, ["t"])
    ahead = ("p", 200_000.0, {"a": 1.0})
    found, dead = windows_of(windower, [batch_of([*steady("p", [2]), ahead, *steady("p", [3, 4])], ingest_ms=4_500)])
    assert ["too-far-ahead"] == [letter.code for letter in dead]
    assert [2, 3] == found["p", 4_000][:, 0].tolist()


def test_a_silent_asset_is_let_go_and_holds_no_offset_back():
    """Once event time is past its last reading by hold_ms, only the speaking asset needs the log."""
    windower = Windower(WindowConfig(length=4, stride=2, max_ahead_ms=10_000), ONE, 0, ["t"])
    assert 20_000 == windower.hold_ms
    windower.push(batch_of([*steady("silent", [0, 1]), *steady("p", range(2, 40))]))
    assert 1 == windower.assets
    # The next window ends at 40 and begins with second 36; second 35's reading would fill a gap at its start.
    assert {"t": 35} == windower.oldest_offsets()


def test_one_assets_jump_in_time_lets_no_other_go():
    """A recording of next year begins on the partition; the others' windows go on without a gap."""
    windower = Windower(WindowConfig(length=4, stride=1, max_ahead_ms=10_000), ONE, 0, ["t"])
    year = 31_536_000
    stream = [reading for s in range(30) for reading in steady("p", [s]) + (steady("q", [s + year]) if s > 9 else [])]
    found, dead = windows_of(windower, [batch_of(stream)])
    assert [] == dead
    assert [end * 1000 for end in range(4, 30)] == ends(found, "p")


def test_a_refused_reading_is_told_once_however_often_assets_come_back():
    """An asset's return from silence within a batch splits the batch, not its dead letters."""
    windower = Windower(WindowConfig(length=2, stride=1, max_ahead_ms=1_000, max_gap_ms=0), ONE, 0, ["t"])
    ahead = ("p", 9e9, {"a": 1.0})
    others = [steady("q", range(s, s + 30)) for s in (0, 100, 200)]
    stream = [reading for part_of in others for reading in (*steady("p", [part_of[0][1] // 1000]), ahead, *part_of)]
    _, dead = windows_of(windower, [batch_of(stream, ingest_ms=300_000)])
    assert [index for index, (_, ts, _) in enumerate(stream) if ts == 9e9] == [one.message.offset for one in dead]


def test_channels_of_two_topics_and_rates_meet_on_the_grid():
    """Temperature comes every third second on a topic of its own and is held in between."""
    channels = {"a": ChannelConfig(), "b": ChannelConfig(max_gap_ms=4_000)}
    windower = Windower(WindowConfig(length=3, stride=3), channels, 0, ["fast", "slow"])
    found = {}
    for second in range(13):
        for topic, name, every in (("fast", "a", 1), ("slow", "b", 3)):
            if second % every == 0:
                reading = ("p", second * 1000.0, {name: float(second)})
                found |= windows_of(windower, [batch_of([reading], channels, topic, second)])[0]
    assert [[3, 3], [4, 3], [5, 3]] == found["p", 6_000].tolist()


def test_two_blocks_of_samples_fill_cells_of_one_sample_each():
    """A waveform at 1 kHz in blocks of 5, cells of 1 ms, windows of 4."""
    windower = Windower(WindowConfig(cell_ms=1, length=4, stride=4, max_gap_ms=0), ONE, 0, ["t"])
    found = {}
    for start in (0, 5):
        batch = batch_of([("p", start, {"a": 0})], offset=start)
        ts = start + np.arange(5.0)
        samples = ReadingBatch(
            batch.partition,
            batch.messages,
            batch.assets,
            batch.offsets,
            batch.ingest_ms,
            np.zeros(5, np.int64),
            ts,
            ts[:, None] * 10,
            np.array([1.0]),
        )
        found |= windows_of(windower, [samples])[0]
    assert [0, 10, 20, 30] == found["p", 4][:, 0].tolist()
    assert [40, 50, 60, 70] == found["p", 8][:, 0].tolist()


def test_a_waveform_cell_becomes_its_features():
    """Samples of a cell become RMS and crest factor of exactly those samples."""
    channels = {"v": ChannelConfig(cell="waveform", features=["rms", "crest"])}
    windower = Windower(WindowConfig(cell_ms=10, length=1, stride=1), channels, 0, ["t"])
    samples = np.array([3.0, -4.0] * 5 + [1.0] * 10 + [0.0])
    batch = ReadingBatch(
        Partition("t", 0),
        [PlainMessage(0, -1, b"p", b"")],
        ["p"],
        np.array([0]),
        np.array([-1]),
        np.zeros(21, np.int64),
        np.arange(21.0),
        samples[:, None],
        np.array([1.0]),
    )
    windows, _ = windower.push(batch)
    assert windows is not None
    np.testing.assert_allclose(windows.values[:, 0], [[np.sqrt(12.5), 4 / np.sqrt(12.5)], [1, 1]], rtol=1e-6)


@st.composite
def streams(draw):
    """Messy streams of a few assets: gaps, disorder, duplicates, missing channels, jumps."""
    readings = []
    clocks = {asset: draw(st.integers(0, 30_000)) for asset in "pqr"[: draw(st.integers(1, 3))]}
    for _ in range(draw(st.integers(1, 80))):
        asset = draw(st.sampled_from(sorted(clocks)))
        step = draw(st.sampled_from([200, 700, 1_000, 1_000, 1_000, 1_300, 2_500, 6_000, 45_000, -400, -1_500, -4_000]))
        clocks[asset] = max(0, clocks[asset] + step)
        names = draw(st.sampled_from([("a", "b", "c")] * 4 + [("a",), ("b", "c")]))
        readings.append((asset, float(clocks[asset]), {name: draw(st.floats(-5, 5, width=32)) for name in names}))
    return readings


@settings(max_examples=100, deadline=None)
@given(
    readings=streams(),
    length=st.sampled_from([1, 3, 8]),
    stride=st.sampled_from([1, 2, 3]),
    lateness_ms=st.sampled_from([0, 1_500, 3_000]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_any_stream_in_any_batches_gives_the_windows_of_the_plain_rules(readings, length, stride, lateness_ms, sizes):
    """Fast and slow implementation agree on every window and every late reading, however polls cut the stream."""
    stride = min(stride, length)
    # max_ahead_ms far out: assets here have clocks of their own, and none is to be let go
    window = WindowConfig(length=length, stride=stride, lateness_ms=lateness_ms, max_gap_ms=2_000, max_ahead_ms=1e9)
    oracle = {}
    late = []
    for offset, (asset, ts, values) in enumerate(readings):
        if not oracle.setdefault(asset, OracleAsset(window, CHANNELS)).push(ts, values):
            late.append(offset)
    whole = batch_of(readings, CHANNELS)
    cuts = [0, *itertools.takewhile(lambda x: x < len(readings), itertools.accumulate(itertools.cycle(sizes)))]
    batches = [part(whole, low, high) for low, high in itertools.pairwise([*cuts, len(readings)])]
    found, dead = windows_of(Windower(window, CHANNELS, 0, ["t"]), batches)
    assert late == [letter.message.offset for letter in dead]
    expected = {(name, end * 1000): values for name, one in oracle.items() for end, values in one.windows.items()}
    assert sorted(expected) == sorted(found)
    for key, values in expected.items():
        np.testing.assert_array_equal(values.astype(np.float32), found[key])


@settings(max_examples=100, deadline=None)
@given(
    readings=streams(),
    length=st.sampled_from([1, 3]),
    lateness_ms=st.sampled_from([0, 1_500]),
    topics=st.sampled_from([["t"], ["t", "u"]]),
    size=st.integers(2, 80),
)
def test_windows_name_the_reading_that_completed_them(readings, length, lateness_ms, topics, size):
    """The one after which a worker that takes them one by one has the window; so are late readings explained."""
    window = WindowConfig(length=length, stride=1, lateness_ms=lateness_ms, max_gap_ms=2_000, max_ahead_ms=20_000)

    def said(size):
        windower = Windower(window, CHANNELS, 0, topics)
        by, details = {}, {}
        for start in range(0, len(readings), size):
            # of two topics, each brings such a stretch in turn
            batch = batch_of(readings[start : start + size], CHANNELS, topics[start // size % len(topics)], start, -1)
            batch.ingest_ms[:] = batch.offsets
            for low in range(0, len(batch.assets), step := 1 if one_by_one else size):
                piece = part(batch, low, min(low + step, len(batch.assets)))
                windows, letters = windower.push(piece)
                details |= {letter.message.offset: letter.detail for letter in letters}
                if windows is not None:
                    completed = piece.offsets[windows.completed_by]
                    by |= dict(zip(zip(windows.assets, windows.end_ms.tolist(), strict=True), completed, strict=True))
                    np.testing.assert_array_equal(completed, windows.ingest_ms)
        return by, details

    one_by_one = True
    expected = said(size)
    one_by_one = False
    assert expected == said(size)


@settings(max_examples=60, deadline=None)
@given(readings=streams(), at=st.integers(1, 119))
def test_reading_again_from_the_oldest_offset_gives_the_windows_still_to_come(readings, at):
    """A worker killed at any message loses no window: from oldest_offsets on, the rest comes out the same."""
    window = WindowConfig(length=3, stride=1, lateness_ms=1_500, max_gap_ms=2_000, max_ahead_ms=1e9)
    whole = batch_of(readings, CHANNELS)
    at = min(at, len(readings))
    first = Windower(window, CHANNELS, 0, ["t"])
    before, _ = windows_of(first, [part(whole, 0, at)])
    oldest = first.oldest_offsets()["t"]
    rest = [part(whole, at, len(readings))] if at < len(readings) else []
    expected, _ = windows_of(first, rest)
    resume = at if oldest is None else min(oldest, at)
    second = Windower(window, CHANNELS, 0, ["t"])
    again, _ = windows_of(second, [part(whole, resume, len(readings))] if resume < len(readings) else [])
    judged = {asset: max(ends(before, asset), default=-1) for asset in "pqr"}
    assert set(expected) == {(asset, end) for asset, end in again if end > judged[asset]}
    for key, values in expected.items():
        np.testing.assert_array_equal(values, again[key])


@pytest.mark.parametrize("size", [1, 7, 64, 512])
def test_batch_size_does_not_change_a_bit_of_any_window(size):
    """Many readings a cell: sums come out the same to the last bit."""
    rng = np.random.default_rng(3)
    readings = [("p" if i % 3 else "q", i * 37.0, {"a": float(rng.normal())}) for i in range(3_000)]
    window = WindowConfig(length=5, stride=2)
    whole = batch_of(readings)
    batches = [part(whole, low, min(low + size, 3_000)) for low in range(0, 3_000, size)]
    expected, _ = windows_of(Windower(window, ONE, 0, ["t"]), [whole])
    found, _ = windows_of(Windower(window, ONE, 0, ["t"]), batches)
    assert {key: values.tobytes() for key, values in expected.items()} == {
        key: values.tobytes() for key, values in found.items()
    }
