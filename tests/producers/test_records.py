"""Tables of records: places in messages, packed files, missing values."""

from __future__ import annotations

import gzip

import pytest

from stream_detector.datasets.records import first_fields, read_records
from stream_detector.errors import DataError
from tests.producers import files

NAMES = ("a", "kind", "b")


def test_numbers_and_categories_are_told_apart(tmp_path):
    """Numbers are float64, categories stripped strings."""
    columns = read_records(files.write(tmp_path / "t.csv", "1,tcp ,2\n3, udp,4.5\n"), NAMES, ("kind",))
    assert {name: column.tolist() for name, column in columns.items()} == {
        "a": [1, 3],
        "kind": ["tcp", "udp"],
        "b": [2, 4.5],
    }


def test_packed_files_are_unpacked(tmp_path):
    """KDD Cup 99 comes as .gz."""
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"1,tcp,2\n"))
    assert first_fields(path) == ["1", "tcp", "2"]
    assert read_records(path, NAMES, ("kind",))["b"].tolist() == [2]


@pytest.mark.parametrize(
    ("text", "header", "message"),
    [
        ("1,tcp,2\n3,udp,x\n", False, r"line 2: b is 'x', expected a number"),
        ("a,kind,b\n1,tcp,2\n3,udp,x\n", True, r"line 3: b is 'x', expected a number"),
        ("1,tcp,2\n3,udp\n", False, r"line 2: not 3 fields"),
        ("1,tcp,2\n3,udp,nan\n", False, r"line 2: b is nan, expected a number"),
        ("", False, r"the file has no row; expected rows of 3 fields"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, header, message):
    """A user can go there and mend it."""
    with pytest.raises(DataError, match=message):
        read_records(files.write(tmp_path / "t.csv", text), NAMES, ("kind",), header=header)


def test_a_damaged_packed_file_says_so(tmp_path):
    """A download that broke off."""
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"1,tcp,2\n" * 1_000)[:-20])
    with pytest.raises(DataError, match="is the file complete"):
        read_records(path, NAMES, ("kind",))
