"""UCR anomaly archive: the truth is in the name."""

from __future__ import annotations

import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

NAME = "007_UCR_Anomaly_Tide_2_4_5.txt"


@pytest.mark.parametrize("text", ["  1\n  2\n  3.5\n  4\n  5\n  6\n", "1 2 3.5 4 5 6\n"])
def test_a_series_knows_its_training_part_and_its_anomaly(tmp_path, text):
    """One value a line, as most, or all on one line, as a few."""
    recording = only(read(files.write(tmp_path / NAME, text), "ucr", start_ms=0))
    assert (recording.values["value"].tolist(), recording.ts_ms.tolist()[:2]) == ([1, 2, 3.5, 4, 5, 6], [0, 1_000])
    assert (recording.marks["training"].tolist(), recording.labels.tolist()) == ([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0])
    assert [fault.name for fault in recording.faults] == ["Tide"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (NAME, "1\n2\n3\n", "an anomaly at 4 to 5, but there are 3 values"),
        (NAME, "1\n2\nx\n4\n5\n", "line 3: could not convert string to float: 'x'"),
        ("tide.txt", "1\n2\n", "keep the archive's names"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, message):
    """A file cut short, a bad value, a renamed file."""
    with pytest.raises(DataError, match=message):
        read(files.write(tmp_path / name, text), "ucr")
