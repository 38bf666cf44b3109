"""Tables with a column of times: common part of the readers of SKAB, NAB, CSV and Parquet files."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.recording import Column
from stream_detector.errors import DataError

MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})


@dataclass(slots=True)
class TextTable:
    """A delimited file as text, by column."""

    path: Path
    header: list[str]
    columns: dict[str, list[str]]
    lines: list[int]  # line number of each row, for messages

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where empty. Raises DataError with the line of a value that is no number."""
        texts = self.columns[name]
        try:
            return np.array(list(map(float, texts)))  # the usual case: nothing missing
        except ValueError:
            pass
        out = np.empty(len(texts))
        for place, text in enumerate(texts):
            try:
                out[place] = np.nan if text.strip().lower() in MISSING else float(text)
            except ValueError:
                raise DataError(
                    f"{self.path}, line {self.lines[place]}: {name} is {_short(text)}, expected a number; "
                    "correct the row, or choose other columns with --columns"
                ) from None
        return out

    def guess(self, name: str) -> Column:
        """Return a column as numbers if its first value is a number, else as categories."""
        first = next((text for text in self.columns[name] if text.strip().lower() not in MISSING), "nan")
        try:
            float(first)
        except ValueError:
            texts = (text.strip() for text in self.columns[name])
            return np.array([text if text.lower() not in MISSING else None for text in texts], dtype=object)
        return self.numbers(name)

    def flags(self, name: str) -> NDArray[np.int8]:
        """Return a label column as 0 and 1. Raises DataError on anything else."""
        words = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "": 0}
        out = np.empty(len(self), np.int8)
        for place, text in enumerate(self.columns[name]):
            flag = words.get(text.strip().lower())
            if flag is None:
                raise DataError(
                    f"{self.path}, line {self.lines[place]}: label {name} is {_short(text)}, expected 0 or 1; "
                    "name the label column with --label-column"
                )
            out[place] = flag
        return out


def read_text(path: Path, delimiter: str | None = None) -> TextTable:
    """Read a delimited file with a header line; .gz is unpacked.

    Without `delimiter` it is the one of `,` `;` tab and `|` that is most frequent in the header. Raises DataError when
    the file can't be read, has no header or no rows, or a row has a different number of fields.
    """
    text = _text(path)
    head, _, _ = text.partition("\n")
    if not head.strip():
        raise DataError(f"{path}: the file is empty; expected a header line and rows")
    if delimiter is None:
        delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip() for name in next(reader)]
    body, lines = [], []
    try:
        for row in reader:
            if row:
                body.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; correct or remove the line") from error
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}, line 1: the column {twice!r} occurs twice; rename one")
    if not body:
        raise DataError(f"{path}: there is a header, but no row below it")
    for line, row in zip(lines, body, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields, the header has {len(header)} "
                f"(separator {delimiter!r}); correct or remove the row"
            )
    columns = {name: list(column) for name, column in zip(header, zip(*body, strict=True), strict=True)}
    return TextTable(path, header, columns, lines)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the compressed file is damaged: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; is this a text file? Save it as UTF-8") from None


def find_column(header: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, where: str) -> str | None:
    """Return `wanted`, or else the first of the `usual` names (upper or lower case) in the header, or None.

    Raises DataError when `wanted` is not in the header.
    """
    if wanted is not None:
        if wanted not in header:
            raise DataError(f"{where}: no {what} column {wanted!r}; the columns are: {', '.join(header)}")
        return wanted
    lower = {name.lower(): name for name in reversed(header)}
    return next((lower[name] for name in usual if name in lower), None)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "…")
