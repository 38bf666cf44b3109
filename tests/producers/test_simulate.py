"""Simulated machines: seeded, labelled, and behaving as machines do."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.simulation.faults import KINDS, Duration, FaultPlan, parse
from stream_detector.simulation.simulate import CHANNELS, DEFAULT_START_MS, Waveforms, simulate


def one(faults, hours=1.0, **options):
    """One machine at a constant operating point, with a fault and without."""
    options = {"profile": "constant", "seed": 4, **options}
    healthy, faulty = (simulate(1, hours, faults=each, **options)[0] for each in ("none", faults))
    return healthy, faulty


def during(recording, channel):
    """A channel's readings while the label says anomalous."""
    return recording.values[channel][recording.labels == 1]


# ── seeds and shape ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_seed_gives_the_same_bytes():
    """Byte for byte; another seed gives another plant."""

    def plant(seed):
        return [message.value for recording in simulate(2, 0.3, seed=seed) for message in recording.messages()]

    assert plant(1) == plant(1)
    assert plant(1) != plant(2)


def test_a_machine_does_not_depend_on_the_others():
    """machine-2 of a seed is the same among 2 machines as among 5, and no other machine."""
    of_two, of_five = simulate(2, 0.3, seed=7)[1], simulate(5, 0.3, seed=7)[1]
    first = simulate(2, 0.3, seed=7)[0]
    assert of_two.values["current"].tolist() == of_five.values["current"].tolist()
    assert of_two.values["current"].tolist() != first.values["current"].tolist()


def test_shape_times_and_names():
    """A reading each 1/rate s from start_ms on; machines are numbered from 1."""
    machines = simulate(2, 0.01, rate_hz=10.0, start_ms=5_000.0, name="pump", faults="none")
    assert [recording.asset for recording in machines] == ["pump-1", "pump-2"]
    assert [machines[0].ts_ms[0], machines[0].ts_ms[1], len(machines[0])] == [5_000.0, 5_100.0, 360]
    assert machines[0].channels == ["vibration", "temperature", "current"]
    assert simulate(1, 0.01)[0].start_ms == DEFAULT_START_MS


def test_a_fault_changes_nothing_before_it():
    """Up to the onset the machine is, digit for digit, the one without the fault."""
    healthy, faulty = one("unbalance@30m+10m")
    before = slice(0, 1_800)
    for channel in healthy.channels:
        np.testing.assert_array_equal(healthy.values[channel][before], faulty.values[channel][before])


# ── the default scenario ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hours", [0.25, 0.5, 1.0, 2.0, 6.0])
def test_the_default_scenario_has_a_clean_start_and_healthy_time_between(hours):
    """At least 40 % clean, faults of two minutes or more, and healthy time around each."""
    run_s = hours * 3_600
    for machine in simulate(4, hours, seed=3):
        starts = [(fault.start_ms - machine.start_ms) / 1_000 for fault in machine.faults]
        ends = [(fault.end_ms - machine.start_ms) / 1_000 for fault in machine.faults]
        assert machine.labels[: int(0.4 * len(machine))].sum() == 0
        assert len(starts) == (1 if hours < 1 else 2)
        assert all(end - start >= 120 for start, end in zip(starts, ends, strict=True))
        assert all(start - end >= 0.08 * run_s for end, start in zip(ends, [*starts[1:], run_s], strict=True))


def test_the_default_scenario_differs_from_machine_to_machine():
    """Over the fleet at least six kinds of fault."""
    assert len({fault.name for machine in simulate(4, 2.0) for fault in machine.faults}) >= 6


def test_load_changes_belong_to_healthy_life():
    """The training part holds the whole range of operating points that the healthy rest has."""
    for machine in simulate(4, 2.0, seed=5):
        split = int(0.4 * len(machine))
        current = machine.values["current"]
        train, later = current[:split], current[split:][machine.labels[split:] == 0]
        assert np.ptp(train) > 3.0
        assert np.mean((later < train.min() - 0.3) | (later > train.max() + 0.3)) < 0.005


def test_default_faults_stand_out_and_healthy_life_does_not():
    """Distance from the clean first part, smoothed over ten seconds: healthy later time stays near it, faults don't."""
    for machine in simulate(4, 2.0, seed=6):
        readings = np.stack(list(machine.values.values()), axis=1)
        kernel = np.ones(10) / 10
        smooth = np.stack([np.convolve(column, kernel, "full")[: len(column)] for column in readings.T], axis=1)
        train = smooth[10 : int(0.4 * len(machine))]
        apart = smooth - train.mean(axis=0)
        distance = np.sqrt(np.einsum("ij,jk,ik->i", apart, np.linalg.inv(np.cov(train.T)), apart))
        usual = distance[10 : int(0.4 * len(machine))].max()
        near_fault = np.convolve(machine.labels, np.ones(30), "full")[: len(machine)] > 0
        assert distance[10:][~near_fault[10:]].max() < 1.5 * usual
        for fault in machine.faults:
            assert distance[(machine.ts_ms >= fault.start_ms) & (machine.ts_ms <= fault.end_ms)].max() > 2.0 * usual


# ── faults and what they do ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["bearing-outer", "bearing-inner", "bearing-ball", "unbalance", "misalignment"])
def test_mechanical_faults_raise_vibration(kind):
    """At the default severity to at least one and a half times, and no more than tenfold."""
    healthy, faulty = one(f"{kind}@30m+10m~1s")
    ratio = np.median(during(faulty, "vibration")) / np.median(healthy.values["vibration"])
    assert 1.5 < ratio < 10


def test_lost_cooling_heats_and_the_label_lasts_until_it_is_cool():
    """Temperature climbs by minutes; the label ends when less than 1 K is left of it."""
    healthy, faulty = one("overheating@20m+10m")
    excess = faulty.values["temperature"] - healthy.values["temperature"]
    (fault,) = faulty.faults
    end = int((fault.end_ms - faulty.start_ms) / 1_000)
    assert excess.max() > 8
    assert np.argmax(excess) >= 1_790
    assert end > 1_800 + 120
    assert excess[end] == pytest.approx(1, abs=0.05)
    assert faulty.labels[end + 1 :].sum() == 0


@pytest.mark.parametrize("kind", ["overload", "supply-dip"])
def test_electrical_faults_raise_current(kind):
    """Current follows at once, temperature by minutes."""
    healthy, faulty = one(f"{kind}@30m+10m~1s")
    fault = slice(1_810, 2_400)
    ratio = faulty.values["current"][fault].mean() / healthy.values["current"][fault].mean()
    assert 1.1 < ratio < 2
    assert faulty.values["temperature"][2_399] > healthy.values["temperature"][2_399] + 2


def test_severity_scales_and_sets_in():
    """Twice the severity shakes harder, and an onset of five minutes is half there after half of it."""
    (_, mild), (_, severe) = (one(f"unbalance@10m+10m~5m:{severity}") for severity in (0.4, 0.8))
    early, late = slice(660, 720), slice(1_080, 1_190)
    assert mild.values["vibration"][late].mean() < severe.values["vibration"][late].mean()
    assert severe.values["vibration"][early].mean() < 0.6 * severe.values["vibration"][late].mean()
    assert [fault.severity for fault in severe.faults] == [0.8]


def test_a_stuck_sensor_repeats_its_last_reading():
    """From the onset to the end one value, labelled; then it lives again."""
    _, faulty = one("sensor-stuck/current@30m+10m")
    current = faulty.values["current"]
    assert set(current[1_800:2_400]) == {current[1_799]}
    assert len(set(current[2_400:2_500])) > 50
    assert faulty.labels[1_799:1_801].tolist() == [0, 1]


def test_a_dropped_out_sensor_says_nothing():
    """Its channel is left out of the messages; the others go on."""
    _, faulty = one("sensor-dropout/vibration@30m+10m")
    assert np.isnan(faulty.values["vibration"][1_800:2_400]).all()
    assert np.isfinite(faulty.values["vibration"][2_400:]).all()
    assert np.isfinite(faulty.values["temperature"]).all()


def test_an_offset_sensor_reads_too_high_at_once():
    """By its severity's share of the channel's span; the machine itself is as ever."""
    healthy, faulty = one("sensor-offset/temperature@30m+10m:0.5")
    shift = faulty.values["temperature"] - healthy.values["temperature"]
    assert shift[1_800:2_400] == pytest.approx(0.5 * CHANNELS["temperature"][2].span, abs=0.02)
    assert faulty.values["current"].tolist() == healthy.values["current"].tolist()


@pytest.mark.parametrize("kind", sorted(name for name, kind in KINDS.items() if not kind.harmless))
def test_every_fault_is_labelled_as_an_interval(kind):
    """Labels and intervals say the same, at least for the time asked."""
    _, faulty = one(f"{kind}@50%+2m", hours=0.5)
    (fault,) = faulty.faults
    true_ms = faulty.ts_ms if faulty.sent_ms is None else faulty.sent_ms
    inside = (true_ms >= fault.start_ms) & (true_ms <= fault.end_ms)
    assert (fault.name, fault.start_ms - true_ms[0]) == (kind, 900_000)
    assert fault.end_ms - fault.start_ms >= 120_000
    assert faulty.labels.tolist() == inside.astype(int).tolist()


# ── physics through the channels ──────────────────────────────────────────────────────────────────────────────────────


def test_channels_move_together():
    """More torque is more current; slip makes the machine slower; the profile changes speed and torque."""
    (machine,) = simulate(1, 1.0, faults="none", channels=["current", "speed", "torque", "voltage"])
    values = machine.values
    assert np.corrcoef(values["torque"], values["current"])[0, 1] > 0.95
    assert 1_200 < values["speed"].min() < values["speed"].max() < 1_520
    assert values["voltage"].mean() == pytest.approx(400, rel=0.02)


def test_temperature_follows_the_day():
    """Two shifts work and warm the machine, the night cools it."""
    (machine,) = simulate(1, 24.0, rate_hz=0.1, faults="none", profile="day", start_ms=0.0)
    hour = machine.ts_ms / 3_600_000
    night, noon = ((hour > low) & (hour < high) for low, high in ((2, 5), (12, 16)))
    assert machine.values["temperature"][noon].mean() > machine.values["temperature"][night].mean() + 8
    assert machine.values["current"][night].max() < machine.values["current"][noon].min()


def test_waveforms_take_the_place_of_vibration():
    """A block every ten seconds at its own rate, the slow channels beside it as ever."""
    waveforms = Waveforms(every_s=10.0, samples=2_048)
    (machine,) = simulate(1, 0.5, faults="bearing-outer@50%+5m~1s", waveforms=waveforms, profile="constant")
    blocks = [(row, block) for row, block in enumerate(machine.blocks["vibration"]) if block is not None]
    assert (len(blocks), {len(block) for _, block in blocks}, machine.interval_ms) == (180, {2_048}, 1_000 / 12_800)
    assert len(machine) == 1_800 + 180
    assert (np.diff(machine.ts_ms) >= 0).all()
    labels = machine.labels
    peaks = {label: np.mean([np.abs(block).max() for row, block in blocks if labels[row] == label]) for label in (0, 1)}
    assert peaks[1] > 2 * peaks[0]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bearing@10m", "fault 'bearing' is not known; expected one of: bearing-outer"),
        ("unbalance", r"is not written as \[ASSET=\]NAME"),
        ("unbalance@10x", "times as 90, 90s, 45m, 1.5h or 40%"),
        ("unbalance@10m:2", "severity of unbalance must be more than 0 and at most 1, got 2"),
        ("unbalance/current@10m", "unbalance can't be limited to a channel"),
        ("sensor-stuck/flow@10m", "no such channel; they are: vibration, temperature, current"),
        ("machine-9=unbalance@10m", "no machine is called 'machine-9'; they are: machine-1"),
        ("unbalance@3h", "is outside a run of 3600 s"),
    ],
)
def test_faults_that_cannot_be(text, said):
    """The message shows how to write it or what there is."""
    with pytest.raises(DataError, match=said):
        simulate(1, 1.0, faults=text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"machines": 0}, "at least one machine"),
        ({"hours": 0.0}, "at least one machine and one reading"),
        ({"rate_hz": 0.0}, "at least one machine and one reading"),
        ({"profile": "night"}, "profile 'night' is not known; expected one of: constant, shift, day"),
        ({"channels": ["flow"]}, "channel 'flow' is not known"),
        ({"waveforms": Waveforms(rate_hz=4_000.0)}, "the resonance must fit"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    """Refused with what would do."""
    with pytest.raises(DataError, match=said):
        simulate(**{"machines": 1, "hours": 0.1, "faults": "none", **settings})


def test_faults_are_read_as_written():
    """Every part of the syntax."""
    assert parse("m-2=sensor-stuck/current@1.5h+90~5:0.5", ["m-1", "m-2"], 7_200.0) == [
        FaultPlan(
            "sensor-stuck", Duration(5_400.0), Duration(90.0), severity=0.5, onset_s=5.0, channel="current", asset="m-2"
        )
    ]
    assert [plan.start.share for plan in parse("unbalance@25%,overload@50%", ["m-1"], 7_200.0)] == [0.25, 0.5]
