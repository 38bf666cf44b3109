"""A recording in memory: one asset's readings by column, their ground truth, and their messages.

Labels and faults are for training and evaluation only; messages never contain them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Literal, NamedTuple

import msgpack  # type: ignore[import-untyped] # it ships no types
import numpy as np
import orjson
from numpy.typing import NDArray

from stream_detector.errors import DataError

MessageFormat = Literal["json", "msgpack"]
Headers = list[tuple[str, bytes]]
#: A column: numbers (float64, NaN where missing) or categories (object: str, None where missing).
Column = NDArray[Any]

_CHUNK = 8_192  # rows converted to Python objects at a time: limits memory, amortises the cost of a call


@dataclass(frozen=True, slots=True)
class Fault:
    """An interval during which an asset was not healthy, [start_ms, end_ms]."""

    start_ms: float  # UNIX ms
    end_ms: float  # UNIX ms
    name: str
    severity: float | None = None  # 0 (none) to 1 (failing); None if unknown


class Outgoing(NamedTuple):
    """A message ready to be sent."""

    key: bytes
    value: bytes
    headers: Headers
    event_ms: float  # event time of the (first) reading in it, UNIX ms
    sent_ms: float  # when it is to be sent, UNIX ms: its event time, unless the sensor's clock is wrong


@dataclass(slots=True)
class Recording:
    """Readings of one asset in source order; N rows, each sent as one message.

    A row's message contains the `values` that are finite (for categories: not None) and the blocks that are not None.
    Raises DataError when columns differ in length, or a block is empty or holds a sample that is not finite.
    """

    asset: str
    ts_ms: NDArray[np.float64]  # (N,) event time, UNIX ms; for a block, of its first sample
    values: dict[str, Column] = field(default_factory=dict)  # channel -> (N,)
    blocks: dict[str, list[NDArray[np.float64] | None]] = field(default_factory=dict)  # channel -> (N) waveforms
    interval_ms: float | None = None  # between samples of the blocks
    labels: NDArray[np.int8] | None = None  # (N,) 1 where anomalous; None without labels
    marks: dict[str, NDArray[np.int8]] = field(default_factory=dict)  # further label columns: changepoint, training
    details: dict[str, Column] = field(default_factory=dict)  # further ground truth as text: attack, category
    faults: list[Fault] = field(default_factory=list)
    events: list[Fault] = field(default_factory=list)  # causes of changed readings that are not faults
    source: str = ""  # the file or folder it was read from
    sent_ms: NDArray[np.float64] | None = None  # (N,) UNIX ms, send times, if a wrong clock makes them differ from ts

    def __post_init__(self) -> None:
        """Check that the columns are consistent."""
        where = self.source or self.asset
        columns: dict[str, Any] = {**self.values, **self.blocks, **self.marks, **self.details}
        if self.labels is not None:
            columns["labels"] = self.labels
        if self.sent_ms is not None:
            columns["sent_ms"] = self.sent_ms
        for name, column in columns.items():
            if len(column) != len(self.ts_ms):
                raise DataError(f"{where}: column {name} has {len(column)} rows, the timestamps {len(self.ts_ms)}")
        if self.blocks and (self.interval_ms is None or not self.interval_ms > 0):
            raise DataError(f"{where}: blocks of samples need interval_ms > 0, got {self.interval_ms}")
        for name, blocks in self.blocks.items():
            for row, block in enumerate(blocks):
                if block is not None and (not len(block) or not np.isfinite(block).all()):
                    raise DataError(f"{where}: block {row} of {name} is empty or holds a sample that is not finite")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ts_ms)

    @property
    def channels(self) -> list[str]:
        """Names of the channels, values first."""
        return [*self.values, *self.blocks]

    @property
    def start_ms(self) -> float:
        """Event time of the earliest row, UNIX ms; 0 when there are no rows."""
        return float(self.ts_ms.min()) if len(self) else 0.0

    @property
    def end_ms(self) -> float:
        """Event time of the next row, if there were one: latest time + the larger of median step and longest block."""
        if not len(self):
            return 0.0
        steps = np.diff(self.ts_ms)
        steps = steps[steps > 0]
        step = float(np.median(steps)) if len(steps) else 1_000.0
        longest = max((len(b) for blocks in self.blocks.values() for b in blocks if b is not None), default=0)
        return float(self.ts_ms.max()) + max(step, longest * (self.interval_ms or 0.0))

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """Return rows start..stop (like a slice), with the faults that overlap their time."""
        cut = slice(start, stop)
        ts = self.ts_ms[cut]
        first, last = (float(ts.min()), float(ts.max())) if len(ts) else (np.inf, -np.inf)
        return replace(
            self,
            ts_ms=ts,
            values={name: column[cut] for name, column in self.values.items()},
            blocks={name: column[cut] for name, column in self.blocks.items()},
            labels=None if self.labels is None else self.labels[cut],
            marks={name: column[cut] for name, column in self.marks.items()},
            details={name: column[cut] for name, column in self.details.items()},
            faults=[fault for fault in self.faults if fault.start_ms <= last and fault.end_ms >= first],
            events=[event for event in self.events if event.start_ms <= last and event.end_ms >= first],
            sent_ms=None if self.sent_ms is None else self.sent_ms[cut],
        )

    def take(self, places: NDArray[np.int64]) -> Recording:
        """Return the rows at these positions, in the given order; faults stay as they are."""
        return replace(
            self,
            ts_ms=self.ts_ms[places],
            values={name: column[places] for name, column in self.values.items()},
            blocks={name: [column[place] for place in places.tolist()] for name, column in self.blocks.items()},
            labels=None if self.labels is None else self.labels[places],
            sent_ms=None if self.sent_ms is None else self.sent_ms[places],
            marks={name: column[places] for name, column in self.marks.items()},
            details={name: column[places] for name, column in self.details.items()},
        )

    def carrying(self, channels: Iterable[str]) -> Recording:
        """Return the rows with a value or block of at least one of `channels`."""
        present = np.zeros(len(self), np.bool_)
        for name in channels:
            if name in self.values:
                column = self.values[name]
                words = column.dtype == object
                present |= np.array([value is not None for value in column]) if words else ~np.isnan(column)
            elif name in self.blocks:
                present |= np.array([block is not None for block in self.blocks[name]], np.bool_)
        return self if present.all() else self.take(np.flatnonzero(present))

    def decimated(self, factor: int, low_pass: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Recording:
        """Low-pass filter each channel's blocks as one waveform and keep every `factor`-th sample.

        Blocks keep their length, so there are fewer rows; samples that do not fill the last block are dropped. Raises
        DataError when a block is missing, or one other than the last has a different length.
        """
        waves = {name: [block for block in blocks if block is not None] for name, blocks in self.blocks.items()}
        size = max(len(block) for blocks in waves.values() for block in blocks)
        for name, blocks in waves.items():
            if len(blocks) < len(self) or any(len(block) != size for block in blocks[:-1]):
                raise DataError(f"{self.source or self.asset}: the waveform of {name} has gaps; it can't be decimated")
        thin = {name: low_pass(np.concatenate(blocks))[::factor] for name, blocks in waves.items()}
        count = min(map(len, thin.values())) // size
        kept = self.rows(0, count)
        assert self.interval_ms is not None
        step = size * self.interval_ms * factor
        return replace(
            kept,
            ts_ms=self.start_ms + step * np.arange(count, dtype=np.float64),
            blocks={name: [wave[i * size : (i + 1) * size] for i in range(count)] for name, wave in thin.items()},
            interval_ms=self.interval_ms * factor,
        )

    def head(self, n: int) -> Recording:
        """Return the first n rows."""
        return self.rows(0, max(n, 0))

    def messages(
        self,
        fields: Mapping[str, str] | None = None,
        format: MessageFormat = "json",
        shift_ms: float = 0.0,
    ) -> Iterator[Outgoing]:
        """Yield one message per row that has values, in row order, in the format of docs/wire-format.md.

        `fields` maps `asset`, `ts`, `interval_ms`, `values` or a channel to the field's name on the topic, as
        `kafka.inputs[].fields` does. `shift_ms` is added to every event time.
        """
        names = fields or {}
        asset, ts = names.get("asset", "asset"), names.get("ts", "ts")
        interval, values = names.get("interval_ms", "interval_ms"), names.get("values", "values")
        key = self.asset.encode()
        headers: Headers = [("content-type", b"application/msgpack" if format == "msgpack" else b"application/json")]
        encode = _encoder(format)
        step = self.interval_ms
        for times, due, rows, has_block in self._chunks(names, shift_ms, format):
            for time, sent, row, block in zip(times, due, rows, has_block, strict=True):
                if not row:
                    continue
                message = {asset: self.asset, ts: time, values: row}
                if block:
                    message[interval] = step
                yield Outgoing(key, encode(message), headers, time, sent)

    def _chunks(
        self, names: Mapping[str, str], shift_ms: float, format: MessageFormat
    ) -> Iterator[tuple[list[float], list[float], Iterator[dict[str, Any]], Iterator[bool]]]:
        """Yield (event times, send times, values by field, whether a row has a block) for _CHUNK rows at a time."""
        for begin in range(0, len(self), _CHUNK):
            cut = slice(begin, begin + _CHUNK)
            shifted = self.ts_ms[cut] + shift_ms
            whole = np.array_equal(shifted, np.floor(shifted))  # send UNIX ms as integers where possible
            times = (shifted.astype(np.int64) if whole else shifted).tolist()
            due = times if self.sent_ms is None else (self.sent_ms[cut] + shift_ms).tolist()
            columns = {names.get(name, name): column[cut] for name, column in self.values.items()}
            rows = _rows(columns, len(shifted))
            if not self.blocks:
                yield times, due, rows, repeat(False, len(times))
                continue
            full = list(rows)
            has_block = [False] * len(full)
            for name, blocks in self.blocks.items():
                for place, block in enumerate(blocks[cut]):
                    if block is not None:
                        full[place][names.get(name, name)] = _block(block, format)
                        has_block[place] = True
            yield times, due, iter(full), iter(has_block)


def _rows(columns: dict[str, Column], count: int) -> Iterator[dict[str, Any]]:
    """Return an iterator of each row's values by field, without missing ones."""
    if not columns:
        return ({} for _ in range(count))
    present = {name: _present(column) for name, column in columns.items()}
    fields, lists = tuple(columns), [column.tolist() for column in columns.values()]
    complete = np.logical_and.reduce(list(present.values()))
    if complete.all():
        return (dict(zip(fields, row, strict=True)) for row in zip(*lists, strict=True))
    keep = zip(*(mask.tolist() for mask in present.values()), strict=True)
    return (
        {name: value for name, value, here in zip(fields, row, mask, strict=True) if here}
        for row, mask in zip(zip(*lists, strict=True), keep, strict=True)
    )


def _present(column: Column) -> NDArray[np.bool_]:
    if column.dtype == object:
        return np.array([value is not None for value in column], dtype=np.bool_)
    return np.isfinite(column)


def _block(block: NDArray[np.float64], format: MessageFormat) -> object:
    """Encode a waveform for a message: a list in JSON, little-endian float32 bytes in MessagePack."""
    return block.astype("<f4").tobytes() if format == "msgpack" else np.ascontiguousarray(block)


def _encoder(format: MessageFormat) -> Callable[[dict[str, Any]], bytes]:
    if format == "msgpack":
        pack = msgpack.Packer(use_bin_type=True).pack

        def encode_msgpack(message: dict[str, Any]) -> bytes:
            packed: bytes = pack(message)
            return packed

        return encode_msgpack

    return _encode_json


def _encode_json(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
