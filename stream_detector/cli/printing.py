"""What commands print on standard output: lines, tables and JSON, all of it harmless on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from stream_detector.telemetry.printable import printable, printable_json

PIPED_WIDTH = 10_000  # columns of a table that no terminal bounds: wide enough for every row to stay on one line


def print_line(text: str) -> None:
    """Print one line; line ends in it are escaped."""
    sys.stdout.write(f"{printable(text)}\n")


def print_json(value: object, indent: int | None = 2) -> None:
    """Print a value as JSON, over several lines (`indent`) or on one (None)."""
    plain = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    lines = json.dumps(value, indent=indent, ensure_ascii=plain).split("\n")
    sys.stdout.write("\n".join(map(printable_json, lines)) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """Print a table. `right`: names of the columns that are aligned there; None in a cell becomes a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    aligned = set(right)
    for name in columns:
        table.add_column(name, justify="right" if name in aligned else "left")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))  # Text: a name may look like rich's markup
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


def cell(value: object) -> str:
    """Return a value as a cell or a line shows it."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def utc(ms: float | None, timespec: str = "milliseconds") -> str | None:
    """Return UNIX ms as ISO 8601 in UTC with its Z; None without a time, or for one that no calendar has."""
    if ms is None or ms < 0:  # below 0: nothing judged yet
        return None
    try:
        moment = datetime.fromtimestamp(ms / 1_000, UTC)
    except (OverflowError, ValueError, OSError):  # a sender's clock
        return None
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")
