"""Fuzzed messages: good readings and verdicts, JSON and MessagePack, mutated in what they hold and bit by bit. Seeded.

    messages = fuzzed_readings(100_000, seed=1)

Unlike `broken`, which knows the fate of every case, these may be anything; what is known is that each has one fate.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped] # it ships no types

from stream_detector.types import PlainMessage

START_MS = 1_600_000_000_000
_TEXTS = (
    "",
    "x",
    "NaN",
    "-1",
    "1e999",
    "\x00",
    "é" * 300,
    "2020-03-09T10:14:33Z",
    "2020-13-40T99:99:99+99:99",
    "𝔘\u202e",
)
_NUMBERS = (0, -1, 1, 2**31, 2**63 - 1, -(2**63), 1e308, -1e-308, 1e39, START_MS, 0.1, -0.0)
_OTHERS = (None, True, False, [], {}, [[]], [1, "a"], {"a": {"b": {}}}, [0.5] * 40)
_TYPES: tuple[Any, ...] = (
    b"application/json",
    b"application/msgpack",
    b"text/plain",
    b"",
    b"\xff\xfe",
    b"application/json; charset=x",
    None,
)
_WHOLE = (
    None,
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\x00",
    b"\xff" * 9,
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"\xc1",
    b"\x81",
    b"1" * 400,
)


def fuzzed_readings(count: int, seed: int, assets: int = 20) -> list[PlainMessage]:
    """Return messages for the channels vibration and current, about half of them untouched; offsets from 0."""
    rng = random.Random(seed)
    messages = []
    for offset in range(count):
        ts = START_MS + offset * 100
        asset = f"pump-{rng.randrange(assets)}"
        fields: dict[str, Any] = {"asset": asset, "ts": ts, "values": {"vibration": rng.gauss(0, 1), "current": 1.5}}
        if rng.random() < 0.1:
            fields |= {"interval_ms": 10, "values": {"vibration": [rng.gauss(0, 1) for _ in range(8)]}}
        messages.append(_message(rng, offset, ts, asset.encode(), fields))
    return messages


def fuzzed_verdicts(count: int, seed: int, alerts: int = 500) -> list[PlainMessage]:
    """Return messages for the verdict topic, about half of them untouched; offsets from 0."""
    rng = random.Random(seed)
    messages = []
    for offset in range(count):
        alert = f"{rng.randrange(alerts):08x}-0000-5000-8000-000000000000"
        kind = rng.choice(("true-alarm", "false-alarm", "maintenance"))
        fields = {"alert": alert, "verdict": kind, "by": f"person {rng.randrange(9)}", "note": "as seen"}
        messages.append(_message(rng, offset, START_MS + offset * 150, alert.encode(), fields, packed=0.05))
    return messages


def _message(
    rng: random.Random, offset: int, ts: int, key: bytes | None, fields: dict[str, Any], packed: float = 0.3
) -> PlainMessage:
    touched = rng.random() < 0.5
    if touched and rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            _mutate(rng, fields)
    is_packed = rng.random() < packed
    value = _encoded(fields, is_packed)
    headers: list[tuple[str, bytes]] = [("content-type", _TYPES[1])] if is_packed else []
    timestamp = ts
    if touched and rng.random() < 0.5:
        value = _scrambled(rng, value)
    if touched and rng.random() < 0.2:
        headers = [(_text(rng), rng.randbytes(rng.randrange(20))) for _ in range(rng.randrange(4))]
        headers.append(("content-type", rng.choice(_TYPES)))
        headers += [("nothing", None)] * rng.randrange(2)  # type: ignore[list-item]  # Kafka allows it
        headers.insert(rng.randrange(len(headers)), (rng.choice(("error", "offset", "trace")), rng.randbytes(8)))
    if touched and rng.random() < 0.2:
        key = rng.choice((None, b"", b"\xff\xfe", rng.randbytes(300), b"k" * 256, key))
    if touched and rng.random() < 0.1:
        timestamp = rng.choice((0, ts - 10**9, ts + 10**6, ts + 1))
    return PlainMessage(offset, timestamp, key, value, tuple(headers))


def _mutate(rng: random.Random, fields: dict[str, Any]) -> None:
    """Change one field of an object, or of one inside it."""
    name = rng.choice(list(fields) or ["x"])
    if isinstance(fields.get(name), dict) and fields[name] and rng.random() < 0.7:
        _mutate(rng, fields[name])
        return
    what = rng.random()
    if what < 0.2:
        fields.pop(name, None)
    elif what < 0.3:
        fields[_text(rng)] = _odd(rng)
    elif what < 0.4:
        fields[name.upper()] = fields.pop(name, None)
    else:
        fields[name] = _odd(rng)


def _odd(rng: random.Random) -> Any:
    return rng.choice(rng.choice((_TEXTS, _NUMBERS, _OTHERS)))


def _text(rng: random.Random) -> str:
    return rng.choice(("", "x", "values", "ts", "".join(rng.choices(string.printable, k=rng.randrange(12)))))


def _encoded(fields: dict[str, Any], packed: bool) -> bytes:
    if packed:
        try:
            found: bytes = msgpack.packb(fields)
            return found
        except (OverflowError, ValueError):
            pass
    return json.dumps(fields).encode()


def _scrambled(rng: random.Random, value: bytes) -> bytes | None:
    """Return bytes with bits turned, parts cut out, doubled or put in; or something else altogether."""
    what = rng.randrange(7)
    at = rng.randrange(len(value) + 1)
    if what == 0:
        return rng.choice(_WHOLE)
    if what == 1:
        return rng.randbytes(rng.randrange(200))
    if what == 2:
        return value[:at]
    if what == 3:
        return value[:at] + rng.randbytes(rng.randint(1, 5)) + value[at:]
    if what == 4:
        return value + value
    found = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def untouched(letter: Any, original: PlainMessage) -> list[str]:
    """Say what of a message its dead letter doesn't carry as it was; nothing is right."""
    own: Sequence[tuple[str, bytes]] = list(letter.headers)[: len(original.headers)]
    return [
        name
        for name, found, wanted in (
            ("key", letter.key, original.key),
            ("value", letter.value, original.value),
            ("headers", list(own), list(original.headers)),
        )
        if found != wanted
    ]
