"""What counts as readings: NumPy arrays, tables of columns, recordings, single readings -> messages as on a topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stream_detector.codec import encode_reading
from stream_detector.config import Config
from stream_detector.datasets.options import DEFAULT_START_MS
from stream_detector.datasets.recording import Recording
from stream_detector.errors import DataError
from stream_detector.evaluate.data import encoded
from stream_detector.evaluate.offline import Encoded
from stream_detector.types import Reading


@runtime_checkable
class Table(Protocol):
    """A table of named columns with an index of times, as a pandas DataFrame is."""

    @property
    def columns(self) -> Iterable[Any]:
        """Names of the columns."""

    @property
    def index(self) -> Any:
        """The rows' times, where they are dates."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column."""


Readings = (
    NDArray[Any] | Sequence[Sequence[float]] | Mapping[str, ArrayLike] | Table | Iterable[Recording] | Iterable[Reading]
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Readings as they would lie on a topic."""

    messages: Iterator[Encoded]  # to be read once
    recordings: Sequence[Recording]  # with their labels; empty for single readings, which have none


def take(
    config: Config,
    readings: Readings | Recording,
    *,
    times: ArrayLike | None = None,
    asset: str = "asset",
    labels: ArrayLike | None = None,
) -> Taken:
    """Return what was given as messages; see `stream_detector.train` for what may be given.

    Raises DataError naming what does not fit the set-up's channels.
    """
    if isinstance(readings, Recording):
        return _recordings(config, [readings], times, labels)
    if isinstance(readings, Mapping):
        return _recordings(config, [_table(config, readings, times, asset, labels)])
    if isinstance(readings, Table):
        columns = {str(name): readings[name] for name in readings.columns}
        index = np.asarray(readings.index)
        if times is None and index.dtype.kind in "MO":
            times = index
        return _recordings(config, [_table(config, columns, times, asset, labels)])
    if isinstance(readings, np.ndarray):
        return _recordings(config, [_array(config, readings, times, asset, labels)])
    items = iter(readings)
    first = next(items, None)
    if isinstance(first, Recording):
        every = [first, *(one for one in items if isinstance(one, Recording))]
        return _recordings(config, every, times, labels)
    if isinstance(first, Reading) or first is None:
        _none_given(times, labels, "single readings carry their own times, and no labels")
        return Taken(_encoded(() if first is None else chain([first], items)), [])  # type: ignore[arg-type] # all alike
    rows = np.asarray([first, *items])
    return _recordings(config, [_array(config, rows, times, asset, labels)])


def _recordings(
    config: Config, every: Sequence[Recording], times: ArrayLike | None = None, labels: ArrayLike | None = None
) -> Taken:
    _none_given(times, labels, "a recording carries its own times and labels")
    for one in every:
        if not set(one.channels) & set(config.channels):
            raise DataError(
                f"{one.source or one.asset}: none of its columns {one.channels} is a channel of this set-up; "
                f"channels: expects {list(config.channels)}"
            )
    every = [one.carrying(config.channels) for one in every]
    return Taken(chain.from_iterable(encoded(one) for one in every), every)


def _none_given(times: ArrayLike | None, labels: ArrayLike | None, why: str) -> None:
    for name, value in (("times", times), ("labels", labels)):
        if value is not None:
            raise DataError(f"{name} can't be given here: {why}")


def _array(
    config: Config, values: NDArray[Any], times: ArrayLike | None, asset: str, labels: ArrayLike | None
) -> Recording:
    names = list(config.channels)
    if values.ndim == 1 and len(names) == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DataError(
            f"readings have the shape {values.shape}, expected (n, {len(names)}): a column for each of the channels "
            f"{', '.join(names)}"
        )
    return _table(config, {name: values[:, place] for place, name in enumerate(names)}, times, asset, labels)


def _table(
    config: Config, table: Mapping[str, ArrayLike], times: ArrayLike | None, asset: str, labels: ArrayLike | None
) -> Recording:
    if missing := [name for name in config.channels if name not in table]:
        raise DataError(f"readings have no column {missing[0]!r}; they have {', '.join(map(str, table)) or 'none'}")
    values: dict[str, NDArray[Any]] = {}
    for name, channel in config.channels.items():
        if channel.cell == "waveform":
            raise DataError(
                f"channels.{name} is a waveform, and an array holds single values; give Reading or Recording objects "
                "with blocks of samples"
            )
        column = np.asarray(table[name])
        if channel.kind == "category":
            values[name] = np.array([None if word is None or word != word else str(word) for word in column], object)
            continue
        try:
            values[name] = column.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"column {name!r} holds what is not a number: {error}; channels.{name} is numeric"
            ) from None
    rows = len(next(iter(values.values())))
    evenly: NDArray[np.float64] = DEFAULT_START_MS + config.window.cell_ms * np.arange(rows, dtype=np.float64)
    ts_ms = evenly if times is None else times_ms(times)
    flags = None if labels is None else (np.asarray(labels) != 0).astype(np.int8)
    return Recording(asset=asset, ts_ms=ts_ms, values=values, labels=flags)


def times_ms(times: ArrayLike) -> NDArray[np.float64]:
    """Return times (n,) as UNIX ms: numbers are UNIX ms already, dates without an offset from UTC are UTC.

    Raises DataError for anything else, and for a time that is missing.
    """
    given = np.asarray(times)
    if given.dtype.kind == "M":
        found = given.astype("datetime64[us]").astype(np.float64) / 1_000.0
        found[np.isnat(given)] = np.nan
    elif given.dtype.kind in "iuf":
        found = given.astype(np.float64)
    elif given.dtype == object and all(isinstance(one, datetime) for one in given.flat):
        found = np.array([_ms(one) for one in given.flat], np.float64)
    else:
        raise DataError(f"times are of type {given.dtype}, expected UNIX ms or dates (datetime64 or datetime)")
    if found.ndim != 1 or not np.isfinite(found).all():
        raise DataError(f"times must be one row of finite moments, got shape {found.shape}; leave out rows without one")
    return found


def _ms(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1_000.0


def _encoded(readings: Iterable[Reading]) -> Iterator[Encoded]:
    for one in readings:
        try:
            value = encode_reading(one.asset, one.ts_ms, one.values, interval_ms=one.interval_ms)
        except ValueError as error:
            raise DataError(f"asset {one.asset!r}, the reading at {one.ts_ms:g} ms: {error}") from None
        yield Encoded(one.asset.encode(), value, [])
