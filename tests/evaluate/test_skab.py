"""SKAB's leaderboard from its published predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_detector.datasets import read
from stream_detector.errors import DataError
from stream_detector.evaluate import skab
from tests.producers import files

TABLE = """file,datetime,A,B
valve1/0.csv,2020-03-09 10:14:33,1,
valve1/0.csv,2020-03-09 10:14:34,0,1
valve1/1.csv,2020-03-09 10:34:33,1,1
"""


def test_rows_of_all_files_are_pooled(tmp_path):
    """One hit, one false alarm, one miss; a detector with holes is left out."""
    path = files.write(tmp_path / "p.csv", TABLE)
    truth = {"valve1/0.csv": np.array([1, 1], np.int8), "valve1/1.csv": np.array([0], np.int8)}
    assert {"A": {"f1": 0.5, "far": 1.0, "mar": 0.5, "precision": 0.5, "recall": 0.5}} == skab.published(path, truth)


def test_another_edition_of_the_data_is_noticed(tmp_path):
    """Rows that don't pair would give wrong figures."""
    with pytest.raises(DataError, match=r"2 rows of valve1/0\.csv, the recording has 3"):
        skab.published(files.write(tmp_path / "p.csv", TABLE), {"valve1/0.csv": np.zeros(3, np.int8)})


@pytest.mark.parametrize(("folder", "f1"), [("valve1", 0.7548), ("*", 0.7573)])
def test_published_conv_ae_is_reproduced(folder, f1):
    """.755 on valve1, as the leaderboard's authors count."""
    root = files.real("skab")
    recordings = [one for one in read(sorted(root.glob(f"{folder}/*.csv")), "skab") if one.labels is not None]
    truth = {"/".join(Path(one.source).parts[-2:]): one.rows(skab.TRAIN_ROWS).labels for one in recordings}
    found = skab.published(root / skab.PREDICTIONS, truth)
    assert found["Conv_AE"]["f1"] == pytest.approx(f1, abs=5e-5)
    assert {"Isolation_Forest", "LSTM_AE", "MSET", "T2", "T2-q", "Vanilla_AE"} <= found.keys()
