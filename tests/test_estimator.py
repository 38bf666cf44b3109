"""Detectors with scikit-learn's verbs."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

from stream_detector import Artifact, Estimator
from stream_detector.errors import ConfigError, DataError
from stream_detector.models import DETECTORS, Labelled

#: Checks of scikit-learn's that ask for what isn't promised.
KNOWN = {
    "check_outliers_train": "an alarm level with a margin need not call any training sample an outlier",
    "check_outliers_fit_predict": "the same",
}


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    """Samples (n, 3) that go together."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(800, 1))
    return hidden * [1.0, 2.0, -1.0] + 0.3 * rng.normal(size=(800, 3))


@pytest.fixture(scope="module")
def fitted(normal: np.ndarray) -> Estimator:
    """Fitted once."""
    return Estimator("mahalanobis").fit(normal)


def test_higher_is_more_normal(fitted: Estimator, normal: np.ndarray):
    """As everywhere in scikit-learn; predict is the sign of the decision."""
    strange = normal[:50] + np.array([9.0, 0.0, 0.0])
    assert fitted.score_samples(normal).min() > fitted.score_samples(strange).max()
    assert (fitted.predict(strange) == -1).all()
    assert (fitted.predict(normal) == 1).mean() > 0.99
    decision = fitted.decision_function(normal)
    assert np.array_equal(decision, fitted.score_samples(normal) - fitted.offset_)
    assert np.array_equal(np.where(decision < 0, -1, 1), fitted.predict(normal))


@pytest.mark.parametrize("kind", sorted(kind for kind, one in DETECTORS.items() if not issubclass(one, Labelled)))
def test_every_detector_that_needs_no_labels_is_an_estimator(kind: str, normal: np.ndarray):
    """Shapes and directions are the same for all."""
    few = {"epochs": 2} if kind in ("ae", "vae", "gan", "metric") else {}
    estimator = Estimator(kind, settings={"train": few}).fit(normal[:300])
    assert (300,) == estimator.score_samples(normal[:300]).shape
    assert np.isfinite(estimator.score_samples(normal)).all()


def test_windows_are_samples_of_cells(normal: np.ndarray):
    """(n, cells, features): a fault in the last cell shows."""
    windows = sliding_window_view(normal, 5, axis=0).transpose(0, 2, 1)
    estimator = Estimator("pca").fit(windows)
    strange = windows[:20].copy()
    strange[:, -1, 0] += 9.0
    assert (estimator.predict(strange) == -1).all()
    assert estimator.n_features_in_ == 3
    assert estimator.config_.window.length == 5
    with pytest.raises(ValueError, match="X has 2 features, but Estimator is expecting 3 features"):
        estimator.predict(windows[:, :, :2])


def test_its_artifact_is_a_workers(fitted: Estimator, normal: np.ndarray, tmp_path: Path):
    """Saved, loaded, and fit for the set-up it stands for."""
    fitted.artifact_.save(tmp_path / "a.safetensors")
    again = Artifact.load(tmp_path / "a.safetensors")
    again.check_compatible(fitted.config_)
    assert again.ref == fitted.artifact_.ref


def test_it_works_in_a_pipeline_and_a_search(normal: np.ndarray):
    """Parameters are set by name."""
    pipeline = make_pipeline(MinMaxScaler(), Estimator("robust-z")).fit(normal)
    assert (-1, 1) == tuple(pipeline.predict([[40.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    search = GridSearchCV(
        Estimator(), {"kind": ["robust-z", "pca"]}, scoring=lambda one, x: one.score_samples(x).mean(), cv=2
    )
    assert search.fit(normal).best_params_["kind"] in ("robust-z", "pca")


def test_the_same_seed_gives_the_same_scores(normal: np.ndarray):
    """And another seed others."""
    few = {"train": {"epochs": 1}}
    one, same, other = (Estimator(settings=few, seed=seed).fit(normal[:200]) for seed in (0, 0, 1))
    assert np.array_equal(one.score_samples(normal), same.score_samples(normal))
    assert not np.array_equal(one.score_samples(normal), other.score_samples(normal))


def test_clones_and_copies(fitted: Estimator, normal: np.ndarray):
    """A clone is unfitted with the same parameters; a copy scores the same."""
    assert fitted.get_params() == clone(fitted).get_params()
    assert np.array_equal(fitted.score_samples(normal), copy.deepcopy(fitted).score_samples(normal))


def test_wrong_settings_are_refused(normal: np.ndarray):
    """As in a set-up; what follows from X can't be set."""
    with pytest.raises(ConfigError, match="latent"):
        Estimator(settings={"model": {"latent": 0}}).fit(normal)
    with pytest.raises(ConfigError, match=r"settings\.window can't be given"):
        Estimator(settings={"window": {"length": 3}}).fit(normal)
    with pytest.raises(DataError, match="the history makes 12 windows"):
        Estimator("pca").fit(normal[:12])


def test_scikit_learns_own_checks():
    """All pass but those that fit to fewer samples than training needs, and those in KNOWN."""
    failed = [one for one in check_estimator(Estimator("pca"), on_fail=None, on_skip=None) if one["status"] == "failed"]
    others = {one["check_name"] for one in failed if not isinstance(one["exception"], DataError)}
    assert others <= KNOWN.keys(), [(one["check_name"], one["exception"]) for one in failed]
