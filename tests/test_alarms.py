"""Whether a detector can alarm: every family under every threshold on steps, and what training says where it can't."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client import generate_latest

from stream_detector import Worker, backtest, train
from stream_detector.__main__ import main
from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.artifacts.artifact import Artifact
from stream_detector.cli.alarms import refuse_mute
from stream_detector.config import Config
from stream_detector.config.judging import METHODS
from stream_detector.errors import DataError
from stream_detector.models import DETECTORS
from stream_detector.training.alarms import findings

START_MS = 1_700_000_000_000
#: Families whose settings must differ from the defaults for steps to be seen, or to be trained fast.
MODELS: dict[str, dict[str, Any]] = {"metric": {"normalise": "none"}}


def config(kind: str, **sections: Any) -> Config:
    """Return the set-up of the case: two channels, windows of 20 s of which one smoothed cell is judged."""
    return Config.model_validate(
        {
            "stream": "num",
            "channels": {"a": {}, "b": {}},
            "window": {"cell_ms": 1000, "length": 20, "stride": 5, "max_gap_ms": 5000},
            "features": {"smoothing": 0.3, "keep": 1},
            "train": {"epochs": 8},
            "model": {"kind": kind, **MODELS.get(kind, {})},
            **sections,
        }
    )


def values(count: int, seed: int) -> NDArray[np.float64]:
    """Return white noise around 10 and 20, (count, 2), with a spread of 1 each."""
    return np.random.default_rng(seed).normal((10.0, 20.0), 1.0, (count, 2))


def times(count: int) -> NDArray[np.int64]:
    """Return a time for each second."""
    return START_MS + 1000 * np.arange(count, dtype=np.int64)


@cache
def trained(kind: str) -> Artifact:
    """Return a detector of a family; those that learn from labels are shown steps in `a`."""
    rows, labels = values(2000, 0), None
    if kind in ("classifier", "deep-sad"):
        labels = np.zeros(2000)
        for start, size in ((200, 12.0), (600, -12.0), (1000, 30.0), (1800, 20.0)):
            labels[start : start + 60] = 1
            rows[start : start + 60, 0] += size
    return train(config(kind), rows, times=times(2000), labels=labels)


def test_every_family_is_tried():
    """The parametrized tests take them from the registry."""
    assert len(DETECTORS) == 14


@pytest.mark.parametrize("spreads", [30.0, 8.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", sorted(DETECTORS))
def test_a_step_that_stays_opens_an_incident(kind: str, method: str, spreads: float):
    """Within half a minute."""
    rows = values(800, 7)
    rows[400:, 0] += spreads
    setup = config(kind, threshold={"method": method, "risk": 1e-4})
    found = backtest(setup, trained(kind), rows, times=times(800))
    during = (found.scores.end_ms > START_MS + 400_000) & (found.scores.end_ms <= START_MS + 430_000)
    assert found.scores.alarm[during].any()


def test_scores_of_trees_inside_the_training_range_are_the_published_ones():
    """What lies outside multiplies; inside, nothing is added."""
    artifact, x = trained("isolation-forest"), torch.zeros(3, 1, 2, dtype=torch.float64)
    x[1, 0, 0], x[2, 0, 0] = 50.0, 100.0
    detector = copy.deepcopy(artifact.detector).double()
    earlier = {name: tensor for name, tensor in artifact.detector.state_dict().items() if "outside" not in name}
    bounded = type(detector)(detector.config, 1, 2)
    bounded.restore(earlier)  # an artifact of 0.2 knows no range
    usual, far, further = detector.score(x).tolist()
    assert bounded.double().score(x[:1]).tolist() == pytest.approx([usual], rel=1e-6)
    assert bounded.score(x[1:2]).tolist() == bounded.score(x[2:3]).tolist()
    assert further > 3.5 * far > 1000 * usual


def save(folder: Path, setup: Config, rows: NDArray[np.float64]) -> tuple[Path, Path]:
    """Write a set-up and a table; return their paths."""
    path, table = folder / "setup.yaml", folder / "history.csv"
    path.write_text(json.dumps({**json.loads(setup.model_dump_json(exclude_unset=True)), "artifact": "x.safetensors"}))
    stamps = times(len(rows)).astype("datetime64[ms]")
    lines = (f"{stamp}Z,{a!r},{b!r}" for stamp, (a, b) in zip(stamps, rows.tolist(), strict=True))
    table.write_text("timestamp,a,b\n" + "\n".join(lines) + "\n")
    return path, table


def test_a_detector_that_can_never_alarm_is_refused(tmp_path, capsys, caplog):
    """Of windows of one cell, instance normalisation leaves nothing: nothing is written, and the hint says why."""
    setup, table = save(tmp_path, config("metric", model={"kind": "metric"}), values(600, 0))
    assert main(["train", str(setup), "--data", str(table)]) == 2
    said = capsys.readouterr().err
    assert "the detector can never alarm" in said
    assert "normalise" in said
    assert "--force" in said
    assert not (tmp_path / "x.safetensors").exists()
    assert any("same score" in record.getMessage() for record in caplog.records)

    assert main(["train", str(setup), "--data", str(table), "--force", "--json"]) == 0
    [described] = json.loads(capsys.readouterr().out)["artifacts"]
    assert described["alarms"]["can_alarm"] is False
    assert described["alarms"]["alarms_from_spreads"] == {"a": None, "b": None}
    assert any("can never alarm" in warning for warning in described["warnings"])

    assert main(["check", str(setup), "--load"]) == 2
    found = capsys.readouterr()
    assert "a: no distance tried" in found.out
    assert "can never alarm" in found.err
    caplog.clear()
    assert main(["backtest", str(setup), "--data", str(table)]) == 0
    assert any("can never alarm" in record.getMessage() for record in caplog.records)


def test_of_many_detectors_one_that_can_alarm_is_enough():
    """A fleet's training is not thrown away because of one machine; it is refused when none can alarm."""
    able = trained("pca")
    mute = replace(able, reach=np.zeros_like(able.reach))
    refuse_mute(config("pca"), [mute, able], force=False)
    refuse_mute(config("pca"), [mute, mute], force=True)
    with pytest.raises(DataError, match=r"^\(all of 2; the first one's figures\) the detector can never alarm"):
        refuse_mute(config("pca"), [mute, mute], force=False)


def test_the_asset_whose_history_is_constant_is_named(tmp_path, caplog):
    """A machine that stood still while it was recorded."""
    setup, still = save(tmp_path, config("pca"), np.tile([[5.0, 7.0]], (2000, 1)))
    still.rename(tmp_path / "still.csv")
    _, moving = save(tmp_path, config("pca"), values(2000, 0))
    moving.rename(tmp_path / "moving.csv")
    both = ["--data", str(tmp_path / "still.csv"), str(tmp_path / "moving.csv"), "--per-asset"]
    assert main(["train", str(setup), *both, "--out", str(tmp_path / "fleet.safetensors")]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert [line[:66] for line in said] == ["asset 'still': all calibration windows have the same score: the hi"]


def test_a_constant_history_is_said_and_the_detector_written(tmp_path, capsys, caplog):
    """A dead machine's detector alarms when it wakes up, so it is no fault; but the user should know."""
    setup, table = save(tmp_path, config("knn"), np.tile([[5.0, 0.0]], (600, 1)))
    assert main(["train", str(setup), "--data", str(table)]) == 0
    assert any("all calibration windows have the same score" in record.getMessage() for record in caplog.records)
    assert main(["check", str(setup), "--load"]) == 0
    assert "a: 5 spreads" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["isolation-forest", "half-space-trees", "pca"])
def test_a_detector_that_can_alarm_is_not_warned_of(kind: str, caplog):
    """Nothing is said of a usual history."""
    with caplog.at_level(logging.WARNING):
        made = train(config(kind), values(2000, 3), times=times(2000))
    assert not caplog.records
    found = findings(config(kind), made)
    assert found.texts() == []
    assert set(found.alarms_from) == {"a", "b"}
    assert None not in found.alarms_from.values()


def test_inputs_that_are_clipped_hide_what_goes_beyond(caplog):
    """The message names the channels and the key that hides them."""
    setup = config("mahalanobis", features={"smoothing": 0.3, "keep": 1, "clip": 3.0})
    made = train(setup, values(2000, 0), times=times(2000))
    found = findings(setup, made)
    assert found.mute == ["a", "b"] or found.cannot_alarm
    assert any("raise features.clip (3)" in record.getMessage() for record in caplog.records)


def test_one_mute_channel_is_named():
    """It can't alarm by itself; the detector can."""
    made = trained("pca")
    reach = made.reach.copy()
    reach[1] = 0.5
    found = findings(config("pca"), replace(made, reach=reach))
    assert found.mute == ["b"]
    assert not found.cannot_alarm
    assert found.texts()[0].startswith("channel b can't alarm alone: moved by 30 spreads")


def test_the_set_up_decides_the_level():
    """A margin set later can silence a detector; then it is the set-up's fault, and said under it."""
    made = trained("ae")
    assert not findings(config("ae"), made).cannot_alarm
    strict = config("ae", model={"kind": "ae"}, threshold={"margin": 100.0, "risk": 1e-9, "tail": 0.4})
    level, usual = findings(strict, made).level, findings(config("ae"), made).level
    assert level is not None
    assert usual is not None
    assert level > 10 * usual


def test_too_few_scores_for_a_level_are_said(caplog):
    """spot needs 50 scores; until then, nothing alarms."""
    train(config("pca"), values(300, 0), times=times(300))
    assert any("too few for a level" in record.getMessage() for record in caplog.records)


def test_what_was_tried_lies_in_the_artifact(tmp_path):
    """And is read back; a file without it loads, and nothing is claimed of it."""
    made = trained("pca")
    made.save(tmp_path / "x.safetensors")
    again = Artifact.load(tmp_path / "x.safetensors")
    assert again.ref == made.ref
    assert np.array_equal(again.reach, made.reach)
    earlier = replace(made, reach=None)
    found = findings(config("pca"), earlier)
    assert (found.cannot_alarm, found.mute, found.highest) == (False, [], None)


def test_unseen_categories_are_tried():
    """A channel of categories can alarm, too: a protocol never seen."""
    setup = Config.model_validate(
        {
            "stream": "net",
            "channels": {"amount": {}, "protocol": {"kind": "category", "cell": "last"}},
            "window": {"mode": "records", "length": 1, "cell_ms": 1000},
            "model": {"kind": "ae", "hidden": [8], "latent": 2},
            "train": {"epochs": 10},
        }
    )
    rng = np.random.default_rng(0)
    table = {"amount": rng.normal(10, 1, 800), "protocol": np.array(["tcp", "udp"], object)[rng.integers(0, 2, 800)]}
    made = train(setup, table, times=times(800))
    assert set(findings(setup, made).alarms_from) == {"amount", "protocol"}
    assert np.isfinite(made.reach).all()


def test_a_worker_says_so_when_it_starts(caplog):
    """Log and metric: whoever deploys it sees it without having trained it."""
    setup = config("metric", model={"kind": "metric"})
    made = train(setup, values(600, 0), times=times(600))
    caplog.clear()
    memory = MemoryLog({"num.readings": 1})
    source = MemorySource(memory, ["num.readings"])
    sink = MemorySink(memory, source, setup.alert_topic, setup.dead_letter_topic, audit_topic=setup.audit_topic)
    worker = Worker(setup, source, sink, MemoryStore(), made)
    assert any("can never alarm" in record.getMessage() for record in caplog.records)
    assert "stream_detector_detectors_cannot_alarm 1.0" in generate_latest(worker.metrics.registry).decode()
