"""Cross-fitting: what a row is judged by has not seen it, and an ensemble is the mean of its members."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from stream_detector.config import AEConfig, ModelConfig, TrainConfig
from stream_detector.config.baselines import MahalanobisConfig
from stream_detector.config.model import GANConfig, VAEConfig
from stream_detector.models import CrossFit, build, cross_fit
from stream_detector.models.ensemble import Ensemble

CONFIGS: dict[str, tuple[ModelConfig, int]] = {
    "ae": (AEConfig(hidden=[8], latent=2), 1),
    "ae-recurrent": (AEConfig(body="recurrent", hidden=[6], latent=2), 4),
    "ae-conv": (AEConfig(body="conv", hidden=[4], latent=2, kernel=3), 6),
    "vae": (VAEConfig(hidden=[8], latent=2, samples=4), 1),
    "gan": (GANConfig(hidden=[8], latent=2), 1),
}
ROWS, FEATURES, FOLDS = 150, 4, 3


def history(length: int, seed: int = 0) -> Tensor:
    """Windows (N, T, F) of features that go together, each at its own level and scale."""
    draw = torch.Generator().manual_seed(seed)
    cause = torch.randn(ROWS, length, 1, generator=draw, dtype=torch.float64)
    noise = 0.1 * torch.randn(ROWS, length, FEATURES, generator=draw, dtype=torch.float64)
    return (cause * torch.tensor([1.0, -0.5, 0.3, 2.0]) + noise) * torch.tensor([1.0, 2.0, 0.5, 1.0]) + 0.3


def block(rows: int = ROWS) -> Tensor:
    """Which of the blocks each row lies in."""
    return torch.arange(rows) * FOLDS // rows


def fitted(config: ModelConfig, x: Tensor, seed: int = 0) -> CrossFit:
    """Cross-fit from the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cross_fit(
            lambda: build(config, x.shape[1], FEATURES),
            x,
            block(),
            torch.arange(len(x)),
            config=TrainConfig(epochs=4, batch=32, seed=seed),
            numbers=torch.ones(FEATURES, dtype=torch.bool),
            scaling="robust",
        )


@cache
def trained(name: str) -> CrossFit:
    """Each case fitted once."""
    config, length = CONFIGS[name]
    return fitted(config, history(length))


def ensemble(name: str) -> Ensemble:
    """The fitted ensemble of a case in float64, as the scorer runs it."""
    detector = trained(name).detector
    assert isinstance(detector, Ensemble)
    return detector.double()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_ensemble_is_the_gauged_mean_of_its_members(name: str):
    """Judging all members in one product gives what each says by itself."""
    whole, (config, length) = ensemble(name), CONFIGS[name]
    x, seeds = history(length, 1)[:7], torch.arange(7)
    parts = []
    for m in range(whole.members):
        alone = build(config, length, FEATURES).double().eval()
        alone.restore({key: tensor[m] for key, tensor in whole.stack.state_dict().items()})
        with torch.no_grad():
            parts.append(alone.judge((x - whole.center[m]) / whole.scale[m], seeds).parts)
    expected = whole.gauge * torch.stack(parts).mean(dim=0)
    with torch.no_grad():
        actual = whole.judge(x, seeds)
    torch.testing.assert_close(actual.parts, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(actual.score, expected.mean(dim=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_score_does_not_depend_on_its_batch(name: str):
    """A window alone has the score that it has among others."""
    whole, (_, length) = ensemble(name), CONFIGS[name]
    x, seeds = history(length, 1)[:9], torch.arange(9)
    with torch.no_grad():
        together = whole.score(x, seeds)
        alone = torch.cat([whole.score(x[i : i + 1], seeds[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["ae", "vae", "gan"])
def test_members_know_nothing_of_the_blocks_they_left_out(name: str):
    """Rows replaced in a block change only the members that were shown it, their center and scale included."""
    config, length = CONFIGS[name]
    other = history(length)
    other[block() == 0] = 9.0 + 5.0 * history(length, 5)[block() == 0]
    before, after = trained(name).detector, fitted(config, other).detector
    assert isinstance(before, Ensemble)
    assert isinstance(after, Ensemble)
    changed = [
        any(
            not torch.equal(own.float()[m], after.stack.state_dict()[key].float()[m])
            for key, own in before.stack.state_dict().items()
        )
        for m in range(3)
    ]
    assert changed == [False, False, True]  # left out: 0 and 1, 0 and 2, 1 and 2
    torch.testing.assert_close(before.center[:2].float(), after.center[:2].float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ae", "vae", "gan"])
def test_calibration_scores_are_those_of_rows_never_seen(name: str):
    """They lie near the scores of new rows of the same law, not near those of rows trained on."""
    length = CONFIGS[name][1]
    new = history(length, 7)
    with torch.no_grad():
        live = ensemble(name).score(new, torch.arange(ROWS)).median()
    assert 0.6 < float(trained(name).scores.median() / live) < 1.7


def test_detectors_without_passes_stay_one():
    """A covariance is measured on all rows; the scores of a block come from one measured without it."""
    x = history(1)
    config = MahalanobisConfig()
    found = fitted(config, x)
    whole = build(config, 1, FEATURES)
    whole.fit(x.float(), x.float(), TrainConfig())
    assert not isinstance(found.detector, Ensemble)
    torch.testing.assert_close(found.detector.state_dict(), whole.state_dict())
    other = x.clone()
    other[block() == 2, :, 0] += 50.0
    scores = fitted(config, other).scores
    torch.testing.assert_close(scores[block() == 2].min() > 100.0, torch.tensor(True))


def test_the_same_history_gives_the_same_ensemble():
    """Twice the same seed: the same tensors and scores, bit for bit."""
    again = fitted(CONFIGS["vae"][0], history(1))
    torch.testing.assert_close(again.scores, trained("vae").scores, rtol=0, atol=0)
    first = {key: tensor.float() for key, tensor in trained("vae").detector.state_dict().items()}
    torch.testing.assert_close({k: t.float() for k, t in again.detector.state_dict().items()}, first, rtol=0, atol=0)
