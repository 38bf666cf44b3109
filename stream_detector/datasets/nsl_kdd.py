"""NSL-KDD: network connections, 41 fields, label and difficulty; no header (`KDDTrain+.txt`, `KDDTest+.txt`, …).

`protocol_type`, `service` and `flag` are categories. Label 0 is `normal`. Records have no time; they are placed one
second apart.
"""

from __future__ import annotations

from pathlib import Path

from stream_detector.datasets import kdd
from stream_detector.datasets.options import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.records import first_fields, read_records
from stream_detector.errors import DataError

_NAMES = (*kdd.FIELDS, "label", "difficulty")


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    texts = [file for ending in ("*.txt", "*.csv", "*.txt.gz", "*.csv.gz") for file in path.rglob(ending)]
    return [file for file in texts if len(first_fields(file)) == len(_NAMES)]


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    fields = first_fields(path)
    if len(fields) != len(_NAMES):
        raise DataError(
            f"{path}, line 1: {len(fields)} fields, expected {len(_NAMES)} (41 of a connection, label, difficulty); "
            "is this an NSL-KDD file? KDD Cup 99 has 42: --format kdd99"
        )
    return [kdd.recording(path, asset, options, read_records(path, _NAMES, (*kdd.CATEGORIES, "label")))]


FORMAT = Format("KDDTrain+.txt, KDDTest+.txt: 43 fields per line, no header", _find, _load)
