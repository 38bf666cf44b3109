"""Conversion of the timestamps in recordings to UNIX ms and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError

#: Unit of numeric timestamps (since 1970-01-01T00:00:00Z).
TsUnit = Literal["s", "ms", "us", "ns"]
MS_PER_UNIT: dict[str, float] = {"s": 1_000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NAIVE = datetime(1970, 1, 1)  # subtracted from times without an offset, which are taken as UTC
_MS = timedelta(milliseconds=1)


def iso_to_ms(text: str) -> float:
    """Read an ISO 8601 time; one without an offset is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text.strip())
    return (moment - (_EPOCH_NAIVE if moment.tzinfo is None else _EPOCH)) / _MS


def ms_to_iso(ms: float) -> str:
    """Write UNIX ms as ISO 8601 in UTC, with 0, 3 or 6 decimals, as needed."""
    moment = _EPOCH + timedelta(microseconds=round(ms * 1_000))
    micros = moment.microsecond
    spec = "seconds" if micros == 0 else "milliseconds" if micros % 1_000 == 0 else "microseconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def texts_to_ms(texts: Sequence[str], unit: TsUnit | None, where: str, lines: Sequence[int]) -> NDArray[np.float64]:
    """Convert a column of timestamps to (N,) UNIX ms: numbers of `unit`, or ISO 8601 if `unit` is None.

    `lines` are the line numbers of the texts. Raises DataError with the line and the fix.
    """
    out = np.empty(len(texts))
    for place, text in enumerate(texts):
        try:
            out[place] = iso_to_ms(text) if unit is None else float(text) * MS_PER_UNIT[unit]
        except ValueError:
            raise DataError(f"{where}, line {lines[place]}: {_complaint(text, unit)}") from None
        if not np.isfinite(out[place]):
            raise DataError(f"{where}, line {lines[place]}: the timestamp {text!r} is not finite")
    return out


def _complaint(text: str, unit: TsUnit | None) -> str:
    if unit is not None:
        return f"the timestamp {text!r} is not a number of {unit}; leave --ts-unit out if timestamps are ISO 8601"
    try:
        number = abs(float(text))
    except ValueError:
        return f"the timestamp {text!r} is not ISO 8601 (such as 2020-03-09T10:14:33Z)"
    likely = "s" if number < 1e11 else "ms" if number < 1e14 else "us" if number < 1e17 else "ns"
    return f"the timestamp {text!r} is a number; give its unit: --ts-unit s, ms, us or ns (it looks like {likely})"
