import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import ScorerConfig, TrainConfig
from stream_detector.config.model import VAEConfig
from stream_detector.models import build
from stream_detector.models.vae import FEATURE_FLOOR, VAE
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from tests.trained import make_config, take, windows


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Known(nn.Module):
    """An encoder that answers mean 0.5 and log-variance -1 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, 2)."""
        return torch.tensor([0.5, -1.0], dtype=x.dtype).expand(len(x), 2)


class Spread(nn.Module):
    """A decoder that puts z in every cell of one feature."""

    def forward(self, z: Tensor) -> Tensor:
        """(B, 1) -> (B, 3, 1)."""
        return z[:, None].expand(len(z), 3, 1)


def known(log_variance: float = 0.0, samples: int = 16) -> VAE:
    """Return a detector of windows (B, 3, 1) all of whose densities are known."""
    vae = VAE(Known(), Spread(), 1, VAEConfig(latent=1, samples=samples)).double().eval()
    vae.log_variance.fill_(log_variance)
    return vae


def test_the_score_is_the_expected_negative_log_density():
    """With a decoder whose expectation is known in closed form, many draws come to it."""
    vae = known(0.4, samples=1024)
    x = torch.tensor([[[0.5], [0.5], [0.5]], [[3.0], [-1.0], [0.0]]], dtype=torch.float64)
    with torch.inference_mode():
        scores = torch.stack([vae.score(x, torch.tensor([i, -i])) for i in range(40)]).mean(0)
    second = (x[..., 0] - 0.5).square() + math.exp(-1)  # E (x - z)²
    log_density = -0.5 * (math.log(2 * math.pi) + 0.4 + second / math.exp(0.4)).mean(dim=1)
    highest = -0.5 * (math.log(2 * math.pi) + 0.4)
    torch.testing.assert_close(scores, highest - log_density, rtol=0.03, atol=0)


def test_the_variance_is_that_of_the_residuals():
    """After the fit s² is what minimises the loss: the mean square of what the decoder leaves over, or the floor."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 3, generator=draw) * torch.tensor([1.0, 0.3, 0.001])
    torch.manual_seed(0)
    vae = build(VAEConfig(hidden=[8], latent=1), 1, 3)
    assert isinstance(vae, VAE)
    vae.fit(x[:300], x[300:], TrainConfig(epochs=20))
    with torch.no_grad():
        mean, log_variance = vae.encode(x[:300])
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * torch.randn(300, 50, 1, generator=draw)
        square = (x[:300, None] - vae.decode(z.flatten(0, 1))[0].reshape(300, 50, 1, 3)).square().mean(dim=(0, 1, 2))
    assert vae.log_variance is not None
    torch.testing.assert_close(vae.log_variance[:2], square[:2].log(), rtol=0, atol=0.1)
    assert float(vae.log_variance[2]) == FEATURE_FLOOR


def test_a_feature_restored_well_counts_more():
    """The same residual is stranger where the variance is small."""
    x, seeds = torch.full((1, 3, 1), 4.0, dtype=torch.float64), torch.tensor([3])
    assert float(known(-2.0).score(x, seeds)) > float(known(0.0).score(x, seeds))


def test_scores_by_value_are_never_negative():
    """Whatever variance the decoder gives, the floor keeps every part at or above zero."""
    torch.manual_seed(0)
    vae = build(VAEConfig(variance="value"), 2, 3).eval()
    x = 0.1 * torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (vae.judge(x, torch.arange(50)).parts >= 0).all()


def test_another_seed_draws_other_samples():
    """The score is a sample mean: seeds matter, a little."""
    vae = known()
    x = torch.ones(1, 3, 1, dtype=torch.float64)
    with torch.inference_mode():
        one, other = vae.score(x, torch.tensor([1])), vae.score(x, torch.tensor([2]))
    assert not torch.equal(one, other)
    assert float(one) == pytest.approx(float(other), rel=0.5)


def test_it_needs_seeds():
    """Without them a score would change from call to call."""
    with pytest.raises(ValueError, match="seed"):
        build(VAEConfig(), 1, 3).score(torch.zeros(2, 1, 3))


def test_the_divergence_warms_up():
    """Its weight rises over the first passes; held-out windows are always judged by the whole loss."""
    vae = build(VAEConfig(beta=0.4, warm_up=0.5), 1, 3)
    assert isinstance(vae, VAE)
    seen: list[float] = []
    x = torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(0))
    vae.fit(x, x, TrainConfig(epochs=8, patience=8), lambda *_: seen.append(vae._beta_now))
    assert seen == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])


def test_the_code_is_in_use():
    """No posterior collapse on data of two causes: different windows have different codes."""
    draw = torch.Generator().manual_seed(0)
    causes = torch.randn(400, 1, 2, generator=draw)
    x = causes @ torch.randn(2, 6, generator=draw) + 0.05 * torch.randn(400, 1, 6, generator=draw)
    torch.manual_seed(0)
    vae = build(VAEConfig(hidden=[16], latent=2), 1, 6)
    assert isinstance(vae, VAE)
    vae.fit(x[:300], x[300:], TrainConfig(epochs=40))
    with torch.no_grad():
        mean, _ = vae.encode(x)
        restored, _ = vae.decode(mean)
    assert float(mean.std(dim=0).min()) > 0.5
    assert float((x - restored).square().mean() / x.var()) < 0.15


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_replay_in_other_batches_has_the_same_scores(size: int):
    """Seeds come from the windows themselves, so scores, parts and expectations agree bit for bit."""
    scorer = Scorer(ModelSet(train(make_config(model={"kind": "vae"}), [windows(200)])), ScorerConfig())
    batch = windows(100, seed=5)
    whole = scorer.score(batch)
    pieces = [scorer.score(take(batch, np.arange(i, min(i + size, 100)))) for i in range(0, 100, size)]
    for name in ("score", "channels", "expected"):
        expected = getattr(whole, name)
        np.testing.assert_array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), expected)


def test_calibration_scores_are_what_the_scorer_gives():
    """Training draws the same samples for a window as scoring does."""
    history = windows(200)
    artifact = train(make_config(model={"kind": "vae"}), [history])
    scored = Scorer(ModelSet(artifact), ScorerConfig()).score(take(history, np.arange(150, 200)))
    assert artifact.calibration.tobytes() == scored.score.tobytes()
