"""JSON lines, one measurement each: {"machine": "lathe", "at": "2024-01-01T00:00:00Z", "heat": 21.5, "faulty": 0}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.datasets import Format, ReadOptions
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.times import iso_to_ms
from stream_detector.errors import DataError

SUFFIX = ".lines"
_OWN = ("machine", "at", "faulty")


def _find(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob(f"*{SUFFIX}"))


def _load(path: Path, asset: str, options: ReadOptions) -> list[Recording]:
    """Return one recording per machine in the file; `asset` names lines without a machine."""
    machines: dict[str, list[dict[str, Any]]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["at"] = iso_to_ms(row["at"])
            machines.setdefault(str(row.get("machine", asset)), []).append(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a measurement ({error!r}); fix or remove the line") from error
    if not machines:
        raise DataError(f"{path}: the file is empty; expected one measurement per line")
    return [_recording(path, name, rows, options) for name, rows in machines.items()]


def _recording(path: Path, asset: str, rows: list[dict[str, Any]], options: ReadOptions) -> Recording:
    channels = options.choose(list(dict.fromkeys(key for row in rows for key in row if key not in _OWN)), str(path))
    known = any("faulty" in row for row in rows)
    return Recording(
        asset=asset,
        ts_ms=np.array([row["at"] for row in rows], np.float64),
        values={name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in channels},
        labels=np.array([bool(row.get("faulty")) for row in rows], np.int8) if known else None,
        source=str(path),
    )


FORMAT = Format(f"*{SUFFIX} with a JSON object per line: machine, at, channels, perhaps faulty", _find, _load)
