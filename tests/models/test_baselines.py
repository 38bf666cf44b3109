"""The baselines against the libraries they come from, and against the equations in their docstrings."""

import numpy as np
import pytest
import torch
from river import anomaly
from sklearn import decomposition
from sklearn.ensemble import IsolationForest as Forest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.config.baselines import (
    GMMConfig,
    HalfSpaceTreesConfig,
    IsolationForestConfig,
    KNNConfig,
    LODAConfig,
    MahalanobisConfig,
    PCAConfig,
    RobustZConfig,
)
from stream_detector.errors import ConfigError
from stream_detector.models import Detector, build
from stream_detector.models.half_space_trees import HalfSpaceTrees
from stream_detector.models.isolation_forest import IsolationForest
from stream_detector.models.loda import LODA

TRAIN = TrainConfig(seed=3)


def windows(n: int, length: int = 2, features: int = 3, seed: int = 0) -> Tensor:
    """Correlated values, rounded as artifacts keep them."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.4], [0.3, 0.0, 0.6]])[:features, :features]
    return torch.randn(n, length, features, generator=draw) @ mix


def fitted(config: ModelConfig, x: Tensor) -> Detector:
    """Return a detector fitted to x, in float64."""
    detector = build(config, *x.shape[1:])
    detector.fit(x, x[:10], TRAIN)
    return detector.double()


def fresh() -> Tensor:
    """Windows to score: usual ones, far ones and some between."""
    x = windows(200, seed=1).double()
    x[100:150] *= 3
    x[150:] *= 12
    return x


def test_the_forest_scores_as_scikit_learn_does():
    """The same path lengths, hence the same order and the published score."""
    x = windows(400)
    detector = fitted(IsolationForestConfig(trees=50, sample=128), x)
    assert isinstance(detector, IsolationForest)
    reference = Forest(n_estimators=50, max_samples=128, random_state=3).fit(x.flatten(1).numpy())
    raw, _ = detector.raw(fresh())
    unit = 2 * (np.log(127) + np.euler_gamma) - 2 * 127 / 128
    expected = -reference.score_samples(fresh().flatten(1).float().numpy())
    np.testing.assert_allclose(2 ** (raw.numpy() / unit), expected, rtol=1e-6)


def test_the_forests_parts_make_up_the_shortening():
    """What the cuts of all features shorten the path by is the mean path less the window's own."""
    detector = fitted(IsolationForestConfig(trees=20, sample=64), windows(200))
    assert isinstance(detector, IsolationForest)
    raw, parts = detector.raw(fresh())
    torch.testing.assert_close(parts.sum(dim=1), raw + detector.path[:, 0].mean(), rtol=1e-6, atol=1e-6)


def test_half_space_trees_score_as_rivers_do():
    """The trees taken over give river's score for every window."""
    x = windows(300)
    detector = fitted(HalfSpaceTreesConfig(trees=10, height=6, sample=250), x)
    assert isinstance(detector, HalfSpaceTrees)
    flat = x.double().flatten(1)
    room = (flat.max(dim=0).values - flat.min(dim=0).values).clamp_min(1.0)
    low, high = flat.min(dim=0).values - room, flat.max(dim=0).values + room
    limits = dict(enumerate(zip(low.tolist(), high.tolist(), strict=True)))
    reference = anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=250, seed=3, limits=limits)
    for row in flat[-250:].tolist():
        reference.learn_one(dict(enumerate(row)))
    expected = [reference.score_one(dict(enumerate(row))) for row in fresh().flatten(1).tolist()]
    raw, _ = detector.raw(fresh())
    most = 10 * 250 * (2**7 - 1)
    np.testing.assert_allclose(1 - 2.0 ** -raw.numpy() * 10 * 250 / most, expected, rtol=1e-6)


def test_loda_scores_as_rivers_does():
    """The histograms taken over give river's score for every window."""
    x = windows(300)
    detector = fitted(LODAConfig(projections=40, bins=10), x)
    assert isinstance(detector, LODA)
    reference = anomaly.LODA(n_bins=10, n_random_cuts=40, seed=3)
    for row in x.double().flatten(1).tolist():
        reference.learn_one(dict(enumerate(row)))
    expected = [reference.score_one(dict(enumerate(row))) for row in fresh().flatten(1).tolist()]
    raw, _ = detector.raw(fresh())
    np.testing.assert_allclose(raw.numpy(), expected, rtol=1e-4)


def test_the_mixture_scores_as_scikit_learn_does():
    """Up to a factor and a constant, the score is -log p."""
    x = torch.cat([windows(200), windows(200, seed=5) + 8])
    detector = fitted(GMMConfig(clusters=2), x)
    flat = x.double().flatten(1).numpy()
    reference = GaussianMixture(2, reg_covar=0.05**2, random_state=3).fit(flat)
    score = detector.score(fresh()).numpy() * flat.shape[1] / 2
    surprise = -reference.score_samples(fresh().flatten(1).numpy())
    np.testing.assert_allclose(score - score[0], surprise - surprise[0], rtol=1e-4, atol=1e-3)
    assert score.min() >= 0


def test_neighbours_are_the_nearest():
    """The mean over the k nearest, the same as by an exact search."""
    x = windows(150)
    detector = fitted(KNNConfig(neighbours=4), x)
    distance, _ = NearestNeighbors(n_neighbors=4).fit(x.double().flatten(1)).kneighbors(fresh().flatten(1))
    np.testing.assert_allclose(detector.score(fresh()).numpy(), (distance**2).mean(axis=1) / 6, rtol=1e-10)


def test_fewer_windows_than_neighbours_will_do():
    """All there are count then."""
    assert torch.isfinite(fitted(KNNConfig(neighbours=50), windows(12)).score(fresh())).all()


def test_mahalanobis_is_the_quadratic_form():
    """The parts sum to it, and the expectation is what regression on the other values gives."""
    x = windows(3000)
    detector = fitted(MahalanobisConfig(), x)
    flat, new = x.double().flatten(1), fresh().flatten(1)
    covariance = flat.T.cov() + 0.05**2 * torch.eye(6)
    offset = new - flat.mean(dim=0)
    square = (offset @ covariance.inverse() * offset).sum(dim=1)
    torch.testing.assert_close(detector.score(fresh()), square / 6, rtol=0.04, atol=0.0)
    others = [0, 1, 2, 3, 4]
    slopes = torch.linalg.solve(covariance[others][:, others], covariance[others, 5])
    foretold = flat.mean(dim=0)[5] + offset[:, others] @ slopes
    expected = detector.judge(fresh()).expected[:, 2]
    assert float((expected - foretold).abs().max()) < 0.05 * float(foretold.abs().max())


def test_principal_components_give_t2_and_q():
    """Each over its mean on normal data, as scikit-learn's components have them."""
    x = windows(500)
    detector = fitted(PCAConfig(variance=0.8), x)
    reference = decomposition.PCA(0.8).fit(x.double().flatten(1))
    along = reference.transform(fresh().flatten(1))
    kept = along.shape[1]
    rest = ((fresh().flatten(1).numpy() - reference.inverse_transform(along)) ** 2).sum(axis=1)
    t2 = (along**2 / reference.explained_variance_).sum(axis=1)
    q = rest / (reference.noise_variance_ * (6 - kept))
    np.testing.assert_allclose(detector.score(fresh()).numpy(), 0.5 * (t2 / kept + q), rtol=0.03)


def test_one_component_may_be_all():
    """A single channel has nothing outside its one component."""
    assert torch.isfinite(fitted(PCAConfig(), windows(100, 1, 1)).score(windows(10, 1, 1).double())).all()


def test_cusum_adds_up_what_drifts():
    """A shift too small for one cell is found over many; noise of either sign isn't added."""
    detector = fitted(RobustZConfig(chart="cusum", drift=0.5), windows(2000, 30, 1))
    shifted = windows(200, 30, 1, seed=9).double() + 1.0
    single = fitted(RobustZConfig(), windows(2000, 30, 1))
    usual = windows(1000, 30, 1, seed=8).double()
    for model, least, most in ((detector, 0.9, 1.0), (single, 0.0, 0.2)):
        found = float((model.score(shifted) > model.score(usual).quantile(0.99)).double().mean())
        assert least <= found <= most


def test_a_moving_average_weighs_the_newest_most():
    """The charted value is the average with weights that fall by 1 - weight."""
    detector = fitted(RobustZConfig(chart="ewma", weight=0.5), windows(500, 3, 1))
    one, two = torch.zeros(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.float64)
    center = float(detector.get_buffer("center"))
    one[:], two[:] = center, center
    one[0, 2], two[0, 1] = center + 4, center + 8
    torch.testing.assert_close(detector.score(one), detector.score(two))


@pytest.mark.parametrize("config", [MahalanobisConfig(), PCAConfig(), GMMConfig()])
def test_a_window_too_wide_for_a_covariance_is_refused(config: ModelConfig):
    """The message names what to lower."""
    with pytest.raises(ConfigError, match=r"window\.length"):
        build(config, 1000, 8)


@pytest.mark.parametrize(
    ("config", "name", "value", "says"),
    [
        (IsolationForestConfig(trees=5), "left", 10_000, "no valid child"),
        (IsolationForestConfig(trees=5), "column", 77, "outside the window"),
        (HalfSpaceTreesConfig(trees=5, height=3), "column", 77, "outside the window"),
        (RobustZConfig(), "spread", 0, "not positive"),
        (PCAConfig(), "variances", -1, "not positive"),
    ],
)
def test_tensors_that_contradict_each_other_are_refused(config: ModelConfig, name: str, value: float, says: str):
    """A file that was put together wrongly must not make scores."""
    tensors = {key: tensor.clone() for key, tensor in fitted(config, windows(100)).float().state_dict().items()}
    tensors[name].fill_(value)
    with torch.device("meta"):
        again = build(config, 2, 3)
    with pytest.raises(ValueError, match=says):
        again.restore(tensors)
