"""Yahoo S5: both layouts, both kinds of time."""

from __future__ import annotations

import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

A3 = "timestamps,value,anomaly,changepoint,trend,noise,seasonality1,seasonality2,seasonality3\n"


def test_a1_counts_hours(tmp_path):
    """Integer hours become hours from the start asked for."""
    rows = "timestamp,value,is_anomaly\n1,0.5,0\n2,0.7,1\n3,0.6,0\n"
    path = files.write(tmp_path / "A1Benchmark" / "real_1.csv", rows)
    recording = only(read(path, "yahoo-s5", start_ms=0))
    assert (recording.asset, recording.ts_ms.tolist()) == ("real_1", [0, 3_600_000, 7_200_000])
    assert (recording.channels, recording.labels.tolist()) == (["value"], [0, 1, 0])


def test_a3_has_unix_seconds_and_change_points(tmp_path):
    """The components that the value is the sum of are no channels."""
    rows = "1422237600,5,0,0,1,1,1,1,1\n1422241200,9,1,1,1,5,1,1,1\n"
    recording = only(read(files.write(tmp_path / "A3Benchmark-TS1.csv", A3 + rows), "yahoo-s5"))
    assert (recording.ts_ms.tolist(), recording.labels.tolist()) == ([1422237600000, 1422241200000], [0, 1])
    assert (recording.channels, recording.marks["changepoint"].tolist()) == (["value"], [0, 1])


def test_a_folder_gives_its_series_only(tmp_path):
    """`A3Benchmark_all.csv` has another header and is no series."""
    files.write(tmp_path / "A3Benchmark_all.csv", "timestamps_1,value_1\n1,2\n")
    files.write(tmp_path / "A3Benchmark-TS2.csv", A3 + "1422237600,5,0,0,1,1,1,1,1\n")
    assert [recording.asset for recording in read(tmp_path, "yahoo-s5")] == ["A3Benchmark-TS2"]


def test_another_header_is_refused(tmp_path):
    """Said with both that are right."""
    with pytest.raises(DataError, match=r"line 1: the header is 'timestamp,value', expected timestamp,value,is_an"):
        read(files.write(tmp_path / "x.csv", "timestamp,value\n1,2\n"), "yahoo-s5")
