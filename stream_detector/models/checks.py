"""The contract of every detector (base.Detector) as checks that any package with a detector can run in its tests.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("case", [Case(MyConfig(), length=12), Case(MyConfig(), length=1)])
    def test_it_keeps_the_contract(check, case):
        check(case)

Each check raises AssertionError with the part of the contract that is broken. The same functions check the built-in
detectors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps

import torch
from torch import Tensor

from stream_detector.config import ModelConfig, TrainConfig
from stream_detector.models import Detector, FitReport, Labelled, Progress, build

#: Training settings of the checks; short, because they test the contract, not the detector's quality.
TRAIN = TrainConfig(epochs=12, batch=32)


@dataclass(frozen=True)
class Case:
    """The model settings to check and the shape of the windows."""

    config: ModelConfig
    length: int = 12
    """Cells in a window."""
    features: int = 5
    """At least 3."""
    drawn: bool = True
    """Whether the fit draws random numbers, so that a different seed gives a different detector."""
    finds: float = 0.95
    """Minimum share of windows with one feature shifted by four spreads that the detector must find."""
    _fitted: dict[int, Detector] = field(default_factory=dict, compare=False, repr=False)

    def build(self) -> Detector:
        """Return an unfitted detector."""
        return build(self.config, self.length, self.features)

    def windows(self, count: int, seed: int = 0) -> Tensor:
        """Return normal windows (N, T, F) of a plant with two hidden causes; the last feature is constant."""
        return normal(count, self.length, self.features, seed)

    def fitted(self, seed: int = 0) -> Detector:
        """Return a copy of the fitted detector in float64, which the scorer uses."""
        if seed not in self._fitted:
            self._fitted[seed] = self.newly_fitted(seed)
        return copy.deepcopy(self._fitted[seed])

    def newly_fitted(self, seed: int = 0) -> Detector:
        """Fit a detector and return it in float64, without the cache that `fitted` uses."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = self.build()
        fit(detector, self.windows(400), self.windows(100, 1), TRAIN.model_copy(update={"seed": seed}))
        return detector.double()


Check = Callable[[Case], None]
CHECKS: list[Check] = []


def _check(check: Check) -> Check:
    """Register a check that runs in one thread: more change the order of sums and are slower for small networks."""

    @wraps(check)
    def run(case: Case) -> None:
        with _one_thread():
            check(case)

    CHECKS.append(run)
    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def normal(count: int, length: int, features: int, seed: int = 0) -> Tensor:
    """Return normal windows (N, T, F) of a plant with two hidden causes; the last feature is constant."""
    draw = torch.Generator().manual_seed(seed)
    phase = torch.rand(count, 1, 1, generator=draw) * 6.28 + torch.arange(length).reshape(1, length, 1) * 0.4
    mix = torch.tensor([1.0, -0.5, 0.3, 0.8, 0.0]).repeat(features // 5 + 1)[:features]
    x = torch.sin(phase) * mix + 0.5 * torch.cos(phase) * mix.flip(0).roll(1)
    x += 0.05 * torch.randn(count, length, features, generator=draw)
    x[..., -1] = 0.0
    return x


def faulty(x: Tensor, seed: int) -> Tensor:
    """Return windows (N, T, F), each with a random feature shifted by three to six spreads, up or down."""
    draw = torch.Generator().manual_seed(seed)
    which = torch.nn.functional.one_hot(torch.randint(0, x.shape[2] - 1, (len(x),), generator=draw), x.shape[2])
    size = 3 + 3 * torch.rand(len(x), 1, generator=draw)
    size = size * (2 * torch.randint(0, 2, (len(x), 1), generator=draw) - 1)
    return x + (which * size)[:, None]


def fit(
    detector: Detector, x_train: Tensor, x_val: Tensor, config: TrainConfig, progress: Progress | None = None
) -> FitReport:
    """Fit to normal windows; a detector that learns from labels also gets a fifth as many faulty windows."""
    if not isinstance(detector, Labelled):
        return detector.fit(x_train, x_val, config, progress)
    parts = [
        (torch.cat((x, bad)), torch.arange(len(x) + len(bad)) >= len(x))
        for x, bad in ((one, faulty(one[: len(one) // 5], seed)) for seed, one in enumerate((x_train, x_val)))
    ]
    (x, y), (later, later_y) = parts
    return detector.fit_labelled(x, y, later, later_y, config, progress=progress)


def seeds(detector: Detector, count: int) -> Tensor | None:
    """Return seeds (N,) for stochastic detectors, else None."""
    return torch.arange(count) if detector.stochastic else None


@_check
def a_planted_fault_scores_higher(case: Case) -> None:
    """Higher is more anomalous: a window with a feature far off its level scores above nearly all normal windows."""
    detector, usual = case.fitted(), case.windows(200, 2).double()
    shifted = usual.clone()
    shifted[..., 1] += 4
    with torch.inference_mode():
        scores = detector.score(usual, seeds(detector, 200))
        found = float((detector.score(shifted, seeds(detector, 200)) > scores.quantile(0.99)).double().mean())
    assert found > case.finds, f"only {found:.0%} of windows with a fault score higher than 99 % of normal ones"


@_check
def the_faulty_feature_leads_the_parts(case: Case) -> None:
    """The shifted feature has the largest contribution in most windows, and no contribution is negative."""
    detector, shifted = case.fitted(), case.windows(200, 2).double()
    shifted[..., 2] += 6
    with torch.inference_mode():
        judged = detector.judge(shifted, seeds(detector, 200))
    shape = (200, case.features)
    assert judged.score.shape == (200,), f"scores have the shape {tuple(judged.score.shape)}, expected (200,)"
    for name, table in (("parts", judged.parts), ("expected", judged.expected)):
        assert table.shape == shape, f"{name} have the shape {tuple(table.shape)}, expected {shape}"
    assert bool((judged.parts >= 0).all()), "a contribution is negative"
    led = float((judged.parts.argmax(1) == 2).double().mean())
    assert led > 0.5, f"the shifted feature has the largest contribution in only {led:.0%} of windows"


@_check
def a_feature_constant_in_training_may_move(case: Case) -> None:
    """Scores stay finite when a feature constant in training changes, and for values at the clip."""
    detector, x = case.fitted(), case.windows(3).double()
    x[0, :, -1] = 5.0
    x[1] = 10.0
    x[2] = -10.0
    with torch.inference_mode():
        scores = detector.score(x, seeds(detector, 3))
    assert bool(torch.isfinite(scores).all()), f"scores are not finite: {scores.tolist()}"
    assert bool((scores > 0).all()), f"a score far from normal is not above 0: {scores.tolist()}"


@_check
def scores_do_not_depend_on_the_batch(case: Case) -> None:
    """Windows scored one by one, in reverse order or all at once agree to twelve digits."""
    detector, x = case.fitted(), case.windows(70, 3).double()
    own = seeds(detector, 70)
    with torch.inference_mode():
        together = detector.score(x, own)
        alone = torch.cat([detector.score(x[i : i + 1], None if own is None else own[i : i + 1]) for i in range(70)])
        turned = detector.score(x.flip(0), None if own is None else own.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(turned, together, rtol=1e-12, atol=1e-14)


@_check
def judging_changes_nothing(case: Case) -> None:
    """The same windows get the same scores a second time: no state, no hidden randomness."""
    detector, x = case.fitted(), case.windows(20, 3).double()
    own, before = seeds(detector, 20), copy.deepcopy(detector.state_dict())
    with torch.inference_mode():
        first, second = detector.score(x, own), detector.score(x, own)
    assert torch.equal(first, second), "the same windows score differently the second time"
    for name, tensor in detector.state_dict().items():
        assert torch.equal(before[name], tensor), f"judging changes the tensor {name!r}"


@_check
def the_same_seed_gives_the_same_detector(case: Case) -> None:
    """Two fits with one seed are equal bit for bit; a different seed gives a different detector if `case.drawn`."""
    one, same, other = (made.state_dict() for made in (case.fitted(), case.newly_fitted(), case.newly_fitted(1)))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name]), f"two fits with one seed differ in the tensor {name!r}"
    if case.drawn:
        assert not all(torch.equal(one[name], other[name]) for name in one), (
            "another seed changes nothing; set drawn=False"
        )


@_check
def it_survives_restoring(case: Case) -> None:
    """A detector built on the meta device and restored from the tensors gives bit-identical scores."""
    detector = case.fitted().float()
    with torch.device("meta"):
        again = case.build()
    again.restore({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    x = case.windows(20, 3)
    with torch.inference_mode():
        scores, restored = (one.score(x, seeds(one, 20)) for one in (detector, again.eval()))
    assert torch.equal(scores, restored), "it scores differently after `restore`: something is not in its state_dict"


@_check
def tensors_that_do_not_fit_are_refused(case: Case) -> None:
    """`restore` raises ValueError, and the message names the tensor."""
    own = dict(case.fitted().float().state_dict())
    name = next(iter(own))
    harmed = {
        "it is missing": (name, {other: tensor for other, tensor in own.items() if other != name}),
        "it is unknown": ("stranger", {**own, "stranger": torch.zeros(1)}),
        "its shape is wrong": (name, {**own, name: torch.zeros(3, 3, 3, 3)}),
        "its type is wrong": (name, {**own, name: own[name].to(torch.float16)}),
    }
    for harm, (which, tensors) in harmed.items():
        message = None
        try:
            case.build().restore(tensors)
        except ValueError as error:
            message = str(error)
        assert message is not None, f"`restore` takes tensors although {harm} ({which!r})"
        assert which in message, f"the message doesn't name the tensor {which!r} although {harm}: {message}"


@_check
def the_report_tells_how_the_fit_went(case: Case) -> None:
    """Every pass is reported to the caller and recorded, and `best_epoch` is the one with the least loss."""
    calls: list[tuple[int, int, float, float]] = []
    report = fit(case.build(), case.windows(100), case.windows(30, 1), TRAIN, lambda *call: calls.append(call))
    losses = enumerate(zip(report.losses, report.val_losses, strict=True), start=1)
    assert calls == [(epoch, TRAIN.epochs, *both) for epoch, both in losses], "passes reported are not those kept"
    assert report.epochs == len(calls) <= TRAIN.epochs, f"{report.epochs} passes, but {len(calls)} were reported"
    if report.epochs:
        best = min(report.val_losses[report.first_choice - 1 :])
        assert best == report.val_losses[report.best_epoch - 1], f"pass {report.best_epoch} is not the best one"
