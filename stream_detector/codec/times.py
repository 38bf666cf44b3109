"""Times as texts in messages: ISO 8601 with an offset from UTC, in the forms that programs write."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EXAMPLE = "expected e.g. 2020-03-09T10:14:33Z"

#: All that is understood. A fraction is that of the last unit given; a zone's name may follow the offset (RFC 9557).
_ANY = re.compile(
    r"""\s*(?P<date>\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d-?\d)
    (?:(?:\s*[Tt]\s*|\s+)
    (?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d))?)?(?:[.,](?P<fraction>\d+))?
    \s*(?P<zone>[Zz]|UTC|GMT|[+\-\N{MINUS SIGN}]\d\d(?::?\d\d)?(?:\s*UTC)?)?
    (?P<name>[^\d+\-:.,]*))?\s*""",
    re.ASCII | re.VERBOSE,
).fullmatch


def iso_ms(text: str) -> float:
    """Return a time as UNIX ms. Raises ValueError that says what is wrong with the text, and the fix."""
    if text[10:17:3] in ("T::", " ::"):  # a date of ten characters, hh:mm:ss: `datetime` reads what follows right
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return (moment - _EPOCH) / _MILLISECOND
        except ValueError:
            pass  # below the reason is found
    found = _ANY(text)
    if found is None:
        raise ValueError(f"is not ISO 8601; {_hint(text)}")
    hour, zone, name = found["hour"], found["zone"], (found["name"] or "").strip()
    if hour is None:
        if _number(text):  # 20200309 or a number of eight digits
            raise ValueError(f"is not ISO 8601; {_hint(text)}")
        raise ValueError(f"has no time of day and no offset from UTC; append T00:00:00 and Z or ±hh:mm; {_EXAMPLE}")
    if zone is None:
        if name:
            raise ValueError(f"has no offset from UTC, and a zone's name has several; write Z or ±hh:mm; {_EXAMPLE}")
        raise ValueError("has no offset from UTC; append Z or ±hh:mm")
    if name and not re.fullmatch(r"(\[[^\]]*\])+", name):
        raise ValueError(f"is not ISO 8601: {name[:20]!r} follows the offset; {_EXAMPLE}")
    try:
        return (_moment(found) - _offset(zone) - _EPOCH) / _MILLISECOND
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is no time: {error}") from None


def _moment(found: re.Match[str]) -> datetime:
    """Return the time of day on its date, as if it were UTC. Raises ValueError."""
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    day = date.fromisoformat(found["date"])
    end = (hour, minute, second, int(found["fraction"] or 0)) == (24, 0, 0, 0)  # of the day: 0:00 of the next
    moment = datetime(day.year, day.month, day.day, 0 if end else hour, minute, second, tzinfo=UTC)
    unit_s = 1 if found["second"] else 60 if found["minute"] else 3_600
    digits = (found["fraction"] or "0")[:15]
    micros = unit_s * 1_000_000 * int(digits) // 10 ** len(digits)
    return moment + timedelta(days=end, microseconds=micros)


def _offset(zone: str) -> timedelta:
    if not (digits := re.sub(r"\D", "", zone)):
        return timedelta()
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(f"the offset {zone} is not below 24 h")
    size = timedelta(hours=hours, minutes=minutes)
    return size if zone[0] == "+" else -size


def _hint(text: str) -> str:
    return "send UNIX milliseconds as a number" if _number(text) else _EXAMPLE


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
