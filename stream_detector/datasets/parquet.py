"""Parquet tables (extra `parquet`): columns have the same names and meanings as in a CSV file (see delimited.py).

A column of lists of numbers is a waveform: each list is a block; the column `interval_ms` is the time between samples.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.delimited import (
    ASSET_COLUMNS,
    LABEL_COLUMNS,
    MARK_COLUMNS,
    TIME_COLUMNS,
    split,
    with_faults,
)
from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Column, Recording
from stream_detector.datasets.table import find_column
from stream_detector.datasets.times import MS_PER_UNIT, texts_to_ms
from stream_detector.errors import DataError


def _find(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*.parquet") if file.is_file()]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    pa = _arrow(path)
    try:
        table = importlib.import_module("pyarrow.parquet").read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    header: list[str] = table.column_names
    time = find_column(header, options.ts_column, TIME_COLUMNS, "time", str(path))
    if time is None:
        raise DataError(
            f"{path}: none of {', '.join(TIME_COLUMNS)} is a column; name the time column with --ts-column. "
            f"The columns are: {', '.join(header)}"
        )
    label = find_column(header, options.label_column, LABEL_COLUMNS, "label", str(path))
    by_asset = find_column(header, options.asset_column, ASSET_COLUMNS, "asset", str(path))
    marks = [name for name in header if name in MARK_COLUMNS]
    known = (time, label, by_asset, "interval_ms", *marks)
    channels = options.choose([name for name in header if name not in known], str(path))
    waves = [name for name in channels if pa.types.is_list(table.schema.field(name).type)]
    whole = Recording(
        asset=asset,
        ts_ms=_times(table.column(time), options, path, time),
        values={name: _column(table.column(name), path, name) for name in channels if name not in waves},
        blocks={name: _blocks(table.column(name)) for name in waves},
        interval_ms=_interval(table, path) if waves else None,
        labels=None if label is None else _flags(table.column(label), path, label),
        marks={name: _flags(table.column(name), path, name) for name in marks},
        source=str(path),
    )
    assets = None if by_asset is None else ["" if a is None else str(a) for a in table.column(by_asset).to_pylist()]
    return with_faults(split(whole, assets), path.parent)


def _arrow(path: Path) -> Any:
    """Return pyarrow, an optional extra. Raises DataError with how to install it."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow; install stream-detector[parquet]") from error


def _times(column: Any, options: ReadOptions, path: Path, name: str) -> NDArray[np.float64]:
    pa = _arrow(path)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{path}, row {row}: {name} is empty; fill it in or remove the row")
    if pa.types.is_timestamp(column.type):
        ticks = column.cast(pa.int64()).to_numpy().astype(np.float64)
        scaled: NDArray[np.float64] = ticks * MS_PER_UNIT[column.type.unit]
        return scaled
    if pa.types.is_date(column.type):
        return _times(column.cast(pa.timestamp("ms")), options, path, name)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        if options.ts_unit is None:
            raise DataError(f"{path}: {name} holds numbers; give their unit: --ts-unit s, ms, us or ns")
        numbers: NDArray[np.float64] = column.to_numpy().astype(np.float64) * MS_PER_UNIT[options.ts_unit]
        return numbers
    return texts_to_ms([str(text) for text in column.to_pylist()], options.ts_unit, str(path), range(len(column)))


def _column(column: Any, path: Path, name: str) -> Column:
    pa = _arrow(path)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if any(is_kind(kind) for is_kind in numeric):
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    raise DataError(f"{path}: the column {name} is of type {kind}, expected numbers or text; choose with --columns")


def _blocks(column: Any) -> list[NDArray[np.float64] | None]:
    return [None if block is None else np.asarray(block, np.float64) for block in column.to_pylist()]


def _interval(table: Any, path: Path) -> float:
    if "interval_ms" not in table.column_names:
        raise DataError(f"{path}: a column of lists needs a column interval_ms, the time between two samples")
    found = {value for value in table.column("interval_ms").to_pylist() if value is not None}
    if len(found) != 1:
        raise DataError(f"{path}: interval_ms must be the same in all rows, got {sorted(found)[:3]}")
    return float(found.pop())


def _flags(column: Any, path: Path, name: str) -> NDArray[np.int8]:
    found = column.to_pylist()
    for row, value in enumerate(found):
        if value not in (0, 1, None):  # False == 0, True == 1
            raise DataError(f"{path}, row {row}: label {name} is {value!r}, expected 0 or 1; see --label-column")
    return np.array([value or 0 for value in found], np.int8)


FORMAT = Format("*.parquet with a time column", _find, _load)
