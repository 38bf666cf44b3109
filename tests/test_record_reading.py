"""Records read in one loop are those that the client reads, message for message, also of malformed batches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from stream_detector.adapters.kafka import settings  # noqa: F401 - installs what reads any header name
from stream_detector.adapters.kafka.client_patches.records import _PartitionRecords

NAME = TopicPartition("readings", 3)
BASE_MS = 1_700_000_000_000
PLAIN, GZIP = 0, 1

Record = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

sizes = st.sampled_from([0, 1, 7, 62, 63, 64, 65, 130, 8191, 8192])
blobs = st.none() | st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 255))
headers = st.lists(st.tuples(st.sampled_from(["content-type", "é", ""]), st.none() | st.binary(max_size=5)), max_size=2)
times = st.integers(-70, 70) | st.integers(-(2**40), 2**40)
records: st.SearchStrategy[Record] = st.tuples(times, blobs, blobs, st.just([]) | headers)
batches = st.lists(st.lists(records, min_size=1, max_size=6), min_size=1, max_size=3)


def fetched(batches: list[list[Record]], codec: int = PLAIN, transactional: bool = False) -> bytes:
    """Return the bytes of batches as a broker sends them, with growing offsets."""
    found, offset = b"", 1_000
    for batch in batches:
        builder = DefaultRecordBatchBuilder(2, codec, transactional, 7 if transactional else -1, 0, 0, 1 << 24)
        for place, (ts, key, value, named) in enumerate(batch):
            builder.append(place, BASE_MS + ts, key, value, named)
        built = bytearray(builder.build())
        built[:8] = offset.to_bytes(8, "big")
        found, offset = found + bytes(built), offset + len(batch) + 1  # as after compaction
    return found


def read(cls: type, data: bytes, most: int, start: int = 0, check: bool = True) -> tuple[list[Any], list[Any]]:
    """Return the messages that a class reads, `most` at once, and after each turn where it stands or what it raised."""
    part: Any = cls(start, NAME, MemoryRecords(data), check_crcs=check)
    messages: list[Any] = []
    turns: list[Any] = []
    while part and len(turns) < 200:
        try:
            some = part.take(most)
        except Exception as error:
            turns.append((type(error), str(error)))
            break
        messages += [(m.offset, m.timestamp, m.key, m.value, list(m.headers)) for m in some]
        turns.append((len(some), part.next_fetch_offset))
        if not some and part:
            break
    return messages, turns


def same(data: bytes, most: int, start: int = 0, check: bool = True) -> list[Any]:
    """Assert that both read the same, and return the messages."""
    expected = read(Fetcher.PartitionRecords, data, most, start, check)
    assert read(_PartitionRecords, data, most, start, check) == expected
    return expected[0]


@given(batches, st.sampled_from([PLAIN, GZIP]), st.integers(1, 20), st.integers(990, 1020))
def test_reads_what_the_client_reads(found: list[list[Record]], codec: int, most: int, start: int) -> None:
    """Of any lengths, times, headers and compression, in turns of any size, from any offset."""
    messages = same(fetched(found, codec), most, start)
    assert len(messages) == sum(
        1_000 + sum(len(one) + 1 for one in found[:place]) + row >= start
        for place, batch in enumerate(found)
        for row in range(len(batch))
    )


@given(batches, st.integers(1, 20), st.data())
def test_malformed_records_are_left_to_the_client(found: list[list[Record]], most: int, data: st.DataObject) -> None:
    """Whatever bytes are wrong after a batch's head: the same messages before, the same error."""
    whole = bytearray(fetched(found))
    head = DefaultRecordBatchBuilder.HEADER_STRUCT.size
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(head, max(head, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    same(bytes(whole), most, check=False)


def test_a_record_longer_than_its_batch_is_malformed() -> None:
    """A last record that claims more bytes than there are is not handed out."""
    data = bytearray(fetched([[(0, b"k", b"v", [])]]))
    data[DefaultRecordBatchBuilder.HEADER_STRUCT.size] += 2  # its length, one byte more
    assert same(bytes(data), 10, check=False) == []


def test_attributes_of_more_than_a_byte_are_the_client_s() -> None:
    """A record's attributes that go on in the next byte shift all that follows."""
    data = bytearray(fetched([[(0, b"k", b"v", []), (0, b"k", b"v", [])]]))
    data[DefaultRecordBatchBuilder.HEADER_STRUCT.size + 1] = 128  # after a length of one byte
    assert [message[2] for message in same(bytes(data), 10, check=False)] == [None, b"k"]


def test_a_corrupt_batch_is_refused_whole() -> None:
    """A checksum that doesn't fit ends the reading, as the client says it."""
    data = bytearray(fetched([[(0, b"pump", b"{}", [])], [(0, b"pump", b"{}", [])]]))
    data[-1] ^= 1
    messages, turns = read(_PartitionRecords, bytes(data), 10)
    assert [message[0] for message in messages] == [1_000]
    assert "failed crc check" in turns[-1][1]


def test_repeated_headers_are_read_once() -> None:
    """Each message has the headers it was sent with."""
    kinds: list[list[tuple[str, bytes | None]]] = [[("content-type", b"a")], [], [("content-type", b"b")]]
    messages = same(fetched([[(place, b"k", b"v", kinds[place % 3]) for place in range(9)]]), 4)
    assert [message[4] for message in messages] == [kinds[place % 3] for place in range(9)]


def test_the_broker_s_time_counts_where_the_topic_says_so() -> None:
    """With log-append time all records of a batch have its last time."""
    data = bytearray(fetched([[(5, b"k", b"v", []), (9, b"k", b"v", [])]]))
    data[22] |= 8  # the low byte of a batch's attributes
    assert {message[1] for message in same(bytes(data), 10, check=False)} == {BASE_MS + 9}


@pytest.mark.parametrize("magic", [0, 1])
def test_older_formats_are_the_client_s(magic: int) -> None:
    """Batches in the formats before 0.11 are passed through."""
    builder = MemoryRecordsBuilder(magic, PLAIN, 1 << 16)
    for place in range(3):
        builder.append(BASE_MS + place, b"k", b"v%d" % place, [])
    builder.close()
    assert [message[3] for message in same(bytes(builder.buffer()), 2)] == [b"v0", b"v1", b"v2"]
