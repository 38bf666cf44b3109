"""Finding files, naming assets: what all formats share."""

from __future__ import annotations

import pytest

from stream_detector.datasets import FORMATS, read
from stream_detector.datasets.checks import CHECKS, Case
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def test_a_folder_stands_for_its_files_in_natural_order(tmp_path):
    """2 comes before 10; a name of digits only gets its folder's name."""
    for name in ("10", "2", "0"):
        files.skab(tmp_path / "valve1" / f"{name}.csv")
    assert [recording.asset for recording in read(tmp_path, "skab")] == ["valve1-0", "valve1-2", "valve1-10"]


def test_a_name_does_not_depend_on_where_it_is_read_from(tmp_path, monkeypatch):
    """Reading a file from inside its folder gives the same asset."""
    file = files.skab(tmp_path / "valve1" / "0.csv")
    monkeypatch.chdir(file.parent)
    assert only(read("0.csv", "skab")).asset == "valve1-0"


def test_names_used_twice_get_their_folders_name(tmp_path):
    """Two lines with a pump each are two assets."""
    for line in ("line1", "line2"):
        files.write(tmp_path / line / "pump.csv", "ts,a\n2020-01-01,1\n")
    assert [recording.asset for recording in read(tmp_path, "csv")] == ["line1-pump", "line2-pump"]


def test_a_file_given_twice_is_read_once(tmp_path):
    """A folder and a file in it may both be named."""
    file = files.skab(tmp_path / "valve1" / "0.csv")
    assert len(read([tmp_path, file], "skab")) == 1


def test_files_of_another_layout_in_a_folder_are_left_alone(tmp_path):
    """The public sets hold other tables beside the recordings."""
    files.skab(tmp_path / "anomaly-free" / "anomaly-free.csv", labels=False)
    files.write(tmp_path / "published_predictions.csv", "file,datetime,MSET\n")
    recording = only(read(tmp_path, "skab"))
    assert (recording.asset, recording.labels) == ("anomaly-free", None)


def test_an_asset_can_be_named_for_one_file_only(tmp_path):
    """One name for many files would mix their readings."""
    file = files.skab(tmp_path / "0.csv")
    assert only(read(file, "skab", asset="pump")).asset == "pump"
    files.skab(tmp_path / "1.csv")
    with pytest.raises(DataError, match=r"one asset name .* for 2 files"):
        read(tmp_path, "skab", asset="pump")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_missing_files_and_empty_folders_are_said(tmp_path, format):
    """Nothing to read is an error that says what was expected."""
    with pytest.raises(DataError, match="no-such: no such file or folder"):
        read(tmp_path / "no-such", format)
    with pytest.raises(DataError, match=f"nothing of format {format} in this folder; expected"):
        read(tmp_path, format)


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    """The message shows what can be said instead."""
    with pytest.raises(DataError, match="format 'xls' is not known; expected one of: 'skab', 'nab', 'cwru'"):
        read(tmp_path, "xls")


@pytest.mark.parametrize("format", ["skab", "csv"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_reader_keeps_the_contract(tmp_path, check, format):
    """Readers of packages promise the same."""
    file = files.skab(tmp_path / "pump.csv")
    if format == "csv":
        files.write(file, "ts,a,b,anomaly\n2020-01-01,1,2,0\n2020-01-02,3,4,1\n")
    check(Case(format, file))
