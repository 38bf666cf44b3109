from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence

import msgpack  # type: ignore[import-untyped] # it ships no types
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.codec import (
    ReadingDecoder,
    decode_alert,
    decode_metadata,
    decode_positions,
    decode_state,
    encode_reading,
    encode_state,
)
from stream_detector.config import ChannelConfig, InputConfig
from stream_detector.errors import DecodeError
from stream_detector.types import (
    DEAD_LETTER_CODES,
    AppliedControls,
    AssetState,
    IncidentState,
    MessageBatch,
    Partition,
    PlainMessage,
    ThresholdState,
)
from tests.broken import BASE_MS, CHANNELS, EITHER, MSGPACK, broken

PARTITION = Partition("t", 0)
MIXED = {**CHANNELS, "protocol": ChannelConfig(kind="category", cell="last")}


def outcome(decoder: ReadingDecoder, messages: Sequence[PlainMessage]) -> dict[int, object]:
    """Decode one batch; return by offset the dead letter's reason, or asset, times, values (as text) and interval."""
    found, letters = decoder.decode(MessageBatch(PARTITION, messages))
    result: dict[int, object] = {}
    for letter in letters:
        assert letter.code in DEAD_LETTER_CODES
        assert letter.detail
        assert letter.message.offset not in result
        result[letter.message.offset] = (letter.code, letter.detail)
    if found is not None:
        rows = np.arange(len(found.assets)) if found.reading is None else found.reading
        assert np.isfinite(found.ts_ms).all()
        assert not np.isinf(found.values).any()
        for m, (asset, offset) in enumerate(zip(found.assets, found.offsets.tolist(), strict=True)):
            mine = rows == m
            interval = math.nan if found.interval_ms is None else found.interval_ms[m]
            assert offset not in result
            assert found.messages[m].offset == offset
            values = repr(found.values[mine].tolist())
            result[offset] = (asset, found.ts_ms[mine].tolist(), values, repr(float(interval)))
    assert sorted(result) == [message.offset for message in messages]
    return result


@pytest.mark.parametrize(("count", "seed", "share"), [(10_000, 1, 0.5), (2_000, 2, 0.99), (2_000, 3, 0.0)])
def test_every_message_is_a_reading_or_a_dead_letter(count: int, seed: int, share: float) -> None:
    """Of broken and good messages mixed, each has its fate, and every good one comes through with its values."""
    cases = broken(count, seed, good_share=share)
    results = outcome(ReadingDecoder(InputConfig(topic="t"), CHANNELS), [case.message for case in cases])
    for i, case in enumerate(cases):
        result = results[i]
        assert isinstance(result, tuple)
        if case.code is None:
            assert case.values is not None
            columns = [case.values.get(name, math.nan) for name in CHANNELS]
            lists = [column if isinstance(column, list) else [column] for column in columns]
            rows = [
                [float(column[k]) if k < len(column) else math.nan for column in lists]
                for k in range(max(map(len, lists)))
            ]
            assert (case.kind, case.asset, repr(rows)) == (case.kind, result[0], result[2])
            if case.good:
                assert case.ts_ms == result[1][0]
        elif case.code != EITHER:
            assert (case.kind, case.code) == (case.kind, result[0])


def test_a_batch_and_its_messages_one_by_one_agree() -> None:
    """The fast path gives what the slow one gives, whatever the batch size."""
    messages = [case.message for case in broken(3_000, seed=4, good_share=0.7)]
    decoder = ReadingDecoder(InputConfig(topic="t"), CHANNELS)
    expected: dict[int, object] = {}
    for message in messages:
        expected |= outcome(decoder, [message])
    for size in (7, 100, 3_000):
        found: dict[int, object] = {}
        for i in range(0, len(messages), size):
            found |= outcome(decoder, messages[i : i + size])
        assert expected == found


names = st.sampled_from(["vibration", "temperature", "current", "protocol", "other"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.floats(0, 100),
    st.text(max_size=5),
    st.binary(max_size=9),
)
objects = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
numbers = st.floats(-50, 500) | st.integers(-50, 500)
times = st.integers(BASE_MS, BASE_MS + 10_000) | st.floats(0, 7.2e12)
values = st.dictionaries(
    names, st.one_of(numbers, st.sampled_from(["tcp", "udp"]), st.lists(numbers, max_size=3), objects)
)
documents = st.one_of(
    objects,
    st.fixed_dictionaries(
        {},
        optional={
            "asset": st.sampled_from(["a", "b", "ü"]) | objects,
            "ts": times | st.just("2020-03-09T10:14:33Z") | objects,
            "values": values | objects,
            "interval_ms": st.floats(0.01, 10) | objects,
            "vibration": numbers | objects,
            "protocol": st.sampled_from(["tcp", 6]) | objects,
        },
    ),
    st.fixed_dictionaries({"asset": st.just("a"), "ts": times, "values": values}),
)


def packed(document: object) -> bytes:
    """Return a document as MessagePack."""
    value: bytes = msgpack.packb(document)
    return value


def as_json(document: object) -> bytes:
    """Return a document as JSON with Python's NaN and Infinity; bytes as hex."""
    return json.dumps(document, default=lambda found: found.hex()).encode()


messages = st.one_of(
    st.tuples(st.binary(max_size=60) | st.none(), st.just(())),
    st.tuples(documents.map(as_json), st.just(())),
    st.tuples(documents.map(packed), st.just(MSGPACK)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=6), st.sampled_from([None, b"k", b"\xff", b""]), st.integers(1, 4))
def test_anything_decodes_the_same_alone_and_among_others(
    drawn: list[tuple[bytes | None, tuple[tuple[str, bytes], ...]]], key: bytes | None, times: int
) -> None:
    """Arbitrary bytes and objects never raise; repeated so that the columns are used, the outcome is the same."""
    decoder = ReadingDecoder(InputConfig(topic="t"), MIXED)
    batch = [PlainMessage(i, -1, key, value, headers) for i, (value, headers) in enumerate(drawn * (4 * times))]
    together = outcome(decoder, batch)
    alone: dict[int, object] = {}
    for message in batch:
        alone |= outcome(decoder, [message])
    assert alone == together


@settings(max_examples=200, deadline=None)
@given(
    st.text(min_size=1, max_size=256).filter(lambda text: text.isprintable()),
    times,
    st.dictionaries(st.sampled_from(list(CHANNELS)), numbers, min_size=1),
    st.sampled_from(["json", "msgpack"]),
)
def test_readings_survive_the_way(asset: str, ts: float, drawn: dict[str, float], form: str) -> None:
    """What a producer encodes is what the decoder finds, exactly."""
    value = encode_reading(asset, ts, drawn, format=form)  # type: ignore[arg-type] # one of the two
    decoder = ReadingDecoder(InputConfig(topic="t", format=form), CHANNELS)  # type: ignore[arg-type] # one of the two
    found, letters = decoder.decode(MessageBatch(PARTITION, [PlainMessage(0, -1, None, value)]))
    assert [] == letters
    assert found is not None
    assert [asset] == found.assets
    assert [float(ts)] == found.ts_ms.tolist()
    assert repr([[float(drawn.get(name, math.nan)) for name in CHANNELS]]) == repr(found.values.tolist())


@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.floats(allow_nan=False),
    st.lists(st.floats(allow_nan=False), max_size=8),
    st.lists(st.floats(width=32, allow_nan=False), max_size=20),
    st.text(max_size=10),
    st.integers(0, 2**64 - 1),
)
def test_states_survive_the_store(
    level: float | None, numbers: list[float], sample: list[float], reset: str, recent: int
) -> None:
    """encode_state and decode_state are inverse, bit for bit."""
    threshold = ThresholdState(
        method="spot", level=level, seen=7, numbers=tuple(numbers), sample=np.array(sample, dtype=np.float32)
    )
    expected = AssetState(
        threshold=threshold,
        incident=IncidentState(recent=recent),
        judged_ms=BASE_MS,
        applied=AppliedControls(reset=reset),
    )
    epoch, found = decode_state(encode_state(expected, 3))
    assert 3 == epoch
    assert repr(expected) == repr(found)
    assert encode_state(expected, 3) == encode_state(found, 3)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | objects.map(packed) | objects.map(as_json))
def test_foreign_bytes_raise_decode_errors_only(value: bytes) -> None:
    """No bytes make a reader of kept or published things raise anything but DecodeError."""
    for reader in (decode_alert, decode_state, decode_positions):
        with contextlib.suppress(DecodeError):  # [1, []] is valid: no positions
            reader(value)
    assert decode_metadata(value.decode("latin-1")) is None
