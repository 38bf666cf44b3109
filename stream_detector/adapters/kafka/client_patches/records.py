"""Reads the records of a batch in one loop, about three times as fast as the client's own record by record.

The client (kafka-python 3.0) spends most of a poll on them: several function calls and two objects per record. The
loop below reads records without headers, or with headers that came before in the batch. It hands any other, and
whatever is malformed, to the client's
reader, which stays the authority on what a record is and raises what it raises. Whole batches stay with the client:
checksums, decompression, aborted transactions, control batches, older formats.

Only the consumer given to `read_quickly` is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

from stream_detector.types import PlainMessage

_unpack: Any = Fetcher.PartitionRecords._unpack_records  # the client is not typed
_uncompress: Any = DefaultRecordBatch._maybe_uncompress
_varint: Any = decode_varint
_as_message = partial(tuple.__new__, PlainMessage)  # of a tuple with its fields; half the time of calling the class
_NO_HEADERS = b"\0"


def read_quickly(consumer: Any) -> None:
    """Let a consumer that has not fetched yet return `PlainMessage`s, read in one loop, in place of its own records."""
    consumer._fetcher.PartitionRecords = _PartitionRecords


class _PartitionRecords(Fetcher.PartitionRecords):
    """What was fetched of one partition."""

    def _unpack_records(self, name: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
        for record in _unpack(self, name, _Batches(records), None, None):
            messages = record.timestamp
            if type(messages) is not list:  # of a batch in an older format
                yield record
                continue
            self.records_read += len(messages) - 1
            for message in messages:
                self.next_fetch_offset = message[0] + 1
                yield message


class _Batches:
    """The batches of a fetch, those of today's format as `_Batch`."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if type(batch) is DefaultRecordBatch:
            batch.__class__ = _Batch
        return batch


class _Batch(DefaultRecordBatch):
    """A batch that iterates over one record, which stands for all of them (`_Whole`)."""

    __slots__ = ()

    def __iter__(self) -> Iterator[_Whole]:
        _uncompress(self)
        found: list[tuple[Any, ...]] = []
        try:
            _read_all(self, found)
        except Exception:
            if found:  # those before the malformed one are good
                yield _Whole(self, found)
            raise
        if found:
            yield _Whole(self, found)


class _Whole:
    """The records of a batch in the place of one: the client copies its fields, `timestamp` holds the messages."""

    key = value = checksum = timestamp_type = None
    headers = ()

    def __init__(self, batch: Any, found: list[tuple[Any, ...]]) -> None:
        self.timestamp = list(map(_as_message, found))
        self.offset = found[-1][0]
        self.size_in_bytes = batch.size_in_bytes

    def validate_crc(self) -> bool:
        """Return True: the checksum is the batch's, and was compared."""
        return True


def _read_all(batch: Any, found: list[tuple[Any, ...]]) -> None:  # noqa: PLR0915 - one loop, for speed
    """Append offset, timestamp, key, value and headers of each record. Raises what the client's reader raises."""
    data, pos = bytes(batch._buffer), batch._pos
    whole, base, first_ms = len(data), batch.base_offset, batch.first_timestamp
    last_ms = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    known: dict[bytes, Any] = {_NO_HEADERS: ()}  # encoded headers -> headers: batches repeat them
    append = found.append
    for index in range(batch.records_count):
        start, section, headers = pos, None, None
        try:
            # Lengths and differences are zigzag varints: a byte below 128 is the last one, an odd number is negative.
            if (size := data[pos]) < 128:
                pos += 1
            elif (high := data[pos + 1]) < 128:
                size, pos = size & 127 | high << 7, pos + 2
            else:
                size, pos = _more(data, pos, size)
            end = pos + (size >> 1)
            attributes = data[pos]  # without a meaning yet; the client reads them as a varint
            if (delta_ms := data[pos + 1]) < 128:
                pos += 2
            else:
                delta_ms, pos = _more(data, pos + 1, delta_ms)
            if (delta := data[pos]) < 128:
                pos += 1
            else:
                delta, pos = _more(data, pos, delta)
            if (length := data[pos]) == 1:
                key, length, pos = None, 0, pos + 1
            else:
                if length < 128:
                    pos += 1
                else:
                    length, pos = _more(data, pos, length)
                stop = pos + (length >> 1)
                key, pos = data[pos:stop], stop
            odd = size | delta | length
            if (length := data[pos]) < 128:
                pos += 1
            elif (high := data[pos + 1]) < 128:
                length, pos = length & 127 | high << 7, pos + 2
            else:
                length, pos = _more(data, pos, length)
            stop = pos + (length >> 1)
            value = data[pos:stop]
            if not (odd | length) & 1 and attributes < 128 and stop < end <= whole:
                section = data[stop:end]
                headers = known.get(section)
        except (IndexError, ValueError):
            pass  # malformed, or not as it is expected here: the client's reader says
        if headers is not None:
            ts_ms = first_ms + ((delta_ms >> 1) ^ -(delta_ms & 1)) if last_ms is None else last_ms
            append((base + (delta >> 1), ts_ms, key, value, headers))
            pos = end
        else:
            batch._pos, batch._next_record_index = start, index
            record = next(batch)
            pos, headers = batch._pos, tuple(record.headers)
            if section is not None:
                known[section] = headers
            append((record.offset, record.timestamp, record.key, record.value, headers))
    batch._pos, batch._next_record_index = pos, batch.records_count
    next(batch, None)  # raises when bytes are left


def _more(data: bytes, pos: int, low: int) -> tuple[int, int]:
    """Return a varint of several bytes, the first of them `low`, not unzigzagged, and where it ends."""
    if (high := data[pos + 1]) < 128:
        return low & 127 | high << 7, pos + 2
    number, pos = _varint(data, pos)
    return 2 * number if number >= 0 else -2 * number - 1, pos
