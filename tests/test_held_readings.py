"""Readings that wait until their times are confirmed: in which order, with whom, and what is kept for them."""

from __future__ import annotations

import numpy as np

from stream_detector.config import WindowConfig
from stream_detector.liveness.repetitions import REACH, Repetitions
from stream_detector.types import Partition, PlainMessage, ReadingBatch
from stream_detector.windowing.jumps import Jumps
from stream_detector.worker.passing import in_turn, passages

HERE, THERE = Partition("here", 0), Partition("there", 0)
LIMIT_MS = 70_000.0
PAUSE_MS = 3_600_000.0


def batch(offset: int, ts_ms: list[float], partition: Partition = HERE) -> ReadingBatch:
    """Readings of pump-0, pump-1, …, one each, from an offset on."""
    count = len(ts_ms)
    offsets = np.arange(offset, offset + count)
    return ReadingBatch(
        partition,
        [PlainMessage(int(at), -1, None, b"") for at in offsets],
        [f"pump-{number}" for number in range(count)],
        offsets,
        np.full(count, -1),
        None,
        np.array(ts_ms, np.float64),
        np.column_stack([offsets, -offsets]).astype(np.float64),
    )


def jumps() -> Jumps:
    """Jumps of assets of which nothing was used."""
    return Jumps(WindowConfig(), LIMIT_MS, lambda asset: -np.inf)


def test_readings_after_a_pause_are_released_together():
    """Thousands of assets that come back must not be taken one by one: a poll would take minutes."""
    held, count = jumps(), 3_000
    pieces = [len(list(held.push(batch(count * n, [at] * count)))) for n, at in enumerate([0.0, 1_000.0])]
    before = list(held.push(batch(2 * count, [PAUSE_MS + n % 900 for n in range(count)])))
    after = [piece.what for piece in held.push(batch(3 * count, [PAUSE_MS + 1_000 + n % 900 for n in range(count)]))]
    assert ([1, 1], []) == (pieces, before)
    assert len(after) < 10
    assert all(isinstance(one, ReadingBatch) for one in after)
    used = [(asset, int(at)) for one in after for asset, at in zip(one.assets, one.offsets, strict=True)]
    assert len(used) == len(set(used)) == 2 * count
    by_asset: dict[str, list[int]] = {}
    for asset, at in used:
        by_asset.setdefault(asset, []).append(at)
    assert all(offsets == sorted(offsets) for offsets in by_asset.values())
    for one in after:
        assert one.values.tolist() == [[at, -at] for at in one.offsets.tolist()]


def test_a_reading_passes_with_its_own_topic():
    """The reading that waits and the one that confirms it may have the same offset, each in its topic."""
    held = jumps()
    passed = []
    for offset, at in ((7, 0.0), (8, PAUSE_MS), (9, PAUSE_MS + 1_000)):
        for partition in (HERE, THERE):
            passed += list(in_turn(passages([batch(offset, [at], partition)], (), {}, {}), held))
    readings = [(one.partition, one.readings) for one in passed if one.readings is not None]
    assert all(partition == those.partition for partition, those in readings)
    assert sorted((p.topic, int(those.offsets[0])) for p, those in readings) == [
        (p.topic, offset) for p in (HERE, THERE) for offset in (7, 8, 9)
    ]


def test_repeated_readings_are_known_from_the_oldest_on():
    """Those that were held back come after later ones of their partition."""
    repetitions = Repetitions()
    for offsets in ([5, 6, 8, 9], [7], [10]):
        for at in offsets:
            repetitions.push(batch(at, [float(at)]), np.zeros(1, np.int64), [])
    assert {HERE: 7} == repetitions.oldest_offsets({HERE: REACH + 7})
