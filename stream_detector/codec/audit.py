"""Entries of the audit topic <-> bytes (docs/wire-format.md)."""

from __future__ import annotations

import base64
import math
from typing import Any, get_args

import orjson

from stream_detector.codec.alerts import iso, ms_of, uuid5
from stream_detector.codec.state import decode_state, encode_state
from stream_detector.errors import DecodeError
from stream_detector.types import Adaptation, AssetState, Audit, AuditCause, ModelRef, Point, ThresholdState

AUDIT_SCHEMA = 1


def audit_id(audit: Audit) -> str:
    """Return an entry's id: the UUIDv5 of the JSON array ["audit", stream, asset, at_ms, cause]."""
    return uuid5("audit", audit.stream, audit.asset, audit.at_ms, audit.cause)


def encode_point(threshold: ThresholdState, adaptation: Adaptation, model: str = "") -> bytes:
    """Return an asset's threshold and shift as bytes, for a rollback; `decode_state` reads them.

    `model`: the version of the detector that they are about; entries of the audit topic have it in a field of theirs.
    """
    kept = Adaptation(shift=adaptation.shift, anchor=adaptation.anchor, usual=adaptation.usual)
    return encode_state(AssetState(judged_ms=0, threshold=threshold, adaptation=kept, model=model), 0)


def encode_audit(audit: Audit) -> bytes:
    """Return an entry's JSON, keys in the documented order: the same bytes whenever the same input is replayed."""
    return orjson.dumps(
        {
            "schema": AUDIT_SCHEMA,
            "id": audit_id(audit),
            "stream": audit.stream,
            "asset": audit.asset,
            "at": iso("at", audit.at_ms),
            "cause": audit.cause,
            "before": None if audit.before is None else _point(audit.before),
            "after": _point(audit.after),
            "threshold": {"method": audit.method, "risk": _rounded(audit.risk)},
            "model": {"kind": audit.model.kind, "version": audit.model.version},
            "state": base64.b64encode(encode_point(audit.threshold, audit.adaptation)).decode(),
        }
    )


def decode_audit(value: bytes) -> Audit:
    """Return the entry in these bytes. Raises DecodeError(bad-audit) unless they are an entry of a known schema."""
    try:
        fields = orjson.loads(value)
        if fields["schema"] != AUDIT_SCHEMA:
            raise DecodeError("bad-audit", f"schema {fields['schema']} is not known; expected {AUDIT_SCHEMA}")
        if fields["cause"] not in get_args(AuditCause):
            raise DecodeError("bad-audit", f"cause is {fields['cause']!r}; expected one of {get_args(AuditCause)}")
        _, point = decode_state(base64.b64decode(fields["state"], validate=True))
        return Audit(
            stream=fields["stream"],
            asset=fields["asset"],
            at_ms=ms_of(fields, "at"),
            cause=fields["cause"],
            before=None if fields["before"] is None else _read_point(fields["before"]),
            after=_read_point(fields["after"]),
            method=fields["threshold"]["method"],
            risk=float(fields["threshold"]["risk"]),
            model=ModelRef(fields["model"]["kind"], fields["model"]["version"]),
            threshold=point.threshold,
            adaptation=point.adaptation,
        )
    except DecodeError:
        raise
    except Exception as error:  # any error of the parser
        raise DecodeError("bad-audit", f"not an entry of the audit topic: {type(error).__name__}: {error}") from None


def _point(point: Point) -> dict[str, Any]:
    return {
        "level": None if point.level is None else _rounded(point.level),
        "pinned": None if point.pinned is None else _rounded(point.pinned),
        "seen": int(point.seen),
        "shift": {name: _rounded(moved) for name, moved in point.shift.items()},
    }


def _read_point(fields: dict[str, Any]) -> Point:
    level, pinned = fields["level"], fields["pinned"]
    return Point(
        level=None if level is None else float(level),
        pinned=None if pinned is None else float(pinned),
        seen=int(fields["seen"]),
        shift={str(name): float(moved) for name, moved in fields["shift"].items()},
    )


def _rounded(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"a number of the audit topic must be finite, got {number}")
    return float(f"{number:.6g}") + 0.0
