import numpy as np
import pytest

from stream_detector.config import ChannelConfig
from stream_detector.windowing.waveform import BAND_FLOOR, waveform_features

ALL = ("rms", "peak", "crest", "kurtosis")


def sine(n: int = 1200, cycles: float = 60.0, amplitude: float = 2.0) -> np.ndarray:
    """Return `cycles` periods in `n` samples."""
    return amplitude * np.sin(2 * np.pi * cycles * np.arange(n) / n)


def test_a_sine_has_its_textbook_features():
    """RMS a/√2, peak a, crest √2 and kurtosis 1.5."""
    assert waveform_features(sine(), ALL, 0) == pytest.approx([2 / np.sqrt(2), 2.0, np.sqrt(2), 1.5])


def test_the_order_is_that_of_the_columns():
    """Values come in the order ChannelConfig.columns names them, bands last."""
    channel = ChannelConfig(cell="waveform", features=["kurtosis", "rms"], bands=2)
    values = waveform_features(sine(), channel.features, channel.bands)
    assert channel.columns("v") == ["v.kurtosis", "v.rms", "v.band0", "v.band1"]
    assert values[:2] == pytest.approx([1.5, 2 / np.sqrt(2)])
    assert len(values) == 4


def test_gaussian_noise_has_kurtosis_three():
    """Kurtosis is Pearson's: 3 for a Gaussian, not 0."""
    noise = np.random.default_rng(0).normal(size=100_000)
    assert waveform_features(noise, ["kurtosis"], 0) == pytest.approx([3.0], abs=0.1)


def test_impulses_raise_crest_and_kurtosis():
    """What a damaged bearing does to a waveform shows in both shape features."""
    healthy = np.random.default_rng(0).normal(size=4096)
    damaged = healthy.copy()
    damaged[::512] += 15
    calm, loud = (waveform_features(x, ["crest", "kurtosis"], 0) for x in (healthy, damaged))
    assert (loud > 2 * calm).all()


@pytest.mark.parametrize(("level", "expected"), [(0.0, [0, 0, 0, 0]), (-0.1, [0.1, 0.1, 1, 0])])
def test_a_dead_signal_has_finite_features(level: float, expected: list[float]):
    """A constant signal divides nothing by zero: no shape to speak of is 0."""
    assert waveform_features(np.full(1000, level), ALL, 0) == pytest.approx(expected)


def test_a_dead_signal_has_the_band_floor():
    """Silence is the floor, not minus infinity."""
    assert np.log10([BAND_FLOOR] * 4).tolist() == waveform_features(np.zeros(100), [], 4).tolist()


def test_a_tone_lies_in_its_band():
    """60 cycles in 1200 samples are a tenth of half the sample rate: the fourth of 32 bands."""
    bands = waveform_features(sine(), [], 32)
    assert int(np.argmax(bands)) == 3
    assert bands[3] - np.sort(bands)[-3] > 4  # decades above all but the neighbour the taper leaks into


@pytest.mark.parametrize("n", [64, 257, 2048])
def test_white_noise_has_its_variance_in_every_band(n: int):
    """Band energies don't depend on the number of samples in the cell."""
    rng = np.random.default_rng(0)
    energy = np.mean([10 ** waveform_features(rng.normal(0, 3, n), [], 4) for _ in range(400)], axis=0)
    assert energy == pytest.approx([9.0] * 4, rel=0.15)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_cell_of_few_samples_still_gives_every_band(n: int):
    """With fewer bins than bands neighbours share a bin; nothing is missing or infinite."""
    values = waveform_features(np.arange(1.0, n + 1), ALL, 8)
    assert len(values) == 12
    assert np.isfinite(values).all()


def test_the_same_samples_give_the_same_bytes():
    """A replay's features equal the live ones."""
    x = np.random.default_rng(1).normal(size=333)
    assert waveform_features(x, ALL, 5).tobytes() == waveform_features(x.copy(), ALL, 5).tobytes()


@pytest.mark.parametrize(("samples", "features"), [(np.empty(0), ["rms"]), (np.ones(4), ["shape"])])
def test_nonsense_is_refused(samples: np.ndarray, features: list[str]):
    """No samples, or a feature nobody knows, is an error and not a number."""
    with pytest.raises(ValueError, match=r"sample|unknown"):
        waveform_features(samples, features, 0)
