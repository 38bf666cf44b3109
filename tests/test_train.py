import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import ScorerConfig
from stream_detector.errors import DataError
from stream_detector.models import Ensemble
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import MIN_CALIBRATION, MIN_TRAIN, train, train_many
from tests.trained import CELL_MS, LENGTH, artifact, joined, make_config, take, windows


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_same_training_gives_the_same_version():
    """Weights, scaler, calibration and fingerprint agree bit for bit: the version hashes them all."""
    assert train(make_config(), [windows(200)]).ref == artifact().ref


def test_how_windows_were_batched_plays_no_role():
    """One batch, many, or assets mixed in another order: the same artifact."""
    a, b = windows(100, "a"), windows(100, "b", seed=1)
    mixed = joined(a, b)
    config = make_config()
    expected = train(config, [a, b]).ref
    assert train(config, [b, a]).ref == expected
    cuts = [take(mixed, range(start, min(start + 33, 200))) for start in range(0, 200, 33)]
    assert train(config, cuts).ref == expected


def test_another_seed_or_history_gives_another_version():
    """Nothing that matters is left out of it."""
    changed = windows(200)
    changed.values[0, 0, 0] += 1e-3
    refs = {artifact().ref, artifact(1).ref, train(make_config(), [changed]).ref}
    assert len(refs) == 3


def test_the_score_of_several_networks_is_their_mean():
    """Each from its own beginning: one network alone would be any of them."""
    three, history = train(make_config(train={"epochs": 4, "members": 3}), [windows(200)]), windows(60, seed=3)
    detector = three.detector
    assert isinstance(detector, Ensemble)
    weights = next(detector.parameters()).detach()
    assert len({weights[m].numpy().tobytes() for m in range(3)}) == 3
    x = three.preprocess(torch.from_numpy(history.values))
    with torch.no_grad():
        alone = detector.double().of_members(x)[0].mean(dim=2)
        torch.testing.assert_close(detector.score(x), alone.mean(dim=0))


def test_the_caller_s_random_state_is_left_alone():
    """Seeding is scoped, and so are the threads."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    torch.set_num_threads(2)
    train(make_config(), [windows(60)])
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 2


def test_scaler_and_weights_know_nothing_of_the_held_out_tail():
    """Whatever happens in the last quarter, what was learnt from the first three stays the same to the bit.

    One epoch, so that early stopping, which is what the tail is for, has nothing to choose.
    """
    config = make_config(train={"epochs": 1})
    wild = windows(200)
    wild.values[150:] *= 40
    one, other = train(config, [windows(200)]), train(config, [wild])
    for part in ("preprocess", "detector"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert np.median(other.calibration) > np.median(one.calibration)


def test_windows_that_share_cells_with_the_training_part_are_dropped():
    """With enough windows after them: 7 of 8-cell windows at stride 1 reach back over the boundary."""
    trained = train(make_config(), [windows(600)])
    assert dataclasses.astuple(trained.split) == ("holdout", 450, 150 - (LENGTH - 1), 0, LENGTH - 1)
    assert len(trained.calibration) == trained.split.n_calibration


def test_a_short_history_keeps_them_and_says_so():
    """Few windows are worse than some overlap; the artifact has the count."""
    assert dataclasses.astuple(artifact().split) == ("holdout", 150, 50, LENGTH - 1, 0)


def test_folds_calibrate_on_every_window():
    """Nothing is held out; windows within a window's length of a block's border share cells with the next block."""
    trained = train(make_config(train={"epochs": 1, "folds": 4}), [windows(200)])
    assert dataclasses.astuple(trained.split) == ("cross-fit", 200, 200, 3 * 2 * (LENGTH - 1), 0)
    assert len(trained.calibration) == 200


def test_each_asset_is_cut_into_blocks_in_its_own_time():
    """Two assets one after the other in time: each gives to every block."""
    late = windows(100, "b", seed=1, start_ms=windows(100).end_ms[-1] + 3_600_000)
    trained = train(make_config(train={"epochs": 1, "folds": 4}), [windows(100), late])
    assert trained.split.n_overlapping == 2 * 3 * 2 * (LENGTH - 1)


def test_too_few_windows_for_folds_are_refused():
    """What is left when two blocks are out must be enough to train on."""
    with pytest.raises(DataError, match="at least 20 and 10 are needed"):
        train(make_config(train={"epochs": 1, "folds": 3}), [windows(50)])


def test_windows_apart_do_not_overlap():
    """At a stride of a whole window nothing is shared."""
    trained = train(make_config(window={"length": LENGTH, "stride": LENGTH}), [windows(100, stride=LENGTH)])
    assert trained.split.n_overlapping == trained.split.n_dropped == 0


def test_fractions_of_a_millisecond_are_no_overlap():
    """End times are whole ms; cells of a third of one must not look as if they shared samples."""
    batch = windows(100, stride=LENGTH)
    cell = 1 / 3
    batch.end_ms[:] = np.rint(1_583_748_873_000 + (np.arange(100) + 1) * LENGTH * cell)
    config = make_config(window={"length": LENGTH, "stride": LENGTH, "cell_ms": cell})
    assert train(config, [batch]).split.n_overlapping == 0


def test_each_asset_is_split_in_its_own_time():
    """An asset that ends a year before another still gives its tail to the calibration."""
    old = windows(100, "old", start_ms=1_500_000_000_000)
    assert train(make_config(), [old, windows(100, "new", seed=1)]).split.n_calibration == 50


def test_windows_out_of_order_are_put_in_order():
    """The held-out tail is the latest in event time, not the last to arrive."""
    batch = windows(200)
    turned = train(make_config(), [take(batch, np.arange(200)[::-1])])
    assert turned.calibration.tobytes() == artifact().calibration.tobytes()


def test_the_fingerprint_spans_the_data():
    """From the first window's start to the last one's end."""
    data = artifact().data
    assert data.windows == 200
    assert data.end_ms == int(windows(200).end_ms[-1])
    assert data.start_ms == int(windows(200).end_ms[0]) - LENGTH * CELL_MS


def test_training_on_some_assets_leaves_the_others_out():
    """And the artifact names them."""
    trained = train(make_config(), [windows(200, "a"), windows(200, "b", seed=1)], assets=["a"])
    assert trained.assets == ("a",)
    assert trained.data.windows == 200
    assert trained.calibration.tobytes() == artifact().calibration.tobytes()


MODELS: dict[str, dict[str, Any]] = {
    "ae": {"model": {"kind": "ae", "hidden": [8], "latent": 2}},
    "vae": {"model": {"kind": "vae", "hidden": [8], "latent": 2}},
    "vae-value": {"model": {"kind": "vae", "hidden": [8], "latent": 2, "variance": "value"}},
    "gan": {"model": {"kind": "gan", "hidden": [8], "latent": 2}},
    "conv": {"model": {"kind": "ae", "body": "conv", "hidden": [4], "latent": 2}, "features": {}},
    "recurrent": {"model": {"kind": "ae", "body": "recurrent", "hidden": [4], "latent": 2}},
    "pca": {"model": {"kind": "pca"}},
    "cross-fit": {"train": {"epochs": 4, "folds": 3}},
    "cross-fit-vae": {"model": {"kind": "vae", "hidden": [8], "latent": 2}, "train": {"epochs": 4, "folds": 3}},
    "cross-fit-pca": {"model": {"kind": "pca"}, "train": {"folds": 3}},
    "members": {"train": {"epochs": 4, "members": 3}},
    "members-gan": {"model": {"kind": "gan", "hidden": [8], "latent": 2}, "train": {"epochs": 4, "members": 2}},
    "cross-fit-members": {"train": {"epochs": 4, "folds": 3, "members": 2}},
    "early": {"train": {"epochs": 40, "patience": 2, "learning_rate": 0.02}},
}


@pytest.mark.parametrize("case", MODELS)
def test_one_detector_an_asset_is_as_if_trained_alone(case: str):
    """Trained together, in batched products, each scores what it would score alone, and stops where it would stop."""
    config = make_config(**MODELS[case])
    calls: list[str] = []
    # of different lengths: they fill their minibatches differently
    histories = {"a": windows(120, "a"), "b": windows(120, "b", seed=1), "c": windows(203, "c", seed=2)}
    many = train_many(config, histories.values(), progress=calls.append)
    assert list(many) == calls == ["a", "b", "c"]
    for asset, history in histories.items():
        alone = train(config, [history], assets=[asset])
        assert (many[asset].assets, many[asset].data, many[asset].split) == ((asset,), alone.data, alone.split)
        assert (many[asset].fit.epochs, many[asset].fit.best_epoch) == (alone.fit.epochs, alone.fit.best_epoch)
        np.testing.assert_allclose(many[asset].calibration, alone.calibration, rtol=2e-3)
        batch = take(history, range(50))
        ours, theirs = (Scorer(ModelSet(one), ScorerConfig()).score(batch).score for one in (many[asset], alone))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_company_in_training_changes_a_fleet_by_rounding_only():
    """An asset's scores agree to rounding; the same fleet gives the same bytes."""
    few = train_many(make_config(), [windows(120, "a")])
    many = [train_many(make_config(), [windows(120, name, seed=i) for i, name in enumerate("abcd")]) for _ in range(2)]
    assert [one.ref for one in many[0].values()] == [one.ref for one in many[1].values()]
    np.testing.assert_allclose(many[0]["a"].calibration, few["a"].calibration, rtol=1e-4)


def test_a_fit_that_diverges_names_its_asset():
    """Of a fleet trained together, whose history it was."""
    config = make_config(train={"epochs": 5, "learning_rate": 1e30}, features={"clip": None})
    with pytest.raises(DataError, match=r"asset '[ab]': training diverged in epoch \d"):
        train_many(config, [windows(120, "a"), windows(120, "b", seed=1)])


def test_progress_is_told_after_every_epoch():
    """Epoch, of how many, both losses."""
    calls: list[tuple[int, int, float, float]] = []
    trained = train(make_config(), [windows(100)], progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(epoch, 8) for epoch in range(1, trained.fit.epochs + 1)]
    assert tuple(call[2] for call in calls) == trained.fit.losses


@pytest.mark.parametrize("count", [0, 5, MIN_TRAIN + MIN_CALIBRATION - 1])
def test_too_few_windows_are_refused_with_the_mend(count: int):
    """The message has the counts and the settings that make more."""
    with pytest.raises(DataError, match=rf"makes {count} windows.*window\.length \(8\).*window\.max_gap_ms"):
        train(make_config(), [windows(count)] if count else [])


def test_of_many_assets_the_short_one_is_named():
    """One can't be trained; the message says which."""
    with pytest.raises(DataError, match="asset 'b': the history makes 5 windows"):
        train_many(make_config(), [windows(100, "a"), windows(5, "b")])


def test_an_asset_without_a_window_is_named():
    """A misspelt name is not silently left out."""
    with pytest.raises(DataError, match="'pmup-1'"):
        train(make_config(), [windows(100)], assets=["pmup-1"])


def test_a_value_that_is_no_number_is_refused_with_its_place():
    """Asset, column and time."""
    batch = windows(100)
    batch.values[7, 3, 1] = np.nan
    with pytest.raises(DataError, match=rf"'pump-1': column 'temperature' .*ends at {batch.end_ms[7]} ms holds nan"):
        train(make_config(), [batch])


def test_a_dead_channel_is_no_obstacle():
    """A sensor that stands still in training has a part near zero until it moves."""
    batch = windows(200)
    batch.values[..., 0] = 0.0
    trained = train(make_config(), [batch])
    assert np.isfinite(trained.calibration).all()
