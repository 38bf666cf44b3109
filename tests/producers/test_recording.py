"""Recordings and the messages they become."""

from __future__ import annotations

import msgpack
import numpy as np
import orjson
import pytest

from stream_detector.codec import ReadingDecoder
from stream_detector.config import ChannelConfig, InputConfig
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.errors import DataError
from stream_detector.types import MessageBatch, Partition, PlainMessage


def pump(**changes):
    """Three readings of a pump, a second apart; the second has no b."""
    parts = {
        "asset": "pump-1",
        "ts_ms": np.array([1000.0, 2000.0, 3000.0]),
        "values": {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([0.5, np.nan, 1.5])},
        "labels": np.array([0, 1, 0], np.int8),
    }
    return Recording(**{**parts, **changes})


def decode(recording, channels, fields=None, **options):
    """Return what the detector's own codec makes of a recording's messages."""
    messages = [
        PlainMessage(offset, -1, sent.key, sent.value, sent.headers)
        for offset, sent in enumerate(recording.messages(fields, **options))
    ]
    decoder = ReadingDecoder(InputConfig(topic="t", fields=fields or {}), channels)
    return decoder.decode(MessageBatch(Partition("t", 0), messages))


def test_rows_of_other_channels_are_left_out() -> None:
    """A row stays when it carries any channel asked for: a number, a word or a block."""
    recording = Recording(
        asset="a",
        ts_ms=np.arange(4.0),
        values={"t": np.array([1.0, np.nan, np.nan, 2.0]), "w": np.array([None, "x", None, None], dtype=object)},
        blocks={"v": [None, None, np.ones(2), None]},
        interval_ms=1.0,
    )
    asked = (["t"], ["w", "v"], ["nothing"], ["t", "w", "v"])
    assert [[0, 3], [1, 2], [], [0, 1, 2, 3]] == [recording.carrying(names).ts_ms.tolist() for names in asked]


def test_a_row_is_one_json_object_with_the_values_it_has():
    """A missing value is left out of the message; times that are whole ms are integers; labels never travel."""
    expected = [
        b'{"asset":"pump-1","ts":1000,"values":{"a":1.0,"b":0.5}}',
        b'{"asset":"pump-1","ts":2000,"values":{"a":2.0}}',
        b'{"asset":"pump-1","ts":3000,"values":{"a":3.0,"b":1.5}}',
    ]
    assert expected == [message.value for message in pump().messages()]


def test_key_header_and_event_time_go_with_each_message():
    """The key is the asset, the header says the format, the event time is the shifted one."""
    message = next(pump().messages(format="msgpack", shift_ms=0.5))
    assert (
        message.key,
        message.headers,
        message.event_ms,
    ) == (b"pump-1", [("content-type", b"application/msgpack")], 1000.5)
    assert msgpack.unpackb(message.value) == {"asset": "pump-1", "ts": 1000.5, "values": {"a": 1.0, "b": 0.5}}


def test_field_names_are_those_of_the_topic():
    """`fields` renames the frame and the channels, as kafka.inputs[].fields does."""
    fields = {"asset": "machine", "ts": "time", "values": "data", "a": "acc_rms"}
    message = next(pump().messages(fields))
    assert orjson.loads(message.value) == {"machine": "pump-1", "time": 1000, "data": {"acc_rms": 1.0, "b": 0.5}}


def test_rows_without_any_value_send_nothing():
    """Nothing can be said of a moment at which every sensor is silent; infinities count as silence."""
    silent = pump(values={"a": np.array([1.0, np.nan, np.inf])})
    assert [message.event_ms for message in silent.messages()] == [1000]


def test_categories_travel_as_strings():
    """Record streams carry text; None is missing."""
    recording = pump(values={"protocol": np.array(["tcp", None, "udp"], dtype=object)})
    assert [orjson.loads(m.value)["values"] for m in recording.messages()] == [{"protocol": "tcp"}, {"protocol": "udp"}]


def test_a_block_is_a_list_in_json_and_float32_bytes_in_messagepack():
    """Both say interval_ms; a row of single values among blocks doesn't."""
    recording = pump(
        values={"t": np.array([np.nan, 20.0, np.nan])},
        blocks={"v": [np.array([0.5, -1.0]), None, np.array([2.0])]},
        interval_ms=0.25,
    )
    expected = [
        {"asset": "pump-1", "ts": 1000, "values": {"v": [0.5, -1.0]}, "interval_ms": 0.25},
        {"asset": "pump-1", "ts": 2000, "values": {"t": 20.0}},
        {"asset": "pump-1", "ts": 3000, "values": {"v": [2.0]}, "interval_ms": 0.25},
    ]
    assert expected == [orjson.loads(message.value) for message in recording.messages()]
    packed = [msgpack.unpackb(message.value) for message in recording.messages(format="msgpack")]
    assert np.array([0.5, -1.0], "<f4").tobytes() == packed[0]["values"]["v"]


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("fields", [None, {"asset": "machine", "values": "data", "a": "acc"}])
def test_the_detector_reads_what_is_sent(format, fields):
    """No message of a recording is a dead letter, and times and values come back as they were."""
    channels = {"a": ChannelConfig(), "b": ChannelConfig()}
    readings, dead = decode(pump(), channels, fields, format=format)
    assert (dead, readings.assets, readings.ts_ms.tolist()) == ([], ["pump-1"] * 3, [1000.0, 2000.0, 3000.0])
    np.testing.assert_array_equal([[1.0, 0.5], [2.0, np.nan], [3.0, 1.5]], readings.values)


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_the_detector_reads_blocks(format):
    """A block of k samples is k rows, interval_ms apart."""
    recording = Recording("b", np.array([0.0]), blocks={"v": [np.array([1.0, 2.0, 3.0])]}, interval_ms=0.5)
    readings, dead = decode(recording, {"v": ChannelConfig(cell="waveform")}, format=format)
    assert (dead, readings.ts_ms.tolist(), readings.values[:, 0].tolist()) == ([], [0.0, 0.5, 1.0], [1.0, 2.0, 3.0])


def test_more_rows_than_a_chunk_all_come_in_order():
    """How rows are batched inside doesn't show outside."""
    count = 20_000
    recording = Recording("a", np.arange(count) * 10.0, {"x": np.arange(count) * 1.0})
    assert list(range(0, 10 * count, 10)) == [message.event_ms for message in recording.messages()]


def test_rows_keep_the_order_of_the_file():
    """Late readings in a recording are late in the replay too."""
    assert [m.event_ms for m in pump(ts_ms=np.array([3000.0, 1000.0, 2000.0])).messages()] == [3000, 1000, 2000]


def test_head_keeps_rows_labels_and_the_faults_in_their_time():
    """The first n rows are a recording of their own."""
    faults = [Fault(1500, 2500, "early"), Fault(2900, 4000, "late")]
    head = pump(faults=faults, marks={"changepoint": np.array([0, 1, 0], np.int8)}).head(2)
    assert (
        head.ts_ms.tolist(),
        head.labels.tolist(),
        head.marks["changepoint"].tolist(),
        [fault.name for fault in head.faults],
    ) == ([1000.0, 2000.0], [0, 1], [0, 1], ["early"])


def test_the_end_is_where_the_next_reading_would_be_due():
    """The usual step is the median of the steps; a block ends with its last sample."""
    blocks = Recording("b", np.array([0.0]), blocks={"v": [np.ones(4_000)]}, interval_ms=1.0)
    assert (pump().end_ms, blocks.end_ms) == (4000.0, 4000.0)


def test_columns_of_another_length_are_refused():
    """A recording is never silently cut to its shortest column."""
    with pytest.raises(DataError, match="pump-1: column a has 2 rows, the timestamps 3"):
        pump(values={"a": np.array([1.0, 2.0])})


def test_blocks_must_be_finite_and_know_their_interval():
    """What no reader would take is found before anything is sent."""
    with pytest.raises(DataError, match="interval_ms > 0"):
        pump(blocks={"v": [None, None, None]})
    with pytest.raises(DataError, match="block 1 of v is empty or holds a sample that is not finite"):
        pump(blocks={"v": [None, np.array([np.nan]), None]}, interval_ms=1.0)
