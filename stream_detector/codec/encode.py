"""Readings -> bytes, for producers and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_detector.codec.packing import pack

Samples = float | str | Sequence[float] | NDArray[np.floating]


def encode_reading(
    asset: str | None,
    ts_ms: float,
    values: Mapping[str, Samples],
    *,
    interval_ms: float | None = None,
    format: Literal["json", "msgpack"] = "json",
) -> bytes:
    """Return a reading's bytes: channels under `values`, a sequence being a block sampled every `interval_ms`.

    `asset` None: the message's key names it. Arrays are encoded as little-endian float32 in MessagePack, as numbers
    of full precision otherwise. Raises ValueError for what a decoder would refuse: a value that is not finite, a block
    that is empty or has no interval.
    """
    fields: dict[str, object] = {} if asset is None else {"asset": asset}
    fields["ts"] = _short(_finite("ts", ts_ms))
    if interval_ms is not None:
        fields["interval_ms"] = _short(_finite("interval_ms", interval_ms))
    fields["values"] = {name: _value(name, value, interval_ms, format) for name, value in values.items()}
    if format == "json":
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return pack(fields)


def _value(name: str, value: Samples, interval_ms: float | None, form: str) -> object:
    if isinstance(value, str):
        return value
    if not isinstance(value, (Sequence, np.ndarray)):
        return _finite(name, value)
    if interval_ms is None:
        raise ValueError(f"{name} is a block, but interval_ms is not given")
    samples = np.asarray(value, dtype=np.float64)
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise ValueError(f"{name} must be one row of at least one finite sample, got shape {samples.shape}")
    if form == "msgpack" and isinstance(value, np.ndarray):
        return samples.astype("<f4").tobytes()
    return samples.tolist()


def _finite(name: str, value: float) -> float:
    number = value.item() if isinstance(value, np.generic) else value
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {number}")
    return number


def _short(number: float) -> float:
    """Return a whole number as int, so that it is written without a decimal point."""
    return int(number) if number == int(number) and abs(number) < 2**53 else number
