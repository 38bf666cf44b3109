"""Scenarios of the simulator: what happens is labelled, what is no fault is not, and a seed says it all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from producers.__main__ import main
from stream_detector.datasets import read
from stream_detector.datasets.output import write
from stream_detector.datasets.replay import Plan, schedule
from stream_detector.simulation.scenarios import HEALTHY, SCENARIOS, SENSOR_FAULTS
from stream_detector.simulation.simulate import CHANNELS, simulate

HOURS = 96.0
NUISANCE = ("load-steps", "season", "maintenance", "sensor-replaced")


def week(scenario, machines=1, **more):
    """Four days at a reading a minute."""
    return simulate(machines, HOURS, 3, 1 / 60, scenario=scenario, **more)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_beginning_is_healthy_and_the_same_as_without_the_scenario(scenario):
    """Until 40 % of the run nothing happens: the readings are those of the healthy machine, and no label is set."""
    [found] = week(scenario)
    [healthy] = week("healthy", profile=SCENARIOS[scenario].profile)
    until = int(HEALTHY * len(found))
    for channel in found.values:
        np.testing.assert_array_equal(found.values[channel][:until], healthy.values[channel][:until])
    assert not found.labels[:until].any()


@pytest.mark.parametrize("scenario", NUISANCE)
def test_what_is_no_fault_is_listed_as_an_event_and_never_labelled(scenario):
    """Load steps, seasons, maintenance and new sensors change readings for good, and nobody should be alarmed."""
    [found] = week(scenario)
    assert (len(found.faults), int(found.labels.sum())) == (0, 0)
    assert len(found.events) == (2 if scenario == "load-steps" else 1)
    [healthy] = week("healthy", profile=SCENARIOS[scenario].profile)
    late = slice(-500, None)
    moved = [
        abs(np.mean(found.values[c][late]) - np.mean(healthy.values[c][late])) / np.std(healthy.values[c][late])
        for c in found.values
    ]
    assert max(moved) > 0.5


def test_wear_grows_for_more_than_a_day():
    """Vibration and heat climb slowly, hour by hour, from the beginning of the label on."""
    [found] = week("slow-wear", profile="constant")
    [healthy] = week("healthy", profile="constant")
    fault = found.faults[0]
    more = found.values["vibration"] - healthy.values["vibration"]
    hours = (found.ts_ms - fault.start_ms) / 3_600_000
    levels = [float(np.mean(more[(hours >= h) & (hours < h + 2)])) for h in (1, 8, 16, 24, 32)]
    assert levels == sorted(levels)
    assert levels[-1] > 5 * levels[0] > 0


def test_an_intermittent_fault_comes_and_goes_under_one_label():
    """It is there for five minutes in every half hour; the label covers it all."""
    [found] = week("intermittent", profile="constant")
    [healthy] = week("healthy", profile="constant")
    [fault] = found.faults
    inside = (found.ts_ms >= fault.start_ms) & (found.ts_ms < fault.end_ms)
    worse = (found.values["current"] - healthy.values["current"])[inside] > 0.3
    assert 0.1 < worse.mean() < 0.25
    assert found.labels[inside].all()


def test_two_faults_overlap():
    """The second begins while the first is there."""
    for found in week("two-faults", 4):
        first, second = found.faults
        assert first.start_ms < second.start_ms < first.end_ms
        assert first.name != second.name


def test_machines_have_all_kinds_of_sensor_faults_in_turn():
    """As many machines as kinds: each has another one."""
    found = week("sensor-faults", len(SENSOR_FAULTS))
    assert [recording.faults[0].name for recording in found] == list(SENSOR_FAULTS)


def spoilt(fault, channel="temperature"):
    """Return a machine with one sensor fault for an hour, its healthy twin, and where the fault is."""
    name = fault.split("@")[0]
    [found] = simulate(1, 4, 5, 0.1, faults=fault)
    [healthy] = simulate(1, 4, 5, 0.1, faults="none")
    [truth] = found.faults
    assert truth.name == name.split("/")[0]
    sent = found.ts_ms if found.sent_ms is None else found.sent_ms
    return found, healthy, (sent >= truth.start_ms) & (sent < truth.end_ms)


def test_a_saturated_sensor_sits_at_full_scale():
    """Its readings are the largest it can say, again and again."""
    found, _, inside = spoilt("sensor-saturated/vibration@2h+1h")
    assert np.mean(found.values["vibration"][inside] == CHANNELS["vibration"][2].top) > 0.5


def test_a_sensor_out_of_range_says_what_cannot_be():
    """A current far below zero, never twice the same."""
    found, _, inside = spoilt("sensor-out-of-range/current@2h+1h")
    assert (found.values["current"][inside] < -20).all()
    assert np.all(np.diff(found.values["current"][inside]) != 0)


def test_a_silent_machine_sends_nothing():
    """No channel has a value, so there is no message."""
    found, _, inside = spoilt("silent@2h+1h")
    assert len(list(found.messages())) == (~inside).sum()


@pytest.mark.parametrize(("kind", "ahead"), [("clock-ahead", 1_800), ("clock-behind", -1_800)])
def test_a_wrong_clock_moves_times_but_not_when_they_are_sent(kind, ahead):
    """Half an hour at the default severity; the readings are right, and are sent at their true moments."""
    found, healthy, inside = spoilt(f"{kind}@2h+1h")
    np.testing.assert_array_equal(found.sent_ms, healthy.ts_ms)
    np.testing.assert_allclose((found.ts_ms - healthy.ts_ms)[inside], 1_000 * ahead)
    np.testing.assert_array_equal(found.ts_ms[~inside], healthy.ts_ms[~inside])
    due = [due_ms for due_ms, _ in schedule([found, healthy], Plan("t"), 0.0)]
    assert len(due) == 2 * len(found)
    assert due == sorted(due)


def test_the_same_seed_gives_the_same_files(tmp_path):
    """Scenarios included; events are written beside the faults."""
    for folder in ("a", "b"):
        write(week("maintenance", 2), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["events.json", "faults.json", "machine-1.csv", "machine-2.csv"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    [first, _] = json.loads((tmp_path / "a" / "events.json").read_text())
    assert (first["asset"], first["event"]) == ("machine-1", "maintenance")


def test_a_scenario_from_the_command_line(tmp_path):
    """`simulate --scenario` writes what `replay` and the other commands read, faults included."""
    argv = ["simulate", "--scenario", "slow-wear", "--machines", "1", "--hours", "96", "--rate", "0.0166667"]
    assert main([*argv, "--out", str(tmp_path), "--quiet"]) == 0
    [found] = read(tmp_path, "csv")
    assert [fault.name for fault in found.faults] == ["wear"]


def test_a_scenario_that_is_not_known(capsys):
    """Usage says which there are."""
    with pytest.raises(SystemExit):
        main(["simulate", "--scenario", "flood", "--out", "x"])
    assert "slow-wear" in capsys.readouterr().err
