"""SKAB files."""

from __future__ import annotations

import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

MARCH_9 = 1_583_748_873_000.0  # 2020-03-09T10:14:33Z


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_skab(tmp_path, end):
    """Column names are channel names, times are UTC, labels and change points are read and kept apart."""
    recording = only(read(files.skab(tmp_path / "valve1" / "0.csv", end=end), "skab"))
    assert [*files.SKAB_HEADER.split(";")[1:]] == recording.channels
    assert recording.ts_ms.tolist() == [MARCH_9, MARCH_9 + 1000, MARCH_9 + 2000]
    assert recording.values["Volume Flow RateRMS"].tolist() == [0.7, 1.7, 2.7]
    assert (recording.labels.tolist(), recording.marks["changepoint"].tolist()) == ([0, 1, 0], [0, 1, 0])


def test_skab_broken_values_name_file_line_and_mend(tmp_path):
    """Somebody with an editor can go straight to the place."""
    file = files.skab(tmp_path / "0.csv")
    file.write_text(file.read_text().replace("1.2", "n.a.!"))
    with pytest.raises(DataError, match=r"0\.csv, line 3: Current is 'n\.a\.!', expected a number; correct the row"):
        read(file, "skab")


def test_skab_short_rows_are_found(tmp_path):
    """A row cut off in writing is not taken for one of missing values."""
    file = files.skab(tmp_path / "0.csv")
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match=r"0\.csv, line 4: 7 fields, the header has 11"):
        read(file, "skab")


def test_skab_is_not_any_csv(tmp_path):
    """A file given by name must be of the format; the message says which reader would take it."""
    file = files.write(tmp_path / "a.csv", "time,a\n2020-01-01,1\n")
    with pytest.raises(DataError, match=r"line 1: the first column is 'time,a', expected 'datetime'.*--format csv"):
        read(file, "skab")
