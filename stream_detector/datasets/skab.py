"""SKAB, the Skoltech anomaly benchmark: a water pump on a test bench, eight sensors at about 1 Hz.

Files are `;`-separated, with `datetime` as the first column; `anomaly` and `changepoint`, if present, label each row.
The files' column names are the channel names (`Accelerometer1RMS`, …, `Volume Flow RateRMS`).
"""

from __future__ import annotations

from pathlib import Path

from stream_detector.datasets.options import Format, ReadOptions, first_line
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.table import read_text
from stream_detector.datasets.times import texts_to_ms
from stream_detector.errors import DataError

_TRUTH = ("anomaly", "changepoint")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*.csv") if first_line(file).startswith("datetime;")]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    table = read_text(path, delimiter=";")
    if table.header[0] != "datetime":
        raise DataError(
            f"{path}, line 1: the first column is {table.header[0]!r}, expected 'datetime' and ';' between columns; "
            "is this a SKAB file? --format csv reads other tables"
        )
    channels = options.choose([name for name in table.header[1:] if name not in _TRUTH], str(path))
    return [
        Recording(
            asset=asset,
            ts_ms=texts_to_ms(table.columns["datetime"], None, str(path), table.lines),
            values={name: table.numbers(name) for name in channels},
            labels=table.flags("anomaly") if "anomaly" in table.header else None,
            marks={"changepoint": table.flags("changepoint")} if "changepoint" in table.header else {},
            source=str(path),
        )
    ]


FORMAT = Format("*.csv with `datetime;Accelerometer1RMS;…` as header", _find, _load)
