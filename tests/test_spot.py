"""SPOT against known laws, and against libspot, an implementation by the method's first author."""

from __future__ import annotations

import math
from collections.abc import Callable

import libspot
import numpy as np
import pytest

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold import gpd, judge
from stream_detector.decision.threshold.dspot import DSpot
from stream_detector.decision.threshold.spot import MIN_PEAKS, Spot
from stream_detector.types import ThresholdState

Draw = Callable[[np.random.Generator, int], np.ndarray]


def lomax(rng: np.random.Generator, n: int) -> np.ndarray:
    """A heavy tail: P(X > x) = (1 + x / 4)^-4, γ = 1/4."""
    return 4.0 * rng.pareto(4.0, n)


# name -> sampler and P(X > x)
LAWS: dict[str, tuple[Draw, Callable[[float], float]]] = {
    "exponential": (lambda rng, n: rng.exponential(size=n), lambda x: math.exp(-x)),
    "gaussian": (lambda rng, n: rng.normal(10.0, 1.0, n), lambda x: 0.5 * math.erfc((x - 10.0) / math.sqrt(2.0))),
    "heavy": (lomax, lambda x: (1.0 + x / 4.0) ** -4.0),
}


def learn(method: Spot, state: ThresholdState, scores: np.ndarray) -> ThresholdState:
    """Judge and learn one after the other."""
    for score in scores.tolist():
        _, state = judge(method, state, score)
    return state


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.1, 0.3])
def test_the_fit_finds_the_law(shape: float):
    """With many excesses γ and σ come out as they were; the prior has next to no weight then."""
    uniform = np.random.default_rng(1).random(20_000)
    excesses = -3.0 * np.log(uniform) if shape == 0.0 else 3.0 * (uniform**-shape - 1.0) / shape
    found, scale, below = gpd.fit(excesses)
    assert found == pytest.approx(shape, abs=0.03)
    assert scale == pytest.approx(3.0, rel=0.04)
    assert below == 1.0


@pytest.mark.parametrize("shape", [-0.1, 0.1, 0.25])
def test_the_fit_sees_through_a_cut(shape: float):
    """Given the excesses below their 90 % quantile, and that limit, it finds the whole law and how much is missing."""
    uniform = np.random.default_rng(2).random(50_000)
    excesses = (uniform**-shape - 1.0) / shape
    cut = (0.1**-shape - 1.0) / shape
    found, scale, below = gpd.fit(excesses[excesses <= cut], cut, 1.0)
    assert found == pytest.approx(shape, abs=0.06)
    assert scale == pytest.approx(1.0, rel=0.05)
    assert below == pytest.approx(0.9, abs=0.01)


def test_the_fit_has_the_largest_likelihood():
    """No neighbour of the found (γ, σ) is likelier, prior included."""
    excesses = np.random.default_rng(3).exponential(2.0, 60)
    shape, scale, _ = gpd.fit(excesses)

    def cost(g: float, s: float) -> float:
        arguments = 1.0 + g * excesses / s
        if arguments.min() <= 0.0:
            return math.inf
        likelihood = -len(excesses) * math.log(s) - (1.0 / g + 1.0) * float(np.log(arguments).sum())
        return -likelihood + 0.5 * ((g - gpd.PRIOR_MEAN) / gpd.PRIOR_DEVIATION) ** 2

    # Along the curve γ = mean(log(1 + x Y)) that the fit searches.
    x = shape / scale
    for nearby in (x * 0.8, x * 0.95, x * 1.05, x * 1.2):
        g = float(np.log1p(nearby * excesses).mean())
        assert cost(shape, scale) <= cost(g, g / nearby) + 1e-3


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_the_fit_does_not_care_about_units(size: float):
    """γ is the same in any unit and σ goes with it."""
    excesses = np.random.default_rng(4).exponential(size=100)
    shape, scale, _ = gpd.fit(excesses)
    scaled = gpd.fit(excesses * size)
    assert scaled[0] == pytest.approx(shape, abs=1e-5)
    assert scaled[1] == pytest.approx(scale * size, rel=1e-5)


def test_quantiles_meet_at_a_shape_of_zero():
    """The exponential law is the limit from both sides."""
    limit = gpd.quantile(0.0, 2.0, 1e-3)
    assert limit == pytest.approx(2.0 * math.log(1_000))
    assert gpd.quantile(1e-5, 2.0, 1e-3) == pytest.approx(limit, rel=1e-4)
    assert gpd.quantile(-1e-5, 2.0, 1e-3) == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_levels_agree_with_libspot(law: str):
    """Calibrated on the same 10,000 scores, levels over the median agree within 15 % on average over seeds, 35 % each.

    They differ by the prior, which draws γ to 0.1, and by libspot's approximate t.
    """
    draw, _ = LAWS[law]
    method = Spot(ThresholdConfig(risk=1e-4, tail=0.02))
    ratios = []
    for seed in range(8):
        scores = draw(np.random.default_rng(seed), 10_000)
        ours = method.calibrate(scores)
        theirs = libspot.Spot(q=1e-4, low=False, discard_anomalies=True, level=0.98, max_excess=200)
        theirs.fit(scores)
        median = float(np.median(scores))
        assert ours.level is not None
        assert ours.numbers[1] == pytest.approx(theirs.excess_threshold, rel=0.05)
        ratios.append((ours.level - median) / (theirs.anomaly_threshold - median))
    assert float(np.mean(ratios)) == pytest.approx(1.0, abs=0.15)
    assert ratios == pytest.approx([1.0] * len(ratios), abs=0.35)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("risk", [1e-3, 1e-4])
def test_the_risk_means_what_it_says(law: str, risk: float):
    """After 2,000 calibration scores the probability of a false alarm is near the risk, averaged over machines."""
    draw, above = LAWS[law]
    method = Spot(ThresholdConfig(risk=risk))
    levels = [method.calibrate(draw(np.random.default_rng(seed), 2_000)).level for seed in range(40)]
    mean = float(np.mean([above(level) for level in levels if level is not None]))
    assert risk / 2.5 < mean < 2.5 * risk


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("risk", [1e-3, 1e-4])
def test_the_risk_holds_while_learning(law: str, risk: float):
    """30,000 scores later, none of them above its level learnt, it is still near the risk: no vicious circle."""
    draw, above = LAWS[law]
    method = Spot(ThresholdConfig(risk=risk))
    shares = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        state = learn(method, method.calibrate(draw(rng, 100)), draw(rng, 25_000))
        for _ in range(5):
            state = learn(method, state, draw(rng, 1_000))
            assert state.level is not None
            shares.append(above(state.level))
    assert risk / 3 < float(np.mean(shares)) < 3 * risk


def test_unlike_libspot_it_does_not_run_away():
    """At a risk of 1e-3 libspot, which takes what it learnt for a whole sample, comes to alarm far more often."""
    rng = np.random.default_rng(0)
    calibration, scores = rng.exponential(size=2_000), rng.exponential(size=30_000)
    theirs = libspot.Spot(q=1e-3, low=False, discard_anomalies=True, level=0.98, max_excess=200)
    theirs.fit(calibration)
    for score in scores.tolist():
        theirs.step(score)
    method = Spot(ThresholdConfig(risk=1e-3))
    ours = learn(method, method.calibrate(calibration), scores)
    assert ours.level is not None
    assert math.exp(-ours.level) < 3e-3 < math.exp(-theirs.anomaly_threshold)


@pytest.mark.parametrize("n", [50, 60, 100, 300])
def test_few_scores_give_a_sane_level(n: int):
    """Never below the largest score known to be normal, and not absurdly above it."""
    method = Spot(ThresholdConfig(risk=1e-4))
    for seed in range(20):
        for draw, _ in LAWS.values():
            scores = draw(np.random.default_rng(seed), n)
            level = method.calibrate(scores).level
            assert level is not None
            spread = float(np.ptp(scores))
            assert np.float32(scores.max()) <= level <= scores.max() + 5.0 * spread


def test_with_many_scores_as_many_as_the_risk_allows_may_lie_above():
    """20,000 scores at a risk of 1e-3: about twenty calibration scores are above the level, not none."""
    method = Spot(ThresholdConfig(risk=1e-3))
    scores = np.random.default_rng(0).exponential(size=20_000)
    level = method.calibrate(scores).level
    assert level is not None
    assert 8 <= int((scores > level).sum()) <= 40


def test_the_tail_narrows_as_scores_come_in():
    """Of 60 scores ten are peaks; in the end peaks are about the share that was asked for."""
    method = Spot(ThresholdConfig(risk=1e-4, tail=0.02, max_peaks=100))
    rng = np.random.default_rng(5)
    state = method.calibrate(rng.exponential(size=60))
    assert len(state.sample) == MIN_PEAKS
    t = state.numbers[1]
    state = learn(method, state, rng.exponential(size=20_000))
    assert state.numbers[1] > t
    n = state.numbers[4]
    assert len(state.sample) == 100
    assert 0.01 < len(state.sample) / n < 0.035
    assert math.exp(-state.numbers[1]) == pytest.approx(0.02, rel=0.8)


def test_kept_peaks_stand_for_the_scores_they_came_from():
    """When old peaks are dropped n goes with them, so a change in how often peaks come shows within one turn."""
    method = Spot(ThresholdConfig(risk=1e-4, tail=0.05, max_peaks=50))
    rng = np.random.default_rng(6)
    state = learn(method, method.calibrate(rng.exponential(size=1_000)), rng.exponential(size=10_000))
    assert state.seen > 10_900
    assert state.numbers[4] < 2_500
    calm = state
    state = learn(method, calm, 1.3 * rng.exponential(size=3_000))
    assert state.level is not None
    assert calm.level is not None
    assert 1.15 < state.level / calm.level < 1.8


def test_a_huge_calibration_is_thinned_evenly():
    """100,000 scores leave max_peaks peaks of the same law: level and t are those of all scores."""
    method = Spot(ThresholdConfig(risk=1e-4, tail=0.02, max_peaks=200))
    scores = np.random.default_rng(7).exponential(size=100_000)
    state = method.calibrate(scores)
    assert (len(state.sample), state.seen) == (200, 100_000)
    assert state.numbers[1] == pytest.approx(-math.log(0.02), rel=0.02)
    assert state.level == pytest.approx(-math.log(1e-4), rel=0.06)


def test_peaks_are_kept_exactly():
    """Scores have 20 bits of mantissa, so float32 holds them as they are."""
    method = Spot(ThresholdConfig())
    scores = np.random.default_rng(8).exponential(size=500).astype(np.float32).astype(np.float64)
    state = method.calibrate(scores)
    assert set(state.sample.tolist()) <= set(scores.tolist())


def test_dspot_follows_drift_and_not_a_step():
    """Scores that climb by a hundred spreads stay below a level that climbs with them; a step alarms for good."""
    method = DSpot(ThresholdConfig(method="dspot", risk=1e-3, depth=50))
    rng = np.random.default_rng(9)
    noise = rng.exponential(size=8_000)
    climbing = noise + np.arange(8_000) * 0.0125
    state = method.calibrate(climbing[:1_000])
    alarms, flagged = 0, 0
    for score in climbing[1_000:].tolist():
        judgement, state = judge(method, state, score)
        alarms += judgement.anomalous
    for score in (rng.exponential(size=200) + 130.0).tolist():
        judgement, state = judge(method, state, score)
        flagged += judgement.anomalous
    assert 0 < alarms < 40
    assert 200 == flagged


def test_a_risk_can_be_changed_under_way():
    """The level is that of the new risk, and what was learnt stays; back again it is what it was."""
    scores = np.random.default_rng(10).exponential(size=2_000)
    for method in (Spot(ThresholdConfig(risk=1e-4)), DSpot(ThresholdConfig(method="dspot", risk=1e-4))):
        state = method.calibrate(scores)
        easier = method.with_risk(state, 1e-2)
        assert state.level is not None
        assert easier.level is not None
        assert easier.level < state.level
        assert 1e-2 == method.risk_of(easier)
        assert state.level == method.with_risk(easier, 1e-4).level
