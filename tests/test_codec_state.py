from __future__ import annotations

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
from stream_detector.config import most_scores
from stream_detector.errors import DecodeError
from stream_detector.types import (
    Adaptation,
    AppliedControls,
    AssetState,
    AuditedLevel,
    BudgetState,
    IncidentState,
    Partition,
    Position,
    Refused,
    SensorFault,
    SensorState,
    ThresholdState,
    replace,
)

TS = 1_583_748_873_000
INCIDENT = "ccf6c1f4-41d8-5ac2-aac1-72e4951524a1"


BUDGET = BudgetState(
    start_ms=TS,
    set_ms=TS + 1,
    since_ms=TS + 2,
    elapsed_ms=1 / 3,
    shadow=0.1 + 0.2,
    opened=2 / 3,
    promised_ms=1 / 7,
    opened_ever=2**20,
    recent=2**64 - 1,
    quiet=99,
    rarer=1 / 9,
    rarer_recent=2**63,
    rarer_quiet=98,
)


def state(sample: int = 3) -> AssetState:
    """Return a state with every field set to something of its own."""
    return AssetState(
        threshold=ThresholdState(
            method="spot",
            level=0.1 + 0.2,
            seen=18_233,
            numbers=(1 / 3, -0.0, 5e-324),
            sample=np.arange(sample, dtype=np.float32),
            pending=np.array([0.5, 3.25], "<f4").tobytes(),
        ),
        incident=IncidentState(
            recent=2**64 - 1,
            quiet=3,
            first_ms=TS,
            opened_ms=TS + 1,
            incident=INCIDENT,
            severity="critical",
            leader="vibration",
            peak=8.3,
            windows=12,
            rearm=0.1 + 0.7,
            unusual=5,
        ),
        judged_ms=TS,
        sensors=SensorState(
            faults=(
                SensorFault(
                    channel="flow", fault="stuck", since_ms=TS, incident=INCIDENT, quiet=2, windows=7, by_log=True
                ),
            ),
            refused=Refused(fault="clock", channel="", count=3, good=1, open=True, since_ms=TS),
        ),
        adaptation=Adaptation(
            serial=7,
            shift=np.arange(2, dtype=np.float32),
            anchor=np.arange(2, dtype=np.float32) + 1,
            usual=np.arange(2, dtype=np.float32) + 2,
            waiting=np.arange(2, dtype=np.float32) + 3,
            sums=np.arange(2, dtype=np.float32) + 4,
            count=3,
            calm_ms=TS + 2,
            flat_ms=TS + 3,
            asked=True,
            scores=(0.5, 0.25),
            logs=1 / 3,
            normal=2,
            low=1,
            came_ms=TS + 5,
            came=0.1 + 0.2,
            past=(0.7, 1 / 7),
            settling=True,
        ),
        applied=AppliedControls(reset="token-1", pinned=1 / 3, accepted="token-2", rolled="token-3"),
        audited=AuditedLevel(level=0.1 + 0.2, at_ms=TS + 4),
        model="20201103-1f3c0a2b",
    )


def arrays(one: AssetState) -> list[list[float]]:
    """Return the arrays of a state."""
    moved = one.adaptation
    parts = (one.threshold.sample, moved.shift, moved.anchor, moved.usual, moved.waiting, moved.sums)
    assert {np.dtype(np.float32)} == {part.dtype for part in parts}
    return [part.tolist() for part in parts]


def rest(one: AssetState) -> str:
    """Return all of a state but its arrays."""
    none = np.empty(0, np.float32)
    moved = replace(one.adaptation, shift=none, anchor=none, usual=none, waiting=none, sums=none)
    return repr(replace(one, threshold=replace(one.threshold, sample=none), adaptation=moved))


def test_states_are_read_back_exactly() -> None:
    """Every float survives bit for bit, None stays None."""
    for expected in (
        state(),
        AssetState(threshold=ThresholdState(method="mad", level=None, seen=0), incident=IncidentState(), judged_ms=-1),
    ):
        epoch, found = decode_state(encode_state(expected, 41))
        assert 41 == epoch
        assert arrays(expected) == arrays(found)
        assert rest(expected) == rest(found)


def test_budgets_are_read_back_exactly() -> None:
    """What was promised and what came of it, the shadow's verdicts at both levels included."""
    expected = replace(state(), budget=BUDGET)
    _, found = decode_state(encode_state(expected, 41))
    assert found.budget == BUDGET


def test_a_state_names_its_model_and_a_point_does_not() -> None:
    """Schema 7 has the model; points of the audit topic name it in a field of theirs, and stay as 0.2 wrote them."""
    assert msgpack.unpackb(encode_state(state(), 41))[0] == 7
    point = encode_state(replace(state(), model=""), 41)
    assert msgpack.unpackb(point)[0] == 5
    assert decode_state(point)[1].model == ""
    assert decode_state(encode_state(state(), 41))[1].model == "20201103-1f3c0a2b"
    fields = msgpack.unpackb(encode_state(state(), 41))
    fields[-2] = [7]
    with pytest.raises(DecodeError, match="model"):
        decode_state(msgpack.packb(fields))


def test_states_of_earlier_schemas_are_read() -> None:
    """Schema 1 lacked what waits and limits, 2 what is known of sensors, 3 what has moved and was told: none of it.

    Schema 4 lacked how scores went: the block that is being filled begins anew, the rest stays.
    """
    _, epoch, judged_ms, reset, threshold, incident, sensors, moved, applied = msgpack.unpackb(
        encode_state(replace(state(), model=""), 41)
    )
    now = state().adaptation
    then = Adaptation(
        serial=now.serial,
        shift=now.shift,
        anchor=now.anchor,
        usual=now.usual,
        waiting=now.waiting,
        calm_ms=now.calm_ms,
        flat_ms=now.flat_ms,
        asked=now.asked,
        scores=now.scores,
    )
    found_epoch, found = decode_state(
        msgpack.packb([4, epoch, judged_ms, reset, threshold, incident, sensors, moved[:-1], applied])
    )
    expected = replace(state(), adaptation=then, model="")
    assert (41, arrays(expected), rest(expected)) == (found_epoch, arrays(found), rest(found))
    fields = {
        3: [epoch, judged_ms, reset, threshold, incident, sensors],
        2: [epoch, judged_ms, reset, threshold, incident],
        1: [epoch, judged_ms, reset, threshold[:-1], incident[:-1]],
    }
    expected = replace(
        state(), adaptation=Adaptation(), applied=AppliedControls(reset="token-1"), audited=AuditedLevel(), model=""
    )
    for schema, stored in fields.items():
        if schema == 2:
            expected = replace(expected, sensors=SensorState(), incident=replace(expected.incident, unusual=0))
        elif schema == 1:
            threshold_then = replace(expected.threshold, pending=b"")
            expected = replace(expected, threshold=threshold_then, incident=replace(expected.incident, rearm=None))
        found_epoch, found = decode_state(msgpack.packb([schema, *stored]))
        assert 41 == found_epoch
        assert (arrays(expected), rest(expected)) == (arrays(found), rest(found))
    for odd in ([1], [1, *fields[2]], [1, epoch, judged_ms, reset, None, None], [3, *fields[2]], [4, *fields[3]]):
        with pytest.raises(DecodeError, match="bad-state"):
            decode_state(msgpack.packb(odd))


def test_a_state_is_at_most_4_kb() -> None:
    """The most scores that the config allows beside so many columns fit, with a budget and names of usual length."""
    for columns in (1, 8, 55, 72):
        scores = most_scores(columns)
        vector = np.arange(columns, dtype=np.float32)
        full = state(scores - 75)
        full = replace(
            full,
            threshold=replace(full.threshold, numbers=(1 / 3,) * 11, pending=np.full(75, 0.5, "<f4").tobytes()),
            adaptation=Adaptation(
                serial=9,
                shift=vector,
                anchor=vector,
                usual=vector,
                waiting=np.append(vector, 1),
                sums=vector,
                count=3,
                calm_ms=TS,
                flat_ms=TS,
                asked=True,
                scores=(0.5,) * 64,
                logs=1 / 3,
                normal=15,
                low=15,
                came_ms=TS,
                came=1 / 3,
                past=(1 / 3, 1 / 3),
                settling=True,
            ),
            sensors=SensorState(
                faults=(
                    SensorFault(
                        channel="Thermocouple",
                        fault="out-of-range",
                        since_ms=TS,
                        incident=INCIDENT,
                        quiet=2,
                        windows=7,
                        by_log=True,
                    ),
                )
                * 4,
                refused=Refused(fault="out-of-range", channel="Thermocouple", count=5, good=2, open=True, since_ms=TS),
            ),
            applied=AppliedControls(reset="0" * 16, pinned=1 / 3, accepted="0" * 16, rolled="0" * 16),
            audited=AuditedLevel(level=0.3, at_ms=TS),
            budget=BUDGET,
        )
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
