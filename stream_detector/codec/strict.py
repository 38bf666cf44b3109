"""One message at a time: every rule of a reading, in order, each with its dead-letter code.

This module defines what a valid reading is. `readings` applies the same rules to whole batches, and passes every
message that fails its quick checks to this module, which finds and reports the reason.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_detector.codec import nonfinite
from stream_detector.codec.packing import unpack
from stream_detector.codec.times import iso_ms
from stream_detector.config import ChannelConfig, InputConfig
from stream_detector.errors import DecodeError
from stream_detector.types import Message

FLOAT32_MAX = float(np.finfo(np.float32).max)
END_MS = 7_258_118_400_000.0  # 2200-01-01T00:00:00Z: a larger number is most likely not in milliseconds
MAX_ASSET = 256
#: Limit on the float64 values of a message whose blocks are laid out as rows, per byte of `max_message_bytes`.
CELLS_PER_BYTE = 4
NUMBERS = frozenset({int, float})  # bool is not among them: `type(True)` is bool

CONTENT_TYPES: Mapping[bytes, str] = {
    b"application/json": "json",
    b"text/json": "json",
    b"application/msgpack": "msgpack",
    b"application/x-msgpack": "msgpack",
    b"application/vnd.msgpack": "msgpack",
}

_SUFFIXES: Mapping[bytes, str] = {b"json": "json", b"msgpack": "msgpack"}


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as the codec needs it: its field's name in this topic and its limits (inclusive)."""

    name: str
    field: str
    category: bool
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Field names and limits of one input topic."""

    asset: str
    ts: str
    interval: str
    values: str
    channels: tuple[Channel, ...]
    format: str
    max_bytes: int

    @classmethod
    def of(cls, config: InputConfig, channels: Mapping[str, ChannelConfig]) -> Layout:
        """Combine a topic's field names and the channels' limits."""
        fields = config.fields
        found = []
        for name, channel in channels.items():
            low, high = channel.valid or (-FLOAT32_MAX, FLOAT32_MAX)
            category = channel.kind == "category"
            found.append(
                Channel(name, fields.get(name, name), category, max(low, -FLOAT32_MAX), min(high, FLOAT32_MAX))
            )
        return cls(
            asset=fields.get("asset", "asset"),
            ts=fields.get("ts", "ts"),
            interval=fields.get("interval_ms", "interval_ms"),
            values=fields.get("values", "values"),
            channels=tuple(found),
            format=config.format,
            max_bytes=config.max_message_bytes,
        )


class OneReading(NamedTuple):
    """A message decoded: a single reading has a `row` of C values, a block has `rows` (k, C) and an interval."""

    asset: str
    ts_ms: float
    row: list[float] | None
    rows: NDArray[np.float64] | None
    interval_ms: float


def category_code(text: str) -> int:
    """Return a category's numeric code: the low 24 bits of the CRC-32 of its UTF-8 bytes.

    24 bits, because float32 holds every integer up to 2**24 exactly; two categories out of a thousand share a code
    with a probability of 3 %, out of a hundred of 0.03 %.
    """
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0xFFFFFF


def event_ms(value: object) -> float:
    """Return a timestamp as UNIX ms. Raises DecodeError(bad-timestamp), which names what was expected."""
    if type(value) is int or type(value) is float:
        ms = float(value)
    elif type(value) is str:
        ms = _iso_ms(value)
    else:
        raise DecodeError("bad-timestamp", f"{describe(value)}; expected UNIX milliseconds or ISO 8601 with an offset")
    if 0.0 <= ms < END_MS:
        return ms
    raise DecodeError(
        "bad-timestamp",
        f"{describe(value)} lies outside 1970..2199; expected UNIX milliseconds"
        + ("; divide microseconds by 1000, nanoseconds by 1000000" if ms >= END_MS else ""),
    )


def _iso_ms(text: str) -> float:
    try:
        return iso_ms(text)
    except ValueError as error:
        raise DecodeError("bad-timestamp", f"{describe(text)} {error}") from None


def describe(value: object) -> str:
    """Return any value as text for an error's detail: short and on one line."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}..."
    if value is None or isinstance(value, (bool, int, float)):
        return orjson.dumps(value).decode() if value is None or isinstance(value, bool) else repr(value)
    for kind, name in ((dict, "an object"), (list, "a list"), (bytes, "binary data")):
        if isinstance(value, kind):
            return name  # never repr() it: its content may be nested a thousand levels deep
    return "an extension type"


def content_format(headers: Sequence[tuple[str, bytes]]) -> str:
    """Return "json" or "msgpack" by the content-type header, JSON without one or with an empty one.

    Quotes around it are dropped: frameworks that encode headers as JSON leave them. A structured suffix (RFC 6839)
    counts: `application/cloudevents+json` is JSON. Raises DecodeError(unknown-content-type).
    """
    found: bytes | None = None
    for name, value in headers:
        if name == "content-type" or name.lower() == "content-type":
            found = value
    if found is None:
        return "json"
    if (form := CONTENT_TYPES.get(found)) is not None:
        return form
    bare = found.strip(b" \t\"'").split(b";", 1)[0].strip().lower()
    if not bare:
        return "json"
    if (form := CONTENT_TYPES.get(bare)) is not None:
        return form
    if (form := _SUFFIXES.get(bare.rpartition(b"+")[2])) is not None and b"/" in bare and b"+" in bare:
        return form
    raise DecodeError(
        "unknown-content-type",
        f"{describe(found.decode('utf-8', 'replace'))}; expected application/json or application/msgpack",
    )


def parse(value: bytes, form: str) -> object:
    """Parse bytes of a known format. Raises DecodeError(not-json, not-msgpack)."""
    try:
        return nonfinite.loads(value) if form == "json" else unpack(value)
    except Exception as error:  # MemoryError and RecursionError too: no message may stop the stream
        raise DecodeError(f"not-{form}", str(error)[:200] or type(error).__name__) from None


class StrictReader:
    """Decodes single messages of one topic."""

    def __init__(self, layout: Layout) -> None:
        """Take the topic's field names and limits."""
        self._layout = layout

    def document(self, message: Message) -> object:
        """Return the message's value, parsed.

        Raises DecodeError: empty, too-large, unknown-content-type, not-json, not-msgpack.
        """
        value, layout = message.value, self._layout
        if not value:
            raise DecodeError("empty", "the message has no value (a tombstone)" if value is None else "zero bytes")
        if len(value) > layout.max_bytes:
            raise DecodeError("too-large", f"{len(value)} bytes; max_message_bytes is {layout.max_bytes}")
        form = layout.format if layout.format != "auto" else content_format(message.headers)
        return parse(value, form)

    def reading(self, document: object, key: bytes | None) -> OneReading:
        """Return a parsed value as a reading. Raises DecodeError with any of the other codes."""
        layout = self._layout
        if type(document) is not dict:
            raise DecodeError("not-an-object", f"{describe(document)}; expected an object with {layout.ts!r}")
        asset = self._asset(document, key)
        if document.get(layout.ts) is None:
            raise DecodeError("no-timestamp", f"the field {layout.ts!r} is missing")
        ts_ms = event_ms(document[layout.ts])
        given = self._given(document)
        if any(_is_block(channel, value) for channel, value in given):
            return self._block(asset, ts_ms, document, given)
        by_name = {channel.name: _scalar(channel, value) for channel, value in given}
        row = [by_name.get(channel.name, math.nan) for channel in layout.channels]
        return OneReading(asset, ts_ms, row, None, math.nan)

    def asset(self, document: object, key: bytes | None) -> str:
        """Return the asset of a document that is not a valid reading; "" where it can't be determined."""
        try:
            return self._asset(document, key) if type(document) is dict else ""
        except DecodeError:
            return ""

    def _asset(self, document: Mapping[object, object], key: bytes | None) -> str:
        asset = document.get(self._layout.asset)
        if asset is None:
            if key is None:
                raise DecodeError("no-asset", f"the field {self._layout.asset!r} is missing and the message has no key")
            return key_asset(key)
        if type(asset) is not str or not 0 < len(asset) <= MAX_ASSET:
            raise DecodeError("bad-asset", f"{describe(asset)}; expected a string of 1 to {MAX_ASSET} characters")
        return asset

    def _given(self, document: Mapping[object, object]) -> list[tuple[Channel, object]]:
        """Return the configured channels this document carries: those under `values`, else those at the top level."""
        nested = document.get(self._layout.values)
        inner: Mapping[object, object] = nested if type(nested) is dict else {}
        given = [
            (channel, value)
            for channel in self._layout.channels
            if (value := (inner if channel.field in inner else document).get(channel.field)) is not None
        ]
        if not given:
            expected = ", ".join(repr(channel.field) for channel in self._layout.channels[:8])
            odd = nested is not None and type(nested) is not dict
            found = f"{self._layout.values!r} is {describe(nested)}; " if odd else ""
            raise DecodeError("no-values", f"{found}expected at least one of {expected}")
        return given

    def _block(
        self, asset: str, ts_ms: float, document: Mapping[object, object], given: list[tuple[Channel, object]]
    ) -> OneReading:
        """Lay out blocks as rows, shorter ones padded with NaN; a scalar goes into the first row."""
        interval = document.get(self._layout.interval)
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0.0 < interval < math.inf:
            raise DecodeError(
                "bad-block",
                f"{self._layout.interval!r} is {'missing' if interval is None else describe(interval)}; "
                "a block needs the ms between two samples, more than 0",
            )
        columns = {
            channel.name: _samples(channel, value) if _is_block(channel, value) else np.array([_scalar(channel, value)])
            for channel, value in given
        }
        length = max(map(len, columns.values()))
        if ts_ms + (length - 1) * interval >= END_MS:
            raise DecodeError("bad-block", f"{length} samples every {interval} ms end after 2199")
        width = len(self._layout.channels)
        if length * width > CELLS_PER_BYTE * self._layout.max_bytes:
            raise DecodeError("too-large", f"a block of {length} samples in a stream of {width} channels")
        rows = np.full((length, width), np.nan)
        for index, channel in enumerate(self._layout.channels):
            if (column := columns.get(channel.name)) is not None:
                rows[: len(column), index] = column
        return OneReading(asset, ts_ms, None, rows, float(interval))


def key_asset(key: bytes) -> str:
    """Return the asset a key names. Raises DecodeError(bad-asset)."""
    try:
        asset = key.decode()
    except UnicodeDecodeError:
        raise DecodeError("bad-asset", "the key is not UTF-8, and the value names no asset") from None
    if not 0 < len(asset) <= MAX_ASSET:
        raise DecodeError("bad-asset", f"the key has {len(asset)} characters; expected 1 to {MAX_ASSET}")
    return asset


def _scalar(channel: Channel, value: object) -> float:
    if channel.category:
        if type(value) is str or type(value) is int:
            return float(category_code(str(value)))
        raise DecodeError("not-a-number", f"{channel.field!r} is {describe(value)}; expected a string (a category)")
    if type(value) is not int and type(value) is not float:
        raise DecodeError("not-a-number", f"{channel.field!r} is {describe(value)}; expected a number", channel.name)
    number = float(value)
    if not math.isfinite(number):
        raise DecodeError("not-a-number", f"{channel.field!r} is {number}", channel.name)
    if not channel.low <= number <= channel.high:
        raise DecodeError(
            "out-of-range",
            f"{channel.field!r} is {number!r}; valid is [{channel.low!r}, {channel.high!r}]",
            channel.name,
        )
    return number


def _is_block(channel: Channel, value: object) -> bool:
    return (type(value) is list or type(value) is bytes) and not channel.category  # categories don't come in blocks


def _samples(channel: Channel, value: object) -> NDArray[np.float64]:
    """Return a block's samples, (k,): from a list of numbers or the bytes of little-endian float32."""
    samples: NDArray[np.float64]
    if isinstance(value, bytes):
        if len(value) % 4:
            raise DecodeError("bad-block", f"{channel.field!r} has {len(value)} bytes, not a multiple of 4 (float32)")
        samples = np.frombuffer(value, dtype="<f4").astype(np.float64)
    else:
        assert isinstance(value, list)
        if not set(map(type, value)) <= NUMBERS:
            index, odd = next((i, item) for i, item in enumerate(value) if type(item) not in NUMBERS)
            if isinstance(odd, str) and nonfinite.is_name(odd):
                raise DecodeError("not-a-number", f"sample {index} of {channel.field!r} is {odd!r}", channel.name)
            raise DecodeError("bad-block", f"sample {index} of {channel.field!r} is {describe(odd)}; expected a number")
        samples = np.array(value, dtype=np.float64)
    if not len(samples):
        raise DecodeError("bad-block", f"{channel.field!r} is an empty block")
    inside = (samples >= channel.low) & (samples <= channel.high)
    if not inside.all():
        index = int(np.argmin(inside))
        odd_sample = float(samples[index])
        place = f"sample {index} of {channel.field!r} is {odd_sample!r}"
        if not math.isfinite(odd_sample):
            raise DecodeError("not-a-number", place, channel.name)
        raise DecodeError("out-of-range", f"{place}; valid is [{channel.low!r}, {channel.high!r}]", channel.name)
    return samples
