"""SKAB's leaderboard, recomputed from the published predictions of its detectors.

The benchmark's rules: the first 400 rows of each file are for training and the rest is judged; the judged rows of all
files are pooled; F1, FAR and MAR by row, without point adjustment. Some published detectors (Conv-AE, LSTM-AE) label a
row from windows that extend up to 58 s into its future, which is impossible for a live detector.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.evaluate.pointwise import Counts

#: Number of training rows at the start of each file.
TRAIN_ROWS = 400
PREDICTIONS = "published_predictions.csv"


def published(path: Path, truth: dict[str, NDArray[np.int8]]) -> dict[str, dict[str, float | None]]:
    """Return F1, FAR, MAR, precision and recall of each published detector over the files given.

    `path` is a table `file,datetime,DETECTOR,…` with 0 or 1 for each judged row, in order; `truth` has the labels of
    each file's judged rows. A detector without predictions for some of the files is left out. Raises DataError when the
    table has another format, or another number of rows for a file.
    """
    said: dict[str, list[list[str]]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            header = next(table, [])
            for row in table:
                if len(row) != len(header):
                    raise DataError(f"{path}, line {table.line_num}: {len(row)} fields, the header has {len(header)}")
                said[row[0]].append(row[2:])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: can't be read: {error}") from error
    if header[:2] != ["file", "datetime"]:
        raise DataError(f"{path}, line 1: expected file,datetime,DETECTOR,… as header, got {','.join(header)[:60]!r}")
    both = [name for name in truth if name in said]
    for name in both:
        if len(said[name]) != len(truth[name]):
            raise DataError(
                f"{path}: {len(said[name])} rows of {name}, the recording has {len(truth[name])} after its first "
                f"{TRAIN_ROWS}; is it the same version of the data?"
            )
    if not both:
        return {}
    was = np.concatenate([truth[name] for name in both])
    found: dict[str, dict[str, float | None]] = {}
    for column, detector in enumerate(header[2:]):
        flags = [row[column].strip() for name in both for row in said[name]]
        if all(flag in ("0", "1", "0.0", "1.0") for flag in flags):
            found[detector] = Counts.of(was, np.array([flag[0] == "1" for flag in flags])).figures()
    return found
