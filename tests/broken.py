"""Broken and good messages, mixed and seeded: what a topic may hold when nobody looks after it.

    cases = broken(10_000, seed=1)
    batch = MessageBatch(Partition("t", 0), [case.message for case in cases])

They fit a topic with default field names and the channels `CHANNELS`. A case knows what must become of it.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import msgpack  # type: ignore[import-untyped] # it ships no types

from stream_detector.config import ChannelConfig
from stream_detector.types import PlainMessage

BASE_MS = 1_583_748_873_000
CHANNELS: Mapping[str, ChannelConfig] = {
    "vibration": ChannelConfig(),
    "temperature": ChannelConfig(valid=(-50.0, 500.0)),
    "current": ChannelConfig(),
}
#: `Case.code` of a message that may be a reading or a dead letter of any code.
EITHER = "either"
MSGPACK = (("content-type", b"application/msgpack"),)


@dataclass(frozen=True)
class Case:
    """One message and its fate."""

    message: PlainMessage
    kind: str  # what was done to it; "good" kinds begin with "good"
    code: str | None  # dead-letter code the codec must give; None: it is a reading; EITHER
    later: str | None = None  # dead-letter code a later stage gives (too-far-ahead); None: it is used
    asset: str = ""  # of a reading
    ts_ms: float = math.nan
    values: Mapping[str, float | list[float]] | None = None  # of a reading: what the decoder must find

    @property
    def good(self) -> bool:
        """Whether a whole pipeline must use this message."""
        return self.code is None and self.later is None


def broken(
    count: int,
    seed: int,
    *,
    good_share: float = 0.5,
    assets: int = 10,
    max_bytes: int = 1_048_576,
    step_ms: int = 1_000,
) -> list[Case]:
    """Return `count` messages, about `good_share` of them good, offsets from 0 and times every `step_ms`.

    `max_bytes` is the topic's max_message_bytes: `huge-message` is one byte longer.
    """
    rng = random.Random(seed)
    huge = b'{"asset": "a-0", "ts": %d, "vibration": 1.0, "pad": "' % BASE_MS
    huge += b"x" * (max_bytes + 1 - len(huge) - 2) + b'"}'
    cases = []
    for i in range(count):
        kind = rng.choice(_GOOD if rng.random() < good_share else _BAD)
        # a mutated time may be a little ahead, and would make good readings of the same asset late
        asset = "mutated" if kind == "mutated" else f"a-{rng.randrange(assets)}"
        cases.append(_Draft(rng, asset, BASE_MS + i * step_ms, huge).case(kind, i))
    return cases


class _Draft:
    """A good reading, and what may be done to it."""

    def __init__(self, rng: random.Random, asset: str, ts_ms: int, huge: bytes) -> None:
        self.rng, self.asset, self.ts_ms, self.huge = rng, asset, ts_ms, huge
        self.values: dict[str, float | list[float]] = {
            "vibration": round(rng.uniform(0.0, 0.1), 6),
            "temperature": round(rng.uniform(60.0, 90.0), 3),
            "current": rng.randrange(5),
        }

    def fields(self, **changes: object) -> dict[str, object]:
        return {"asset": self.asset, "ts": self.ts_ms, "values": dict(self.values)} | changes

    def json(self, **changes: object) -> bytes:
        return json.dumps(self.fields(**changes)).encode()

    def with_value(self, text: str) -> bytes:
        """Return JSON in which the vibration is this text, whether or not it is JSON."""
        marked = self.json(values={**self.values, "vibration": "?"})
        return marked.replace(b'"?"', text.encode("utf-8", "surrogatepass"))

    def packed(self, **changes: object) -> bytes:
        found: bytes = msgpack.packb(self.fields(**changes))
        return found

    def case(self, kind: str, offset: int) -> Case:
        code, later, make = _KINDS[kind]
        made = make(self)
        value, key, headers = made if isinstance(made, tuple) else (made, self.asset.encode(), ())
        reading = code is None
        return Case(
            message=PlainMessage(offset, self.ts_ms, key, value, headers),
            kind=kind,
            code=code,
            later=later,
            asset=self.asset if reading else "",
            ts_ms=float(self.ts_ms) if reading and later is None else math.nan,
            values=self.values if reading else None,
        )


Made = bytes | None | tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


def _pack(draft: _Draft, value: bytes) -> Made:
    return value, draft.asset.encode(), MSGPACK


def _block(draft: _Draft, *, packed: bool) -> Made:
    samples = [round(draft.rng.uniform(-1.0, 1.0), 3) for _ in range(draft.rng.randrange(1, 20))]
    if not packed:
        draft.values["vibration"] = samples
        return draft.json(interval_ms=10)
    raw = struct.pack(f"<{len(samples)}f", *samples)
    draft.values["vibration"] = list(struct.unpack(f"<{len(samples)}f", raw))
    return _pack(draft, draft.packed(interval_ms=10.0, values={**draft.values, "vibration": raw}))


def _subset(draft: _Draft) -> Made:
    del draft.values[draft.rng.choice(sorted(draft.values))]
    return draft.json()


def _null(draft: _Draft) -> Made:
    name = draft.rng.choice(sorted(draft.values))
    value = draft.json(values={**draft.values, name: None})
    del draft.values[name]
    return value


def _mutated(draft: _Draft) -> Made:
    value = bytearray(draft.json() if draft.rng.random() < 0.5 else draft.packed())
    for _ in range(draft.rng.randrange(1, 4)):
        value[draft.rng.randrange(len(value))] = draft.rng.randrange(256)
    return bytes(value), draft.asset.encode(), draft.rng.choice([(), MSGPACK])


def _iso(draft: _Draft) -> Made:
    moment = datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=2))) + timedelta(hours=2, milliseconds=draft.ts_ms)
    return draft.json(ts=moment.isoformat(timespec="milliseconds"))


_KINDS: dict[str, tuple[str | None, str | None, Callable[[_Draft], Made]]] = {
    "good": (None, None, lambda d: d.json()),
    "good-flat": (None, None, lambda d: json.dumps({"asset": d.asset, "ts": d.ts_ms, **d.values}).encode()),
    "good-iso": (None, None, _iso),
    "good-key": (None, None, lambda d: json.dumps({"ts": d.ts_ms, "values": d.values}).encode()),
    "good-msgpack": (None, None, lambda d: _pack(d, d.packed())),
    "good-block": (None, None, lambda d: _block(d, packed=False)),
    "good-block-bin": (None, None, lambda d: _block(d, packed=True)),
    "good-subset": (None, None, _subset),
    "good-null": (None, None, _null),
    "good-extra": (None, None, lambda d: d.json(site="north", values={**d.values, "humidity": "wet", "x": [None, {}]})),
    "good-duplicate-key": (None, None, lambda d: b'{"ts": "never", ' + d.json()[1:]),
    "far-ahead": (None, "too-far-ahead", lambda d: d.json(ts=d.ts_ms + 40 * 365 * 86_400_000)),
    "mutated": (EITHER, None, _mutated),
    "tombstone": ("empty", None, lambda d: None),
    "zero-bytes": ("empty", None, lambda d: b""),
    "truncated": ("not-json", None, lambda d: d.json()[: d.rng.randrange(1, len(d.json()))]),
    "two-documents": ("not-json", None, lambda d: d.json() + d.json()),
    "noise": ("not-json", None, lambda d: b"\xff" + d.rng.randbytes(d.rng.randrange(200))),
    "whitespace": ("not-json", None, lambda d: b" \n\t "),
    "nan-literal": ("not-a-number", None, lambda d: d.with_value("NaN")),
    "infinity-literal": ("not-a-number", None, lambda d: d.with_value("-Infinity")),
    "overflowing-literal": ("not-json", None, lambda d: d.with_value("1e400")),
    "lone-surrogate": ("not-json", None, lambda d: d.json(asset="\ud800")),
    "lone-surrogate-bytes": ("not-json", None, lambda d: d.with_value('"\udc00"')),
    "bad-utf8": ("not-json", None, lambda d: d.json().replace(b'"a-', b'"\xc3\x28')),
    "deep-json": ("not-json", None, lambda d: b"[" * 5_000 + b"]" * 5_000),
    "deep-value": ("not-a-number", None, lambda d: d.with_value('{"a":' * 500 + "1" + "}" * 500)),
    "scalar": ("not-an-object", None, lambda d: d.rng.choice([b"7", b'"x"', b"null", b"true", b"1.5"])),
    "list": ("not-an-object", None, lambda d: b"[" + d.json() + b"]"),
    "msgpack-scalar": ("not-an-object", None, lambda d: _pack(d, msgpack.packb(d.rng.choice([1, "x", None, b"y"])))),
    "msgpack-truncated": ("not-msgpack", None, lambda d: _pack(d, d.packed()[: d.rng.randrange(1, len(d.packed()))])),
    "msgpack-length-bomb": ("not-msgpack", None, lambda d: _pack(d, b"\xdd\xff\xff\xff\xff" * 200)),
    "msgpack-deep-bomb": ("not-msgpack", None, lambda d: _pack(d, b"\x91" * 10_000 + b"\xc0")),
    "msgpack-int-keys": ("not-msgpack", None, lambda d: _pack(d, msgpack.packb({1: 2}))),
    "msgpack-bad-utf8": ("not-msgpack", None, lambda d: _pack(d, b"\x81\xa2\xc3\x28\x01")),
    "msgpack-extra": ("not-msgpack", None, lambda d: _pack(d, d.packed() + b"\x00")),
    "msgpack-ext-value": (
        "not-a-number",
        None,
        lambda d: _pack(d, d.packed(values={"current": msgpack.ExtType(5, b"abc")})),
    ),
    "msgpack-ext-time": ("bad-timestamp", None, lambda d: _pack(d, d.packed(ts=msgpack.Timestamp(1, 2)))),
    "msgpack-nan": ("not-a-number", None, lambda d: _pack(d, d.packed(values={**d.values, "current": math.nan}))),
    "msgpack-infinity": ("not-a-number", None, lambda d: _pack(d, d.packed(values={"current": -math.inf}))),
    "json-called-msgpack": ("not-msgpack", None, lambda d: _pack(d, d.json())),
    "msgpack-called-json": ("not-json", None, lambda d: d.packed()),
    "foreign-content-type": (
        "unknown-content-type",
        None,
        lambda d: (d.json(), b"k", (("content-type", b"application/avro\xff"),)),
    ),
    "no-asset": ("no-asset", None, lambda d: (json.dumps({"ts": d.ts_ms, "values": d.values}).encode(), None, ())),
    "bad-key": ("bad-asset", None, lambda d: (json.dumps({"ts": d.ts_ms, "values": d.values}).encode(), b"\xff", ())),
    "empty-asset": ("bad-asset", None, lambda d: d.json(asset="")),
    "long-asset": ("bad-asset", None, lambda d: d.json(asset="x" * 257)),
    "asset-type": ("bad-asset", None, lambda d: d.json(asset=d.rng.choice([5, True, ["a"], {"a": 1}]))),
    "no-timestamp": ("no-timestamp", None, lambda d: json.dumps({"asset": d.asset, "values": d.values}).encode()),
    "null-timestamp": ("no-timestamp", None, lambda d: d.json(ts=None)),
    "bad-timestamp": (
        "bad-timestamp",
        None,
        lambda d: d.json(ts=d.rng.choice(["yesterday", "", "2020-13-45T00:00:00Z", True, [], {}, "1583748873000"])),
    ),
    "naive-timestamp": ("bad-timestamp", None, lambda d: d.json(ts="2020-03-09T10:14:33")),
    "far-timestamp": (
        "bad-timestamp",
        None,
        lambda d: d.json(
            ts=d.rng.choice([-1, -1e300, d.ts_ms * 1_000, d.ts_ms * 1_000_000, 2**70, "9999-12-31T23:59:59-23:59"])
        ),
    ),
    "unknown-channels": ("no-values", None, lambda d: d.json(values={"Vibration": 1.0, "humidity": 2.0})),
    "no-values": ("no-values", None, lambda d: d.json(values={})),
    "null-values": ("no-values", None, lambda d: d.json(values={"vibration": None, "current": None})),
    "values-type": ("no-values", None, lambda d: d.json(values=d.rng.choice([5, "x", [1, 2], None, True]))),
    "value-type": (
        "not-a-number",
        None,
        lambda d: d.json(values={**d.values, "current": d.rng.choice(["1.5", "", True, False, {}, {"value": 1}])}),
    ),
    "huge-value": ("out-of-range", None, lambda d: d.with_value(d.rng.choice(["1e39", "-1e308", "1" * 60]))),
    "invalid-range": ("out-of-range", None, lambda d: d.json(values={**d.values, "temperature": 500.001})),
    "empty-block": ("bad-block", None, lambda d: d.json(interval_ms=1, values={"vibration": []})),
    "mixed-block": ("bad-block", None, lambda d: d.json(interval_ms=1, values={"vibration": [1.0, "2.0", None, True]})),
    "nested-block": ("bad-block", None, lambda d: d.json(interval_ms=1, values={"vibration": [[1.0], [2.0]]})),
    "no-interval": ("bad-block", None, lambda d: d.json(values={"vibration": [1.0, 2.0]})),
    "bad-interval": (
        "bad-block",
        None,
        lambda d: d.json(interval_ms=d.rng.choice([0, -1, True, "1", 1e300]), values={"current": [1, 2]}),
    ),
    "odd-bin-block": (
        "bad-block",
        None,
        lambda d: _pack(d, d.packed(interval_ms=1, values={"vibration": b"\x00" * 7})),
    ),
    "nan-bin-block": (
        "not-a-number",
        None,
        lambda d: _pack(d, d.packed(interval_ms=1, values={"vibration": struct.pack("<3f", 1.0, math.nan, 2.0)})),
    ),
    "block-out-of-range": ("out-of-range", None, lambda d: d.json(interval_ms=1, values={"temperature": [20, 501.0]})),
    "huge-message": ("too-large", None, lambda d: d.huge),
}
_GOOD = [kind for kind in _KINDS if kind.startswith("good")]
_BAD = [kind for kind in _KINDS if not kind.startswith("good")]
