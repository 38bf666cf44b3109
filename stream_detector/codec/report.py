"""What workers report of assets for people <-> bytes: JSON without the fields that are unknown."""

from __future__ import annotations

import orjson

from stream_detector.types import AssetReport


def encode_report(report: AssetReport) -> bytes:
    """Return a report's JSON."""
    fields: dict[str, object] = {}
    if report.read_ms is not None:
        fields["read"] = report.read_ms
    if report.score is not None:
        fields["score"] = report.score
    if report.level is not None:
        fields["level"] = report.level
    if report.reason:
        fields["reason"], fields["detail"] = report.reason, report.detail
    return orjson.dumps(fields)


def decode_report(value: bytes) -> AssetReport:
    """Return the report in these bytes. Raises ValueError."""
    fields = orjson.loads(value)
    if type(fields) is not dict:
        raise ValueError("a report must be an object")
    return AssetReport(
        read_ms=fields.get("read"),
        score=fields.get("score"),
        level=fields.get("level"),
        reason=fields.get("reason", ""),
        detail=fields.get("detail", ""),
    )
