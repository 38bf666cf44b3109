"""IMS bearings: a folder of files named by their time."""

from __future__ import annotations

import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def ims(folder, name, columns=4, rows=3):
    """A file of a few rows; column c of row r is r + c/10."""
    text = "".join("\t".join(f"{row + column / 10:.3f}" for column in range(columns)) + "\r\n" for row in range(rows))
    return files.write(folder / name, text)


def test_each_file_is_a_message_of_one_block_a_bearing(tmp_path):
    """Times are the files' names, the rate is 20 kHz."""
    ims(tmp_path / "2nd_test", "2004.02.12.10.42.39")
    ims(tmp_path / "2nd_test", "2004.02.12.10.32.39")
    recording = only(read(tmp_path, "ims"))
    assert (recording.asset, recording.channels) == ("2nd_test", ["bearing1", "bearing2", "bearing3", "bearing4"])
    assert (recording.ts_ms.tolist(), recording.interval_ms) == ([1076581959000, 1076582559000], 0.05)
    assert [round(float(value), 3) for value in recording.blocks["bearing2"][0]] == [0.1, 1.1, 2.1]


def test_test_one_has_two_accelerometers_a_bearing(tmp_path):
    """Eight columns; a single one can be asked for, since a whole test is large."""
    ims(tmp_path / "1st_test", "2003.10.22.12.06.24", columns=8)
    recording = only(read(tmp_path / "1st_test", "ims", columns=["bearing3.x"]))
    assert [round(float(value), 3) for value in recording.blocks["bearing3.x"][0]] == [0.4, 1.4, 2.4]


def test_what_is_wrong_is_named(tmp_path):
    """A single file, mixed tests, a cell that is no number."""
    one = ims(tmp_path, "2004.02.12.10.32.39")
    with pytest.raises(DataError, match="is a folder of files named by their time"):
        read(one, "ims")
    two = ims(tmp_path, "2004.02.12.10.42.39", columns=8)
    with pytest.raises(DataError, match="line 1: 8 columns, the folder's first file has 4"):
        read(tmp_path, "ims")
    files.write(two, "1\t2\t3\tx\n")
    with pytest.raises(DataError, match=r"10\.42\.39: not a table of numbers"):
        read(tmp_path, "ims")
