import shutil

import numpy as np
import pytest
import torch

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import ScorerConfig
from stream_detector.errors import ArtifactError, ConfigError
from stream_detector.scoring.scorer import Scorer, buckets, round_mantissa, window_seeds
from stream_detector.training.train import train, train_many
from stream_detector.types import ScoreBatch
from tests.trained import artifact, joined, make_batch, make_config, take, windows

FIELDS = ("score", "channels", "observed", "expected", "model")


def scorer(**settings: object) -> Scorer:
    """Return a scorer of one detector for all assets."""
    return Scorer(ModelSet(artifact()), ScorerConfig(**settings))


def assert_same(one: ScoreBatch, other: ScoreBatch) -> None:
    """Equal bit for bit, NaN included."""
    for name in FIELDS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


def pieces(batch: ScoreBatch, index: np.ndarray) -> ScoreBatch:
    """Return some rows of a result."""
    return ScoreBatch(*(getattr(batch, name)[index] for name in FIELDS), models=batch.models)


@pytest.mark.parametrize("size", [1, 3, 7, 64, 300])
def test_batches_of_any_size_give_the_same_bits(size: int):
    """A replay may batch otherwise than live did; every number of the alert must agree."""
    batch, score = windows(300, seed=5), scorer().score
    whole = score(batch)
    for start in range(0, 300, size):
        some = np.arange(start, min(start + size, 300))
        assert_same(pieces(whole, some), score(take(batch, some)))


@pytest.mark.parametrize("max_batch", [1, 7, 64, 512])
def test_the_largest_forward_pass_plays_no_role(max_batch: int):
    """max_batch is a matter of memory and speed only."""
    batch = windows(150, seed=5)
    assert_same(scorer().score(batch), scorer(max_batch=max_batch).score(batch))


def test_company_plays_no_role():
    """Windows of other assets, strange ones among them, leave a window's score as it is."""
    one, other = windows(50, "a", seed=1), windows(50, "b", seed=2)
    other.values[::3] = 3e38
    both = joined(one, other)
    assert_same(scorer().score(one), pieces(scorer().score(both), np.arange(0, 100, 2)))


def test_a_fault_scores_higher_and_its_channel_leads():
    """Higher is stranger, and the parts say where."""
    usual = windows(100, seed=5)
    faulty = windows(100, seed=5)
    faulty.values[..., 1] += 6
    calm, loud = scorer().score(usual), scorer().score(faulty)
    assert np.median(loud.score) > 10 * np.median(calm.score)
    assert (loud.channels.argmax(axis=1) == 1).mean() > 0.9
    assert (loud.channels >= 0).all()


def test_the_score_is_the_mean_of_the_parts():
    """Shares in an alert add up to what was judged."""
    scored = scorer().score(windows(100, seed=5))
    np.testing.assert_allclose(scored.channels.mean(axis=1), scored.score, rtol=1e-4)


def test_observed_is_the_smoothed_last_cell_in_its_unit():
    """It compares with `expected`, which is near it on normal windows."""
    batch = windows(100, seed=5)
    scored = scorer().score(batch)
    weights = 0.3 * 0.7 ** np.arange(8)[::-1]
    smoothed = np.einsum("t,wtc->wc", weights / weights.sum(), batch.values.astype(np.float64))
    np.testing.assert_allclose(scored.observed, smoothed, rtol=2e-5)
    spread = batch.values.std(axis=(0, 1))
    assert (np.abs(scored.expected - scored.observed).mean(axis=0) < spread).all()


def test_each_asset_is_scored_by_its_own_detector():
    """Mixed in one batch, each as if it were alone."""
    a, b = windows(40, "a", seed=0), windows(40, "b", seed=1)
    own = Scorer(ModelSet(by_asset={"a": artifact(0), "b": artifact(1)}), ScorerConfig(max_batch=16))
    mixed = own.score(joined(a, b))
    assert mixed.models == (artifact(0).ref, artifact(1).ref)
    assert mixed.model.tolist() == [0, 1] * 40
    for index, batch in enumerate((a, b)):
        alone = Scorer(ModelSet(artifact(index)), ScorerConfig()).score(batch)
        assert mixed.score[index::2].tobytes() == alone.score.tobytes()
        assert mixed.expected[index::2].tobytes() == alone.expected.tobytes()


def test_an_asset_without_a_detector_is_marked():
    """Model -1 and NaN: nobody's score; the others are scored as ever."""
    known = Scorer(ModelSet(by_asset={"a": artifact()}), ScorerConfig())
    scored = known.score(joined(windows(10, "a"), windows(10, "stranger")))
    assert scored.model.tolist() == [0, -1] * 10
    assert np.isnan(scored.score[1::2]).all()
    assert np.isnan(scored.channels[1::2]).all()
    assert_same(known.score(windows(10, "a")), pieces(scored, np.arange(0, 20, 2)))


def test_a_window_with_nan_scores_nan_alone():
    """It can't be judged; its neighbours can."""
    batch = windows(10, seed=5)
    batch.values[4, 2, 1] = np.nan
    scored = scorer().score(batch)
    assert np.flatnonzero(np.isnan(scored.score)).tolist() == [4]
    assert scored.model.tolist() == [0] * 10


def test_extreme_values_have_finite_scores():
    """The largest readings the codec lets through are strange, not infinite."""
    batch = windows(2)
    batch.values[0], batch.values[1] = 3.4e38, -3.4e38
    scored = scorer().score(batch)
    assert np.isfinite(scored.score).all()
    assert (scored.score > 10).all()


def test_no_windows_give_no_scores():
    """An empty batch is a batch."""
    scored = scorer().score(take(windows(5), []))
    assert scored.score.shape == (0,)
    assert scored.channels.shape == (0, 3)


def test_windows_of_another_shape_are_refused():
    """The message has both shapes."""
    batch = make_batch(["a"], np.zeros(1, np.int64), np.zeros((1, 5, 3), np.float32))
    with pytest.raises(ArtifactError, match=r"\(8, 3\), got \(5, 3\)"):
        scorer().score(batch)


def test_float32_agrees_to_its_precision():
    """Faster where memory is the limit, and as much worse as documented."""
    batch = windows(100, seed=5)
    np.testing.assert_allclose(scorer(precision="float32").score(batch).score, scorer().score(batch).score, rtol=1e-3)


def test_calibration_scores_are_what_the_scorer_gives():
    """The threshold starts from the same numbers that it will judge."""
    history = windows(200)
    scored = scorer().score(take(history, np.arange(150, 200))).score
    assert artifact().calibration.tobytes() == scored.tobytes()


def test_the_device_is_chosen_at_start():
    """`auto` takes what there is; `cuda` without a device is an error of the configuration."""
    assert scorer(device="cpu").device.type == "cpu"
    assert scorer(device="auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"scorer\.device"):
            scorer(device="cuda")


def test_the_threads_are_those_of_the_configuration():
    """One worker, one core, unless told otherwise."""
    before = torch.get_num_threads()
    try:
        scorer(threads=2)
        assert torch.get_num_threads() == 2
        scorer()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_scoring_leaves_the_artifact_alone():
    """The scorer works on copies in its own precision."""
    scorer().score(windows(5))
    assert artifact().detector.weight.dtype == torch.float32


def test_warming_up_changes_no_score():
    """It only takes the first call's cost early."""
    warm = scorer()
    warm.warm_up()
    assert_same(scorer().score(windows(20)), warm.score(windows(20)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("kind", ["ae", "vae", "gan"])
def test_a_compiled_detector_gives_the_same_scores(kind: str):
    """Padded batches of a compiled model agree with the plain one on 20 bits of mantissa, or the last of them."""
    models = ModelSet(train(make_config(model={"kind": kind}), [windows(200)]))
    batch = windows(75, seed=5)
    compiled = Scorer(models, ScorerConfig(compile=True, max_batch=16))
    compiled.warm_up()
    plain, fast = Scorer(models, ScorerConfig()).score(batch), compiled.score(batch)
    np.testing.assert_allclose(fast.score, plain.score, rtol=2**-20)
    np.testing.assert_allclose(fast.expected, plain.expected, rtol=2**-15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_gives_the_same_scores(compiled: bool):
    """Plain and with CUDA graphs, to the last of 20 bits of mantissa."""
    batch = windows(75, seed=5)
    gpu = scorer(device="cuda", compile=compiled, max_batch=32)
    gpu.warm_up()
    np.testing.assert_allclose(gpu.score(batch).score, scorer(device="cpu").score(batch).score, rtol=2**-19)


@pytest.mark.parametrize("most", [1, 2, 15, 16, 17, 100, 512, 4096])
def test_buckets_hold_every_batch(most: int):
    """Few sizes, ascending, none but the last without use."""
    sizes = buckets(most)
    assert sizes[-1] == most
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= 6


def test_rounding_keeps_twenty_bits():
    """The error is at most half of the last bit kept; NaN, infinity, zero and subnormals survive."""
    values = np.random.default_rng(0).lognormal(0, 20, 1000)
    rounded = round_mantissa(values, 20)
    assert (np.abs(rounded / values - 1) <= 2.0**-20).all()
    assert round_mantissa(rounded, 20).tobytes() == rounded.tobytes()
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, 5e-324])
    np.testing.assert_array_equal(round_mantissa(odd, 20), odd)


def test_a_window_has_the_same_seed_everywhere():
    """The seed depends on the window's values and their order alone."""
    x = torch.from_numpy(windows(50, seed=5).values)
    together = window_seeds(x)
    assert torch.equal(torch.cat([window_seeds(one[None]) for one in x]), together)
    assert len(set(together.tolist())) == 50
    assert not torch.equal(window_seeds(x.flip(1)), together)


def fleet(kind: str, folds: int = 0) -> dict[str, Artifact]:
    """Return detectors of three assets, of one shape."""
    config = make_config(
        model={"kind": kind, **({} if kind == "pca" else {"hidden": [8], "latent": 2})},
        train={"epochs": 4, "folds": folds},
    )
    return train_many(config, [windows(120, name, seed=seed) for seed, name in enumerate("abc")])


@pytest.mark.parametrize(("kind", "folds"), [("ae", 0), ("vae", 0), ("gan", 0), ("pca", 0), ("ae", 3), ("vae", 3)])
def test_a_fleet_side_by_side_scores_bit_for_bit_as_one_by_one(kind: str, folds: int, monkeypatch: pytest.MonkeyPatch):
    """Whichever assets are in a batch, in what order, and however many windows each has."""
    models = ModelSet(artifact(), fleet(kind, folds))  # and a fourth, of another shape, for whoever else comes
    side_by_side = Scorer(models, ScorerConfig(max_batch=64))
    monkeypatch.setattr("stream_detector.scoring.scorer.LARGEST_STACKED", 0)
    one_by_one = Scorer(models, ScorerConfig())
    batch = joined(*(windows(90, name, seed=seed) for seed, name in enumerate(["a", "b", "c", "d"])))
    batch.values[7] = np.nan
    whole = one_by_one.score(batch)
    assert_same(side_by_side.score(batch), whole)
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 17, 200):
        some = rng.permutation(len(batch))[:size]
        assert_same(side_by_side.score(take(batch, some)), pieces(whole, some))
