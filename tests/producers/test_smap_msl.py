"""SMAP and MSL: both layouts, anomalies as ranges of the test part."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from tests.producers import files
from tests.producers.files import only

LABELS = 'chan_id,spacecraft,anomaly_sequences,class,num_values\nP-1,SMAP,"[[1, 2]]",[point],4\n'


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Three training and four test rows of telemetry and one command."""
    return np.arange(6.0).reshape(3, 2), 10 + np.arange(8.0).reshape(4, 2)


def test_training_rows_come_first_and_are_marked(tmp_path):
    """Ranges count from the first test row; both ends are inside."""
    train, test = arrays()
    np.savez(tmp_path / "P-1.npz", train=train, test=test)
    files.write(tmp_path / "labeled_anomalies.csv", LABELS)
    recording = only(read(tmp_path, "smap-msl"))
    assert (recording.asset, recording.channels) == ("P-1", ["value", "command1"])
    assert recording.values["value"].tolist() == [0, 2, 4, 10, 12, 14, 16]
    assert (recording.marks["training"].tolist(), recording.labels.tolist()) == (
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
    )


def test_the_public_layout_of_two_folders(tmp_path):
    """train/P-1.npy and test/P-1.npy are one recording."""
    for name, part in zip(("train", "test"), arrays(), strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        np.save(tmp_path / "data" / name / "P-1.npy", part)
    files.write(tmp_path / "labeled_anomalies.csv", LABELS)
    recording = only(read(tmp_path, "smap-msl"))
    assert (len(recording), int(recording.labels.sum()), recording.faults[0].start_ms) == (
        7,
        2,
        946_684_800_000 + 4 * 60_000,
    )


def test_without_its_labels_nobody_knows(tmp_path):
    """No file of labels, or none of this channel, is not the same as all normal."""
    train, test = arrays()
    np.savez(tmp_path / "X-9.npz", train=train, test=test)
    assert only(read(tmp_path, "smap-msl")).labels is None
    files.write(tmp_path / "labeled_anomalies.csv", LABELS)
    assert only(read(tmp_path, "smap-msl")).labels is None


def test_what_is_wrong_is_named(tmp_path):
    """A missing training part, other columns, a label that is no range."""
    train, test = arrays()
    (tmp_path / "test").mkdir()
    np.save(tmp_path / "test" / "P-1.npy", test)
    with pytest.raises(DataError, match=r"training part .*train/P-1\.npy is missing"):
        read(tmp_path, "smap-msl")
    np.savez(tmp_path / "P-1.npz", train=train[:, :1], test=test)
    with pytest.raises(DataError, match=r"train is \(3, 1\), test \(4, 2\)"):
        read(tmp_path / "P-1.npz", "smap-msl")
    np.savez(tmp_path / "P-1.npz", train=train, test=test)
    files.write(tmp_path / "labeled_anomalies.csv", LABELS.replace("[[1, 2]]", "soon"))
    with pytest.raises(DataError, match=r"labeled_anomalies\.csv, line 2: 'soon' is not a list"):
        read(tmp_path / "P-1.npz", "smap-msl")
