import numpy as np
import pytest
import torch

from stream_detector.config import ChannelConfig, FeatureConfig
from stream_detector.errors import ConfigError, DataError
from stream_detector.models import preprocessing as features
from stream_detector.models.preprocessing import Preprocess, Scale, Smooth, column_channels


def windows(n: int = 300, length: int = 20, columns: int = 3, seed: int = 0) -> torch.Tensor:
    """Return windows whose columns differ in offset and spread."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal([5, -2, 1000], [1, 0.1, 30], (n, length, columns)).astype(np.float32))


def moving_average(x: np.ndarray, alpha: float) -> np.ndarray:
    """The textbook recursion, with the weights of the cells before the window removed."""
    total, weight, out = np.zeros(x.shape[1]), 0.0, []
    for cell in x:
        total, weight = (1 - alpha) * total + alpha * cell, (1 - alpha) * weight + alpha
        out.append(total / weight)
    return np.array(out)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("keep", [1, 7, 20])
@pytest.mark.parametrize("entries", [1 << 20, 0])
def test_smoothing_is_the_moving_average(alpha: float, keep: int, entries: int, monkeypatch: pytest.MonkeyPatch):
    """Both ways of computing it, one product or shifted sums, equal the recursion cell by cell."""
    monkeypatch.setattr(features, "MATRIX_ENTRIES", entries)
    x = windows(4).double()
    smoothed = Smooth(alpha, 20, keep)(x)
    expected = np.stack([moving_average(window, alpha)[-keep:] for window in x.numpy()])
    np.testing.assert_allclose(smoothed, expected, rtol=1e-12)


def test_smoothing_looks_only_back():
    """A change in the last cell leaves all smoothed cells before it as they were."""
    x = windows(1).double()
    changed = x.clone()
    changed[:, -1] += 100
    smooth = Smooth(0.2, 20, 20)
    assert torch.equal(smooth(x)[:, :-1], smooth(changed)[:, :-1])


def test_a_constant_stays_what_it_is_under_smoothing():
    """The weights sum to 1 in every cell: no bias towards zero at the window's start."""
    x = torch.full((1, 20, 2), 7.0, dtype=torch.float64)
    torch.testing.assert_close(Smooth(0.1, 20, 20)(x), x)


@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_scaled_training_windows_have_centre_zero_and_spread_one(scaling: str):
    """Columns of any unit and offset come out alike."""
    preprocess = Preprocess(FeatureConfig(scaling=scaling), 20, 3)
    preprocess.fit(windows())
    z = preprocess(windows()).reshape(-1, 3)
    assert z.mean(0).tolist() == pytest.approx([0, 0, 0], abs=0.05)
    assert z.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.05)


def test_outliers_in_training_do_not_move_the_robust_scale():
    """5 % of wild values leave centre and scale nearly as they were."""
    clean, wild = windows(), windows()
    wild[::20] += 1e6
    scales = []
    for x in (clean, wild):
        scale = Scale(3, "robust", None)
        scale.fit(x)
        scales.append(scale.scale)
    torch.testing.assert_close(scales[0], scales[1], rtol=0.2, atol=0)


def test_the_scale_is_learnt_after_smoothing():
    """The spread is that of the smoothed values, which the model sees, not of the raw ones."""
    smooth = Preprocess(FeatureConfig(smoothing=0.1, keep=1), 60, 3)
    smooth.fit(windows(length=60))
    plain = Preprocess(FeatureConfig(), 60, 3)
    plain.fit(windows(length=60))
    assert (smooth.scaler.scale < 0.5 * plain.scaler.scale).all()


@pytest.mark.parametrize("scaling", ["robust", "standard"])
@pytest.mark.parametrize("level", [0.0, 0.1, -300.0, 3e38, 1e-30])
def test_a_constant_column_neither_divides_by_zero_nor_explodes(scaling: str, level: float):
    """It scales to exactly about 0, and a move by its own size stays within the clip."""
    preprocess = Preprocess(FeatureConfig(scaling=scaling, smoothing=0.1), 20, 1)
    x = torch.full((50, 20, 1), level)
    preprocess.fit(x)
    assert preprocess(x).abs().max() < 1e-3
    moved = preprocess(torch.full((1, 20, 1), 0.97 * level + 0.03))
    assert torch.isfinite(moved).all()
    assert moved.abs().max() <= 100


def test_a_column_that_seldom_moves_keeps_its_own_spread():
    """A valve that is shut 95 % of the time has no decile spread; its standard deviation serves."""
    x = torch.zeros(200, 1, 1)
    x[::20] = 1.0
    scale = Scale(1, "robust", None)
    scale.fit(x)
    assert float(scale.scale) == pytest.approx(float(x.double().std(correction=0)))


def test_extreme_values_are_clipped():
    """The largest float32 gives a finite input."""
    preprocess = Preprocess(FeatureConfig(), 20, 3)
    preprocess.fit(windows())
    assert preprocess(torch.full((1, 20, 3), 3.4e38)).tolist() == [[[100.0] * 3] * 20]


def test_a_small_change_on_a_large_offset_survives():
    """Scaling in float64 keeps what float32 arithmetic would lose."""
    x = torch.tensor([1e7, 1e7 + 1, 1e7 + 2]).reshape(3, 1, 1)
    preprocess = Preprocess(FeatureConfig(scaling="standard"), 1, 1)
    preprocess.fit(x)
    assert preprocess(x).flatten().tolist() == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])


def test_differences_come_first():
    """A steady climb is a constant once differenced."""
    preprocess = Preprocess(FeatureConfig(difference=True, smoothing=0.5), 10, 1)
    climb = torch.arange(10.0).reshape(1, 10, 1)
    assert preprocess.length == 9
    torch.testing.assert_close(preprocess.physical(climb.double()), torch.ones(1, 9, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (FeatureConfig(), (20, 3)),
        (FeatureConfig(keep=4), (4, 3)),
        (FeatureConfig(difference=True), (19, 3)),
        (FeatureConfig(smoothing=0.1, keep=1), (1, 3)),
    ],
)
def test_the_input_has_the_announced_shape(config: FeatureConfig, shape: tuple[int, int]):
    """`length` and `columns` are what forward gives."""
    preprocess = Preprocess(config, 20, 3)
    assert shape == (preprocess.length, preprocess.columns) == tuple(preprocess(windows(2)).shape[1:])


def test_inverse_returns_the_last_cell_in_its_unit():
    """Scaling there and back is the smoothed cell itself."""
    preprocess = Preprocess(FeatureConfig(smoothing=0.3, keep=1), 20, 3)
    preprocess.fit(windows())
    x = windows(5, seed=1)
    torch.testing.assert_close(preprocess.inverse(preprocess(x)[:, -1]), preprocess.physical(x.double())[:, -1])


@pytest.mark.parametrize(
    ("config", "length", "key"),
    [
        (FeatureConfig(difference=True), 1, "features.difference"),
        (FeatureConfig(difference=True, keep=5), 5, "features.keep"),
    ],
)
def test_a_window_too_short_is_refused(config: FeatureConfig, length: int, key: str):
    """The message names the key."""
    with pytest.raises(ConfigError, match=key):
        Preprocess(config, length, 1)


FIELDS = {
    "bytes": ChannelConfig(log=True),
    "flag": ChannelConfig(kind="category", cell="last"),
    "rate": ChannelConfig(),
    "host": ChannelConfig(kind="category", cell="last", encoding="hash", buckets=4),
}


def records(n: int = 200) -> torch.Tensor:
    """Records of a size, a flag of 10, 20 or 30, a rate and a host of many, (n, 1, 4)."""
    draw = torch.Generator().manual_seed(0)
    size = torch.exp(3 * torch.randn(n, generator=draw)) * 1000
    flag = 10.0 * torch.randint(1, 4, (n,), generator=draw)
    host = torch.randint(0, 1 << 24, (n,), generator=draw).double()
    return torch.stack([size, flag, torch.rand(n, generator=draw), host], dim=1)[:, None].double()


def encoder() -> Preprocess:
    """Return the preprocessing of records, fitted."""
    preprocess = Preprocess(FeatureConfig(clip=10), 1, 4, column_channels(FIELDS))
    preprocess.fit(records())
    return preprocess


def test_categories_become_a_feature_each():
    """Numbers first, then a group a category: one for each code seen and one for all others, or the buckets."""
    encoded = encoder()(records())
    assert encoder().columns == 2 + (3 + 1) + 4 == encoded.shape[2]
    flags = records()[:, 0, 1]
    for place, code in enumerate((10, 20, 30)):
        assert torch.equal(encoded[:, 0, 2 + place], (flags == code).double())
    assert (encoded[:, 0, 5] == 0).all()
    hosts = encoded[:, 0, 6:]
    assert torch.equal(hosts.sum(dim=1), torch.ones(200, dtype=torch.float64))
    assert (hosts.sum(dim=0) > 20).all()  # they spread


def test_a_category_never_seen_has_a_feature_of_its_own():
    """Which was 0 throughout the training: a detector sees it at once."""
    strange = records(3)
    strange[:, 0, 1] = torch.tensor([25.0, 5.0, 999.0])
    encoded = encoder()(strange)
    assert torch.equal(encoded[:, 0, 2:6], torch.tensor([[0.0, 0, 0, 1]] * 3, dtype=torch.float64))


def test_amounts_are_scaled_by_their_logarithm():
    """Log-normal sizes come out about normal; signs are kept, and what is expected is told in the amount's own unit."""
    z = encoder()(records())[:, 0, 0]
    assert abs(float(z.median())) < 0.1
    assert float(z.std()) == pytest.approx(1.0, abs=0.2)
    assert float(z.abs().max()) < 5
    both = torch.tensor([[[-5.0, 10, 0, 0]], [[5.0, 10, 0, 0]]], dtype=torch.float64)
    preprocess = encoder()
    assert float(preprocess(both)[0, 0, 0]) < float(preprocess(both)[1, 0, 0])
    torch.testing.assert_close(preprocess.inverse(preprocess(both)[:, -1])[:, 0], both[:, 0, 0])


def test_parts_and_expectations_come_back_by_column():
    """A category's part is that of its features together, its expectation the likeliest code."""
    preprocess = encoder()
    parts = torch.arange(10, dtype=torch.float64).reshape(1, 10)
    assert preprocess.fold(parts).tolist() == [[0.0, 2 + 3 + 4 + 5, 1.0, 6 + 7 + 8 + 9]]
    expected = torch.tensor([[0.0, 0.0, 0.1, 0.2, 0.7, 0.9, 0, 0, 0, 0]], dtype=torch.float64)
    assert preprocess.inverse(expected)[0, [1, 3]].tolist() == [30.0, 0.0]


def test_codes_travel_with_the_artifact():
    """A fresh preprocessing takes the codes it was not made with; codes that don't fit are refused."""
    again = Preprocess(FeatureConfig(clip=10), 1, 4, column_channels(FIELDS))
    again.load_state_dict(encoder().state_dict())
    assert again.columns == 10
    assert torch.equal(again(records()), encoder()(records()))
    for name, value in (("codes", torch.zeros(7, dtype=torch.int64)), ("sizes", torch.tensor([2, 1]))):
        with pytest.raises(ValueError, match="codes"):
            again.load_state_dict({**encoder().state_dict(), f"scaler.{name}": value})


def test_too_many_categories_ask_for_hashing():
    """A feature each for a million hosts would be no model of anything."""
    channels = {"host": ChannelConfig(kind="category", cell="last")}
    preprocess = Preprocess(FeatureConfig(), 1, 1, column_channels(channels))
    with pytest.raises(DataError, match="encoding: hash"):
        preprocess.fit(torch.arange(5_000).reshape(-1, 1, 1).double())
