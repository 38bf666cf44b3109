"""What every threshold method promises, as checks that any package with a method of its own can run in its tests.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_it_keeps_the_contract(check):
        check(MyConfig(method="my-method"))

Each raises AssertionError saying what is not as promised. The built-in methods are checked by the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import decode_state, encode_state
from stream_detector.config import ThresholdConfig
from stream_detector.decision.threshold import ThresholdMethod, make_method
from stream_detector.types import AssetState, IncidentState, ThresholdState

#: Largest state of an asset, serialised.
MOST_BYTES = 4_096
#: Scores that wait to be learnt may take so much of it (`threshold.learn_after`, and a quarter as many again).
PENDING = np.full(75, 0.5, "<f4").tobytes()
#: Normal scores after which a method without a calibration has a level.
ENOUGH = 100

Check = Callable[[ThresholdConfig], None]


def scores(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return exponential scores (n,), rounded as the scorer rounds."""
    return np.random.default_rng(seed).exponential(size=count).astype(np.float32).astype(np.float64)


#: Scores (n,) that are hard on a method: ties, steps, tiny, huge and negative ones.
ODD: Mapping[str, NDArray[np.float64]] = {
    "all the same": np.full(300, 3.25),
    "zeros": np.zeros(300),
    "one other": np.repeat([1.0, 2.0], [299, 1]),
    "two values": np.repeat([1.0, 2.0], [150, 150]),
    "ties at the top": np.repeat([0.0, 5.0, 5.0], [280, 10, 10]),
    "tiny": np.concatenate([np.zeros(290), [1e-300] * 10]),
    "huge": np.concatenate([np.ones(290), [3e38] * 10]),
    "negative": -scores(300) - 5.0,
    "a ramp": np.linspace(0, 1, 300),
}


def a_calibrated_method_has_a_level(config: ThresholdConfig) -> None:
    """A level, the scores counted, the method's name: what an alert says."""
    method = make_method(config)
    state = method.calibrate(scores(300))
    assert state.level is not None, "there is no level after 300 scores"
    assert state.method == method.name == config.method, f"named {method.name!r}, its states {state.method!r}"
    assert state.seen == 300, f"300 scores were seen, the state says {state.seen}"
    assert 0 < method.risk < 1, f"risk is {method.risk}, expected a probability"


def higher_scores_give_a_higher_level(config: ThresholdConfig) -> None:
    """Levels lie in the scores' own unit, and above most of them."""
    method = make_method(config)
    level, tenfold = (_level(method.calibrate(factor * scores(300))) for factor in (1.0, 10.0))
    assert tenfold > level, f"scores ten times as high lower the level from {level:g} to {tenfold:g}"
    assert level >= np.median(scores(300)), f"the level {level:g} lies below half of the scores it was calibrated on"


def odd_scores_give_a_usable_level(config: ThresholdConfig) -> None:
    """Finite, and not below the median, before and after the same scores were learnt."""
    method = make_method(config)
    for name, odd in ODD.items():
        state = method.calibrate(odd)
        assert _level(state) >= np.median(odd), f"{name}: the level {state.level} lies below the median"
        for score in odd.tolist():
            state = method.update(state, score)
        _level(state)


def scores_that_are_not_finite_are_left_out_of_the_calibration(config: ThresholdConfig) -> None:
    """They say nothing of normal."""
    method = make_method(config)
    dirty = np.insert(scores(300), [0, 100, 300], [math.nan, math.inf, -math.inf])
    _same(method.calibrate(dirty), method.calibrate(scores(300)), "a calibration with NaN and infinities")


def without_a_calibration_the_first_scores_give_a_level(config: ThresholdConfig) -> None:
    """Until then the level is None, and every score counts."""
    method = make_method(config)
    state = method.calibrate(np.empty(0))
    assert (state.level, state.seen) == (None, 0), f"calibrated on nothing: level {state.level}, seen {state.seen}"
    for seen, score in enumerate(scores(ENOUGH).tolist(), start=1):
        state = method.update(state, score)
        assert state.seen == seen, f"{seen} scores were learnt, the state says {state.seen}"
    assert state.level is not None, f"there is no level after {ENOUGH} normal scores"


def learning_is_a_function_of_the_scores(config: ThresholdConfig) -> None:
    """One by one or together, by this or by another instance, with and without a pin: the same to the last bit."""
    for limit in (None, 3.0):
        one, other = make_method(config), make_method(config)
        singly = together = one.calibrate(scores(300))
        for part in np.split(scores(2_000, 5).clip(max=3.0), range(13, 2_000, 13)):
            together = other.learn(together, part.tolist(), limit)
            singly = _learnt(one, singly, part.tolist(), limit)
            _same(singly, together, "scores learnt together and in turn")


def states_are_never_changed_in_place(config: ThresholdConfig) -> None:
    """An older state may still be the committed one."""
    method = make_method(config)
    state = method.calibrate(scores(2_000))
    kept = _parts(state)
    _learnt(method, state, scores(500, 1).tolist())
    method.learn(state, scores(500, 1).tolist())
    method.adopt(state)
    assert kept == _parts(state), "a state was changed in place"


def a_stored_state_goes_on_where_it_was(config: ThresholdConfig) -> None:
    """Stored, read, adopted by another instance: nothing changes by a restart."""
    method = make_method(config)
    whole = state = method.calibrate(scores(100))
    for part in np.split(scores(1_200, 2), [1, 8, 500, 513]):
        whole = _learnt(method, whole, part.tolist())
        adopted = make_method(config).adopt(_stored(state))
        assert adopted is not None, "its own state is not adopted"
        state = _learnt(make_method(config), adopted, part.tolist())
        _same(whole, state, "learning with and without a restart")
    assert method.adopt(state) is state, "a state made under this configuration must come back itself"


def another_methods_state_is_not_adopted(config: ThresholdConfig) -> None:
    """None: the calibration starts it again."""
    method = make_method(config)
    other = ThresholdConfig(method="quantile") if config.method == "mad" else ThresholdConfig(method="mad")
    state = make_method(other).calibrate(scores(300))
    assert method.adopt(state) is None, f"a state of {other.method!r} is adopted"


def a_state_fits_into_the_store(config: ThresholdConfig) -> None:
    """4 kB as stored, after many scores, with those that wait to be learnt."""
    method = make_method(config)
    state = _learnt(method, method.calibrate(scores(5_000)), scores(1_000, 1).tolist())
    size = len(encode_state(_asset(state), 1_000_000)) + len(PENDING)
    assert size <= MOST_BYTES, f"a state takes {size} bytes, expected at most {MOST_BYTES}"


CHECKS: tuple[Check, ...] = (
    a_calibrated_method_has_a_level,
    higher_scores_give_a_higher_level,
    odd_scores_give_a_usable_level,
    scores_that_are_not_finite_are_left_out_of_the_calibration,
    without_a_calibration_the_first_scores_give_a_level,
    learning_is_a_function_of_the_scores,
    states_are_never_changed_in_place,
    a_stored_state_goes_on_where_it_was,
    another_methods_state_is_not_adopted,
    a_state_fits_into_the_store,
)


def _learnt(
    method: ThresholdMethod, state: ThresholdState, normal: Iterable[float], limit: float | None = None
) -> ThresholdState:
    for score in normal:
        state = method.update(state, score, limit)
    return state


def _level(state: ThresholdState) -> float:
    assert state.level is not None, "there is no level"
    assert math.isfinite(state.level), f"the level is {state.level}"
    return state.level


def _parts(state: ThresholdState) -> tuple[Any, ...]:
    return state.method, state.level, state.seen, tuple(state.numbers), state.sample.tobytes(), state.pending


def _same(one: ThresholdState, other: ThresholdState, what: str) -> None:
    names = ("method", "level", "seen", "numbers", "sample", "pending")
    for name, mine, its in zip(names, _parts(one), _parts(other), strict=True):
        assert mine == its, f"{what} differ in `{name}`: {mine!r}, {its!r}"


def _asset(state: ThresholdState) -> AssetState:
    return AssetState(threshold=state, incident=IncidentState(), judged_ms=1_583_748_873_000)


def _stored(state: ThresholdState) -> ThresholdState:
    _, found = decode_state(encode_state(_asset(state), 1))
    return found.threshold
