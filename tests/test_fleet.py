"""A model an asset: trained at once, one file, judged in one product, and what each says is what it says alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stream_detector.artifacts import fleet
from stream_detector.artifacts.artifact import load
from stream_detector.artifacts.fleet import Fleet
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import ScorerConfig
from stream_detector.errors import ArtifactError, DataError
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.fleet import train_fleet
from stream_detector.training.train import train_many
from stream_detector.types import WindowBatch
from tests.trained import make_batch, make_config, take, windows

KINDS = ("ae", "vae", "gan", "robust-z", "mahalanobis")
ASSETS = {"a": 100, "b": 100, "c": 90, "d": 40}  # asset -> windows
SHORT = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def history(**more: int) -> WindowBatch:
    """Windows of every asset, different in level and spread."""
    parts = [windows(count, asset, seed=seed) for seed, (asset, count) in enumerate({**ASSETS, **more}.items())]
    return together(*parts)


def together(*parts: WindowBatch) -> WindowBatch:
    """Return batches as one, one after the other."""
    return make_batch(
        [asset for part in parts for asset in part.assets],
        np.concatenate([part.end_ms for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def config(kind: str = "ae", **train: object):
    """A set-up that trains in a moment."""
    return make_config(model={"kind": kind}, train={"epochs": 6, **train})


@pytest.mark.parametrize("kind", ["ae", "vae"])
def test_a_model_is_what_it_is_alone(kind: str):
    """Trained beside others or by itself: the same scores to 1e-4, whatever the lengths of the others' histories."""
    beside = train_fleet(config(kind), [history()]).artifacts
    alone = train_many(config(kind), [history()])
    for asset in ASSETS:
        np.testing.assert_allclose(beside[asset].calibration, alone[asset].calibration, rtol=1e-4)
        assert beside[asset].fit.best_epoch == alone[asset].fit.best_epoch
        assert beside[asset].split == alone[asset].split


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_gives_back_the_fleet(kind: str, tmp_path: Path):
    """Loaded, it scores the same bits; every asset's alerts name the one version."""
    made = train_fleet(config(kind), [history()])
    made.save(tmp_path / "plant.safetensors")
    models = ModelSet.load(config(kind).model_copy(update={"artifact": tmp_path / "plant.safetensors"}))
    before = Scorer(ModelSet(by_asset=made.artifacts), ScorerConfig())
    after = Scorer(models, ScorerConfig())
    batch = history()
    assert before.score(batch).score.tobytes() == after.score(batch).score.tobytes()
    assert set(models.refs) == {made.ref}
    assert models.for_asset("never seen") is None


@pytest.mark.parametrize("kind", ["ae", "vae", "gan"])
def test_a_score_depends_on_nothing_but_its_window(kind: str):
    """One by one, many at once, in any order, beside any assets: the same to 1e-5; and so are parts and expectation."""
    made = train_fleet(config(kind), [history()])
    scorer = Scorer(ModelSet(by_asset=made.artifacts), ScorerConfig(max_batch=64))
    batch = history()
    at_once = scorer.score(batch)
    order = np.random.default_rng(0).permutation(len(batch))
    mixed = scorer.score(take(batch, order.tolist()))
    np.testing.assert_allclose(mixed.score, at_once.score[order], rtol=1e-5)
    np.testing.assert_allclose(mixed.channels, at_once.channels[order], rtol=1e-4, atol=1e-9)
    for asset in ASSETS:
        rows = [row for row, name in enumerate(batch.assets) if name == asset]
        alone = Scorer(ModelSet(made.artifacts[asset]), ScorerConfig()).score(take(batch, rows))
        np.testing.assert_allclose(alone.score, at_once.score[rows], rtol=1e-5)
        np.testing.assert_allclose(alone.expected, at_once.expected[rows], rtol=1e-3, atol=1e-6)
        one = scorer.score(take(batch, rows[:1]))
        np.testing.assert_allclose(one.score, at_once.score[rows[:1]], rtol=1e-5)


def test_a_short_history_is_refused_by_name():
    """The message names the asset and the way out."""
    with pytest.raises(DataError, match=r"asset 'e'.*train\.short_history to leave-out or shared"):
        train_fleet(config(), [history(e=SHORT)])


def test_an_asset_left_out_is_not_judged():
    """It has no detector, and the fleet says why."""
    made = train_fleet(config(short_history="leave-out"), [history(e=SHORT)])
    assert list(made.left_out) == ["e"]
    scored = Scorer(ModelSet(made.shared, made.artifacts), ScorerConfig()).score(windows(3, "e"))
    assert scored.model.tolist() == [-1, -1, -1]


def test_the_shared_detector_serves_the_rest(tmp_path: Path):
    """Short histories and assets never seen get the one trained on all; it survives the file."""
    made = train_fleet(config(short_history="shared"), [history(e=SHORT)])
    made.save(tmp_path / "plant.safetensors")
    models = ModelSet.load(config().model_copy(update={"artifact": tmp_path / "plant.safetensors"}))
    assert models.for_asset("e") == models.for_asset("never seen") == len(ASSETS)
    assert np.isfinite(Scorer(models, ScorerConfig()).score(windows(3, "e")).score).all()


def test_no_asset_with_enough_is_an_error():
    """Whatever the policy."""
    with pytest.raises(DataError, match="no asset has a history long enough"):
        train_fleet(config(short_history="leave-out"), [windows(SHORT, "e")])


def test_a_family_whose_size_the_data_decides_asks_for_a_folder():
    """The components kept differ from asset to asset."""
    with pytest.raises(ArtifactError, match="Give --out a folder"):
        train_fleet(config("knn"), [history()])


@pytest.mark.parametrize("harm", ["cut", "bit"])
def test_damage_is_found(harm: str, tmp_path: Path):
    """A file cut short or changed in one bit is refused, and named."""
    path = tmp_path / "plant.safetensors"
    train_fleet(config(), [history()]).save(path)
    assert isinstance(fleet.load(path), Fleet)
    data = bytearray(path.read_bytes())
    if harm == "cut":
        data = data[:-100]
    else:
        data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"plant\.safetensors"):
        fleet.load(path)


def test_a_fleet_is_not_taken_for_one_detector(tmp_path: Path):
    """The loader of one says what it is."""
    path = tmp_path / "plant.safetensors"
    train_fleet(config(), [history()]).save(path)
    with pytest.raises(ArtifactError, match="fleet"):
        load(path)


def test_the_commands_train_and_backtest_a_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One file from `train --per-asset`, and `backtest` uses it."""
    from producers.__main__ import main as produce
    from stream_detector.__main__ import main

    plant, out = tmp_path / "plant", tmp_path / "plant.safetensors"
    assert produce(["simulate", "--machines", "3", "--hours", "0.3", "--out", str(plant)]) == 0
    files = sorted(map(str, plant.glob("*.csv")))
    capsys.readouterr()
    common = ["configs/machine.yaml", "--data", *files, "--quiet"]
    assert main(["train", *common, "--per-asset", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (len(files), len(said["artifacts"])) == (3, 3)
    assert len({one["version"] for one in said["artifacts"]}) == 1
    assert main(["backtest", *common, "--artifact", str(out)]) == 0
