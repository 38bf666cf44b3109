"""What `evaluate` measured is what runs: the same set-up and detectors behind a broker raise the same alerts.

Alerts are compared byte for byte: asset, window, score, level, state, kind and all else that a user sees.
Data are made in the public layouts; where the recordings themselves lie beside the repository, short parts of them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import yaml

from tests.evaluate import data
from tests.evaluate.test_protocols import quick
from tests.integration.site import DETECTOR, PRODUCERS, ROOT, Site, call, until
from tests.integration.test_live import by_asset

pytestmark = pytest.mark.slow

RECORDED = ROOT / ".." / "shared" / "data"


def part(source: Path, target: Path, lines: int) -> None:
    """Copy the first lines of a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(encoding="utf-8") as text:
        target.write_text("".join(islice(text, lines)), encoding="utf-8")


def recorded_skab(root: Path) -> Path:
    """One recording of SKAB."""
    part(RECORDED / "skab" / "valve1" / "0.csv", root / "valve1" / "0.csv", 2_000)
    return root


def recorded_nsl_kdd(root: Path) -> Path:
    """Some thousand connections of NSL-KDD."""
    part(RECORDED / "nsl-kdd" / "KDDTrain+_20Percent.txt", root / "KDDTrain+_20Percent.txt", 4_000)
    part(RECORDED / "nsl-kdd" / "KDDTest+.txt", root / "KDDTest+.txt", 3_000)
    return root


def recorded_cwru(root: Path) -> Path:
    """The fault-free bearing and a faulty one."""
    root.mkdir(parents=True)
    for name in ("1797_Normal.npz", "1797_IR_7_DE12.npz", "files.csv"):
        (root / name).symlink_to((RECORDED / "cwru" / name).resolve())
    return root


MADE = {"skab": data.skab, "nsl-kdd": data.nsl_kdd, "cwru": data.cwru}
TAKEN = {"skab": recorded_skab, "nsl-kdd": recorded_nsl_kdd, "cwru": recorded_cwru}


@pytest.mark.parametrize("protocol", MADE)
@pytest.mark.parametrize("source", ["made", "recorded"])
def test_alerts_behind_a_broker_are_those_of_the_evaluation(source: str, protocol: str, tmp_path: Path) -> None:
    """Waveforms, slow sensors, single records: `evaluate --live` finds no alert missing, none more, none changed."""
    if source == "recorded" and not (RECORDED / protocol).is_dir():
        pytest.skip(f"no recordings in {RECORDED / protocol}")
    root = (MADE if source == "made" else TAKEN)[protocol](tmp_path / "data")
    printed = call(
        DETECTOR,
        "evaluate",
        protocol,
        "--data",
        root,
        "--config",
        quick(protocol, tmp_path),
        "--baselines",
        "none",
        "--live",
        "--json",
        "--quiet",
    )
    live = json.loads(printed)["live"]
    assert (live["equal"], live["missing"], live["unexpected"]) == (True, 0, 0)
    assert live["alerts"] >= 1


@pytest.mark.parametrize("kind", ["classifier", "deep-sad"])
def test_what_learnt_from_labels_runs_behind_a_broker(kind: str, tmp_path: Path) -> None:
    """Detectors that were shown attacks raise live what they raised in the evaluation."""
    printed = call(
        DETECTOR,
        "evaluate",
        "nsl-kdd",
        "--data",
        data.nsl_kdd(tmp_path / "data"),
        "--config",
        quick("nsl-kdd", tmp_path),
        "--detector",
        kind,
        "--baselines",
        "none",
        "--live",
        "--json",
        "--quiet",
    )
    found = json.loads(printed)
    assert (found["live"]["equal"], found["detector"]) == (True, kind)
    assert found["live"]["alerts"] >= 1


@pytest.fixture
def kept(servers, tmp_path: Path, unique) -> Iterator[Site]:
    """What `evaluate --keep` wrote, on servers of a user's own."""
    folder = tmp_path / "kept"
    root = data.skab(tmp_path / "data")
    call(
        DETECTOR,
        "evaluate",
        "skab",
        "--data",
        root,
        "--config",
        quick("skab", tmp_path),
        "--baselines",
        "none",
        "--keep",
        folder,
        "--quiet",
    )
    path, name = folder / "config.yaml", unique("kept")
    plain = yaml.safe_load(path.read_text())
    topics = {"inputs": [{"topic": f"{name}.readings"}]} | {
        key: f"{name}.{key}" for key in ("alert_topic", "dead_letter_topic", "audit_topic", "verdict_topic", "group")
    }
    plain["kafka"] = servers[0] | topics
    plain["redis"] = {"url": servers[1], "prefix": name}
    path.write_text(yaml.safe_dump(plain))
    site = Site(path, tmp_path, 2, False)
    yield site
    site.close()


def test_kept_detectors_raise_the_kept_alerts(kept: Site, tmp_path: Path) -> None:
    """As docs/evaluation.md tells it: keep, replay from the row where training ended, run."""
    folder = kept.config_path.parent
    rows = json.loads((folder / "rows.json").read_text())
    (first_row,) = {one["first_row"] for one in rows.values()}
    files = [tmp_path / "data" / one["file"] for one in rows.values()]
    call(
        PRODUCERS,
        "replay",
        *files,
        "--format",
        "skab",
        "--skip",
        first_row,
        "--config",
        kept.config_path,
        "--speed",
        "max",
        "--quiet",
    )
    worker = kept.worker()
    until(kept.processed, "all is processed", alive=worker)
    assert 0 == worker.stop(), worker.said()
    wanted = (folder / "alerts.jsonl").read_bytes().splitlines()
    assert len(wanted) >= 2
    assert by_asset(wanted) == by_asset(kept.alerts())
