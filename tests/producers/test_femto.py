"""FEMTO run-to-failure folders."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def test_femto_is_one_block_a_file_with_temperature_between(tmp_path):
    """Waves and temperatures of a bearing are one asset's readings, in order of time, on the day of start_ms."""
    folder = tmp_path / "Bearing1_1"
    files.femto_wave(folder / "acc_00001.csv", (9, 39, 39, 65_664.0))
    files.femto_wave(folder / "acc_00002.csv", (9, 39, 49, 65_664.0), separator=";")
    files.femto_heat(folder / "temp_00001.csv", (9, 39, 40), rows=12)
    recording = only(read(tmp_path, "femto", start_ms=0.0))
    first = (9 * 3_600 + 39 * 60 + 39) * 1_000 + 65.66
    heat = [(9 * 3_600 + 39 * 60 + 40) * 1_000 + 100.0 * row for row in range(12)]
    assert (recording.asset, recording.interval_ms) == ("Bearing1_1", 0.0390625)
    np.testing.assert_allclose(recording.ts_ms, [first, *heat, first + 10_000])
    assert recording.blocks["horizontal"][0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert [recording.blocks["vertical"][13][3], recording.blocks["vertical"][1]] == [-3.0, None]
    assert list(map(float, range(70, 82))) == recording.values["temperature"][1:13].tolist()
    assert len(list(recording.messages())) == 14


def test_femto_passes_midnight(tmp_path):
    """Clocks show no date: one that jumps back has passed midnight, and the thermometer's day is the waves'."""
    folder = tmp_path / "Bearing1_3"
    files.femto_wave(folder / "acc_00001.csv", (23, 59, 55, 0.0))
    files.femto_wave(folder / "acc_00002.csv", (0, 0, 5, 0.0))
    files.femto_heat(folder / "temp_00001.csv", (0, 0, 1), rows=1)
    ts_ms = only(read(folder, "femto", start_ms=0.0)).ts_ms
    assert ts_ms.tolist() == [86_395_000.0, 86_401_000.0, 86_405_000.0]


def test_femto_without_temperatures(tmp_path):
    """Many bearings have none."""
    files.femto_wave(tmp_path / "Bearing2_1" / "acc_00001.csv", (9, 0, 0, 0.0))
    assert only(read(tmp_path, "femto")).channels == ["horizontal", "vertical"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9,0,0,0,0.1,abc\n", "acc_00001.csv: not a table of numbers"),
        ("", "acc_00001.csv: not a table of numbers"),
        ("9,0,0,0,0.1\n", "acc_00001.csv: 5 columns, expected 6"),
        ("9,0,0,0,0.1,0.2\n9,0,0,0,0.1,nan\n", "acc_00001.csv, line 2: a value is not finite"),
    ],
)
def test_femto_broken_files(tmp_path, text, said):
    """The one broken file of thousands is named."""
    files.write(tmp_path / "Bearing1_1" / "acc_00001.csv", text)
    with pytest.raises(DataError, match=said):
        read(tmp_path, "femto")


def test_femto_wants_the_folder(tmp_path):
    """A single file is no recording; the message says what to give."""
    file = files.femto_wave(tmp_path / "Bearing1_1" / "acc_00001.csv", (9, 0, 0, 0.0))
    with pytest.raises(DataError, match=r"is a folder of acc_\*\.csv files; give the folder .*Bearing1_1"):
        read(file, "femto")
