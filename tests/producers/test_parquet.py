"""Parquet tables."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def parquet(path, **columns):
    """A Parquet table of these columns."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    importlib_pq = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    importlib_pq.write_table(pa.table(columns), path)
    return path


def test_parquet_means_what_csv_means(tmp_path):
    """Typed times, numbers, text, labels and assets."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    file = parquet(
        tmp_path / "a.parquet",
        time=pa.array([1_000, 2_000, 3_000], pa.timestamp("ms")),
        asset=pa.array(["p", "q", "p"]).dictionary_encode(),
        a=pa.array([1, None, 3], pa.int32()),
        state=pa.array(["run", None, "stop"]),
        anomaly=pa.array([False, True, False]),
    )
    first, second = read(file, "parquet")
    assert (first.asset, first.ts_ms.tolist(), first.values["a"].tolist()) == ("p", [1000.0, 3000.0], [1.0, 3.0])
    assert (second.asset, second.values["state"].tolist(), second.labels.tolist()) == ("q", [None], [1])
    assert np.isnan(second.values["a"]).all()


def test_parquet_lists_are_waveforms(tmp_path):
    """A column of lists is a channel of blocks, interval_ms apart."""
    file = parquet(tmp_path / "a.parquet", ts=["2020-01-01", "2020-01-02"], v=[[1.0, 2.0], None], interval_ms=[2, 2])
    recording = only(read(file, "parquet"))
    wave, none = recording.blocks["v"]
    assert (recording.interval_ms, wave.tolist(), none) == (2.0, [1.0, 2.0], None)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ts": [1, 2], "a": [1.0, 2.0]}, "ts holds numbers; give their unit"),
        ({"ts": ["2020-01-01", None], "a": [1.0, 2.0]}, "row 1: ts is empty"),
        ({"a": [1.0]}, "none of timestamp, ts, .* is a column"),
        ({"ts": ["2020-01-01"], "v": [[1.0]]}, "needs a column interval_ms"),
        ({"ts": ["2020-01-01"], "a": [1.0], "label": [3]}, "row 0: label label is 3, expected 0 or 1"),
    ],
)
def test_parquet_broken_tables(tmp_path, columns, said):
    """Rows are counted from 0, as Parquet tools do."""
    with pytest.raises(DataError, match=said):
        read(parquet(tmp_path / "a.parquet", **columns), "parquet")


def test_parquet_that_is_none(tmp_path):
    """Other bytes are said to be so, and a missing pyarrow names its extra."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file that can be read"):
        read(files.write(tmp_path / "a.parquet", "hello"), "parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    """The base installation does without."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; install stream-detector\[parquet\]"):
        read(files.write(tmp_path / "a.parquet", "PAR1"), "parquet")
