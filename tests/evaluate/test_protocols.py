"""Every protocol from the command line on tiny data in the public layout: its figures, its report, its alerts live."""

from __future__ import annotations

import gzip
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from stream_detector.__main__ import main
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.cli.evaluate import CONFIGS, PROTOCOL_NAMES
from stream_detector.config import loading as settings
from stream_detector.datasets import read
from stream_detector.evaluate.data import encoded
from stream_detector.evaluate.offline import Backtest
from stream_detector.evaluate.protocols import PROTOCOLS
from stream_detector.scoring.scorer import Scorer
from tests.evaluate import data

MAKERS = {
    "skab": data.skab,
    "nab": data.nab,
    "smap-msl": data.smap_msl,
    "cwru": data.cwru,
    "femto": data.femto,
    "nsl-kdd": data.nsl_kdd,
    "kdd99": data.kdd99,
    "creditcard": data.creditcard,
    "yahoo-s5": data.yahoo_s5,
    "ucr": data.ucr,
    "csv": data.table,
}

#: What each object has beside protocol, detector, files, seeds and baselines.
FIGURES = {
    "skab": {"f1", "far", "mar", "ap", "vus_pr", "f1_at_far10", "incidents", "healthy_far"},
    "nab": {"f1", "far", "incidents", "nab_standard", "nab_reward_low_FP_rate", "nab_reward_low_FN_rate"},
    "smap-msl": {"f1", "far", "mar", "ap", "vus_pr", "incidents", "point_adjusted"},
    "cwru": {"auc", "auc_min", "per_fault", "ap", "f1", "fpr"},
    "femto": {"lasting_alarm", "first_alarm"},
    "nsl-kdd": {"auc", "ap", "f1", "fpr", "recall_per_category", "recall_unseen_attacks", "categories"},
    "kdd99": {"auc", "ap", "f1", "fpr", "recall_per_category"},
    "creditcard": {"auc", "ap", "f1", "fpr", "later"},
    "yahoo-s5": {"f1", "far", "mar", "ap", "vus_pr", "incidents"},
    "ucr": {"accuracy", "f1", "far", "ap", "vus_pr"},
    "csv": {"f1", "far", "mar", "ap", "vus_pr", "incidents"},
}


def quick(protocol: str, root: Path) -> Path:
    """Return the shipped set-up with fewer epochs."""
    plain = yaml.safe_load((CONFIGS / f"{PROTOCOLS[protocol].config}.yaml").read_text())
    plain["train"] = {**plain.get("train", {}), "epochs": 5}
    plain.pop("artifact", None)
    if protocol == "csv":
        plain["channels"] = {"flow": {}, "pressure": {}}
    if protocol == "femto":
        plain["window"]["length"] = 3
    path = root / "quick.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def evaluate(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    """Run the command and return the object it prints."""
    assert main(["evaluate", *argv, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_prints_one_object(protocol, tmp_path, capsys):
    """With the figures its issue names, per seed and over seeds, and a report of every file."""
    root, report = MAKERS[protocol](tmp_path / "data"), tmp_path / "report.html"
    found = evaluate(
        capsys,
        protocol,
        "--data",
        str(root),
        "--config",
        str(quick(protocol, tmp_path)),
        "--seeds",
        "2",
        "--baselines",
        "none",
        "--report",
        str(report),
    )
    shipped = "pca" if PROTOCOLS[protocol].config == "kpi" else "ae"
    assert (found["protocol"], found["detector"], len(found["seeds"])) == (protocol, shipped, 2)
    assert found["files"] >= 1
    assert FIGURES[protocol] <= found.keys()
    assert check(report.read_text()) >= 1


def check(html: str) -> int:
    """Parse a report; return how many drawings it holds. It must load nothing from anywhere."""

    class Parser(HTMLParser):
        drawings = 0

        def handle_starttag(self, tag, attrs):
            assert tag not in {"script", "link", "img", "iframe"}
            assert not {"src", "href"} & {name for name, _ in attrs}
            self.drawings += tag == "svg"

    parser = Parser()
    parser.feed(html)
    assert "url(" not in html
    assert "nan," not in html
    return parser.drawings


def test_protocols_and_their_names_agree():
    """The command offers names without loading the protocols; `simulated` has suites and tests of its own."""
    assert set(PROTOCOL_NAMES) == PROTOCOLS.keys() | {"simulated"}


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_has_a_shipped_set_up(protocol):
    """It loads, and its channels are those of the public set."""
    assert settings.load(CONFIGS / f"{PROTOCOLS[protocol].config}.yaml").channels


def test_skab_finds_a_plain_fault(tmp_path, capsys):
    """A shift of many spreads is caught; alarming always is beside it, and what is healthy has its own figure."""
    found = evaluate(capsys, "skab", "--data", str(data.skab(tmp_path)), "--baselines", "none")
    assert (found["files"], found["rows"], found["incidents"]["caught"]) == (2, 600, 2)
    assert found["ap"] > 0.9
    assert found["baselines"]["always-alarm"]["far"] == 1
    assert 0 <= found["healthy_far"] <= 1


@pytest.mark.parametrize("kind", ["classifier", "deep-sad"])
def test_attacks_are_told_by_category_beside_an_unsupervised_detector(kind, tmp_path, capsys):
    """Seen and new types apart, in JSON and as a table; attacks of the training file train, and only those."""
    root = str(data.nsl_kdd(tmp_path / "data"))
    argv = ["nsl-kdd", "--data", root, "--config", str(quick("nsl-kdd", tmp_path)), "--detector", kind]
    found = evaluate(capsys, *argv, "--baselines", "mahalanobis")
    assert (found["train_rows"], found["train_faulty_rows"]) == (300, 30)
    for row in (found, found["baselines"]["mahalanobis"]):
        dos = row["categories"]["dos"]
        assert [dos[which]["attacks"] for which in ("seen", "unseen", "all")] == [20, 20, 40]
        assert dos["seen"]["recall"] == row["recall_seen_attacks"]
        assert dos["unseen"]["recall"] == row["recall_unseen_attacks"]
    assert found["auc"] > 0.9
    assert main(["evaluate", *argv, "--baselines", "mahalanobis", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines if "dos, unseen" in line] == ["20"]


def test_what_labels_were_learnt_from_is_not_judged(tmp_path, capsys):
    """Transactions up to the last normal one that trains all train; whoever judges, judges the later ones alone."""
    root, quick_one = str(data.creditcard(tmp_path / "data")), str(quick("creditcard", tmp_path))
    argv = ["creditcard", "--data", root, "--config", quick_one]
    own = evaluate(capsys, *argv, "--detector", "classifier", "--baselines", "pca")
    assert own["train_rows"] + own["rows"] == 400
    assert own["train_faulty_rows"] == 20
    beside = evaluate(capsys, *argv, "--detector", "pca", "--baselines", "classifier")
    assert own["baselines"]["pca"]["ap"] == beside["ap"]
    assert own["ap"] == beside["baselines"]["classifier"]["ap"] == own["later"]["ap"]


def test_kept_detectors_run_live_to_the_same_alerts(tmp_path, capsys):
    """Set-up, detectors and rows as written: a worker publishes the bytes that were kept."""
    root, kept = data.skab(tmp_path / "data"), tmp_path / "kept"
    evaluate(capsys, "skab", "--data", str(root), "--baselines", "none", "--keep", str(kept))
    config = settings.load(kept / "config.yaml")
    models = ModelSet.load(config)
    rows = json.loads((kept / "rows.json").read_text())
    published = []
    for recording in read(root / "valve1", "skab"):
        worker = Backtest(
            config,
            Scorer(models, config.scorer),
            [one.calibration for one in models.artifacts],
            profiles=[one.profile for one in models.artifacts],
            model_of=models.ref_of,
        )
        published += worker.run(encoded(recording.rows(rows[recording.asset]["first_row"])))
    assert published == (kept / "alerts.jsonl").read_bytes().splitlines()
    assert published


def test_a_file_too_short_to_train_on_spoils_no_others(tmp_path, capsys, caplog):
    """It is named, its faults count as missed, and its rows are never the strangest."""
    root = data.yahoo_s5(tmp_path)
    long = (root / "A1Benchmark" / "real_1.csv").read_text().splitlines(keepends=True)
    (root / "A1Benchmark" / "real_2.csv").write_text("".join([long[0], *long[460:540]]))
    hourly = [f"{1_422_237_600 + 1_800 * row},{row},{int(row == 70)}\n" for row in range(80)]  # a set-up of its own
    (root / "A1Benchmark" / "real_3.csv").write_text("".join([long[0], *hourly]))
    found = evaluate(capsys, "yahoo-s5", "--data", str(root), "--detector", "pca", "--baselines", "none")
    assert (found["files"], found["untrained"]) == (3, ["A1Benchmark/real_2.csv", "A1Benchmark/real_3.csv"])
    assert (found["incidents"]["faults"], found["incidents"]["caught"]) == (3, 1)
    assert "real_2.csv: too few training rows" in caplog.text
    assert [row["far"] for row in found["per_file"][1:]] == [0, 0]


def test_a_column_that_the_set_up_lacks_is_named(tmp_path, capsys):
    """Without it no window would ever be whole."""
    root = data.skab(tmp_path)
    for path in root.rglob("*.csv"):
        path.write_text(path.read_text().replace("Volume Flow RateRMS", "Flow"))
    assert main(["evaluate", "skab", "--data", str(root), "--baselines", "none", "--quiet"]) == 2
    assert (
        "0.csv: no column 'Volume Flow RateRMS', which is configured in channels; the columns are: Acc"
        in capsys.readouterr().err
    )


def test_words_and_empty_columns_of_a_table_are_left_out(tmp_path, capsys, caplog):
    """The shipped set-up smooths, which words don't allow; it says so."""
    root, kept = data.table(tmp_path / "data"), tmp_path / "kept"
    path = root / "line3.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},mode,spare", *(f"{row},idle," for row in rows)]) + "\n")
    evaluate(capsys, "csv", "--data", str(root), "--baselines", "none", "--detector", "pca", "--keep", str(kept))
    assert list(settings.load(kept / "config.yaml").channels) == ["flow", "pressure"]
    assert "column 'mode' has text" in caplog.text
    assert "column 'spare' is empty" in caplog.text


def test_every_column_of_a_table_is_a_channel(tmp_path, capsys):
    """One that is called like the shipped set-up's does not hide the others."""
    root, kept = data.table(tmp_path / "data"), tmp_path / "kept"
    path = root / "line3.csv"
    path.write_text(path.read_text().replace("flow", "value"))
    evaluate(capsys, "csv", "--data", str(root), "--baselines", "none", "--detector", "pca", "--keep", str(kept))
    assert list(settings.load(kept / "config.yaml").channels) == ["value", "pressure"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("kddcup.data_10_percent_corrected", "corrected"),
        ("kddcup.data_10_percent", "corrected.gz"),
        ("kddcup.data.corrected", "corrected"),
    ],
)
def test_kdd99_tells_training_from_test_by_their_names(train, test, tmp_path, capsys):
    """Both may end in `corrected`, as they do in the archive and unpacked; the whole training file may lie beside."""
    made = data.kdd99(tmp_path / "made" / "kdd_corrected") / "kddcup.data_10_percent"
    root = tmp_path / "corrected"
    root.mkdir()
    rows = made.read_text().splitlines(keepends=True)
    (root / train).write_text("".join(rows[:300]))
    text = "".join(rows[300:]).encode()
    (root / test).write_bytes(gzip.compress(text) if test.endswith(".gz") else text)
    if "10_percent" in train:
        (root / "kddcup.data.gz").write_bytes(gzip.compress(b"never read"))
    argv = ["--config", str(quick("kdd99", tmp_path)), "--detector", "pca", "--baselines", "none"]
    found = evaluate(capsys, "kdd99", "--data", str(root), *argv)
    assert (found["train_rows"], found["rows"]) == (263, 100)


def test_the_same_seed_gives_the_same_figures(tmp_path, capsys):
    """Chance comes from the seed alone."""
    root = str(data.table(tmp_path))
    argv = ["csv", "--data", root, "--baselines", "none", "--config", str(quick("csv", tmp_path))]
    assert evaluate(capsys, *argv) == evaluate(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["skab", "--detector", "oracle"], "--detector must be one of"),
        (["skab", "--baselines", "oracle"], "'oracle' is no detector"),
        (["skab", "--label-column", "x"], "--label-column is for the protocol csv"),
        (["skab", "--report", "nowhere/x.html"], "--report nowhere/x.html: there is no folder nowhere; make it first"),
        (["skab", "--train", "0.5"], "skab defines which rows are trained on"),
        (["ucr"], "nothing of format ucr in this folder"),
    ],
)
def test_what_is_wrong_is_said(argv, message, tmp_path, capsys):
    """In one line, with exit status 2."""
    assert main(["evaluate", *argv, "--data", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_count_of_no_seeds_is_refused(tmp_path, capsys):
    """As any option with a wrong value, with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "skab", "--seeds", "0", "--data", str(tmp_path)])
    assert ended.value.code == 2
    assert "argument --seeds: expected a whole number of at least 1, got '0'" in capsys.readouterr().err


def test_without_labels_there_is_nothing_to_hold_alarms_against(tmp_path, capsys):
    """Only the healthy recording is there."""
    root = data.skab(tmp_path)
    assert main(["evaluate", "skab", "--data", str(root / "anomaly-free")]) == 2
    assert "no SKAB file with labels" in capsys.readouterr().err
