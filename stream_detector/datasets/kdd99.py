"""KDD Cup 99: network connections, 41 fields and a label that ends in a full stop; no header, often .gz.

`protocol_type`, `service` and `flag` are categories. Label 0 is `normal.`. Records have no time; they are placed one
second apart.
"""

from __future__ import annotations

from pathlib import Path

from stream_detector.datasets import kdd
from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.records import first_fields, read_records
from stream_detector.errors import DataError

_NAMES = (*kdd.FIELDS, "label")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and len(first_fields(file)) == len(_NAMES)]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    fields = first_fields(path)
    if len(fields) != len(_NAMES):
        raise DataError(
            f"{path}, line 1: {len(fields)} fields, expected {len(_NAMES)} (41 of a connection, label); is this a "
            "labelled file of KDD Cup 99, such as kddcup.data_10_percent.gz or corrected.gz? NSL-KDD: --format nsl-kdd"
        )
    return [kdd.recording(path, asset, options, read_records(path, _NAMES, (*kdd.CATEGORIES, "label")))]


FORMAT = Format("kddcup.data_10_percent.gz, corrected.gz: 42 fields per line, no header", _find, _load)
