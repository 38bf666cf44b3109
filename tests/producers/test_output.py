"""Recordings written to files come back as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.datasets.output import write
from stream_detector.datasets.recording import Recording
from stream_detector.errors import DataError
from stream_detector.simulation.simulate import Waveforms, simulate


def same(a, b):
    """Whether two recordings hold the same."""
    assert (a.asset, a.channels, a.faults) == (b.asset, b.channels, b.faults)
    np.testing.assert_array_equal(a.ts_ms, b.ts_ms)
    np.testing.assert_array_equal(a.labels, b.labels)
    for name in a.values:
        np.testing.assert_array_equal(a.values[name], b.values[name])


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_files_hold_the_whole_recording(tmp_path, format):
    """Readings, gaps, labels and faults survive writing and reading."""
    if format == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    machines = simulate(2, 0.5, rate_hz=0.5, faults="sensor-dropout@50%,unbalance@20%+2m")
    paths = write(machines, tmp_path / "new" / "folder", format)
    assert [path.name for path in paths] == [f"machine-1.{format}", f"machine-2.{format}", "faults.json"]
    for written, found in zip(machines, read(tmp_path, format), strict=True):
        same(written, found)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    """Recordings can be made anew instead of kept."""
    first, second = (write(simulate(1, 0.3, seed=9), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_csv_and_faults_as_documented(tmp_path):
    """A header, ISO times in UTC, labels last; faults beside."""
    write(simulate(1, 0.5, faults="overload@50%+2m:0.5"), tmp_path)
    lines = (tmp_path / "machine-1.csv").read_text().splitlines()
    assert lines[0] == "timestamp,vibration,temperature,current,anomaly"
    assert lines[1].startswith("2025-01-06T14:00:00Z,")
    assert (lines[1][-2:], lines[901][-2:]) == (",0", ",1")
    (fault,) = json.loads((tmp_path / "faults.json").read_text())
    assert {**fault, "end": "-"} == {
        "asset": "machine-1",
        "fault": "overload",
        "start": "2025-01-06T14:15:00Z",
        "end": "-",
        "severity": 0.5,
    }


def test_waveforms_go_to_parquet_only(tmp_path):
    """A CSV cell can't hold a block; Parquet can, and gives it back."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (machine,) = simulate(1, 0.05, faults="none", waveforms=Waveforms(samples=64))
    with pytest.raises(DataError, match="a CSV file can't hold waveforms; write Parquet"):
        write([machine], tmp_path / "csv")
    write([machine], tmp_path / "parquet", "parquet")
    (found,) = read(tmp_path / "parquet", "parquet")
    same(machine, found)
    assert found.interval_ms == machine.interval_ms
    assert [m.value for m in found.messages()] == [m.value for m in machine.messages()]


def test_categories_are_text(tmp_path):
    """Strings and their gaps come back."""
    recording = Recording("r", np.array([0.0, 1_000.0]), {"p": np.array(["tcp", None], dtype=object)})
    write([recording], tmp_path)
    assert read(tmp_path, "csv")[0].values["p"].tolist() == ["tcp", None]


def test_a_folder_that_cannot_be_written(tmp_path):
    """Named, with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*: can't be written"):
        write(simulate(1, 0.01, faults="none"), tmp_path / "file" / "below")
