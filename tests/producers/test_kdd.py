"""NSL-KDD and KDD Cup 99: connections with their attacks."""

from __future__ import annotations

import csv
import gzip

import pytest

from stream_detector.datasets import kdd, read
from stream_detector.datasets.recording import Fault
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

START = 946_684_800_000.0


def line(label: str, *more: object) -> str:
    """A connection: tcp, http, SF, all numbers 0 but the duration."""
    fields: list[object] = [7, "tcp", "http", "SF", *[0] * 37]
    return ",".join(map(str, [*fields, label, *more])) + "\n"


NSL = line("normal", 21) + line("neptune", 18) + line("neptune", 18) + line("mailbomb", 3)


def test_nsl_kdd_connections_are_records_with_categories(tmp_path):
    """Three strings among 41 channels; label and difficulty are none of them."""
    recording = only(read(files.write(tmp_path / "KDDTest+.txt", NSL), "nsl-kdd"))
    assert (recording.asset, len(recording.channels), recording.labels.tolist()) == ("KDDTest+", 41, [0, 1, 1, 1])
    assert recording.values["service"].tolist() == ["http"] * 4
    assert recording.details["category"].tolist() == ["normal", "dos", "dos", "dos"]
    assert recording.faults == [
        Fault(START + 1_000, START + 2_000, "neptune"),
        Fault(START + 3_000, START + 3_000, "mailbomb"),
    ]


def test_what_is_sent_holds_the_fields_and_never_the_label(tmp_path):
    """A category travels as the string it is."""
    path = files.write(tmp_path / "a.txt", NSL)
    message = next(only(read(path, "nsl-kdd", columns=["service", "duration"])).messages())
    assert message.value == b'{"asset":"a","ts":946684800000,"values":{"duration":7.0,"service":"http"}}'


def test_a_folder_gives_its_connection_files_only(tmp_path):
    """Lists of names and other text files lie beside them."""
    files.write(tmp_path / "field_names.txt", "duration\nprotocol_type\n")
    files.write(tmp_path / "KDDTrain+.txt", NSL)
    assert [recording.asset for recording in read(tmp_path, "nsl-kdd")] == ["KDDTrain+"]


def test_kdd99_labels_end_in_a_full_stop(tmp_path):
    """The packed file is read as it was published."""
    (tmp_path / "kddcup.data_10_percent.gz").write_bytes(gzip.compress((line("normal.") + line("smurf.")).encode()))
    recording = only(read(tmp_path, "kdd99"))
    assert (recording.labels.tolist(), recording.details["attack"].tolist()) == ([0, 1], ["normal", "smurf"])


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("nsl-kdd", line("normal."), "42 fields, expected 43.*--format kdd99"),
        ("kdd99", NSL, "43 fields, expected 42.*--format nsl-kdd"),
        ("nsl-kdd", NSL + NSL.replace("7,tcp", "seven,tcp"), r"line 5: duration is 'seven', expected a number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, format, text, message):
    """The two sets are easily confused; a bad field is named with its line."""
    with pytest.raises(DataError, match=message):
        read(files.write(tmp_path / "x.txt", text), format)


@pytest.mark.parametrize("folder", ["nsl-kdd", "kddcup99"])
def test_every_attack_has_the_published_category(folder):
    """The list beside the public files is the one built in."""
    with (files.real(folder) / "attack_categories.csv").open() as file:
        published = {row["attack"].rstrip("."): row["category"] for row in csv.DictReader(file)}
    assert {attack: kdd.CATEGORY.get(attack) for attack in published} == published
