"""Alerts <-> bytes, their ids, and the headers of what is published (docs/wire-format.md)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, get_args

import orjson

from stream_detector.errors import DecodeError
from stream_detector.types import (
    Alert,
    AlertEvent,
    AlertKind,
    ChannelShare,
    DeadLetter,
    ModelRef,
    SensorRef,
    Severity,
)

ALERT_SCHEMA = 1
#: Namespace of all ids: uuid5(NAMESPACE_DNS, "stream-detector"). It must never change.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "stream-detector")
MAX_DETAIL = 500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
T = TypeVar("T")


def alert_id(stream: str, asset: str, end_ms: int, model_version: str, event: str) -> str:
    """Return an alert's id: the UUIDv5 of the JSON array ["alert", stream, asset, end_ms, model_version, event]."""
    return uuid5("alert", stream, asset, end_ms, model_version, event)


def incident_id(stream: str, asset: str, end_ms: int, model_version: str) -> str:
    """Return an incident's id: the UUIDv5 of ["incident", stream, asset, end_ms, model_version].

    `end_ms` is the end of the window that opened the incident.
    """
    return uuid5("incident", stream, asset, end_ms, model_version)


def sensor_alert_id(
    stream: str, asset: str, end_ms: int, model_version: str, *, event: str, channel: str, fault: str
) -> str:
    """Return the id of an alert of kind sensor-fault; `channel` is "" for a fault of the whole asset.

    The UUIDv5 of ["sensor-alert", stream, asset, end_ms, model_version, event, channel, fault].
    """
    return uuid5("sensor-alert", stream, asset, end_ms, model_version, event, channel, fault)


def sensor_incident_id(stream: str, asset: str, end_ms: int, model_version: str, *, channel: str, fault: str) -> str:
    """Return the id of an incident that a sensor fault opened.

    The UUIDv5 of ["sensor-incident", stream, asset, end_ms, model_version, channel, fault].
    """
    return uuid5("sensor-incident", stream, asset, end_ms, model_version, channel, fault)


def uuid5(*parts: str | int) -> str:
    """Return the UUIDv5 of a JSON array."""
    # a JSON array, so that a separator inside a name can't make two different ids equal
    return str(uuid.uuid5(NAMESPACE, orjson.dumps(parts).decode()))


def encode_alert(alert: Alert) -> bytes:
    """Return an alert's JSON, keys in the documented order: the same bytes whenever the same input is replayed.

    Floats keep 6 significant digits. Raises ValueError when one is not finite or a time can't be written,
    which is an error in this program, not in its input.
    """
    sensor: dict[str, Any] = {} if alert.sensor is None else {"sensor": _sensor(alert.sensor)}
    reason = {} if alert.reason is None else {"reason": alert.reason}
    return orjson.dumps(
        {
            "schema": ALERT_SCHEMA,
            "id": alert.id,
            "incident": alert.incident,
            "event": alert.event,
            "stream": alert.stream,
            "asset": alert.asset,
            "start": iso("start", alert.start_ms),
            "end": iso("end", alert.end_ms),
            "score": _rounded("score", alert.score),
            "threshold": _rounded("threshold", alert.threshold),
            "severity": alert.severity,
            "kind": alert.kind,
            "channels": [
                {
                    "name": channel.name,
                    "share": _rounded(f"{channel.name}.share", channel.share),
                    "observed": _rounded(f"{channel.name}.observed", channel.observed),
                    "expected": _rounded(f"{channel.name}.expected", channel.expected),
                }
                for channel in alert.channels
            ],
            "model": {"kind": alert.model.kind, "version": alert.model.version},
            "state": {"method": alert.method, "risk": _rounded("risk", alert.risk), "seen": int(alert.seen)},
            **sensor,
            **reason,
        }
    )


def decode_alert(value: bytes) -> Alert:
    """Return the alert in these bytes; unknown fields are ignored, header times are unknown (-1).

    Raises DecodeError(bad-alert), which names the field, for anything that is not an alert of a known schema.
    """
    try:
        fields = orjson.loads(value)
    except Exception as error:  # any error of the parser
        raise DecodeError("bad-alert", f"not JSON: {error}") from None
    if type(fields) is not dict:
        raise DecodeError("bad-alert", "not an object")
    if (schema := _field(fields, "schema", int)) != ALERT_SCHEMA:
        raise DecodeError("bad-alert", f"schema {schema} is not known; expected {ALERT_SCHEMA}")
    model, state = _field(fields, "model", dict), _field(fields, "state", dict)
    channels = []
    for each in _field(fields, "channels", list):
        if type(each) is not dict:
            raise DecodeError("bad-alert", "channels must hold objects")
        share, observed, expected = (_number(each, name) for name in ("share", "observed", "expected"))
        channels.append(ChannelShare(_field(each, "name", str), share, observed, expected))
    return Alert(
        id=_field(fields, "id", str),
        incident=_field(fields, "incident", str),
        event=_one_of(fields, "event", AlertEvent),
        stream=_field(fields, "stream", str),
        asset=_field(fields, "asset", str),
        start_ms=ms_of(fields, "start"),
        end_ms=ms_of(fields, "end"),
        score=_number(fields, "score"),
        threshold=_number(fields, "threshold"),
        severity=_one_of(fields, "severity", Severity),
        kind=_one_of(fields, "kind", AlertKind),
        channels=tuple(channels),
        model=ModelRef(_field(model, "kind", str), _field(model, "version", str)),
        method=_field(state, "method", str),
        risk=_number(state, "risk"),
        seen=_field(state, "seen", int),
        sensor=_sensor_of(fields),
        reason=None if fields.get("reason") is None else _field(fields, "reason", str),
    )


def alert_headers(alert: Alert, published_ms: int) -> list[tuple[str, bytes]]:
    """Return an alert's headers: its processing times, UNIX ms as decimal text; unknown ones (-1) are omitted."""
    times = {
        "event-ms": alert.end_ms,
        "ingest-ms": alert.ingest_ms,
        "scored-ms": alert.scored_ms,
        "published-ms": published_ms,
    }
    return [(name, b"%d" % ms) for name, ms in times.items() if ms != -1]


#: Headers with the reason and the origin of a dead letter; they come last.
DEAD_LETTER_HEADERS = ("error", "detail", "topic", "partition", "offset")


def dead_letter_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return a dead letter's headers: the message's own, unchanged, then its reason and origin."""
    return [
        *letter.message.headers,
        ("error", letter.code.encode()),
        ("detail", letter.detail[:MAX_DETAIL].encode("utf-8", "replace")),
        ("topic", letter.partition.topic.encode()),
        ("partition", b"%d" % letter.partition.index),
        ("offset", b"%d" % letter.message.offset),
    ]


def _sensor(sensor: SensorRef) -> dict[str, str]:
    return {"fault": sensor.fault, **({} if sensor.channel is None else {"channel": sensor.channel})}


def _sensor_of(fields: Mapping[str, Any]) -> SensorRef | None:
    if fields.get("sensor") is None:
        return None
    sensor = _field(fields, "sensor", dict)
    return SensorRef(_field(sensor, "fault", str), _field(sensor, "channel", str) if "channel" in sensor else None)


def iso(name: str, ms: int) -> str:
    """Return a time in the format of alerts. Raises ValueError, which names the field, when it is out of range."""
    try:
        moment = _EPOCH + timedelta(milliseconds=int(ms))
    except OverflowError:
        raise ValueError(f"{name} can't be written as a date: {ms} ms") from None
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=precision).removesuffix("+00:00") + "Z"


def _rounded(name: str, number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{name} of an alert must be finite, got {number}")
    return float(f"{number:.6g}") + 0.0  # + 0.0 turns minus zero into zero


def _field(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = fields.get(name)
    if type(value) is not kind:  # exactly: True is not an int here
        found = "missing" if name not in fields else f"of type {type(value).__name__}"
        raise DecodeError("bad-alert", f"{name} is {found}; expected {kind.__name__}")
    return value


def _number(fields: Mapping[str, Any], name: str) -> float:
    if type(fields.get(name)) is int:
        return float(fields[name])
    return _field(fields, name, float)


def _one_of(fields: Mapping[str, Any], name: str, choices: Any) -> Any:
    value = _field(fields, name, str)
    if value not in get_args(choices):
        raise DecodeError("bad-alert", f"{name} is {value[:40]!r}; expected one of {', '.join(get_args(choices))}")
    return value


def ms_of(fields: Mapping[str, Any], name: str) -> int:
    """Return the UNIX ms of a field that holds a time. Raises DecodeError(bad-alert)."""
    text = _field(fields, name, str)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DecodeError("bad-alert", f"{name} is {text[:40]!r}; expected e.g. 2020-03-09T10:14:33Z") from None
    if moment.utcoffset() is None:
        raise DecodeError("bad-alert", f"{name} is {text[:40]!r}, without an offset from UTC")
    return (moment - _EPOCH) // _MILLISECOND
