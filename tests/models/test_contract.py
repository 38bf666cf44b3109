"""What every registered detector promises (see models/base.py); a new one needs a line in CASES, no test of its own."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from stream_detector.config import AEConfig, TrainConfig
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
from stream_detector.models import DETECTORS, build
from stream_detector.models.checks import CHECKS, TRAIN, Case, Check, normal

#: Isolation trees see one or two features at a time, and so not that a value doesn't go with the others.
CASES: dict[str, Case] = {
    "ae-vector": Case(AEConfig(hidden=[16], latent=2), 1),
    "ae-dense": Case(AEConfig(hidden=[32, 16], latent=4), 12),
    "ae-conv": Case(AEConfig(body="conv", hidden=[8, 16], latent=4), 13),
    "ae-conv-one-cell": Case(AEConfig(body="conv", hidden=[8], latent=2, kernel=3), 1),
    "ae-recurrent": Case(AEConfig(body="recurrent", hidden=[12], latent=4), 9),
    "ae-mixer": Case(AEConfig(body="mixer", hidden=[16], latent=4, patch=4), 13),
    "vae-vector": Case(VAEConfig(hidden=[16], latent=2), 1),
    "vae-value": Case(VAEConfig(hidden=[32], latent=4, variance="value"), 6),
    "vae-conv": Case(VAEConfig(body="conv", hidden=[8, 16], latent=4), 13),
    "vae-recurrent": Case(VAEConfig(body="recurrent", hidden=[12], latent=4), 9),
    "vae-mixer": Case(VAEConfig(body="mixer", hidden=[16], latent=4, patch=4), 13),
    "gan-vector": Case(GANConfig(hidden=[16], latent=2), 1),
    "gan-features": Case(GANConfig(hidden=[32], latent=4, score="encoder+features"), 6),
    "gan-conv": Case(GANConfig(body="conv", hidden=[8, 16], latent=4), 13),
    "gan-recurrent": Case(GANConfig(body="recurrent", hidden=[16], latent=4), 9),
    "gan-mixer": Case(GANConfig(body="mixer", hidden=[16, 16], latent=4, patch=4), 13),
    "metric": Case(MetricConfig(hidden=[16, 16], embedding=8, normalise="none"), 12),
    "classifier-vector": Case(ClassifierConfig(), 1),
    "classifier-conv": Case(ClassifierConfig(body="conv", hidden=[8, 16]), 13),
    "classifier-recurrent": Case(ClassifierConfig(body="recurrent", hidden=[12], fault_weight=2), 9),
    "deep-sad-vector": Case(DeepSADConfig(), 1),
    "deep-sad": Case(DeepSADConfig(hidden=[32], latent=4, pretrain=0), 6),
    "deep-sad-mixer": Case(DeepSADConfig(body="mixer", hidden=[16], latent=4, patch=4), 13),
    "robust-z": Case(RobustZConfig(), 1, drawn=False),
    "robust-z-ewma": Case(RobustZConfig(chart="ewma"), 12, drawn=False),
    "robust-z-cusum": Case(RobustZConfig(chart="cusum"), 12, drawn=False),
    "mahalanobis-vector": Case(MahalanobisConfig(), 1, drawn=False),
    "mahalanobis": Case(MahalanobisConfig(), 12, drawn=False),
    "pca-vector": Case(PCAConfig(), 1, drawn=False),
    "pca": Case(PCAConfig(), 12, drawn=False),
    "gmm-vector": Case(GMMConfig(), 1),
    "gmm-diag": Case(GMMConfig(covariance="diag"), 12),
    "knn-vector": Case(KNNConfig(), 1, drawn=False),
    "knn": Case(KNNConfig(references=100), 12, drawn=False),
    "isolation-forest-vector": Case(IsolationForestConfig(), 1, finds=0.85),
    "isolation-forest": Case(IsolationForestConfig(), 6),
    "half-space-trees-vector": Case(HalfSpaceTreesConfig(), 1),
    "half-space-trees": Case(HalfSpaceTreesConfig(), 6),
    "loda-vector": Case(LODAConfig(), 1),
    "loda": Case(LODAConfig(), 6),
}


def test_every_registered_detector_is_checked():
    """No family escapes the checks."""
    assert set(DETECTORS) == {case.config.kind for case in CASES.values()}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_detector_keeps_the_contract(name: str, check: Check):
    """Each check says what is promised; each case is fitted once for most of them."""
    check(CASES[name])


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
