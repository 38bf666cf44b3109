"""Tables of records with known columns, too long to hold as text: NSL-KDD, KDD Cup 99, creditcard."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError

#: Maximum length of a category's text, in characters.
LONGEST = 32

Columns = dict[str, NDArray[Any]]
_AT = re.compile(r"(?:string '(?P<text>.*)' to .* )?at row (?P<row>\d+)(?:, column (?P<column>\d+))?", re.DOTALL)


def read_records(
    path: Path, names: Sequence[str], categories: Sequence[str], delimiter: str = ",", header: bool = False
) -> Columns:
    """Read a table of numbers (float64) and categories (str), (N,) each; .gz is unpacked.

    Raises DataError with the line and the error in it.
    """
    dtype = [(name, f"U{LONGEST}" if name in categories else "f8") for name in names]
    first = 2 if header else 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns about an empty file
            table = np.loadtxt(
                path,
                dtype=dtype,
                delimiter=delimiter,
                comments=None,
                quotechar='"',
                skiprows=first - 1,
                ndmin=1,
                encoding="utf-8",
            )
    except UserWarning:
        raise DataError(f"{path}: the file has no row; expected rows of {len(names)} fields") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); is it the data set's original file?") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: can't be read: {error}; is the file complete?") from error
    except ValueError as error:
        raise DataError(f"{path}{_place(str(error), names, first)}; correct or remove the row") from None
    columns: Columns = {}
    for name in names:
        column = table[name]
        if name in categories:
            columns[name] = np.char.strip(column).astype(object)
            continue
        if not np.isfinite(column).all():
            row = int(np.argmin(np.isfinite(column)))
            raise DataError(f"{path}, line {row + first}: {name} is {column[row]}, expected a number; correct the row")
        columns[name] = np.ascontiguousarray(column)
    return columns


def first_fields(path: Path, delimiter: str = ",") -> list[str]:
    """Return the fields of a text file's first line (.gz is unpacked); empty when the file can't be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", errors="replace") if packed else path.open(errors="replace") as text:
            line = text.readline(65_536).rstrip("\r\n")
    except (OSError, EOFError):
        return []
    return [field.strip().strip('"') for field in line.split(delimiter)] if line else []


def _place(message: str, names: Sequence[str], first: int) -> str:
    """Translate the position in numpy's message (rows from 0, columns from 1) into line and column name."""
    match = _AT.search(message)
    if match is None:
        return f": {message}"
    if match["text"] is not None and match["column"] is not None:
        name = names[min(int(match["column"]), len(names)) - 1]
        return f", line {int(match['row']) + first}: {name} is {match['text'][:40]!r}, expected a number"
    return f", line {int(match['row']) + first - 1}: not {len(names)} fields ({message.splitlines()[0]})"
