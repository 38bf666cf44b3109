"""Delimited tables."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.datasets.recording import Fault
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def test_csv_finds_time_labels_and_kinds(tmp_path):
    """The time column is found by name in any case, labels are kept apart, text columns are categories."""
    text = "Time,temp,state,is_anomaly\n2020-01-01T00:00:00Z,20.5,run,0\n2020-01-01T01:00:00+01:00,,stop,1\n"
    recording = only(read(files.write(tmp_path / "oven.csv", text), "csv"))
    assert (recording.asset, recording.channels) == ("oven", ["temp", "state"])
    assert recording.ts_ms.tolist() == [1_577_836_800_000.0] * 2
    np.testing.assert_array_equal([20.5, np.nan], recording.values["temp"])
    assert (recording.values["state"].tolist(), recording.labels.tolist()) == (["run", "stop"], [0, 1])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_separator_is_the_headers(tmp_path, separator):
    """Whatever the table's author used."""
    text = separator.join(("ts", "a", "b")) + "\n" + separator.join(("2020-01-01", "1", "2")) + "\n"
    recording = only(read(files.write(tmp_path / "a.csv", text), "csv"))
    assert {name: column.tolist() for name, column in recording.values.items()} == {"a": [1.0], "b": [2.0]}


def test_csv_packed_quoted_and_marked(tmp_path):
    """Gzip, a byte-order mark, quotes and empty lines are nothing special."""
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress('\ufeffts,"flow, l/min"\n2020-01-01,"1.5"\n\n'.encode()))
    recording = only(read(tmp_path, "csv"))
    assert (recording.asset, {n: c.tolist() for n, c in recording.values.items()}) == ("a", {"flow, l/min": [1.5]})


@pytest.mark.parametrize(("unit", "text"), [("s", "1.5"), ("ms", "1500"), ("us", "1500000"), ("ns", "1500000000")])
def test_csv_numeric_times_have_a_unit(tmp_path, unit, text):
    """Seconds or milliseconds is said, never guessed; the message guesses for the reader."""
    file = files.write(tmp_path / "a.csv", f"ts,a\n{text},1\n")
    assert only(read(file, "csv", ts_unit=unit)).ts_ms.tolist() == [1500.0]
    with pytest.raises(DataError, match=r"line 2: the timestamp .* is a number; give its unit: --ts-unit"):
        read(file, "csv")


def test_csv_splits_by_asset(tmp_path):
    """An asset column makes many assets of one file, each in its rows' order."""
    text = "ts,asset,a,anomaly\n2020-01-01,p1,1,0\n2020-01-01,p2,2,1\n2020-01-02,p1,3,0\n"
    first, second = read(files.write(tmp_path / "plant.csv", text), "csv")
    assert (first.asset, first.values["a"].tolist(), first.labels.tolist()) == ("p1", [1.0, 3.0], [0, 0])
    assert (second.asset, second.values["a"].tolist(), second.labels.tolist()) == ("p2", [2.0], [1])


def test_csv_columns_by_option(tmp_path):
    """Every role can be given to a column by name, and channels chosen."""
    text = "when,who,a,b,bad\n2020-01-01,p,1,x,1\n"
    file = files.write(tmp_path / "a.csv", text)
    recording = only(read(file, "csv", ts_column="when", asset_column="who", label_column="bad", columns=["a"]))
    assert (recording.asset, recording.channels, recording.labels.tolist()) == ("p", ["a"], [1])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "the file is empty"),
        ("ts,a\n", {}, "there is a header, but no row"),
        ("a,b\n1,2\n", {}, "line 1: none of timestamp, ts, time, datetime, date is a column.*The columns are: a, b"),
        ("ts,a\n2020-01-01,1\nsoon,2\n", {}, "line 3: the timestamp 'soon' is not ISO 8601"),
        ("ts,a\n2020-01-01,1\n\n2020-01-02,x\n", {}, "line 4: a is 'x', expected a number"),
        ("ts,a,a\n2020-01-01,1,2\n", {}, "line 1: the column 'a' occurs twice"),
        ("ts,a,label\n2020-01-01,1,ok\n", {}, "line 2: label label is 'ok', expected 0 or 1"),
        ("ts,asset,a\n2020-01-01,,1\n", {}, "line 2: the asset is empty"),
        ("ts,a\n2020-01-01,1\n", {"columns": ["b"]}, "no channel 'b'; expected some of: a"),
        ("ts,a\n2020-01-01,1\n", {"ts_column": "t"}, "no time column 't'; the columns are: ts, a"),
        ("ts,a\n2020-01-01,1\n", {"ts_unit": "s"}, "line 2: the timestamp '2020-01-01' is not a number of s"),
        ("ts,a\nnan,1\n", {"ts_unit": "s"}, "line 2: the timestamp 'nan' is not finite"),
    ],
)
def test_csv_broken_tables(tmp_path, text, options, said):
    """Each error names file, place and mend."""
    file = files.write(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=said) as caught:
        read(file, "csv", **options)
    assert "a.csv" in str(caught.value)


def test_csv_that_is_not_text(tmp_path):
    """A spreadsheet renamed to .csv is told from a table."""
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8; is this a text file"):
        read(tmp_path / "a.csv", "csv")


def test_csv_takes_faults_from_beside(tmp_path):
    """The simulator's truth comes back with its files; a broken one is named."""
    file = files.write(tmp_path / "m-1.csv", "timestamp,a\n2020-01-01,1\n")
    entry = {"asset": "m-1", "fault": "unbalance", "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
    files.write(tmp_path / "faults.json", json.dumps([{**entry, "severity": 0.5}, {**entry, "asset": "m-2"}]))
    start = 1_577_836_800_000.0
    assert [Fault(start, start + 86_400_000, "unbalance", 0.5)] == only(read(file, "csv")).faults
    files.write(tmp_path / "faults.json", '[{"asset": "m-1"}]')
    with pytest.raises(DataError, match=r"faults\.json: not a list of"):
        read(file, "csv")
