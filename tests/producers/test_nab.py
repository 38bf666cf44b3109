"""NAB series and their labels."""

from __future__ import annotations

import json

import pytest

from stream_detector.datasets import read
from stream_detector.datasets.recording import Fault
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def nab(root, windows):
    """A NAB series of five-minute values, labels beside where they belong."""
    rows = "".join(f"2014-04-01 00:{minute:02d}:00,{minute}.5\n" for minute in range(0, 30, 5))
    file = files.write(root / "data" / "realKnownCause" / "cpu.csv", "timestamp,value\n" + rows)
    if windows is not None:
        files.write(root / "labels" / "combined_windows.json", json.dumps(windows))
    return file


def test_nab_labels_are_found_by_walking_up(tmp_path):
    """Rows in a window, both ends included, are anomalous, and each window is a fault."""
    file = nab(tmp_path, {"realKnownCause/cpu.csv": [["2014-04-01 00:05:00.000000", "2014-04-01 00:15:00.000000"]]})
    recording = only(read(file, "nab"))
    start = 1_396_310_400_000.0
    assert (recording.asset, recording.channels, recording.labels.tolist()) == ("cpu", ["value"], [0, 1, 1, 1, 0, 0])
    assert [Fault(start + 300_000, start + 900_000, "anomaly")] == recording.faults


@pytest.mark.parametrize("windows", [None, {"realKnownCause/other.csv": []}])
def test_nab_without_labels(tmp_path, windows):
    """No label file, or none of this file: nobody knows, which is not the same as all normal."""
    assert only(read(nab(tmp_path, windows), "nab")).labels is None


def test_nab_listed_without_windows_is_all_normal(tmp_path):
    """NAB's fault-free series are listed with no window."""
    assert only(read(nab(tmp_path, {"realKnownCause/cpu.csv": []}), "nab")).labels.tolist() == [0] * 6


def test_nab_broken_labels_are_named(tmp_path):
    """The label file is to be mended, not the series."""
    file = nab(tmp_path, {"realKnownCause/cpu.csv": [["yesterday", "today"]]})
    with pytest.raises(DataError, match=r"combined_windows\.json: not NAB's file of labelled windows"):
        read(file, "nab")
