"""Files that earlier versions wrote load, and mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.artifacts.fleet import load
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import category_code, decode_positions, decode_state, encode_state
from stream_detector.config import Config
from stream_detector.scoring.scorer import Scorer
from stream_detector.types import AssetState, Partition, Position, WindowBatch

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text())
ASSETS = ("pump-1", "pump-2", "stranger")
TS = 1_736_172_000_000
INCIDENT, SENSOR = "ccf6c1f4-41d8-5ac2-aac1-72e4951524a1", "0b5e1a52-6b0c-5b7e-9d0e-0d9a3b6f1c11"

#: Column -> a usual value of it, and about how far it wanders.
_USUAL = {
    "vibration": (0.03, 0.002),
    "temperature": (79.0, 0.5),
    "current": (1.3, 0.1),
    "amount": (20.0, 16.0),
    "age": (45.0, 10.0),
}


# Artifacts ----------------------------------------------------------------------------------------------------------


def config_of(name: str) -> Config:
    """Return the configuration that a stored detector was trained under."""
    path = HERE / "artifacts" / f"{name}.safetensors"
    found = load(path)
    snapshot = next(iter(found.artifacts.values())).config if hasattr(found, "artifacts") else found.config
    return Config.model_validate({"stream": "pump", **snapshot.model_dump(), "artifact": path})


def fixed(config: Config) -> WindowBatch:
    """Return four windows of each asset; their numbers are quotients of integers, the same on every machine."""
    length, names = config.window.length, config.columns
    count = 4 * len(ASSETS)
    window, cell, column = np.ogrid[:count, :length, : len(names)]
    steps = (7 * window + 3 * cell + 5 * column) % 11
    base, step = (np.array([_USUAL.get(name, (0.0, 1.0))[part] for name in names]) for part in (0, 1))
    values = base + step * (steps - 5) / 8.0 + step * window * column / 16.0
    for place, name in enumerate(names):
        if config.channels[name].kind == "category":
            codes = np.array([category_code(text) for text in ("food", "fuel", "never seen", "town-3")], np.float32)
            values[:, :, place] = codes[np.arange(count) % 4][:, None]
    return WindowBatch(
        0,
        [ASSETS[place % len(ASSETS)] for place in range(count)],
        TS + 1_000 * np.arange(count, dtype=np.int64),
        values.astype(np.float32),
        np.zeros(values.shape, np.bool_),
        np.full(count, -1, np.int64),
    )


def found_in(name: str) -> dict[str, Any]:
    """Return what expected.json says of a stored detector."""
    config = config_of(name)
    models = ModelSet.load(config)
    scores = Scorer(models, config.scorer).score(fixed(config))
    return {
        "refs": [[ref.kind, ref.version] for ref in models.refs],
        "columns": config.columns,
        "of": [None if models.ref_of(asset) is None else models.for_asset(asset) for asset in ASSETS],
        "data": [[one.data.sha256, one.data.windows, one.data.start_ms, one.data.end_ms] for one in models.artifacts],
        "split": [[one.split.method, one.split.n_train, one.split.n_calibration] for one in models.artifacts],
        "packages": dict(models.artifacts[0].packages),
        "calibration": [[len(one.calibration), float(one.calibration.max())] for one in models.artifacts],
        "norms": [None if one.profile is None else list(one.profile.table.shape) for one in models.artifacts],
        "model": scores.model.tolist(),
        "score": scores.score.tolist(),
        "channels": scores.channels.sum(axis=0).astype(float).tolist(),
    }


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_artifact_loads_and_scores_as_it_did(name: str) -> None:
    """Same versions, same origin, and scores that agree to the 20 bits they have."""
    expected, found = dict(EXPECTED[name]), found_in(name)
    assert found.pop("score") == pytest.approx(expected.pop("score"), rel=2.0**-19, abs=0.0)
    assert found.pop("channels") == pytest.approx(expected.pop("channels"), rel=1e-4, abs=1e-9)
    assert found == expected


def test_every_stored_artifact_is_tried() -> None:
    """expected.json lists the files there are."""
    assert sorted(EXPECTED) == sorted(path.stem for path in (HERE / "artifacts").glob("*.safetensors"))


# States -------------------------------------------------------------------------------------------------------------


def stored(name: str) -> tuple[int, AssetState]:
    """Return epoch and state that a file holds."""
    return decode_state((HERE / "states" / f"{name}.state").read_bytes())


@pytest.mark.parametrize("schema", [1, 2, 3, 4, 5])
def test_an_open_incident_is_read(schema: int) -> None:
    """With all that its schema knew; what it did not know is as of an asset never heard of."""
    epoch, state = stored(f"schema-{schema}-incident")
    assert (epoch, state.judged_ms, state.applied.reset) == (41, TS + 120_000, "0000000000000007")
    threshold = state.threshold
    assert (threshold.method, threshold.level, threshold.seen) == ("spot", 9.3114, 18_233)
    assert threshold.numbers == (1e-4, 8.25, 0.21, 0.0, 400.0)
    assert threshold.sample.tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert np.frombuffer(threshold.pending, "<f4").tolist() == ([0.5, 3.25] if schema >= 2 else [])
    incident = state.incident
    assert (incident.recent, incident.quiet, incident.windows, incident.peak) == (0b110111, 1, 23, 48.75)
    assert (incident.first_ms, incident.opened_ms, incident.incident) == (TS + 60_000, TS + 80_000, INCIDENT)
    assert (incident.severity, incident.leader, incident.rearm) == ("critical", "vibration", None)
    assert incident.unusual == (5 if schema >= 3 else 0)
    _check_sensors(state, schema)
    _check_adaptation(state, schema)
    applied, audited = state.applied, state.audited
    assert (applied.pinned, applied.accepted, applied.rolled, audited.level, audited.at_ms, state.budget) == (
        (12.5, "0000000000000005", "0000000000000003", 9.25, TS + 50_000, None)
        if schema >= 4
        else (None, "", "", None, 0, None)
    )


def _check_sensors(state: AssetState, schema: int) -> None:
    faults = [
        (one.channel, one.fault, one.since_ms, one.incident, one.quiet, one.windows, one.by_log)
        for one in state.sensors.faults
    ]
    refused = state.sensors.refused
    counts = (refused.fault, refused.channel, refused.count, refused.good, refused.open, refused.since_ms)
    if schema < 3:
        assert (faults, counts) == ([], ("", "", 0, 0, False, 0))
    else:
        assert faults == [
            ("temperature", "stuck", TS + 30_000, SENSOR, 2, 17, False),
            ("", "silent", TS + 40_000, INCIDENT, 0, 0, True),
        ]
        assert counts == ("clock", "", 3, 1, True, TS + 20_000)


def _check_adaptation(state: AssetState, schema: int) -> None:
    moved = state.adaptation
    arrays = [part.tolist() for part in (moved.shift, moved.anchor, moved.usual, moved.waiting, moved.sums)]
    if schema < 4:
        assert (arrays, moved.serial, moved.scores) == ([[], [], [], [], []], 0, ())
        return
    assert arrays[:4] == [[0.5, -1.25, 0.0], [0.25, -1.0, 0.0], [0.625, -1.5, 0.125], [4.0, 5.0, 6.0, 1.5]]
    assert (moved.serial, moved.calm_ms, moved.flat_ms, moved.asked) == (7, TS + 10_000, TS + 90_000, True)
    assert moved.scores == (8.5, 9.25, 10.0)
    rest = (moved.count, moved.logs, moved.normal, moved.low, moved.came_ms, moved.came, moved.past, moved.settling)
    if schema == 4:  # the block that was being filled begins again
        assert (arrays[4], rest) == ([], (0, 0.0, 0, 0, None, 0.0, (), False))
    else:
        assert arrays[4] == [1.0, 2.0, 3.0]
        assert rest == (3, 1.75, 2, 1, TS + 15_000, 0.5, (0.25, 0.75), True)


@pytest.mark.parametrize("schema", [1, 2, 3, 4, 5])
def test_a_quiet_asset_without_a_level_is_read(schema: int) -> None:
    """None stays None; a limit after an incident is known from schema 2 on."""
    epoch, state = stored(f"schema-{schema}-quiet")
    assert (epoch, state.judged_ms, state.applied.reset) == (2, TS + 20_000, "")
    threshold = state.threshold
    assert (threshold.method, threshold.level, threshold.seen, threshold.numbers) == ("quantile", None, 12, ())
    assert threshold.sample.tolist() == [0.5, 0.75, 1.0]
    incident = state.incident
    assert (incident.recent, incident.opened_ms, incident.incident, incident.leader) == (0b1000, None, None, None)
    assert incident.rearm == (17.5 if schema >= 2 else None)


@pytest.mark.parametrize("schema", [4, 5])
def test_a_budget_is_read(schema: int) -> None:
    """With what it promised and what came of it."""
    _, state = stored(f"schema-{schema}-budget")
    assert (state.threshold.method, state.threshold.numbers[0], state.threshold.level) == ("dspot", 2e-5, 3.5)
    assert state.adaptation.shift.tolist() == [1.0, 0.0, 0.0]
    budget = state.budget
    assert budget is not None
    assert (budget.start_ms, budget.set_ms, budget.since_ms) == (TS, TS + 3_600_000, TS)
    assert (budget.elapsed_ms, budget.shadow, budget.opened, budget.promised_ms) == (
        7_200_000.5,
        2.25,
        1.5,
        7_100_000.25,
    )
    assert (budget.opened_ever, budget.recent, budget.quiet) == (3, 0b1011, 4)
    assert (budget.rarer, budget.rarer_recent, budget.rarer_quiet) == (0.75, 1, -1)


@pytest.mark.parametrize("path", sorted((HERE / "states").glob("*.state")), ids=lambda path: path.stem)
def test_a_state_that_was_read_is_written_and_read_again(path: Path) -> None:
    """What an upgrade gives is a state like any other: written in the newest schema it stays as it is."""
    epoch, state = decode_state(path.read_bytes())
    written = encode_state(state, epoch)
    again = decode_state(written)
    assert again[0] == epoch
    assert encode_state(again[1], epoch) == written


def test_positions_are_read() -> None:
    """Where a task of 0.1.0 stood."""
    found = decode_positions((HERE / "states" / "positions-1.positions").read_bytes())
    assert found == {
        Partition("pump.readings", 0): Position(0, 2**40, 9),
        Partition("pump.readings", 1): Position(100, 140, 9),
    }
