from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import msgpack  # type: ignore[import-untyped] # it ships no types
import numpy as np
import pytest

from stream_detector.codec import (
    ReadingDecoder,
    category_code,
    encode_reading,
)
from stream_detector.config import ChannelConfig, InputConfig
from stream_detector.types import (
    DeadLetter,
    MessageBatch,
    Partition,
    PlainMessage,
    ReadingBatch,
)

TS = 1_583_748_873_000
PARTITION = Partition("pump.readings", 3)
CHANNELS = {name: ChannelConfig() for name in ("vibration", "temperature", "current")}
NAN = math.nan


def decode(
    *values: object,
    key: bytes | None = b"pump-1",
    headers: tuple[tuple[str, bytes], ...] = (),
    channels: Mapping[str, ChannelConfig] = CHANNELS,
    **config: Any,
) -> tuple[ReadingBatch | None, list[DeadLetter]]:
    """Decode values (bytes as they are, None as a tombstone, anything else as JSON) as one batch."""
    raw = [value if value is None or isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    messages = [PlainMessage(100 + i, TS + i, key, value, headers) for i, value in enumerate(raw)]
    decoder = ReadingDecoder(InputConfig(topic=PARTITION.topic, **config), channels)
    return decoder.decode(MessageBatch(PARTITION, messages))


def reading(*values: object, **kwargs: Any) -> ReadingBatch:
    """Decode values that are all readings."""
    found, letters = decode(*values, **kwargs)
    assert [] == [(letter.code, letter.detail) for letter in letters]
    assert found is not None
    return found


def reason(value: object, **kwargs: Any) -> tuple[str, str]:
    """Decode one value that is a dead letter; return its code and detail."""
    found, letters = decode(value, **kwargs)
    assert found is None
    assert 1 == len(letters)
    return letters[0].code, letters[0].detail


def message(**changes: object) -> dict[str, object]:
    """Return a reading's fields, changed."""
    return {"asset": "a", "ts": TS, "values": {"vibration": 0.5}} | changes


def same(expected: object, actual: object) -> None:
    """Assert that arrays are equal, NaN to NaN."""
    np.testing.assert_array_equal(np.array(expected), np.array(actual))


def test_values_under_values_and_beside_ts_are_the_same_reading() -> None:
    """Channels may be nested or at the top level; unknown fields are ignored; columns are in config order."""
    found = reading(
        {"asset": "a", "ts": TS, "values": {"current": 1.5, "vibration": 0.5, "temperature": 79, "x": "y"}},
        {"asset": "a", "ts": TS, "temperature": 79, "vibration": 0.5, "current": 1.5, "site": [1]},
    )
    same([[0.5, 79.0, 1.5]] * 2, found.values)
    same([TS, TS], found.ts_ms)
    assert ["a", "a"] == found.assets
    assert found.reading is None
    assert found.interval_ms is None


def test_a_batch_keeps_offsets_times_and_messages() -> None:
    """Every reading knows its message, offset and the record's own time."""
    found = reading(message(), message(ts=TS + 0.25))
    same([100, 101], found.offsets)
    same([TS, TS + 1], found.ingest_ms)
    same([TS, TS + 0.25], found.ts_ms)
    assert [100, 101] == [each.offset for each in found.messages]
    assert PARTITION == found.partition


def test_a_subset_of_the_channels_leaves_the_others_unknown() -> None:
    """A channel left out or null is NaN."""
    found = reading(message(), message(values={"vibration": None, "current": 2}))
    same([[0.5, NAN, NAN], [NAN, NAN, 2.0]], found.values)


def test_a_channel_found_twice_is_taken_from_values() -> None:
    """`values` wins over the top level, channel by channel."""
    same([[1.0, 3.0, NAN]], reading(message(values={"vibration": 1.0}, vibration=2.0, temperature=3.0)).values)


@pytest.mark.parametrize("count", [1, 50])
def test_field_names_are_mapped(count: int) -> None:
    """Each topic may have names of its own for every field."""
    fields = {"asset": "machine", "ts": "time", "values": "data", "vibration": "acc"}
    found = reading(*[{"machine": "m", "time": TS, "data": {"acc": 1.0}, "current": 2.0}] * count, fields=fields)
    same([[1.0, NAN, 2.0]] * count, found.values)
    assert ["m"] * count == found.assets


@pytest.mark.parametrize("value", [{"ts": TS, "vibration": 1}, {"asset": None, "ts": TS, "vibration": 1}])
def test_the_key_names_the_asset_when_the_value_does_not(value: object) -> None:
    """A missing or null asset is taken from the key."""
    assert ["pump-ü"] * 20 == reading(*[value] * 20, key="pump-ü".encode()).assets


@pytest.mark.parametrize(
    ("ts", "ms"),
    [
        (TS, TS),
        (0, 0),
        (1583748873000.125, 1583748873000.125),
        ("2020-03-09T10:14:33Z", TS),
        ("2020-03-09T12:14:33.250+02:00", TS + 250),
        ("2020-03-09 10:14:33.000125+00:00", TS + 0.125),
        ("20200309T101433Z", TS),
        ("2020-03-09T10:14:33z", TS),
        ("2020-03-09t10:14:33Z", TS),
        ("2020-03-09 10:14:33 +00:00", TS),
        ("2020-03-09 10:14:33 UTC", TS),
        ("2020-03-09 10:14:33 +0000 UTC", TS),
        ("2020-03-09T10:14:33,25Z", TS + 250),
        ("2020-03-09T10:14:33.2501239Z", TS + 250.123),
        ("2020-03-09T10:14.55Z", TS),
        ("2020-03-09T10:14Z", TS - 33_000),
        ("2020-03-09T12+02", TS - 33_000 - 14 * 60_000),
        ("2020-03-09T12,5+02", TS - 33_000 + 16 * 60_000),
        ("20200309T121433+0200", TS),
        ("2020-W11-1T10:14:33Z", TS),
        ("2020-03-08T24:00:00Z", TS - 33_000 - 14 * 60_000 - 36_000_000),
        ("2020-03-09T05:14:33\N{MINUS SIGN}05:00", TS),
        ("2020-03-09T11:14:33+01:00[Europe/Berlin]", TS),
        (" 2020-03-09T10:14:33Z\n", TS),
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_timestamps(ts: object, ms: float, count: int) -> None:
    """UNIX ms and ISO 8601 with an offset are event times."""
    same([ms] * count, reading(*[message(ts=ts)] * count).ts_ms)


@pytest.mark.parametrize(
    ("ts", "told"),
    [
        ("2020-03-09T10:14:33", "append Z or ±hh:mm"),
        ("2020-03-09", "append T00:00:00 and Z or ±hh:mm"),
        ("20200309", "as a number"),
        ("1512010100000", "as a number"),
        ("1583748873.5", "as a number"),
        ("20200309101433Z", "is not ISO 8601"),
        ("2020-03-09T10:14:33 CET", "a zone's name has several"),
        ("2020-03-09T10:14:33Z soon", "'soon' follows the offset"),
        ("2020-03-09T25:00:00Z", "hour must be in 0..23"),
        ("2020-03-09T24:00:01Z", "hour must be in 0..23"),
        ("2020-03-09T23:59:60Z", "second must be in 0..59"),
        ("2020-02-30T10:00Z", "day is out of range"),
        ("2020-03-09T10:14:33+24:00", "not below 24 h"),
        ("0001-01-01T00:00:00+01:00", "outside 1970..2199"),
        ("09.03.2020 10:14:33Z", "is not ISO 8601"),
        ("2020/03/09 10:14:33Z", "is not ISO 8601"),
        ("", "is not ISO 8601"),
        ("NaN", "is not ISO 8601"),
        ("1583748873000", "as a number"),
        ("soon", "'soon' is not ISO 8601"),
        (TS * 1000, "divide microseconds by 1000"),
        (-1, "-1 lies outside 1970..2199"),
        ("1969-12-31T23:59:59Z", "outside 1970..2199"),
        ("2200-01-01T00:00:00Z", "outside 1970..2199"),
        (True, "true"),
        ([TS], "a list"),
    ],
)
def test_a_bad_timestamp_tells_the_mend(ts: object, told: str) -> None:
    """The detail of bad-timestamp says what was found or how to mend it."""
    code, detail = reason(message(ts=ts))
    assert "bad-timestamp" == code
    assert told in detail


@pytest.mark.parametrize(
    ("value", "code", "told"),
    [
        (None, "empty", "tombstone"),
        (b"", "empty", "zero bytes"),
        (b"{", "not-json", "line 1"),
        (b"NaN", "not-json", "line 1"),
        (b'{"ts": NaN, "asset": "a", "vibration": 1}', "bad-timestamp", "nan lies outside"),
        (b'{"ts": 1, "asset": NaN, "vibration": 1}', "bad-asset", "nan"),
        (b'{"ts": 1, "asset": "a", NaN: 1}', "not-json", "line 1"),
        (b'{"ts": 1, "asset": "a", "vibration": nano}', "not-json", "line 1"),
        (b'{"ts": 1, "asset": "a", "vibration": NaN', "not-json", "line 1"),
        (b'{"ts": 1, "asset": "a", "x": "\\ud800", "vibration": NaN}', "not-json", "surrogate"),
        (b'{"ts": 1, "asset": "a\xff", "vibration": NaN}', "not-json", "UTF-8"),
        (b"[" * 5000 + b"NaN" + b"]" * 5000, "not-json", "depth"),
        (b'{"ts": 1, "asset": "a", "vibration": NaN, "x": 1' + b"0" * 5000 + b"}", "not-json", "infinity"),
        (
            b'{"ts": 1, "asset": "a", "vibration": NaN, "current": 1' + b"0" * 200 + b"}",
            "not-a-number",
            "'vibration' is nan",
        ),
        (message(values={"vibration": [1, "NaN"]}, interval_ms=1), "not-a-number", "sample 1 of 'vibration' is 'NaN'"),
        ([1], "not-an-object", "a list"),
        (message(asset=""), "bad-asset", "1 to 256"),
        (message(asset="x" * 257), "bad-asset", "1 to 256"),
        (message(asset=7), "bad-asset", "7"),
        ({"asset": "a", "values": {"vibration": 1}}, "no-timestamp", "'ts' is missing"),
        (message(values={}), "no-values", "'vibration', 'temperature', 'current'"),
        (message(values=3), "no-values", "'values' is 3"),
        (message(values={"vibration": True}), "not-a-number", "'vibration' is true"),
        (message(values={"vibration": "0.5"}), "not-a-number", "'vibration' is '0.5'"),
        (message(values={"vibration": {}}), "not-a-number", "an object"),
        (message(values={"vibration": 3.5e38}), "out-of-range", "3.5e+38"),
        (message(values={"vibration": 1, "current": "x"}), "not-a-number", "'current'"),
        (message(values={"vibration": []}, interval_ms=1), "bad-block", "empty"),
        (message(values={"vibration": [1, 2]}), "bad-block", "'interval_ms' is missing"),
        (message(values={"vibration": [1, 2]}, interval_ms=0), "bad-block", "'interval_ms' is 0"),
        (message(values={"vibration": [1, None]}, interval_ms=1), "bad-block", "sample 1 of 'vibration' is null"),
        (message(values={"vibration": [1, 2]}, interval_ms=1e300), "bad-block", "after 2199"),
        (b" " * 2_000_000, "too-large", "2000000 bytes"),
    ],
)
def test_dead_letters_say_why(value: object, code: str, told: str) -> None:
    """Each fault has its code and a detail that names what was found."""
    found, detail = reason(value)
    assert code == found
    assert told in detail


def test_without_asset_and_key_there_is_no_asset() -> None:
    """Neither value nor key names the asset."""
    assert "no-asset" == reason({"ts": TS, "vibration": 1}, key=None)[0]
    assert "bad-asset" == reason({"ts": TS, "vibration": 1}, key=b"\xff")[0]


def test_the_valid_range_includes_its_ends() -> None:
    """A value outside [low, high] is out of range, in single readings and in blocks."""
    channels = {"t": ChannelConfig(valid=(-10.0, 10.0))}
    same([[-10.0], [10.0]], reading(message(values={"t": -10}), message(values={"t": 10}), channels=channels).values)
    code, detail = reason(message(values={"t": 10.5}), channels=channels)
    assert ("out-of-range", "'t' is 10.5; valid is [-10.0, 10.0]") == (code, detail)
    assert "out-of-range" == reason(message(values={"t": [1, 11]}, interval_ms=1), channels=channels)[0]


@pytest.mark.parametrize("count", [1, 20])
def test_categories_travel_as_codes(count: int) -> None:
    """Strings and integers become 24-bit codes; other types are no category."""
    channels = {"amount": ChannelConfig(), "protocol": ChannelConfig(kind="category", cell="last")}
    found = reading(
        *[message(values={"amount": 12.5, "protocol": "tcp"}), message(values={"amount": 1, "protocol": 80})] * count,
        channels=channels,
    )
    expected = [[12.5, float(category_code("tcp"))], [1.0, float(category_code("80"))]] * count
    same(expected, found.values)
    assert (found.values.astype(np.float32) == found.values).all()
    odds: list[object] = [True, 1.5, ["tcp"], {}]
    for odd in odds:
        assert "not-a-number" == reason(message(values={"protocol": odd}), channels=channels)[0]


def test_category_codes_are_part_of_the_contract() -> None:
    """The code is the low 24 bits of the CRC-32 of the UTF-8 bytes: artifacts rely on it."""
    assert 0xF43926 == category_code("123456789")  # the CRC-32 check value, CBF43926
    assert 0 == category_code("")


def test_blocks_become_rows() -> None:
    """A block's samples follow each other by interval_ms; shorter channels are padded, scalars go in the first row."""
    found = reading(
        message(),
        message(values={"vibration": [1, 2, 3], "temperature": [7.5, 8.5], "current": 9}, interval_ms=0.5),
        message(ts=TS + 10),
    )
    assert found.reading is not None
    assert found.interval_ms is not None
    same([0, 1, 1, 1, 2], found.reading)
    same([TS, TS, TS + 0.5, TS + 1.0, TS + 10], found.ts_ms)
    same([NAN, 0.5, NAN], found.interval_ms)
    same([[0.5, NAN, NAN], [1, 7.5, 9], [2, 8.5, NAN], [3, NAN, NAN], [0.5, NAN, NAN]], found.values)
    same([100, 101, 102], found.offsets)


def test_blocks_may_be_binary_in_msgpack() -> None:
    """`bin` is little-endian float32."""
    raw = struct.pack("<3f", 0.25, -1.5, 3.0)
    fields = {"asset": "a", "ts": TS, "interval_ms": 2, "values": {"vibration": raw}}
    found = reading(msgpack.packb(fields), format="msgpack")
    same([0.25, -1.5, 3.0], found.values[:, 0])
    same([TS, TS + 2, TS + 4], found.ts_ms)
    for odd in (raw[:-1], b""):
        fields["values"] = {"vibration": odd}
        assert "bad-block" == reason(msgpack.packb(fields), format="msgpack")[0]
    fields["values"] = {"vibration": struct.pack("<f", NAN)}
    assert "not-a-number" == reason(msgpack.packb(fields), format="msgpack")[0]


def test_a_block_may_not_blow_up_memory() -> None:
    """A block whose rows over all channels exceed four values a byte of the limit is too large."""
    channels = {f"c{i}": ChannelConfig() for i in range(100)}
    value = msgpack.packb({"asset": "a", "ts": TS, "interval_ms": 1, "c0": bytes(400)})
    assert 100 == len(reading(value, channels=channels, format="msgpack", max_message_bytes=2_500).values)
    assert "too-large" == reason(value, channels=channels, format="msgpack", max_message_bytes=2_400)[0]


@pytest.mark.parametrize("name", [b"application/msgpack", b"Application/X-MsgPack; q=1", b"application/vnd.msgpack"])
@pytest.mark.parametrize("count", [1, 20])
def test_the_content_type_header_chooses_the_format(name: bytes, count: int) -> None:
    """With format auto, the header decides."""
    found = reading(*[msgpack.packb(message())] * count, headers=(("trace", b"1"), ("content-type", name)))
    same([0.5] * count, found.values[:, 0])


@pytest.mark.parametrize(
    "name",
    [
        b"application/json",
        b'"application/json"',
        b"'application/json'",
        b' "application/json;charset=UTF-8" ',
        b"text/json",
        b"Application/CloudEvents+JSON; charset=utf-8",
        b"application/vnd.kafka.json.v2+json",
        b"",
        b'""',
        b" ",
        b"; charset=utf-8",
        None,
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_what_producers_call_json_is_json(name: bytes | None, count: int) -> None:
    """Quoted, as frameworks leave it that encode headers as JSON; with a suffix; or nothing at all."""
    found = reading(*[message()] * count, headers=(("content-type", name),))
    same([0.5] * count, found.values[:, 0])


def test_a_msgpack_suffix_counts() -> None:
    """As the one of JSON does."""
    headers = (("content-type", b'"application/vnd.plant+msgpack"'),)
    same([0.5], reading(msgpack.packb(message()), headers=headers).values[:, 0])


@pytest.mark.parametrize("name", [b"text/plain", b"json", b"+json", b"application/json2", b"application/+xml"])
def test_other_content_types_stay_unknown(name: bytes) -> None:
    """Nothing is guessed from the value."""
    assert "unknown-content-type" == reason(message(), headers=(("content-type", name),))[0]


def test_an_unknown_content_type_is_a_dead_letter_only_in_auto() -> None:
    """A configured format doesn't look at the header."""
    headers = (("content-type", b"application/avro"),)
    assert "unknown-content-type" == reason(message(), headers=headers)[0]
    assert ["a"] == reading(message(), headers=headers, format="json").assets


def test_messages_of_both_formats_may_be_mixed() -> None:
    """Order is kept when formats alternate in a batch."""
    values = [float(i) for i in range(40)]
    plain = [message(values={"vibration": value}) for value in values]
    messages = [
        PlainMessage(i, TS, b"k", msgpack.packb(each), [("content-type", b"application/msgpack")])
        if i % 2
        else PlainMessage(i, TS, b"k", json.dumps(each).encode())
        for i, each in enumerate(plain)
    ]
    found, letters = ReadingDecoder(InputConfig(topic="t"), CHANNELS).decode(MessageBatch(PARTITION, messages))
    assert found is not None
    assert [] == letters
    same(values, found.values[:, 0])


def test_bad_messages_do_not_move_good_ones() -> None:
    """Readings and dead letters are both in offset order."""
    found, letters = decode(*[message(ts=TS + i) if i % 3 else b"?" for i in range(30)])
    assert found is not None
    expected = [i for i in range(30) if i % 3]
    same([TS + i for i in expected], found.ts_ms)
    same([100 + i for i in expected], found.offsets)
    assert [100 + i for i in expected] == [each.offset for each in found.messages]
    assert [100 + i for i in range(0, 30, 3)] == [letter.message.offset for letter in letters]


def test_an_empty_batch_has_no_readings() -> None:
    """Nothing in, nothing out."""
    assert (None, []) == decode()


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_encoded_readings_are_decoded(form: Any) -> None:
    """encode_reading writes what the decoder reads, blocks and arrays included."""
    samples = np.array([0.5, 0.25, 4.0])
    found = reading(
        encode_reading("a", TS, {"vibration": 0.1, "current": 2}, format=form),
        encode_reading(None, TS + 0.5, {"vibration": samples, "current": [1.1]}, interval_ms=0.1, format=form),
        format=form,
    )
    assert ["a", "pump-1"] == found.assets
    same([[0.1, NAN, 2.0], [0.5, NAN, 1.1], [0.25, NAN, NAN], [4.0, NAN, NAN]], found.values)


def test_encode_reading_writes_the_documented_form() -> None:
    """Whole numbers are written without a point, the asset may be left to the key."""
    expected = b'{"asset":"a","ts":1583748873000,"values":{"vibration":0.5,"protocol":"tcp"}}'
    assert expected == encode_reading("a", float(TS), {"vibration": 0.5, "protocol": "tcp"})


@pytest.mark.parametrize("value", [NAN, math.inf, [], [1.0, NAN], np.zeros((2, 2))])
def test_encode_reading_refuses_what_no_reader_takes(value: Any) -> None:
    """Values that would be dead letters are the producer's mistake."""
    with pytest.raises(ValueError, match="vibration"):
        encode_reading("a", TS, {"vibration": value}, interval_ms=1)
    with pytest.raises(ValueError, match="interval_ms"):
        encode_reading("a", TS, {"vibration": [1.0]})


NOT_NUMBERS = ["NaN", "-NaN", "nan", "-nan(ind)", "nan(0x8000)", "Infinity", "-Infinity", "inf", "+inf", "-INF"]
NOT_NUMBERS += ["1.#QNAN", "-1.#IND00", "1.#INF"]


@pytest.mark.parametrize("literal", NOT_NUMBERS)
@pytest.mark.parametrize("count", [1, 20])
def test_a_literal_that_is_no_number_is_refused_like_its_name(literal: str, count: int) -> None:
    """Python, C and others write it without quotation marks: asset, time and channel are known all the same."""
    document = '{"asset": "a", "ts": %d, "values": {"current": 1.5, "vibration": %s}, "note": "NaN, nan, \\"NaN"}'
    as_literal, as_text = (document % (TS, one) for one in (literal, json.dumps(literal)))
    for value in (as_literal, as_text):
        batch, letters = decode(*[value.encode()] * count)
        assert batch is None
        assert [("not-a-number", "a", "vibration")] * count == [(one.code, one.asset, one.channel) for one in letters]


@pytest.mark.parametrize("literal", NOT_NUMBERS)
def test_in_a_block_too(literal: str) -> None:
    """The sample is named, and the channel counts as broken."""
    document = '{"asset": "a", "ts": 1, "interval_ms": 1, "values": {"current": 1, "vibration": [1, %s ,2]}}'
    for one in (literal, json.dumps(literal)):
        (letter,) = decode((document % one).encode())[1]
        assert ("not-a-number", "a", "vibration") == (letter.code, letter.asset, letter.channel)
        assert "sample 1 of 'vibration'" in letter.detail


def test_a_literal_in_a_field_that_nobody_reads_is_no_matter() -> None:
    """As any value there."""
    same([[1.0, NAN, NAN]], reading(b'{"asset": "a", "ts": 1, "note": [NaN], "vibration": 1}').values)


def test_a_category_is_never_such_a_literal() -> None:
    """A missing category, as pandas has it, isn't the category "NaN"."""
    channels = {"protocol": ChannelConfig(kind="category", cell="last")}
    value = b'{"asset": "a", "ts": 1, "protocol": NaN}'
    assert "not-a-number" == reason(value, channels=channels)[0]
