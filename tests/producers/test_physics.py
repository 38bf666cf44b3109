"""The machine models against what the books say."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.simulation.physics import Bearing, Motor, Shaking, Structure, Thermal, Vibration, load_zone, wander

SHAFT_HZ = 24.5
RATE_HZ = 25_600.0


def wave(shaking, samples=131_072, seed=0):
    """Some seconds of vibration at rated speed."""
    return Vibration().waveform(SHAFT_HZ, shaking, samples, RATE_HZ, np.random.default_rng(seed))


def kurtosis(x):
    """Pearson's: 3 for a Gaussian."""
    return np.mean((x - x.mean()) ** 4) / np.var(x) ** 2


def test_characteristic_frequencies_of_a_6205():
    """The published multiples of shaft speed for the 6205: FTF .398, BPFO 3.585, BPFI 5.415, BSF 2.357."""
    bearing = Bearing()
    assert [0.3983, 3.5848, 5.4152, 2.357] == pytest.approx(
        [bearing.cage, bearing.outer, bearing.inner, bearing.ball], abs=2e-3
    )


def test_outer_and_inner_passing_frequencies_sum_to_the_number_of_balls():
    """Each ball passes both races: BPFO + BPFI = n, whatever the geometry."""
    bearing = Bearing(balls=13, ball_mm=6.0, pitch_mm=50.0, contact_deg=15.0)
    assert bearing.outer + bearing.inner == pytest.approx(13)


def test_energy_of_an_impact_is_its_integral():
    """The closed form of ∫ h² dt equals the sum over a finely sampled oscillation."""
    structure = Structure(2_000.0, 0.03)
    sampled = np.sum(structure.response(1e6) ** 2) / 1e6
    assert sampled == pytest.approx(structure.energy_s, rel=1e-3)


@pytest.mark.parametrize(
    "shaking",
    [
        Shaking(unbalance=0.3),
        Shaking(misalignment=0.2, noise=0.05),
        Shaking(outer=2.0),
        Shaking(inner=3.0, noise=0.02),
        Shaking(ball=3.0, unbalance=0.1),
    ],
)
def test_the_computed_rms_is_that_of_the_waveform(shaking):
    """RMS readings are computed, waveforms synthesised: both say the same of the same machine."""
    steady, impacts = Vibration().mean_square(SHAFT_HZ, shaking)
    assert float(np.sqrt(np.mean(wave(shaking) ** 2))) == pytest.approx(float(np.sqrt(steady + impacts)), rel=0.06)


@pytest.mark.parametrize(("part", "order"), [("outer", 3.5848), ("inner", 5.4152), ("ball", 4.714)])
def test_impacts_come_at_their_characteristic_frequency(part, order):
    """The envelope's spectrum, between 2 and 8 times shaft speed, is highest at BPFO, BPFI or 2 BSF."""
    x = wave(Shaking(**{part: 3.0, "noise": 0.02}))
    envelope = np.abs(x)
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
    frequency = np.fft.rfftfreq(len(x), 1 / RATE_HZ) / SHAFT_HZ
    inside = (frequency > 2) & (frequency < 8)
    found = frequency[inside][np.argmax(spectrum[inside])]
    assert found == pytest.approx(order, abs=0.15)


def test_the_resonance_is_what_rings():
    """Most of an outer-race fault's energy lies around the structure's resonance."""
    x = wave(Shaking(outer=2.0))
    power = np.abs(np.fft.rfft(x)) ** 2
    frequency = np.fft.rfftfreq(len(x), 1 / RATE_HZ)
    near = np.abs(frequency - Structure().resonance_hz) < 800
    assert power[near].sum() > 0.8 * power.sum()


def test_a_bearing_fault_makes_vibration_impulsive():
    """Kurtosis is 3 for a healthy machine's noise and rises with the fault, long before RMS does."""
    healthy, mild, severe = (wave(Shaking(noise=0.06, outer=peak)) for peak in (0.0, 0.5, 2.0))
    assert kurtosis(healthy) == pytest.approx(3, abs=0.1)
    assert 3.5 < kurtosis(mild) < kurtosis(severe)
    assert np.std(mild) < 1.6 * np.std(healthy)


def test_unbalance_is_at_shaft_speed_and_misalignment_at_twice():
    """The lines an engineer looks for in the spectrum."""
    for shaking, order in ((Shaking(unbalance=0.3, noise=0.01), 1), (Shaking(misalignment=0.3, noise=0.01), 2)):
        x = wave(shaking)
        peak = np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * RATE_HZ / len(x)
        assert peak == pytest.approx(order * SHAFT_HZ, abs=0.3)


def test_half_of_the_bearing_carries_the_load():
    """An impact is felt most in the load's direction and not at all opposite."""
    assert load_zone(np.array([0.0, np.pi / 2, np.pi])) == pytest.approx([1, 0, 0], abs=1e-9)


def test_temperature_reaches_63_percent_after_its_time_constant():
    """One thermal mass: 1 - 1/e of the rise after τ, whatever the step."""
    thermal = Thermal(tau_s=300.0, rise_k=40.0)
    for step_s in (1.0, 10.0, 150.0):
        count = int(300 / step_s)
        rise = thermal.rise(np.ones(count), np.ones(count), step_s, 0.0)
        assert rise[-1] == pytest.approx(40 * (1 - np.exp(-1)))


def test_half_the_cooling_doubles_rise_and_time_constant():
    """The heat has one way out: closed by half, it takes twice the temperature, and twice the time."""
    thermal = Thermal(tau_s=300.0, rise_k=40.0)
    rise = thermal.rise(np.ones(6_000), np.full(6_000, 0.5), 1.0, 0.0)
    assert (rise[599], rise[-1]) == pytest.approx((80 * (1 - np.exp(-1)), 80), rel=1e-3)


def test_motor_current_and_slip_follow_torque():
    """Idle current without load, rated current and rated slip at rated torque."""
    motor = Motor(rated_amps=10.0, rated_slip=0.03, idle_share=0.4)
    torque, ones = np.array([0.0, 1.0]), np.ones(2)
    assert motor.amps(torque, ones) == pytest.approx([4.0, 10.0])
    assert motor.shaft_hz(ones, torque, ones) == pytest.approx([25.0, 25.0 * 0.97])


def test_low_voltage_costs_current_and_speed():
    """At rated torque 80 % of the volts mean more amps and more slip."""
    motor, ones = Motor(), np.ones(1)
    assert motor.amps(ones, 0.8 * ones) > 1.1 * motor.amps(ones, ones)
    assert motor.shaft_hz(ones, ones, 0.8 * ones) < motor.shaft_hz(ones, ones, ones)


def test_wander_has_unit_variance_and_its_correlation_time():
    """A Gauss-Markov series: variance 1, correlation 1/e after τ."""
    x = wander(np.random.default_rng(0), 200_000, 1.0, 50.0)
    assert np.var(x) == pytest.approx(1, rel=0.1)
    assert np.mean(x[:-50] * x[50:]) == pytest.approx(np.exp(-1), abs=0.06)
