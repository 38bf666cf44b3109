from __future__ import annotations

from dataclasses import replace

import msgpack  # type: ignore[import-untyped] # it ships no types
import numpy as np
import pytest

from stream_detector.codec import (
    decode_metadata,
    decode_positions,
    decode_state,
    encode_metadata,
    encode_positions,
    encode_state,
)
from stream_detector.errors import DecodeError
from stream_detector.records import (
    AssetState,
    IncidentState,
    Partition,
    Position,
    SensorFault,
    SensorState,
    ThresholdState,
)

TS = 1_583_748_873_000
INCIDENT = "ccf6c1f4-41d8-5ac2-aac1-72e4951524a1"


def state(sample: int = 3) -> AssetState:
    """Return a state with every field set to something of its own."""
    return AssetState(
        threshold=ThresholdState(
            "spot", 0.1 + 0.2, 18_233, (1 / 3, -0.0, 5e-324), np.arange(sample, dtype=np.float32), (0.5, 3.25)
        ),
        incident=IncidentState(2**64 - 1, 3, TS, TS + 1, INCIDENT, "critical", "vibration", 8.3, 12, 0.1 + 0.7, 5),
        judged_ms=TS,
        reset="token-1",
        sensors=SensorState((SensorFault("flow", "stuck", TS, INCIDENT, 2, 7, True),), TS, 17),
    )


def test_states_are_read_back_exactly() -> None:
    """Every float survives bit for bit, None stays None."""
    for expected in (state(), AssetState(ThresholdState("mad", None, 0), IncidentState(), -1)):
        epoch, found = decode_state(encode_state(expected, 41))
        assert 41 == epoch
        np.testing.assert_array_equal(expected.threshold.sample, found.threshold.sample)
        assert np.float32 == found.threshold.sample.dtype
        empty = np.empty(0, np.float32)
        assert [repr(replace(each, threshold=replace(each.threshold, sample=empty))) for each in (expected, found)] == [
            repr(replace(expected, threshold=replace(expected.threshold, sample=empty)))
        ] * 2


def test_a_state_of_the_first_schema_is_read() -> None:
    """States written before scores waited and limits were set: nothing waits, no limit."""
    _, epoch, judged_ms, reset, threshold, incident, _ = msgpack.unpackb(encode_state(state(), 41))
    found_epoch, found = decode_state(msgpack.packb([1, epoch, judged_ms, reset, threshold[:-1], incident[:-1]]))
    assert 41 == found_epoch
    assert replace(state().incident, rearm=None, unusual=0) == found.incident
    assert SensorState() == found.sensors
    assert () == found.threshold.pending
    assert state().threshold.numbers == found.threshold.numbers
    for odd in ([1], [1, epoch, judged_ms, reset, threshold, incident], [1, epoch, judged_ms, reset, None, None]):
        with pytest.raises(DecodeError, match="bad-state"):
            decode_state(msgpack.packb(odd))


def test_a_state_is_at_most_4_kb() -> None:
    """The most scores the config allows fit, with 16 numbers and names of usual length."""
    full = state(900 - 400)
    full = replace(full, threshold=replace(full.threshold, numbers=(1 / 3,) * 16, pending=(0.5,) * 400))
    assert len(encode_state(full, 2**40)) <= 4_096


def test_foreign_bytes_are_no_state() -> None:
    """Cut, changed or foreign bytes raise bad-state, never anything else."""
    value = encode_state(state(), 1)
    later = msgpack.packb([99, *msgpack.unpackb(value)[1:]])
    for odd in [value[:i] for i in range(len(value))] + [b"\x90", b"{}", value + b"\x00", later, encode_positions({})]:
        with pytest.raises(DecodeError) as caught:
            decode_state(odd)
        assert "bad-state" == caught.value.code


def test_positions_are_read_back() -> None:
    """Positions survive; the bytes don't depend on the order they were given in."""
    positions = {Partition("b", 1): Position(5, 9, 2), Partition("a", 1): Position(0, 2**62, 2)}
    assert positions == decode_positions(encode_positions(positions))
    assert encode_positions(positions) == encode_positions(dict(reversed(positions.items())))
    for odd in (b"", b"\x90", msgpack.packb([1, [["a", 1, 2]]]), msgpack.packb([2, []])):
        with pytest.raises(DecodeError, match="bad-positions"):
            decode_positions(odd)


def test_offset_metadata_is_read_back_and_foreign_text_is_not() -> None:
    """Only text written by this program gives a position; anything else is None."""
    assert "sd1:12:3" == encode_metadata(Position(5, 12, 3))
    assert (12, 3) == decode_metadata("sd1:12:3")
    for odd in (None, "", "sd1:12", "sd2:1:1", "sd1:-1:2", "sd1:1:2\n", "sd1:\u0661:2", "consumer moved by hand"):
        assert decode_metadata(odd) is None
