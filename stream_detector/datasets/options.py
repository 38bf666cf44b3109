"""The options of `read`, and the interface of a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_detector.datasets.recording import Recording
from stream_detector.datasets.times import TsUnit
from stream_detector.errors import DataError

#: Default start of recordings without dates, UNIX ms: 2000-01-01T00:00:00Z.
DEFAULT_START_MS = 946_684_800_000.0


@dataclass(slots=True)
class ReadOptions:
    """Options of `datasets.read`; each format uses those that apply to it."""

    ts_column: str | None = None
    ts_unit: TsUnit | None = None
    asset_column: str | None = None
    label_column: str | None = None
    columns: tuple[str, ...] | None = None
    rate_hz: float | None = None
    block: int = 1_024
    start_ms: float = DEFAULT_START_MS

    def choose(self, channels: Sequence[str], where: str) -> list[str]:
        """Return the file's channels that `columns` selects. Raises DataError when a selected one is missing."""
        for name in self.columns or ():
            if name not in channels:
                raise DataError(f"{where}: no channel {name!r}; expected some of: {', '.join(channels)}")
        return [name for name in channels if self.columns is None or name in self.columns]


@dataclass(frozen=True, slots=True)
class Format:
    """One format of recorded data."""

    layout: str
    """Description of its files, for messages and help."""
    find: Callable[[Path], list[Path]]
    """Path -> sources, in any order: the path itself if it is a file, else the sources in that folder."""
    load: Callable[[Path, str, ReadOptions], list[Recording]]
    """Source, asset name, options -> recordings. Raises DataError."""


def first_line(path: Path) -> str:
    """Return the first line of a text file, without its end; empty when it can't be read as text."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.readline(65_536).rstrip("\r\n")
    except OSError:
        return ""
