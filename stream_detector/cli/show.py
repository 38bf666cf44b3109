"""How an alert looks to a person, and an asset's state to a program."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from stream_detector.codec import decode_alert, encode_state
from stream_detector.telemetry.printable import printable, printable_json
from stream_detector.types import AssetState, NotJudged, PlainMessage

_MARK = {"info": "·", "warning": "!", "critical": "‼"}


def alert_line(value: bytes) -> str:
    """Return one line about a published alert, harmless on a terminal. Raises DecodeError when it is none.

    When, what, where; how far above the threshold; which channels, with what was seen and what was expected.
    """
    alert = decode_alert(value)
    when = datetime.fromtimestamp(alert.end_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    event = {"open": "OPEN  ", "update": "UPDATE", "regime-change": "REGIME", "close": "CLOSE "}[alert.event]
    leading = [channel for channel in alert.channels if channel.share >= 0.1][:3]
    channels = ", ".join(
        f"{channel.name} {channel.observed:.4g} (expected {channel.expected:.4g}, {channel.share:.0%})"
        for channel in leading
    )
    lasted = f" after {_duration(alert.end_ms - alert.start_ms)}" if alert.event == "close" else ""
    sensor = "" if alert.sensor is None else f" ({' '.join(filter(None, alert.sensor))})"
    return printable(
        f"{when}  {_MARK[alert.severity]} {event} {alert.asset}  {alert.severity} {alert.kind}{sensor}{lasted}"
        f"  score {alert.score:.4g} over {alert.threshold:.4g}  {channels}"
    )


def published(value: bytes) -> str:
    """Return an alert's JSON byte for byte as published; on a terminal what that would act on becomes `\\uXXXX`."""
    return printable_json(value.decode()) if sys.stdout.isatty() else value.decode()


def state_line(asset: str, state: AssetState) -> str:
    """Return an asset's state as one JSON object: its alarm level, and all of it as Redis would hold it in epoch 0."""
    threshold = state.threshold
    fields = {"judged_ms": state.judged_ms, "level": threshold.level, "seen": threshold.seen}
    return json.dumps({"asset": asset, **fields, "state": encode_state(state, 0).hex()})


def letter_line(letter: PlainMessage) -> str:
    """Return a dead letter as one JSON object: why it is one, and its value, what is no text in it replaced."""
    headers = dict(letter.headers)
    value = (letter.value or b"").decode("utf-8", "replace")
    return json.dumps({"error": headers["error"].decode(), "detail": headers["detail"].decode(), "value": value})


def not_judged_line(one: NotJudged) -> str:
    """Return one line about an asset that is not judged, and why."""
    what = "windows" if one.reason == "already-judged" else "readings"
    return printable(f"asset {one.asset!r}: {one.readings} {what}, {one.reason}: {one.detail}")


def _duration(ms: float) -> str:
    seconds = round(ms / 1000)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"
