"""Any delimited table with a header line (CSV, TSV, `;`-separated; also .gz).

Time: `ts_column`, or else `timestamp`, `ts`, `time`, `datetime` or `date`; ISO 8601 (UTC without an offset), or numbers
since 1970 if `ts_unit` is given. `asset_column`, or else `asset`, splits the rows into assets. Labels, which no message
carries: `label_column`, or else `anomaly`, `is_anomaly` or `label`; also `changepoint`. All other columns are channels:
of numbers, or of categories if the first value is not a number. Faults come from a `faults.json` beside the file, in
the format that the simulator writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Fault, Recording
from stream_detector.datasets.table import find_column, read_text
from stream_detector.datasets.times import iso_to_ms, texts_to_ms
from stream_detector.errors import DataError

TIME_COLUMNS = ("timestamp", "ts", "time", "datetime", "date")
LABEL_COLUMNS = ("anomaly", "is_anomaly", "label")
ASSET_COLUMNS = ("asset",)
MARK_COLUMNS = ("changepoint",)
_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.name.lower().endswith(_ENDINGS) and file.is_file()]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    table = read_text(path)
    where = f"{path}, line 1"
    time = find_column(table.header, options.ts_column, TIME_COLUMNS, "time", where)
    if time is None:
        raise DataError(
            f"{where}: none of {', '.join(TIME_COLUMNS)} is a column; name the time column with --ts-column. "
            f"The columns are: {', '.join(table.header)}"
        )
    label = find_column(table.header, options.label_column, LABEL_COLUMNS, "label", where)
    by_asset = find_column(table.header, options.asset_column, ASSET_COLUMNS, "asset", where)
    marks = [name for name in table.header if name in MARK_COLUMNS]
    known = (time, label, by_asset, *marks)
    channels = options.choose([name for name in table.header if name not in known], str(path))
    whole = Recording(
        asset=asset,
        ts_ms=texts_to_ms(table.columns[time], options.ts_unit, str(path), table.lines),
        values={name: table.guess(name) for name in channels},
        labels=None if label is None else table.flags(label),
        marks={name: table.flags(name) for name in marks},
        source=str(path),
    )
    return with_faults(split(whole, None if by_asset is None else table.columns[by_asset]), path.parent)


def split(whole: Recording, assets: list[str] | None) -> list[Recording]:
    """Return one recording per asset, in order of first appearance; the whole one when there is no asset column."""
    if assets is None:
        return [whole]
    for place, name in enumerate(assets):
        if not name.strip():
            raise DataError(f"{whole.source}, line {place + 2}: the asset is empty; fill it in or remove the row")
    column = np.array([name.strip() for name in assets])
    parts = []
    for name in dict.fromkeys(column.tolist()):
        mine = column == name
        parts.append(
            Recording(
                asset=name,
                ts_ms=whole.ts_ms[mine],
                values={channel: values[mine] for channel, values in whole.values.items()},
                blocks={
                    channel: [block for block, here in zip(blocks, mine, strict=True) if here]
                    for channel, blocks in whole.blocks.items()
                },
                interval_ms=whole.interval_ms,
                labels=None if whole.labels is None else whole.labels[mine],
                marks={channel: marks[mine] for channel, marks in whole.marks.items()},
                details={name: details[mine] for name, details in whole.details.items()},
                source=whole.source,
            )
        )
    return parts


def with_faults(recordings: list[Recording], folder: Path) -> list[Recording]:
    """Add the faults that a `faults.json` in this folder lists. Raises DataError when the file is invalid."""
    path = folder / "faults.json"
    if not path.is_file():
        return recordings
    by_asset = {recording.asset: recording for recording in recordings}
    try:
        for entry in json.loads(path.read_bytes()):
            if (recording := by_asset.get(entry["asset"])) is not None:
                fault = Fault(iso_to_ms(entry["start"]), iso_to_ms(entry["end"]), entry["fault"], entry.get("severity"))
                recording.faults.append(fault)
    except (ValueError, TypeError, KeyError) as error:
        expected = "a list of {asset, fault, start, end, severity}"
        raise DataError(f"{path}: not {expected}: {error!r}; correct or remove the file") from error
    return recordings


FORMAT = Format("*.csv or *.tsv with a header line and a time column", _find, _load)
