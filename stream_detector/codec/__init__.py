"""Bytes <-> records; only this package depends on the wire formats (docs/wire-format.md).

`readings` decodes input messages in batches, `strict` one by one; `encode` writes them. `alerts` converts what is
published, `state` what is kept between commits.
"""

from stream_detector.codec.alerts import (
    DEAD_LETTER_HEADERS,
    NAMESPACE,
    alert_headers,
    alert_id,
    dead_letter_headers,
    decode_alert,
    encode_alert,
    incident_id,
    sensor_alert_id,
    sensor_incident_id,
)
from stream_detector.codec.audit import audit_id, decode_audit, encode_audit, encode_point
from stream_detector.codec.encode import encode_reading
from stream_detector.codec.readings import ReadingDecoder
from stream_detector.codec.report import decode_report, encode_report
from stream_detector.codec.state import (
    decode_metadata,
    decode_positions,
    decode_recorded,
    decode_state,
    decode_version,
    encode_metadata,
    encode_positions,
    encode_recorded,
    encode_state,
    encode_version,
)
from stream_detector.codec.strict import category_code

__all__ = [
    "DEAD_LETTER_HEADERS",
    "NAMESPACE",
    "ReadingDecoder",
    "alert_headers",
    "alert_id",
    "audit_id",
    "category_code",
    "dead_letter_headers",
    "decode_alert",
    "decode_audit",
    "decode_metadata",
    "decode_positions",
    "decode_recorded",
    "decode_report",
    "decode_state",
    "decode_version",
    "encode_alert",
    "encode_audit",
    "encode_metadata",
    "encode_point",
    "encode_positions",
    "encode_reading",
    "encode_recorded",
    "encode_report",
    "encode_state",
    "encode_version",
    "incident_id",
    "sensor_alert_id",
    "sensor_incident_id",
]
