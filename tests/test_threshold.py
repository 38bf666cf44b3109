"""Judging and learning, whatever the method; `spot` by itself is in test_spot.py."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold import Judgement, ThresholdMethod, judge, make_method
from stream_detector.decision.threshold.checks import CHECKS, Check
from stream_detector.types import ThresholdState

Name = Literal["spot", "dspot", "quantile", "mad"]
METHODS: tuple[Name, ...] = ("spot", "dspot", "quantile", "mad")


def same(a: ThresholdState, b: ThresholdState) -> bool:
    """Equal to the last bit."""
    return (a.method, a.level, a.seen, a.numbers) == (b.method, b.level, b.seen, b.numbers) and np.array_equal(
        a.sample, b.sample
    )


def exponential(n: int, seed: int = 0) -> np.ndarray:
    """Scores with no scale or place of their own; rounded as the scorer rounds."""
    return np.random.default_rng(seed).exponential(size=n).astype(np.float32).astype(np.float64)


def run(method: ThresholdMethod, state: ThresholdState, scores: np.ndarray) -> tuple[list[Judgement], ThresholdState]:
    """Judge one after the other."""
    judgements = []
    for score in scores.tolist():
        judgement, state = judge(method, state, score)
        judgements.append(judgement)
    return judgements, state


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> ThresholdMethod:
    """Each method with a risk it can meet on few scores."""
    return make_method(ThresholdConfig(method=request.param, risk=1e-3))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_method_keeps_the_contract(check: Check, name: Name):
    """With the usual memory, and with the largest that the settings allow."""
    check(ThresholdConfig(method=name, risk=1e-3))
    check(ThresholdConfig(method=name, risk=1e-3, memory=840, max_peaks=800, tail=0.4))


def test_a_score_above_the_level_is_anomalous_and_teaches_nothing(method: ThresholdMethod):
    """The very same state comes back, so a fault can't be learned away."""
    state = method.calibrate(exponential(300))
    assert state.level is not None
    judgement, after = judge(method, state, state.level * 1.01)
    assert judgement == Judgement(state.level, True)
    assert after is state


def test_a_score_at_the_level_is_normal_and_learnt(method: ThresholdMethod):
    """Above means above."""
    state = method.calibrate(exponential(300))
    assert state.level is not None
    judgement, after = judge(method, state, state.level)
    assert judgement == Judgement(state.level, False)
    assert after.seen == state.seen + 1


def test_a_score_is_judged_before_it_is_learnt(method: ThresholdMethod):
    """The verdict names the level that held before the score moved it."""
    state = method.calibrate(exponential(300))
    for score in exponential(100, seed=1).tolist():
        judgement, after = judge(method, state, score)
        assert judgement.level == state.level
        state = after


def test_zero_is_a_score_and_a_level(method: ThresholdMethod):
    """A detector that is always exactly right gives scores of 0: they are quiet, and a level of 0 is one."""
    state = method.calibrate(np.zeros(100))
    assert state.level == 0.0
    judgement, state = judge(method, state, 0.0)
    assert judgement == Judgement(0.0, False)
    assert judge(method, state, 1.0)[0] == Judgement(0.0, True)


def test_a_constant_is_quiet(method: ThresholdMethod):
    """All scores equal: the level is not below them."""
    state = method.calibrate(np.full(100, 3.25))
    judgements, _ = run(method, state, np.full(50, 3.25))
    assert not any(judgement.anomalous for judgement in judgements)


def test_a_score_that_is_no_number_is_anomalous(method: ThresholdMethod):
    """A model that broke must not pass for a healthy machine, and must not be learnt from."""
    for state in (method.calibrate(exponential(300)), method.calibrate(np.empty(0))):
        judgement, after = judge(method, state, math.nan)
        assert judgement.anomalous
        assert after is state
    assert judge(method, method.calibrate(exponential(300)), math.inf)[0].anomalous
    _, after = judge(method, method.calibrate(np.empty(0)), math.inf)
    assert after.seen == 0


def test_without_a_calibration_a_level_comes_from_the_first_scores(method: ThresholdMethod):
    """Nothing is anomalous until enough was seen; then it is as if calibrated with them."""
    scores = exponential(60)
    judgements, state = run(method, method.calibrate(np.empty(0)), scores)
    first = next(i for i, judgement in enumerate(judgements) if judgement.level is not None)
    assert first in (20, 50)
    assert not any(judgement.anomalous for judgement in judgements[:first])
    assert judgements[first].level == method.calibrate(scores[:first]).level
    assert state.level is not None


def test_a_pin_decides_instead_of_the_level(method: ThresholdMethod):
    """Both ways: it silences what would alarm and alarms on what would not."""
    state = method.calibrate(exponential(300))
    assert state.level is not None
    assert judge(method, state, state.level * 2, pinned=state.level * 3)[0] == Judgement(state.level * 3, False, True)
    assert judge(method, state, state.level / 2, pinned=state.level / 4)[0] == Judgement(state.level / 4, True, True)
    assert judge(method, state, math.nan, pinned=1.0)[0].anomalous


def test_under_a_pin_only_scores_below_both_levels_are_learnt(method: ThresholdMethod):
    """A pin set high to silence an asset teaches nothing wrong; one set low alarms, and alarms are not learnt."""
    state = method.calibrate(exponential(300))
    assert state.level is not None
    assert judge(method, state, state.level * 2, pinned=state.level * 3)[1] is state
    assert judge(method, state, state.level / 2, pinned=state.level / 4)[1] is state
    assert judge(method, state, state.level / 2, pinned=state.level * 3)[1].seen == state.seen + 1


def test_a_pin_judges_before_there_is_a_level(method: ThresholdMethod):
    """An asset seen for the first time can be pinned, too; a pin may be 0."""
    state = method.calibrate(np.empty(0))
    judgement, after = judge(method, state, 1.0, pinned=0.0)
    assert judgement == Judgement(0.0, True, True)
    assert after is state
    assert judge(method, state, 0.0, pinned=0.0)[1].seen == 1


def test_scores_give_the_same_states_however_they_are_cut(method: ThresholdMethod):
    """A restart in between, with the state stored and adopted, changes nothing."""
    scores = exponential(3_000, seed=2)
    whole = run(method, method.calibrate(exponential(100)), scores)
    state = method.calibrate(exponential(100))
    judgements: list[Judgement] = []
    for part in np.split(scores, [1, 8, 500, 513, 2_999]):
        adopted = method.adopt(state)
        assert adopted is not None
        more, state = run(method, adopted, part)
        judgements += more
    assert judgements == whole[0]
    assert same(state, whole[1])


@pytest.mark.parametrize("name", METHODS)
def test_a_stored_state_is_adopted_by_a_changed_configuration(name: Name):
    """A new risk holds at once; a smaller memory keeps the most recent; a larger one keeps all."""
    old = make_method(ThresholdConfig(method=name, risk=1e-3))
    _, state = run(old, old.calibrate(exponential(400)), exponential(2_300, seed=1))
    assert old.adopt(state) is state
    stricter = make_method(ThresholdConfig(method=name, risk=1e-2)).adopt(state)
    assert stricter is not None
    assert stricter.level is not None
    assert state.level is not None
    assert stricter.level < state.level
    small = make_method(ThresholdConfig(method=name, risk=1e-3, memory=100, max_peaks=20))
    smaller = small.adopt(state)
    assert smaller is not None
    assert len(smaller.sample) in (20, 100)
    _, after = run(small, smaller, exponential(300, seed=3))
    assert len(after.sample) == len(smaller.sample)
    large = make_method(ThresholdConfig(method=name, risk=1e-3, memory=840, max_peaks=800))
    larger = large.adopt(state)
    assert larger is not None
    assert sorted(larger.sample) == sorted(state.sample)
    _, after = run(large, larger, exponential(300, seed=3))
    assert len(after.sample) > len(state.sample)


def test_scores_are_learnt_late(method: ThresholdMethod):
    """With `learn_after` a score is learnt when so many more were normal; the queue is part of the state."""
    state = method.calibrate(exponential(300))
    late, scores = state, (0.5 * exponential(50, 1)).clip(max=1.0).astype(np.float32).tolist()
    for place, score in enumerate(scores):
        _, late = judge(method, late, score, learn_after=20)
        assert min(place + 1, 20) <= len(late.pending) // 4 <= 25
    learnt = len(scores) - len(late.pending) // 4
    at_once = state
    for score in scores[:learnt]:
        _, at_once = judge(method, at_once, score)
    assert same(replace(late, pending=b""), at_once)
    assert late.pending == np.array(scores[learnt:], "<f4").tobytes()
    for _ in range(2):  # set back to 0, all that waits is learnt with the next normal score
        _, late = judge(method, late, 0.25)
        assert late.pending == b""
    assert late.seen == 300 + 50 + 2


def test_what_alarms_leaves_the_queue_alone(method: ThresholdMethod):
    """Scores before an alarm were normal: dropping them would teach only the quieter half of what is normal."""
    state = method.calibrate(exponential(300))
    for score in (0.5, 0.25):
        _, state = judge(method, state, score, learn_after=20)
    assert state.level is not None
    assert judge(method, state, state.level * 9, learn_after=20)[1] is state
    assert judge(method, state, state.level * 1.5, margin=2.0, learn_after=20)[1] is state


def test_a_level_can_be_left_as_calibrated(method: ThresholdMethod):
    """Without `adapt` the verdicts are the same and nothing is learnt, but a level that is missing is found first."""
    state = method.calibrate(exponential(300))
    for score in (0.1, 1.0, math.nan, *((state.level or 0.0) * np.array([0.9, 1.1, 1.9, 2.1])).tolist()):
        for pinned in (None, 1.0):
            fixed, after = judge(method, state, score, pinned=pinned, margin=2.0, adapt=False)
            assert after is state
            assert fixed == judge(method, state, score, pinned=pinned, margin=2.0)[0]
    _, first = judge(method, method.calibrate(np.empty(0)), 1.0, adapt=False)
    assert first.seen == 1


def test_a_level_is_reached_without_waiting(method: ThresholdMethod):
    """Until there is a level nothing can alarm, so nothing waits."""
    _, state = judge(method, method.calibrate(np.empty(0)), 1.0, learn_after=20)
    assert (state.seen, state.pending) == (1, b"")


def test_a_slow_rise_does_not_lift_the_level_before_itself():
    """Scores each like the last that climb by 2 % a window: learnt at once they take SPOT's level along for ever."""
    method = make_method(ThresholdConfig(method="spot", risk=1e-4))
    noise = np.random.default_rng(3).exponential(size=10)
    calm = np.repeat(0.3 + 0.3 * noise, 9)  # 90 scores to calibrate on, but only 10 independent ones
    caught: dict[int, float] = {}
    for learn_after in (0, 60):
        state = method.calibrate(calm)
        for score in (0.5 * 1.02 ** np.arange(300)).tolist():
            judgement, state = judge(method, state, score, learn_after=learn_after)
            if judgement.anomalous:
                caught.setdefault(learn_after, score)
    assert caught == {60: pytest.approx(method.calibrate(calm).level, rel=0.1)}


@pytest.mark.parametrize("name", ["spot", "quantile"])
def test_learning_late_keeps_the_risk(name: Name):
    """The same share of false alarms as when learnt at once."""
    method = make_method(ThresholdConfig(method=name, risk=1e-2))
    shares = []
    for learn_after in (0, 60):
        state, levels = method.calibrate(exponential(500)), []
        for score in exponential(6_000, 11).tolist():
            _, state = judge(method, state, score, learn_after=learn_after)
            levels.append(state.level)
        shares.append(float(np.mean(np.exp(-np.array(levels[1_000:], float)))))
    assert shares[1] == pytest.approx(shares[0], rel=0.2)
    assert 1e-2 / 3 < shares[1] < 3e-2


@pytest.mark.parametrize("risk", [1e-3, 1e-2])
def test_a_rolling_quantile_keeps_its_risk(risk: float):
    """Though it never learns what it alarmed on, its false alarms stay near the risk and don't grow with time."""
    method = make_method(ThresholdConfig(method="quantile", risk=risk))
    shares = []
    for seed in range(3):
        _, state = run(method, method.calibrate(exponential(500, seed)), exponential(5_000, seed + 10))
        for turn in range(4):
            _, state = run(method, state, exponential(500, seed + 100 * turn))
            assert state.level is not None
            shares.append(math.exp(-state.level))
    assert risk / 3 < float(np.mean(shares)) < risk * 3


def test_mad_is_set_by_the_bulk():
    """On Gaussian scores the level is that of the risk; outliers among the calibration hardly move it."""
    method = make_method(ThresholdConfig(method="mad", risk=1e-3))
    scores = np.random.default_rng(0).normal(10.0, 2.0, 500)
    level = method.calibrate(scores).level
    assert level == pytest.approx(10.0 + 3.09 * 2.0, rel=0.03)
    scores[::20] = 1_000.0
    assert method.calibrate(scores).level == pytest.approx(level, rel=0.05)


@given(
    st.sampled_from(METHODS),
    st.lists(st.floats(0, 1e300) | st.sampled_from([0.0, 1.0, 1.5, 2.0]), max_size=300),
    st.floats(1e-6, 0.4),
)
@settings(max_examples=150, deadline=None)
def test_no_sequence_of_scores_breaks_a_method(name: Name, scores: list[float], risk: float):
    """Levels are None or finite numbers; every normal score is counted; the state stays within its bounds."""
    config = ThresholdConfig(method=name, risk=risk, memory=50, max_peaks=20)
    method = make_method(config)
    state = method.calibrate(np.array(scores[::2]))
    for score in scores[1::2]:
        before = state
        judgement, state = judge(method, state, score)
        assert state.level is None or math.isfinite(state.level)
        assert state.seen == before.seen + (not judgement.anomalous)
        assert len(state.sample) <= 50
        assert judgement.anomalous == (before.level is not None and score > before.level)


def test_a_level_far_above_all_scores_is_no_overflow():
    """A level a thousand tails away cuts nothing off: the quantile is what it is without it."""
    method = make_method(ThresholdConfig(method="quantile", risk=1e-3))
    state = method.calibrate(np.append(np.full(200, 1.0), 1e6))
    for score in [1.0, 1.0 + 1e-6] * 400:
        state = method.update(state, score)
    assert state.level is not None
    assert math.isfinite(state.level)
