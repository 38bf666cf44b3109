"""Labels from outside: which windows they mark, how they reach `train`, and who never sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stream_detector.__main__ import main
from stream_detector.artifacts import artifact as artifacts
from stream_detector.config import Config
from stream_detector.errors import ConfigError, DataError
from stream_detector.training.labels import Labels, Marker
from stream_detector.training.train import train
from tests.trained import make_config, windows

ROWS, FAULTS = 2_000, ((600, 640), (1_000, 1_060), (1_700, 1_750))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stretches(*spans: tuple[float, float]) -> Labels:
    """Labels of asset `a`."""
    return Labels({"a": np.array(spans, np.float64).reshape(-1, 2)}, {})


def config(**sections) -> Config:
    """Windows of four cells of a second."""
    return make_config(**{"window": {"cell_ms": 1_000, "length": 4}, "features": {}, **sections})


def test_a_window_with_a_faulty_reading_is_faulty():
    """Whichever of its cells it lies in; times are the end's, which is outside."""
    marker = Marker(stretches((5_000, 6_500)), config())
    ends = np.arange(4_000, 13_000, 1_000)
    assert marker.mark("a", ends).tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert not marker.mark("b", ends).any()


def test_windows_that_only_smoothing_connects_to_a_fault_are_left_out():
    """The detector sees the last two of four cells: before them a fault makes the window neither."""
    marker = Marker(stretches((5_000, 5_000)), config(features={"smoothing": 0.3, "keep": 2}))
    assert marker.mark("a", np.arange(5_000, 11_000, 1_000)).tolist() == [0, 1, 1, -1, -1, 0]


def test_records_are_told_by_their_order():
    """Two in the same millisecond end apart, and keep their labels; a count that differs is refused."""
    flags = {"a": np.array([False, True, False])}
    settings = config(window={"mode": "records", "length": 1})
    marker = Marker(Labels({}, flags), settings)
    assert [marker.mark("a", np.array([7, 8])).tolist(), marker.mark("a", np.array([9])).tolist()] == [[0, 1], [0]]
    marker.check()
    short = Marker(Labels({}, flags), settings)
    short.mark("a", np.array([7, 8]))
    with pytest.raises(DataError, match="3 labelled records gave 2 windows"):
        short.check()


@pytest.mark.parametrize("kind", ["classifier", "deep-sad"])
def test_without_labels_the_error_names_the_mend(kind):
    """Before anything is fitted."""
    with pytest.raises(DataError, match=r"--label-column.*--truth.*model\.kind: ae"):
        train(make_config(model={"kind": kind}), [windows(200)])


def test_faults_that_come_too_late_are_told_from_none():
    """The held-out tail calibrates; what it holds can't train."""
    end_ms = windows(200).end_ms
    late = Labels({"pump-1": np.array([[end_ms[180], end_ms[190]]], np.float64)}, {})
    with pytest.raises(DataError, match=r"none of the 145 windows.* 12 of those held out.*lower train\.holdout"):
        train(make_config(model={"kind": "classifier"}), [windows(200)], labels=late)


def test_folds_are_refused():
    """Cross-fitting is for detectors of normal windows."""
    with pytest.raises(ConfigError, match=r"train\.folds must be 0"):
        train(make_config(model={"kind": "classifier"}, train={"folds": 4}), [windows(200)], labels=stretches())


def test_other_detectors_never_see_labels():
    """The same artifact to the bit, whatever the labels say."""
    said = Labels({"pump-1": np.array([[0, 1e15]])}, {})
    assert train(make_config(), [windows(200)], labels=said).ref == train(make_config(), [windows(200)]).ref


def test_scaler_and_calibration_know_no_faulty_window():
    """A fault far outside moves neither: they are those of the normal windows."""
    batch, wild = windows(300), windows(300)
    faults = [(60, 70), (260, 270)]
    for start, stop in faults:
        wild.values[start:stop] *= 50
    spans = [[batch.end_ms[start] - 1_000, batch.end_ms[stop - 1] - 1] for start, stop in faults]
    known = Labels({"pump-1": np.array(spans, np.float64)}, {})
    settings = make_config(model={"kind": "deep-sad"})
    one, other = (train(settings, [history], labels=known) for history in (batch, wild))
    assert torch.equal(one.preprocess.scaler.scale, other.preprocess.scaler.scale)
    assert one.fit.faulty > 0
    assert np.quantile(other.calibration, 0.9) < 20


@pytest.fixture(scope="module")
def plant(tmp_path_factory) -> Path:
    """A set-up, a history with three labelled faults, a later recording with one, and a list of the faults."""
    root = tmp_path_factory.mktemp("plant")
    setup = {
        "stream": "plant",
        "channels": {"flow": {}, "pressure": {}},
        "window": {"length": 5},
        "train": {"epochs": 15},
        "incident": {"open_after": 2, "open_of": 3},
    }
    for kind in ("classifier", "deep-sad", "ae"):
        text = yaml.safe_dump({**setup, "model": {"kind": kind}, "artifact": f"{kind}.safetensors"})
        (root / f"{kind}.yaml").write_text(text)
    write(root / "history.csv", 0, FAULTS)
    write(root / "later.csv", 5_000, ((300, 340),))
    plain = [line.rsplit(",", 1)[0] for line in (root / "history.csv").read_text().splitlines()]
    (root / "unlabelled").mkdir()
    (root / "unlabelled" / "history.csv").write_text("\n".join(plain) + "\n")
    listed = [{"asset": "history", "fault": "leak", "start": moment(a), "end": moment(b - 1)} for a, b in FAULTS]
    (root / "faults.json").write_text(json.dumps(listed))
    lines = [f"history,{moment(a)},{moment(b - 1)}" for a, b in FAULTS]
    (root / "faults.csv").write_text("\n".join(["asset,start,end", *lines]) + "\n")
    return root


def moment(row: int) -> str:
    """Time of a row."""
    return f"2024-05-01T{row // 3600:02d}:{row // 60 % 60:02d}:{row % 60:02d}Z"


def write(path: Path, start: int, faults: tuple[tuple[int, int], ...]) -> None:
    """A swing of two sensors that go together; in a fault the pressure no longer follows the flow."""
    rng = np.random.default_rng(start)
    lines = ["timestamp,flow,pressure,broken"]
    for row in range(ROWS):
        bad = any(a <= row < b for a, b in faults)
        swing = np.sin(row / 9)
        flow, pressure = swing + 0.05 * rng.normal(), (-swing if bad else swing) + 2 * bad + 0.05 * rng.normal()
        lines.append(f"{moment(start + row)},{flow:.4f},{pressure:.4f},{int(bad)}")
    path.write_text("\n".join(lines) + "\n")


def trained(plant: Path, kind: str, *options: str) -> artifacts.Artifact:
    """Run the command and load what it wrote."""
    assert main(["train", str(plant / f"{kind}.yaml"), "--quiet", *options]) == 0
    return artifacts.load(plant / f"{kind}.safetensors")


@pytest.mark.parametrize("kind", ["classifier", "deep-sad"])
def test_train_and_backtest_with_a_label_column(kind, plant, tmp_path, capsys):
    """The later recording's one fault is found, named by the sensor that is off, and nothing else; files agree."""
    one = trained(plant, kind, "--data", str(plant / "history.csv"), "--label-column", "broken")
    assert "labelled faulty" in capsys.readouterr().out
    assert (
        main(
            [
                "backtest",
                str(plant / f"{kind}.yaml"),
                "--data",
                str(plant / "later.csv"),
                "--json",
                "--quiet",
                "--label-column",
                "broken",
            ]
        )
        == 0
    )
    alerts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    opened = [alert for alert in alerts if alert["event"] == "open"]
    assert len(opened) == 1
    assert moment(5_300) <= opened[0]["start"] <= moment(5_345)
    assert opened[0]["channels"][0]["name"] == "pressure"
    assert sum(channel["share"] for channel in opened[0]["channels"]) == pytest.approx(1)
    again = tmp_path / "again.safetensors"
    artifacts.load(plant / f"{kind}.safetensors").save(again)
    assert again.read_bytes() == (plant / f"{kind}.safetensors").read_bytes()
    assert artifacts.load(again).ref == one.ref


@pytest.mark.parametrize("name", ["faults.json", "faults.csv"])
def test_a_list_of_faults_is_as_good_as_a_column(name, plant):
    """The same windows are faulty, so the artifact is the same to the bit."""
    column = trained(plant, "deep-sad", "--data", str(plant / "history.csv"), "--label-column", "broken")
    unlabelled = str(plant / "unlabelled" / "history.csv")
    assert trained(plant, "deep-sad", "--data", unlabelled, "--truth", str(plant / name)).ref == column.ref


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "lists no fault"),
        ("asset,start\nhistory,1\n", "fault 1 has not asset, start and end"),
        ("asset,start,end\nhistory,noon,2024-05-01\n", "fault 1 has not asset, start and end, times as ISO 8601"),
        ("asset,start,end\nhistory,5,4\n", "fault 1 of 'history' ends before it starts"),
        ("asset,start,end\npump,4,5\n", r"names \['pump'\], none of which is in the data: \['history'\]"),
    ],
)
def test_a_broken_list_is_named(text, message, plant, tmp_path, caplog, capsys):
    """With the entry and what to do; exit status 2."""
    truth = tmp_path / "truth"
    truth.write_text(text)
    argv = ["train", str(plant / "classifier.yaml"), "--data", str(plant / "history.csv"), "--truth", str(truth)]
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err + caplog.text)


@pytest.mark.parametrize("kind", ["classifier", "deep-sad"])
def test_evaluate_trains_on_the_labels_of_the_first_part(kind, plant, capsys):
    """Windows of one's own table: faults among the training rows train, the later one is judged, and found."""
    argv = ["evaluate", "csv", "--data", str(plant / "history.csv"), "--config", str(plant / f"{kind}.yaml")]
    options = ["--label-column", "broken", "--train", "0.6", "--baselines", "none", "--json", "--quiet"]
    assert main([*argv, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["incidents"]["faults"], found["incidents"]["caught"]) == (1, 1)
    assert found["ap"] > 0.9


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("ae", "unlabelled/history.csv", "--normal-only: the history has no labels"),
        ("classifier", "history.csv", "model.kind classifier learns from faults; leave it out"),
    ],
)
def test_normal_only_where_it_has_no_sense_is_refused(kind, file, message, plant, capsys):
    """In one line that says why."""
    assert main(["train", str(plant / f"{kind}.yaml"), "--data", str(plant / file), "--normal-only", "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_faults_may_be_left_out_of_what_is_normal(plant, caplog):
    """Else they train as normal, and that is said."""
    argv = ["--data", str(plant / "history.csv"), "--label-column", "broken"]
    whole = trained(plant, "ae", *argv)
    assert "labelled faulty, and model.kind ae takes all of it for normal" in caplog.text
    caplog.clear()
    normal = trained(plant, "ae", *argv, "--normal-only")
    assert not caplog.text
    count = [one.split.n_train + one.split.n_calibration + one.split.n_dropped for one in (whole, normal)]
    assert count[0] - count[1] == sum(b - a + 4 for a, b in FAULTS)  # a fault of n rows is in n + 4 windows of five
