"""Write recordings to CSV or Parquet files, one per asset, and their faults to JSON; the readers can read all of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stream_detector.datasets.recording import Recording
from stream_detector.datasets.times import ms_to_iso
from stream_detector.errors import DataError

FAULTS_FILE = "faults.json"
EVENTS_FILE = "events.json"
FileFormat = Literal["csv", "parquet"]


def write(recordings: Sequence[Recording], folder: Path, format: FileFormat = "csv") -> list[Path]:
    """Write one `<asset>.csv` (or .parquet) per recording, and `faults.json`, into `folder`; return the paths.

    Columns: `timestamp` (ISO 8601, UTC), the channels, `anomaly` (0 or 1) if labelled; missing readings are empty.
    faults.json: a list of {asset, fault, start, end, severity}. events.json, if there are events: a list of {asset,
    event, start, end, severity} of causes of changed readings that are not faults. The same recordings give the same
    bytes. Rows keep the order in which they were sent; the send times themselves (`sent_ms`) are not stored.
    Raises DataError when a file can't be written or the format can't store the recording.
    """
    encode = {"csv": _csv, "parquet": _parquet}[format]
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for recording in recordings:
            path = folder / f"{recording.asset}.{format}"
            encode(recording, path)
            paths.append(path)
        path = folder / FAULTS_FILE
        path.write_text(json.dumps(_listed(recordings, "fault"), indent=1) + "\n", encoding="utf-8")
        paths.append(path)
        if any(recording.events for recording in recordings):
            path = folder / EVENTS_FILE
            path.write_text(json.dumps(_listed(recordings, "event"), indent=1) + "\n", encoding="utf-8")
            paths.append(path)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: can't be written: {error.strerror or error}") from error
    return paths


def _listed(recordings: Sequence[Recording], what: Literal["fault", "event"]) -> list[dict[str, object]]:
    return [
        {
            "asset": recording.asset,
            what: one.name,
            "start": ms_to_iso(one.start_ms),
            "end": ms_to_iso(one.end_ms),
            "severity": one.severity,
        }
        for recording in recordings
        for one in (recording.faults if what == "fault" else recording.events)
    ]


def _csv(recording: Recording, path: Path) -> None:
    if recording.blocks:
        raise DataError(f"{path}: a CSV file can't hold waveforms; write Parquet (--format parquet)")
    columns: list[list[str]] = [list(map(ms_to_iso, recording.ts_ms.tolist()))]
    for column in recording.values.values():
        columns.append(["" if value is None or value != value else str(value) for value in column.tolist()])
    header = ["timestamp", *recording.values]
    if recording.labels is not None:
        header.append("anomaly")
        columns.append(list(map(str, recording.labels.tolist())))
    lines = [",".join(header), *map(",".join, zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _parquet(recording: Recording, path: Path) -> None:
    try:
        pa: Any = importlib.import_module("pyarrow")
        pq: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{path}: writing Parquet needs pyarrow; install stream-detector[parquet]") from error
    micros = np.round(recording.ts_ms * 1_000.0).astype(np.int64)
    columns: dict[str, Any] = {"timestamp": pa.array(micros, pa.int64()).cast(pa.timestamp("us", "UTC"))}
    for name, column in recording.values.items():
        columns[name] = pa.array(column, pa.string()) if column.dtype == object else pa.array(column, from_pandas=True)
    for name, blocks in recording.blocks.items():
        columns[name] = pa.array(blocks, pa.list_(pa.float64()))
    if recording.blocks:
        columns["interval_ms"] = pa.array([recording.interval_ms] * len(recording), pa.float64())
    if recording.labels is not None:
        columns["anomaly"] = pa.array(recording.labels, pa.int8())
    pq.write_table(pa.table(columns), path)
