"""People's verdicts on alerts: strict decoding and rate limits. Pure.

More senders may write to this topic than to the readings, so every field is checked, and rate limits keep the store
from filling up: per minute of message time, one limit per sender and one for all senders. Message time is the newest
record timestamp so far, so which verdicts are refused is a function of the log; reading one minute of the log again
restores the counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import orjson

from stream_detector.config import VerdictConfig
from stream_detector.errors import DecodeError
from stream_detector.types import DeadLetter, MessageBatch, Partition, Position, RecordedVerdict, VerdictKind

KINDS: tuple[VerdictKind, ...] = get_args(VerdictKind)
MAX_BYTES, MAX_BY, MAX_NOTE = 8_192, 100, 1_000
MINUTE_MS = 60_000

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_FIELDS = ("alert", "verdict", "by", "note")


def decode_verdict(value: bytes | None, key: bytes | None = None) -> tuple[str, VerdictKind, str, str]:
    """Return alert, verdict, by and note ("" where left out).

    Raises DecodeError: empty, too-large, not-json, not-an-object, or bad-verdict, which names the field.
    """
    if not value:
        raise DecodeError("empty", "no value")
    if len(value) > MAX_BYTES:
        raise DecodeError("too-large", f"{len(value)} bytes; a verdict has at most {MAX_BYTES}")
    try:
        fields = orjson.loads(value)
    except Exception as error:  # any error of the parser
        raise DecodeError("not-json", str(error)) from None
    if type(fields) is not dict:
        raise DecodeError("not-an-object", f"it is of type {type(fields).__name__}")
    if unknown := sorted(set(fields) - set(_FIELDS)):
        raise DecodeError("bad-verdict", f"unknown field {unknown[0][:40]!r}; expected {', '.join(_FIELDS)}")
    alert = fields.get("alert")
    if type(alert) is not str or not _UUID.fullmatch(alert):
        raise DecodeError("bad-verdict", f"alert is {_shown(alert)}; expected an alert's id, as published")
    if key is not None and key != alert.encode():
        raise DecodeError("bad-verdict", "the key names another alert than the value; send the alert's id, or no key")
    verdict = next((kind for kind in KINDS if kind == fields.get("verdict")), None)
    if verdict is None:
        raise DecodeError("bad-verdict", f"verdict is {_shown(fields.get('verdict'))}; expected {', '.join(KINDS)}")
    return alert, verdict, _text(fields, "by", MAX_BY), _text(fields, "note", MAX_NOTE)


def encode_verdict(alert: str, verdict: str, by: str = "", note: str = "") -> bytes:
    """Return a verdict's JSON. Raises DecodeError, as a reader would, when it is not valid."""
    value = orjson.dumps(
        {"alert": alert, "verdict": verdict} | ({"by": by} if by else {}) | ({"note": note} if note else {})
    )
    decode_verdict(value)
    return value


class FeedbackLimiter:
    """Accepts or refuses the messages of one partition, in order.

    `oldest` is the offset to start at for the same decisions; messages before `position.read` are only counted.
    """

    def __init__(self, config: VerdictConfig, partition: Partition, position: Position | None) -> None:
        """Begin at `position` (None: at the oldest message available)."""
        self.partition = partition
        self.start = None if position is None else position.offset
        self._read = 0 if position is None else position.read
        self._epoch = 0 if position is None else position.epoch
        self._per_sender, self._in_all = config.per_sender, config.in_all
        self._now_ms = -1
        self._minute: int | None = None
        self._oldest = 0
        self._counts: Counter[str] = Counter()
        self._at: int | None = None
        self.moved = False

    def take(self, batch: MessageBatch) -> tuple[list[RecordedVerdict], list[DeadLetter]]:
        """Return accepted verdicts and refused messages; together all messages that were not read before."""
        accepted: list[RecordedVerdict] = []
        refused: list[DeadLetter] = []
        for message in batch.messages:
            self._pass(message.offset, message.timestamp)
            try:
                alert, verdict, by, note = decode_verdict(message.value, message.key)
                self._count(by)
            except DecodeError as error:
                if message.offset >= self._read:
                    refused.append(DeadLetter(self.partition, message, error.code, error.detail))
            else:
                if message.offset >= self._read:
                    where = (self.partition.index, message.offset)
                    accepted.append(RecordedVerdict(alert, verdict, by, note, message.timestamp, *where))
        if batch.messages:
            self._at = batch.messages[-1].offset + 1
            self.moved = True
        return accepted, refused

    def position(self) -> Position:
        """Return the partition's position to commit."""
        assert self._at is not None, "nothing was taken"
        return Position(min(self._oldest, self._at), max(self._read, self._at), self._epoch + 1)

    def committed(self) -> None:
        """Note that the position is committed."""
        position = self.position()
        self._read, self._epoch, self.moved = position.read, position.epoch, False

    def _pass(self, offset: int, ts_ms: int) -> None:
        """Advance message time."""
        self._now_ms = max(self._now_ms, ts_ms)
        minute = self._now_ms // MINUTE_MS
        if minute != self._minute:
            self._minute, self._oldest = minute, offset
            self._counts.clear()

    def _count(self, by: str) -> None:
        """Count a verdict; raise DecodeError(rate-limited) when it exceeds a limit."""
        if self._counts.total() >= self._in_all:
            raise DecodeError("rate-limited", f"more than {self._in_all} verdicts in one minute (verdicts.in_all)")
        if self._counts[by] >= self._per_sender:
            raise DecodeError(
                "rate-limited", f"more than {self._per_sender} verdicts of one sender in a minute (verdicts.per_sender)"
            )
        self._counts[by] += 1


def newest(verdicts: Sequence[RecordedVerdict]) -> dict[str, RecordedVerdict]:
    """Return the verdict in effect for each alert: the most recent one."""
    found: dict[str, RecordedVerdict] = {}
    for one in verdicts:
        if one.alert not in found or found[one.alert].order <= one.order:
            found[one.alert] = one
    return found


def _text(fields: dict[str, object], name: str, most: int) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise DecodeError("bad-verdict", f"{name} is {_shown(value)}; expected a string")
    if len(value) > most:
        raise DecodeError("bad-verdict", f"{name} has {len(value)} characters; at most {most} are taken")
    # Control, format (bidirectional overrides), surrogate, private and unassigned characters: a terminal obeys some.
    if odd := next((each for each in value if unicodedata.category(each)[0] == "C"), None):
        raise DecodeError("bad-verdict", f"{name} holds the character U+{ord(odd):04X}, which is not text")
    return value


def _shown(value: object) -> str:
    return "missing" if value is None else ascii(value)[:60]
