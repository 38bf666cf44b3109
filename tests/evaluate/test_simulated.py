"""`evaluate simulated` from outside: what each suite prints, that a seed says it all, and what it refuses."""

from __future__ import annotations

import json

import pytest

from stream_detector.__main__ import main

CONFIG = """\
stream: tried
channels: {vibration: {unit: g}, temperature: {unit: °C}, current: {unit: A}}
window: {cell_ms: 120000, length: 5, lateness_ms: 0, max_gap_ms: 600000}
features: {smoothing: 0.3, keep: 1}
model: {kind: pca}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return a user's set-up: a quick detector, a reading every two minutes."""
    path = tmp_path_factory.mktemp("config") / "tried.yaml"
    path.write_text(CONFIG)
    return str(path)


def figures(capsys, *argv):
    """Return what `evaluate simulated … --json` prints."""
    assert main(["evaluate", "simulated", *argv, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_healthy_machines_measure_the_risk_and_the_budget(config, capsys):
    """Both risks that are asked for, over all windows of the machines' live part, and the incidents of a week."""
    found = figures(capsys, "--suite", "healthy", "--machines", "3", "--days", "2", "--config", config)
    assert found["machines"] == 3
    assert [row["asked"] for row in found["risks"]] == [1e-3, 1e-4]
    assert found["windows"] == pytest.approx(3 * 2 * 720, abs=30)
    assert 2e-4 < found["risks"][0]["measured"] < 5e-3
    assert set(found["budget"]) == {"asked_per_week", "achieved_per_week"}


def test_nuisance_counts_false_incidents_per_event(config, capsys):
    """Four scenarios a seed, one of them with two events."""
    found = figures(capsys, "--suite", "nuisance", "--seeds", "1", "--config", config)
    assert found["events"] == 5
    assert found["false_incidents"] == sum(row["false_incidents"] for row in found["by_scenario"].values())
    assert 0 <= found["over_in_time"] <= 1


def test_faults_are_counted_by_scenario_and_a_seed_says_it_all(config, capsys):
    """One slow, one intermittent and two overlapping faults a seed; the same command prints the same."""
    found = figures(capsys, "--suite", "faults", "--config", config)
    assert found["faults"] == 4
    assert {name: row["faults"] for name, row in found["by_scenario"].items()} == {
        "slow-wear": 1,
        "intermittent": 1,
        "two-faults": 2,
    }
    assert found == figures(capsys, "--suite", "faults", "--config", config)


def test_kinds_are_held_against_the_truth(config, capsys):
    """The share told right of each kind, and of sensor faults taken for the machine's."""
    found = figures(capsys, "--suite", "kinds", "--config", config)
    assert set(found["right"]) == {"point", "contextual", "collective", "sensor-fault"}
    assert 0 <= found["sensor_as_machine"] <= 1


def test_a_table_for_people(config, capsys):
    """Without --json the same figures are a table."""
    argv = ["evaluate", "simulated", "--suite", "healthy", "--machines", "1", "--days", "1", "--config", config]
    assert main([*argv, "--quiet"]) == 0
    assert "simulated, healthy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "needs --suite"),
        (["--suite", "faults", "--data", "x"], "--data is not for the protocol simulated"),
        (["--suite", "faults", "--days", "1"], "at least 6"),
        (["--suite", "kinds", "--machines", "4"], "--machines is for --suite healthy"),
    ],
)
def test_what_makes_no_sense_is_said(argv, said, capsys):
    """Exit status 2 and one line that says what to do."""
    assert main(["evaluate", "simulated", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_set_up_of_other_channels_is_refused_with_those_there_are(tmp_path, capsys):
    """The simulator can't make a plant's own channels."""
    path = tmp_path / "other.yaml"
    path.write_text("stream: other\nchannels: {pressure: {unit: bar}}\n")
    assert main(["evaluate", "simulated", "--suite", "healthy", "--config", str(path), "--quiet"]) == 2
    assert "'pressure' is not known" in capsys.readouterr().err


def test_other_protocols_still_need_their_data(capsys):
    """`--data` is optional for simulated machines only."""
    assert main(["evaluate", "skab"]) == 2
    assert "needs --data" in capsys.readouterr().err
