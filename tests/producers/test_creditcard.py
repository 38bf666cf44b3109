"""Card transactions: seconds to times, quoted labels."""

from __future__ import annotations

import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

HEADER = ",".join(f'"{name}"' for name in ("Time", *(f"V{i}" for i in range(1, 29)), "Amount", "Class")) + "\n"


def row(time: float, label: str = '"0"') -> str:
    """A transaction of 9.99."""
    return ",".join([str(time), *["0.5"] * 28, "9.99", label]) + "\n"


def test_transactions_of_the_same_second_stay_apart(tmp_path):
    """Each is a record of its own, a millisecond after the other, in the file's order."""
    path = files.write(tmp_path / "creditcard.csv", HEADER + row(0) + row(1) + row(1, '"1"') + row(3))
    recording = only(read(path, "creditcard", start_ms=0))
    assert recording.ts_ms.tolist() == [0, 1_000, 1_001, 3_000]
    assert (recording.labels.tolist(), recording.channels[-1], len(recording.channels)) == ([0, 0, 1, 0], "Amount", 29)


def test_a_wrong_class_is_named(tmp_path):
    """A label is 0 or 1."""
    with pytest.raises(DataError, match="line 3: Class is 2, expected 0 or 1"):
        read(files.write(tmp_path / "creditcard.csv", HEADER + row(0) + row(1, "2")), "creditcard")


def test_another_table_is_refused(tmp_path):
    """The header says what it is."""
    with pytest.raises(DataError, match=r"line 1: expected Time,V1,…,V28,Amount,Class"):
        read(files.write(tmp_path / "x.csv", "Time,Amount\n1,2\n"), "creditcard")
