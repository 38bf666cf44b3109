"""What every registered detector promises (see models/base.py); a new one needs a line in CASES, no test of its own."""

import copy
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from torch import Tensor

from stream_detector.config import AEConfig, ModelConfig, TrainConfig
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
from stream_detector.config.model import ClassifierConfig, DeepSADConfig, GANConfig, MetricConfig, VAEConfig
from stream_detector.errors import ConfigError, DataError
from stream_detector.models import DETECTORS, Detector, FitReport, Labelled, Progress, build

#: kind, config, (T, F)
CASES: dict[str, tuple[ModelConfig, int, int]] = {
    "ae-vector": (AEConfig(hidden=[16], latent=2), 1, 5),
    "ae-dense": (AEConfig(hidden=[32, 16], latent=4), 12, 5),
    "ae-conv": (AEConfig(body="conv", hidden=[8, 16], latent=4), 13, 5),
    "ae-conv-one-cell": (AEConfig(body="conv", hidden=[8], latent=2, kernel=3), 1, 5),
    "ae-recurrent": (AEConfig(body="recurrent", hidden=[12], latent=4), 9, 5),
    "ae-mixer": (AEConfig(body="mixer", hidden=[16], latent=4, patch=4), 13, 5),
    "vae-vector": (VAEConfig(hidden=[16], latent=2), 1, 5),
    "vae-value": (VAEConfig(hidden=[32], latent=4, variance="value"), 6, 5),
    "vae-conv": (VAEConfig(body="conv", hidden=[8, 16], latent=4), 13, 5),
    "vae-recurrent": (VAEConfig(body="recurrent", hidden=[12], latent=4), 9, 5),
    "vae-mixer": (VAEConfig(body="mixer", hidden=[16], latent=4, patch=4), 13, 5),
    "gan-vector": (GANConfig(hidden=[16], latent=2), 1, 5),
    "gan-features": (GANConfig(hidden=[32], latent=4, score="encoder+features"), 6, 5),
    "gan-conv": (GANConfig(body="conv", hidden=[8, 16], latent=4), 13, 5),
    "gan-recurrent": (GANConfig(body="recurrent", hidden=[16], latent=4), 9, 5),
    "gan-mixer": (GANConfig(body="mixer", hidden=[16, 16], latent=4, patch=4), 13, 5),
    "metric": (MetricConfig(hidden=[16, 16], embedding=8, normalise="none"), 12, 5),
    "classifier-vector": (ClassifierConfig(), 1, 5),
    "classifier-conv": (ClassifierConfig(body="conv", hidden=[8, 16]), 13, 5),
    "classifier-recurrent": (ClassifierConfig(body="recurrent", hidden=[12], fault_weight=2), 9, 5),
    "deep-sad-vector": (DeepSADConfig(), 1, 5),
    "deep-sad": (DeepSADConfig(hidden=[32], latent=4, pretrain=0), 6, 5),
    "deep-sad-mixer": (DeepSADConfig(body="mixer", hidden=[16], latent=4, patch=4), 13, 5),
    "robust-z": (RobustZConfig(), 1, 5),
    "robust-z-ewma": (RobustZConfig(chart="ewma"), 12, 5),
    "robust-z-cusum": (RobustZConfig(chart="cusum"), 12, 5),
    "mahalanobis-vector": (MahalanobisConfig(), 1, 5),
    "mahalanobis": (MahalanobisConfig(), 12, 5),
    "pca-vector": (PCAConfig(), 1, 5),
    "pca": (PCAConfig(), 12, 5),
    "gmm-vector": (GMMConfig(), 1, 5),
    "gmm-diag": (GMMConfig(covariance="diag"), 12, 5),
    "knn-vector": (KNNConfig(), 1, 5),
    "knn": (KNNConfig(references=100), 12, 5),
    "isolation-forest-vector": (IsolationForestConfig(), 1, 5),
    "isolation-forest": (IsolationForestConfig(), 6, 5),
    "half-space-trees-vector": (HalfSpaceTreesConfig(), 1, 5),
    "half-space-trees": (HalfSpaceTreesConfig(), 6, 5),
    "loda-vector": (LODAConfig(), 1, 5),
    "loda": (LODAConfig(), 6, 5),
}
TRAIN = TrainConfig(epochs=12, batch=32)
FITTED: dict[str, Detector] = {}
#: Families without anything random in them.
CLOSED_FORM = {"robust-z", "mahalanobis", "pca", "knn"}
#: Share of windows with a shift of four spreads that these find, where it is less than 95 %: they see one or two
#: features at a time, and so not that a value doesn't go with the others.
WEAK = {"isolation-forest-vector": 0.85}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[ModelConfig, int, int]:
    """Each case in turn."""
    return CASES[request.param]


def normal(n: int, length: int, features: int, seed: int = 0) -> Tensor:
    """Windows of a plant with two hidden causes; the last feature is constant."""
    draw = torch.Generator().manual_seed(seed)
    phase = torch.rand(n, 1, 1, generator=draw) * 6.28 + torch.arange(length).reshape(1, length, 1) * 0.4
    mix = torch.tensor([1.0, -0.5, 0.3, 0.8, 0.0])[:features]
    x = torch.sin(phase) * mix + 0.5 * torch.cos(phase) * mix.flip(0).roll(1)
    x += 0.05 * torch.randn(n, length, features, generator=draw)
    x[..., -1] = 0.0
    return x


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads are slower for networks this small, and change the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fitted(case: tuple[ModelConfig, int, int], seed: int = 0) -> Detector:
    """Return a newly fitted detector in float64, as the scorer runs it."""
    config, length, features = case
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = build(config, length, features)
    train = TRAIN.model_copy(update={"seed": seed})
    fit(detector, normal(400, length, features), normal(100, length, features, 1), train)
    return detector.double()


def fit(
    detector: Detector, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None
) -> FitReport:
    """Fit to normal windows; a detector that learns from labels gets a fifth as many faulty ones beside them."""
    if not isinstance(detector, Labelled):
        return detector.fit(x_train, x_val, config, progress)
    parts = [
        (torch.cat((x, bad)), torch.arange(len(x) + len(bad)) >= len(x))
        for x, bad in ((one, faulty(one[: len(one) // 5], seed)) for seed, one in enumerate((x_train, x_val)))
    ]
    (x, y), (later, later_y) = parts
    return detector.fit_labelled(x, y, later, later_y, config, progress)


def faulty(x: Tensor, seed: int) -> Tensor:
    """Return windows (n, T, F) each with a random feature shifted by three to six spreads, up or down."""
    draw = torch.Generator().manual_seed(seed)
    which = torch.nn.functional.one_hot(torch.randint(0, x.shape[2] - 1, (len(x),), generator=draw), x.shape[2])
    size = 3 + 3 * torch.rand(len(x), 1, generator=draw)
    size = size * (2 * torch.randint(0, 2, (len(x), 1), generator=draw) - 1)
    return x + (which * size)[:, None]


@pytest.fixture
def detector(request: pytest.FixtureRequest, case: tuple[ModelConfig, int, int]) -> Detector:
    """A copy of the case's fitted detector; each is fitted once."""
    name = request.node.callspec.params["case"]
    if name not in FITTED:
        FITTED[name] = fitted(case)
    return copy.deepcopy(FITTED[name])


def seeds(detector: Detector, n: int) -> Tensor | None:
    """Return seeds for detectors that draw."""
    return torch.arange(n) if detector.stochastic else None


def test_every_registered_detector_is_checked():
    """No family escapes the checks below."""
    assert set(DETECTORS) == {config.kind for config, _, _ in CASES.values()}


def test_a_planted_fault_scores_higher(
    request: pytest.FixtureRequest, case: tuple[ModelConfig, int, int], detector: Detector
):
    """Higher is stranger: a feature that leaves its range beats nearly all normal windows."""
    wanted = WEAK.get(request.node.callspec.params["case"], 0.95)
    usual = normal(200, case[1], case[2], 2).double()
    faulty = usual.clone()
    faulty[..., 1] += 4
    with torch.inference_mode():
        scores = detector.score(usual, seeds(detector, 200))
        assert (detector.score(faulty, seeds(detector, 200)) > scores.quantile(0.99)).float().mean() > wanted


def test_the_faulty_feature_leads_the_parts(case: tuple[ModelConfig, int, int], detector: Detector):
    """Parts say where it is: the changed feature has the largest part of most windows, and no part is negative."""
    faulty = normal(200, case[1], case[2], 2).double()
    faulty[..., 2] += 6
    with torch.inference_mode():
        judged = detector.judge(faulty, seeds(detector, 200))
    assert judged.parts.shape == judged.expected.shape == (200, case[2])
    assert (judged.parts >= 0).all()
    assert (judged.parts.argmax(1) == 2).float().mean() > 0.5


def test_a_feature_constant_in_training_may_move(case: tuple[ModelConfig, int, int], detector: Detector):
    """Scores stay finite for a dead feature that wakes up and for values at the clip."""
    x = normal(3, case[1], case[2]).double()
    x[0, :, -1] = 5.0
    x[1] = 10.0
    x[2] = -10.0
    with torch.inference_mode():
        scores = detector.score(x, seeds(detector, 3))
    assert torch.isfinite(scores).all()
    assert (scores > 0).all()


def test_scores_do_not_depend_on_the_batch(case: tuple[ModelConfig, int, int], detector: Detector):
    """One by one, reversed or all at once: the same to twelve digits."""
    x, own = normal(70, case[1], case[2], 3).double(), seeds(detector, 70)
    with torch.inference_mode():
        together = detector.score(x, own)
        alone = torch.cat([detector.score(x[i : i + 1], None if own is None else own[i : i + 1]) for i in range(70)])
        turned = detector.score(x.flip(0), None if own is None else own.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(turned, together, rtol=1e-12, atol=1e-14)


def test_judging_changes_nothing(case: tuple[ModelConfig, int, int], detector: Detector):
    """The same windows score the same again: no state, no hidden randomness."""
    x, own = normal(20, case[1], case[2], 3).double(), seeds(detector, 20)
    before = copy.deepcopy(detector.state_dict())
    with torch.inference_mode():
        first, second = detector.score(x, own), detector.score(x, own)
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state_dict().items())


def test_the_same_seed_gives_the_same_detector(case: tuple[ModelConfig, int, int], detector: Detector):
    """Bit for bit; another seed gives another."""
    one, same, other = (made.state_dict() for made in (detector, fitted(case), fitted(case, 1)))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert detector.kind in CLOSED_FORM or not all(torch.equal(one[name], other[name]) for name in one)


def test_it_survives_restoring(case: tuple[ModelConfig, int, int], detector: Detector):
    """A detector built on the meta device takes the tensors and scores the same bits."""
    detector.float()
    with torch.device("meta"):
        again = build(*case)
    again.restore({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    x = normal(20, case[1], case[2], 3)
    with torch.inference_mode():
        assert torch.equal(detector.score(x, seeds(detector, 20)), again.eval().score(x, seeds(detector, 20)))


@pytest.mark.parametrize("harm", ["missing", "extra", "shape", "type"])
def test_tensors_that_do_not_fit_are_refused(case: tuple[ModelConfig, int, int], detector: Detector, harm: str):
    """The message names the tensor."""
    tensors = dict(detector.float().state_dict())
    name = next(iter(tensors))
    if harm == "missing":
        del tensors[name]
    elif harm == "extra":
        name = "stranger"
        tensors[name] = torch.zeros(1)
    elif harm == "shape":
        tensors[name] = torch.zeros(3, 3, 3, 3)
    else:
        tensors[name] = tensors[name].to(torch.float16)
    with pytest.raises(ValueError, match=name):
        build(*case).restore(tensors)


def test_the_report_tells_how_the_fit_went(case: tuple[ModelConfig, int, int]):
    """Every pass is reported to the caller and kept, and the best one is among them."""
    calls: list[tuple[int, int, float, float]] = []
    config, length, features = case
    report = fit(
        build(config, length, features),
        normal(100, length, features),
        normal(30, length, features, 1),
        TRAIN,
        lambda *call: calls.append(call),
    )
    losses = enumerate(zip(report.losses, report.val_losses, strict=True), start=1)
    assert calls == [(epoch, TRAIN.epochs, *both) for epoch, both in losses]
    assert report.epochs == len(calls) <= TRAIN.epochs
    if report.epochs:
        assert min(report.val_losses[report.first_choice - 1 :]) == report.val_losses[report.best_epoch - 1]


def test_early_stopping_keeps_the_best_weights():
    """With validation windows that training moves away from, the fit ends early and returns to its best pass."""
    config = TrainConfig(epochs=60, patience=3, learning_rate=0.05)
    torch.manual_seed(0)
    detector = build(AEConfig(hidden=[32], latent=4), 1, 5)
    x_val = 5 * torch.randn(50, 1, 5, generator=torch.Generator().manual_seed(9))
    report = detector.fit(normal(100, 1, 5), x_val, config)
    assert report.epochs == report.best_epoch + 3
    loss = detector.training_loss(x_val, torch.Generator())
    assert float(loss.detach()) == pytest.approx(min(report.val_losses))


def test_a_fit_that_diverges_says_so():
    """No detector of NaN weights: the message names the setting to change."""
    detector = build(AEConfig(), 1, 5)
    with pytest.raises(DataError, match=r"train\.learning_rate"):
        detector.fit(1e30 * normal(100, 1, 5), normal(10, 1, 5), TRAIN)


def test_an_even_kernel_is_refused():
    """It would change the window's length."""
    with pytest.raises(ConfigError, match=r"model\.kernel"):
        build(AEConfig(body="conv", kernel=4), 8, 2)


@pytest.mark.parametrize("body", ["dense", "conv", "recurrent", "mixer"])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 60, 61])
def test_bodies_restore_any_length(length: int, body: Literal["dense", "conv", "recurrent", "mixer"]):
    """Odd, even and single cells come back as long as they went in."""
    detector = build(AEConfig(body=body, hidden=[4, 5, 6], latent=2, patch=4), length, 3)
    assert (2, length, 3) == detector(torch.zeros(2, length, 3)).shape
