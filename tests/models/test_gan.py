from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from stream_detector.artifacts.artifact import load
from stream_detector.config import TrainConfig
from stream_detector.config.model import GANConfig
from stream_detector.errors import ConfigError, DataError
from stream_detector.models import build
from stream_detector.models.gan import GAN
from stream_detector.models.gan_checks import troubles
from stream_detector.training.train import train
from tests.trained import make_config, windows

TRAIN = TrainConfig(epochs=40)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(n: int, seed: int = 0) -> Tensor:
    """Return windows (n, 1, 6) of two causes and a little noise."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, 6, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, 1, 2, generator=draw) @ mix + 0.1 * torch.randn(n, 1, 6, generator=draw)


def fitted(**settings: object) -> GAN:
    """Return a GAN fitted to `normal`."""
    torch.manual_seed(0)
    gan = build(GANConfig.model_validate({"kind": "gan", "latent": 3, **settings}), 1, 6)
    assert isinstance(gan, GAN)
    gan.fit(normal(400), normal(100, 1), TRAIN)
    return gan


@pytest.fixture(scope="module")
def gan() -> GAN:
    """A fitted one; don't change it."""
    return fitted()


def test_the_generator_makes_what_it_was_shown(gan: GAN):
    """Its windows have the covariance of the training windows, roughly."""
    with torch.no_grad():
        made = gan.generator(torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0)))[:, 0]
    real = normal(2_000)[:, 0]
    distance = (torch.cov(made.T) - torch.cov(real.T)).norm() / torch.cov(real.T).norm()
    assert float(distance) < 0.5


def test_the_encoder_finds_the_way_back(gan: GAN):
    """G(E(x)) is near x for windows like those of training, and not for others."""
    near, far = normal(200, 2), 3 * torch.randn(200, 1, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert float((near - gan(near)).square().mean() / near.var()) < 0.2
        assert float((far - gan(far)).square().mean() / far.var()) > 0.3


@pytest.mark.parametrize("score", ["encoder", "encoder+features", "discriminator"])
def test_the_mean_of_the_parts_is_the_score(score: str):
    """Whatever the score, the residuals say where."""
    judged = fitted(score=score).judge(normal(50, 2))
    torch.testing.assert_close(judged.parts.mean(dim=1), judged.score)
    assert (judged.parts >= 0).all()


def test_rare_windows_can_be_made():
    """One window in twenty has a seventh feature: a game alone leaves it out, and all of them score high."""

    def rare(n: int, seed: int) -> Tensor:
        has = torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(seed + 50)) < 0.05
        return torch.cat((normal(n, seed), 4.0 * has), dim=2)

    def excess(restore: float) -> float:
        torch.manual_seed(0)
        gan = build(GANConfig(latent=3, restore=restore), 1, 7)
        gan.fit(rare(400, 0), rare(100, 1), TRAIN)
        new = rare(1_000, 2)
        with torch.no_grad():
            score = gan.score(new)
        marked = new[:, 0, 6] > 0
        return float(score[marked].median() / score[~marked].median())

    assert excess(1.0) < 0.7 * excess(0.0)


def test_passes_are_counted_through():
    """The game comes first, the encoder after it, and a pass of the encoder is kept."""
    fresh = build(GANConfig(), 1, 6)
    report = fresh.fit(normal(100), normal(40, 1), TrainConfig(epochs=10))
    assert report.first_choice == 8
    assert report.first_choice <= report.best_epoch <= report.epochs <= 10


def test_one_pass_is_too_few():
    """The message names the setting."""
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        build(GANConfig(), 1, 6).fit(normal(100), normal(40, 1), TrainConfig(epochs=1))


def test_a_healthy_gan_has_nothing_to_tell(gan: GAN):
    """No false alarms from the checks."""
    assert troubles(gan, normal(400), normal(100, 1), 0) == ()


def test_a_generator_of_few_windows_is_told(gan: GAN):
    """Two thirds of the spread are missing: it has collapsed."""
    (told,) = troubles(gan, 3 * normal(400), normal(100, 1), 0)
    assert "collapsed" in told


def test_a_lost_direction_is_told(gan: GAN):
    """The training windows vary along a direction that the generator does not know."""
    x = normal(400)
    x[:, 0] += 6 * torch.randn(400, 1, generator=torch.Generator().manual_seed(5)) * torch.linalg.svd(x[:, 0])[2][-1]
    assert any("collapsed" in line for line in troubles(gan, x, normal(100, 1), 0))


def test_a_generator_of_one_window_is_refused():
    """Nothing can be scored by it."""
    broken = fitted()
    for p in broken.generator.parameters():
        torch.nn.init.zeros_(p)
    with pytest.raises(DataError, match="always produces the same window"):
        troubles(broken, normal(400), normal(100, 1), 0)


def test_inverted_scores_are_told():
    """A discriminator that takes the strange for real scores it low."""
    turned = fitted(score="discriminator")
    with torch.no_grad():  # real: whatever is far from the middle
        turned.discriminator.head.weight.fill_(1.0)
        body = turned.discriminator.body
        assert isinstance(body, torch.nn.Sequential)
        last = body[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.copy_(last.weight.abs())
    told = " ".join(troubles(turned, normal(400), normal(100, 1), 0))
    assert "inverted" in told
    assert "model.score: encoder" in told


def test_warnings_are_logged_and_kept(caplog, tmp_path):
    """Whoever trains sees them, and so does whoever opens the artifact later."""
    config = make_config(model={"kind": "gan", "score": "discriminator"}, train={"epochs": 2, "learning_rate": 1e-6})
    artifact = train(config, [windows(200)])
    assert artifact.fit.warnings
    assert [record.getMessage() for record in caplog.records] == list(artifact.fit.warnings)
    artifact.save(tmp_path / "gan.safetensors")
    assert load(tmp_path / "gan.safetensors").fit == artifact.fit
