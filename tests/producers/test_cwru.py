"""CWRU bearing recordings."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only


def test_cwru_becomes_blocks_at_the_rate_of_the_index(tmp_path):
    """files.csv says rate and label; the last block holds the rest."""
    file = files.cwru(tmp_path / "1797_IR_7.npz")
    files.write(tmp_path / "files.csv", "file,fs_hz,fault,is_anomaly\n1797_IR_7.npz,12000,IR,1\n")
    recording = only(read(file, "cwru", start_ms=0.0))
    assert (recording.channels, recording.interval_ms) == (["DE", "FE"], 1 / 12)
    assert [len(block) for block in recording.blocks["DE"]] == [1024, 1024, 452]
    assert recording.ts_ms.tolist() == [0.0, 1024 / 12, 2048 / 12]
    assert [recording.blocks[channel][1][0] for channel in ("DE", "FE")] == [1024.0, 512.0]
    assert recording.labels.tolist() == [1, 1, 1]
    (fault,) = recording.faults
    assert (fault.name, fault.start_ms, fault.end_ms) == ("IR", 0.0, pytest.approx(2500 / 12))


@pytest.mark.parametrize(
    ("path", "rate_hz", "faulty"),
    [
        ("1797_B_14_DE48.npz", 48_000, 1),
        ("12k Drive End Bearing Fault Data/1797_B_7.npz", 12_000, 1),
        ("48k_normal/1797_Normal.npz", 48_000, 0),
        ("1797 RPM/1797_Normal.npz", 48_000, 0),  # the fault-free ones are, whatever their folder says
        ("12k Drive End/1730_Normal.npz", 48_000, 0),
        ("12k abnormal/1730_IR_21.npz", 12_000, 1),
        ("12k normalised/1730_OR@3_21.npz", 12_000, 1),
    ],
)
def test_cwru_rate_and_label_from_names(tmp_path, path, rate_hz, faulty):
    """Without an index the names say it, as in the public mirrors."""
    recording = only(read(files.cwru(tmp_path / path), "cwru"))
    assert (1_000 / rate_hz, {faulty}) == (recording.interval_ms, set(recording.labels.tolist()))


def test_cwru_without_a_rate_asks_for_it(tmp_path):
    """A wrong rate would shift every frequency, so none is guessed."""
    file = files.cwru(tmp_path / "bearing.npz")
    with pytest.raises(DataError, match="the sample rate is unknown; put it in the folder's name"):
        read(file, "cwru")
    assert only(read(file, "cwru", rate_hz=2_000)).interval_ms == 0.5


def test_cwru_public_mat_files(tmp_path):
    """Keys name the recording; of two in a file its own number counts; 97 to 100 are fault-free."""
    savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
    folder = tmp_path / "48k Normal"
    folder.mkdir()
    wave = np.arange(10.0).reshape(-1, 1)
    savemat(folder / "99.mat", {"X098_DE_time": -wave, "X099_DE_time": wave, "X099_FE_time": wave, "X099RPM": 1750})
    savemat(tmp_path / "105.mat", {"X105_DE_time": wave, "X105_BA_time": wave[:9], "X105RPM": 1797})
    normal, inner = read([folder / "99.mat", tmp_path / "105.mat"], "cwru", rate_hz=12_000, block=4)
    assert (normal.asset, normal.channels, normal.labels.tolist()) == ("48k Normal-99", ["DE", "FE"], [0, 0, 0])
    assert normal.blocks["DE"][0][1] == 1.0
    assert (inner.channels, [len(block) for block in inner.blocks["BA"]]) == (["DE", "BA"], [4, 4, 1])


@pytest.mark.parametrize(
    ("path", "rate_hz", "faulty"),
    [
        ("Normal Baseline Data/97.mat", 48_000, 0),
        ("12k Drive End Bearing Fault Data/98.mat", 48_000, 0),
        ("x/105.mat", 12_000, 1),
        ("x/109.mat", 48_000, 1),
        ("x/278.mat", 12_000, 1),
        ("x/3001.mat", 12_000, 1),
        ("normal/262.mat", 48_000, 1),
    ],
)
def test_cwru_numbers_say_the_rate_and_what_is_healthy(tmp_path, path, rate_hz, faulty):
    """The public set's files are known by their numbers, in whatever folder they lie."""
    savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
    file = tmp_path / path
    file.parent.mkdir()
    savemat(file, {f"X{file.stem.zfill(3)}_DE_time": np.arange(10.0)})
    recording = only(read(file, "cwru"))
    assert (1_000 / rate_hz, {faulty}) == (recording.interval_ms, set(recording.labels.tolist()))


def test_cwru_mat_without_scipy_names_the_extra(tmp_path, monkeypatch):
    """The base installation reads .npz; .mat needs one more package."""
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    file = files.write(tmp_path / "97.mat", "MATLAB")
    with pytest.raises(DataError, match=r"needs scipy; install stream-detector\[mat\]"):
        read(file, "cwru")


@pytest.mark.parametrize("name", ["a.npz", "a.mat"])
def test_cwru_damaged_files(tmp_path, name):
    """Bytes that are neither are said to be so; nothing is unpickled."""
    if name.endswith(".mat"):
        pytest.importorskip("scipy.io", reason="scipy is not installed")
    with pytest.raises(DataError, match=f"{name}: not an? .* file that can be read"):
        read(files.write(tmp_path / name, "not what it says"), "cwru", rate_hz=12_000)


def test_cwru_npz_with_objects_is_refused(tmp_path):
    """An .npz with pickled objects could run code when loaded."""
    np.savez(tmp_path / "a.npz", DE=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"not an \.npz file that can be read"):
        read(tmp_path / "a.npz", "cwru", rate_hz=12_000)
