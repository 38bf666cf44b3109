"""What training says of a channel by itself, and which windows no healthy sensor of it would give."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.decision.sensor_checks import FLAT, OUT, RUN, TIES, SensorChecks
from stream_detector.types import WindowBatch
from stream_detector.windowing.channel_profile import ChannelProfileLearner, channel_profile_of

LENGTH = 20
NOISE, SETPOINT, SWITCH, COARSE = range(4)


def rows(seed: int, count: int) -> np.ndarray:
    """Return a noisy sensor, a setpoint, a switch and a sensor of coarse resolution, (count, 4)."""
    rng = np.random.default_rng(seed)
    noise = 10 + rng.standard_normal(count)
    switch = (np.arange(count) // 150) % 2
    coarse = np.round(5 + np.cumsum(rng.standard_normal(count)) * 0.02, 1)
    return np.stack([noise, np.full(count, 50.0), switch, coarse], axis=1)


def windows(values: np.ndarray, filled: np.ndarray | None = None, first: int = 0) -> WindowBatch:
    """Return every window of a series (N, C), a cell a second."""
    count = len(values) - LENGTH + 1
    cut = np.lib.stride_tricks.sliding_window_view(values, LENGTH, axis=0).swapaxes(1, 2).astype(np.float32)
    holes = np.zeros(values.shape, bool) if filled is None else filled
    gone = np.lib.stride_tricks.sliding_window_view(holes, LENGTH, axis=0).swapaxes(1, 2)
    ends = 1_000 * (first + LENGTH + np.arange(count, dtype=np.int64))
    return WindowBatch(0, ["pump"] * count, ends, cut, gone, np.full(count, -1, np.int64))


def learnt(*batches: WindowBatch) -> SensorChecks:
    """Return the checks of a model trained on these windows."""
    learner = ChannelProfileLearner(4, 1_000.0)
    for batch in batches:
        learner.learn(batch.values, batch.filled, batch.end_ms)
    observed = np.concatenate([batch.values[:, -1] for batch in batches]).astype(np.float64)
    return SensorChecks([channel_profile_of([learner], observed, np.ones(4, bool))], 4, LENGTH)


@pytest.fixture(scope="module")
def checks() -> SensorChecks:
    """Return the checks after 3,000 healthy rows."""
    return learnt(windows(rows(0, 3_000)))


def look(checks: SensorChecks, values: np.ndarray, filled: np.ndarray | None = None) -> np.ndarray:
    """Return the flags of every window of a series."""
    batch = windows(values, filled)
    found = checks.look(batch, np.zeros(len(batch), np.int32))
    return np.zeros((len(batch), 4), np.uint8) if found is None else found


def test_healthy_sensors_setpoints_and_switches_are_not_flagged(checks):
    """Neither a setpoint that never moved nor a switch that stays for minutes is stuck: training tells."""
    found = look(checks, rows(1, 3_000))
    assert (found & (RUN | TIES | OUT)).sum() == 0


def test_a_setpoint_that_moves_is_no_sensor_fault(checks):
    """A channel that was constant in training may be set to something else; the model judges that."""
    values = rows(2, 400)
    values[200:, SETPOINT] = 80.0
    assert not look(checks, values)[:, SETPOINT].any()


def test_a_sensor_that_repeats_its_last_value_is_stuck_within_seconds(checks):
    """For noise four repeats are no chance; the flag stays as long as it lasts."""
    values = rows(3, 400)
    values[200:300, NOISE] = values[199, NOISE]
    found = look(checks, values)[:, NOISE] & RUN
    ends = np.flatnonzero(found) + LENGTH - 1
    assert ends[0] == 203
    assert ends[-1] == 299
    assert len(ends) == 97


def test_coarse_values_need_longer_runs_than_training_had(checks):
    """A sensor of coarse resolution repeats itself for long stretches: that is no fault by itself."""
    values = rows(4, 2_000)
    values[1_000:, COARSE] = values[999, COARSE]
    found = look(checks, values)[:, COARSE]
    assert not (found[:900] & RUN).any()
    assert (found[1_500:] & (RUN | FLAT)).all()


def test_filled_cells_are_no_repeats(checks):
    """A sensor that reports every fifth second is filled between; that is not stuck."""
    values = rows(5, 400)
    holes = np.zeros(values.shape, bool)
    for start in range(0, 400, 5):
        values[start : start + 5, NOISE] = values[start, NOISE]
        holes[start + 1 : start + 5, NOISE] = True
    assert not (look(checks, values, holes)[:, NOISE] & RUN).any()


def test_a_sensor_pinned_to_an_extreme_is_saturated(checks):
    """Clipped above all of training, with lower values between: many ties at the top."""
    values = rows(6, 400)
    values[200:300, NOISE] = np.minimum(values[200:300, NOISE] * 2, 18.0)
    found = look(checks, values)[:, NOISE]
    assert (found[200:280] & TIES).astype(bool).mean() > 0.8
    assert not (found[:180] & TIES).any()


@pytest.mark.parametrize("value", [-9_999.0, 1e6, -5.0])
def test_a_value_that_no_machine_reaches_is_out_of_range(checks, value):
    """Far beyond training, or negative where nothing ever was."""
    values = rows(7, 400)
    values[200, NOISE] = value
    found = look(checks, values)[:, NOISE]
    assert np.flatnonzero(found & OUT).tolist() == [200 - LENGTH + 1]


def test_a_machine_fault_is_no_sensor_fault(checks):
    """A level several times as high, with its noise, is for the model to judge."""
    values = rows(8, 400)
    values[200:, NOISE] *= 4
    assert not look(checks, values)[:, NOISE].any()


def test_norms_do_not_depend_on_how_windows_are_batched(checks):
    """Training may get them in any cuts."""
    values = rows(0, 3_000)
    whole = windows(values)
    parts = []
    for start in range(0, len(whole), 700):
        part = slice(start, start + 700)
        parts.append(
            WindowBatch(
                0, whole.assets[part], whole.end_ms[part], whole.values[part], whole.filled[part], whole.ingest_ms[part]
            )
        )
    np.testing.assert_array_equal(checks.need, learnt(*parts).need)


def test_artifacts_without_norms_have_no_checks():
    """Files of earlier versions load and are judged as before."""
    checks = SensorChecks([None], 4, LENGTH)
    assert checks.look(windows(rows(0, 100)), np.zeros(81, np.int32)) is None
