"""What callers of the decision engine rely on: purity, `rescore`, and policies of their own."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from stream_detector.codec import decode_state, encode_state
from stream_detector.config import AdaptationConfig, Config, ThresholdConfig
from stream_detector.decision import engine as module
from stream_detector.decision.adaptation import EVERY, AdaptationRules, Seen
from stream_detector.decision.engine import Engine
from stream_detector.decision.policy import Draft, extra_part
from stream_detector.decision.threshold import gpd, make_method
from stream_detector.decision.threshold.columns import columns_for
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import (
    Adaptation,
    AssetState,
    Controls,
    ForeignPart,
    LivenessEvent,
    ModelRef,
    State,
    replace,
)

CONFIG = Config.model_validate(
    {"stream": "s", "channels": {"a": {}, "b": {}}, "window": {"cell_ms": 1_000, "length": 4, "stride": 1}}
)
REF = ModelRef("ae", "1")
CALIBRATION = np.random.default_rng(0).exponential(size=500)


def window(end_ms: int, score: float, **more: Any) -> ScoredWindow:
    """A window of one asset that was scored by itself."""
    one = ScoredWindow.of("p", end_ms, score, contributions=[3, 1], observed=[1, 2], expected=[0, 2], model=REF)
    return replace(one, **more)


def after(engine: Engine, scores: list[float], state: AssetState | None = None) -> AssetState:
    """Return the state after some windows."""
    begin = 0 if state is None else state.judged_ms
    for place, score in enumerate(scores):
        state = engine.step(state, window(begin + 1_000 * (place + 1), score), Controls()).state
    assert state is not None
    return state


def test_a_step_changes_nothing_that_came_in():
    """The same state and window give the same step as often as asked, and states refuse to be written to."""
    engine = Engine(CONFIG, [CALIBRATION])
    state = after(engine, [0.5] * 30)
    stored, alarm = encode_state(state, 0), window(31_000, 500.0)
    arrays = [alarm.scores.score.copy(), alarm.scores.channels.copy()]
    steps = [engine.step(state, alarm, Controls()) for _ in range(3)]
    assert encode_state(state, 0) == stored
    assert [alarm.scores.score.tolist(), alarm.scores.channels.tolist()] == [one.tolist() for one in arrays]
    assert len({encode_state(step.state, 0) for step in steps}) == 1
    with pytest.raises(AttributeError):
        state.judged_ms = 0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        state.incident.peak = 1.0  # type: ignore[misc]


def test_a_window_scored_under_another_shift_is_asked_for_again():
    """A reset moves the shift with the window it takes effect at: that window is not judged by the old score."""
    engine = Engine(CONFIG, [CALIBRATION])
    state = after(engine, [0.5] * 10)
    moved = Adaptation(serial=3, shift=np.array([1, 0], np.float32), anchor=np.zeros(2, np.float32))
    state, controls = replace(state, adaptation=moved), Controls(1, resets={"p": "0001"})
    step = engine.step(state, window(11_000, 500.0, serial=3), controls)
    assert step.rescore
    assert ["reset"] == [entry.cause for entry in step.audits]
    assert (step.state.judged_ms, tuple(step.alerts)) == (state.judged_ms, ())
    assert step.state.adaptation.shift.tolist() == [0.0, 0.0]
    again = engine.step(step.state, window(11_000, 0.5, serial=step.state.adaptation.serial), controls)
    assert not again.rescore
    assert (again.state.judged_ms, again.audits) == (11_000, [])


class Count(State, frozen=True, kw_only=True):
    """Windows of an asset, and the highest score."""

    VERSION: ClassVar[int] = 2
    windows: int = 0
    highest: float = 0.0


class CountPolicy:
    """A policy that nobody but this test knows."""

    name = "count"

    def adopt(self, state: AssetState) -> AssetState:
        """Read a stored part; of version 1 there was no highest score."""
        part = extra_part(state, self.name, Count, {1: lambda fields: [*fields, 0.0]})
        return replace(state, extra={**state.extra, self.name: part})

    def apply(self, draft: Draft) -> bool:
        """Count the window."""
        part = draft.extra.get(self.name, Count())
        assert isinstance(part, Count)
        highest = max(part.highest, draft.window.score)
        draft.extra = {**draft.extra, self.name: replace(part, windows=part.windows + 1, highest=highest)}
        return False


def test_a_policy_of_ones_own_keeps_a_part_of_the_state():
    """Through the store, from an older version, and through a worker that does not know it."""
    engine = Engine(CONFIG, [CALIBRATION], policies=[CountPolicy()])
    state = after(engine, [0.5, 0.25, 0.75])
    assert state.extra == {"count": Count(windows=3, highest=0.75)}
    _, stored = decode_state(encode_state(state, 1))
    assert isinstance(stored.extra["count"], ForeignPart)
    assert engine.adopt(stored).extra == state.extra
    assert after(engine, [0.5], engine.adopt(stored)).extra == {"count": Count(windows=4, highest=0.75)}
    older = replace(stored, extra={"count": ForeignPart(version=1, fields=[7])})
    assert engine.adopt(older).extra == {"count": Count(windows=7)}
    stranger = Engine(CONFIG, [CALIBRATION])
    kept = after(stranger, [0.5], stranger.adopt(stored))
    assert kept.extra == stored.extra
    assert engine.adopt(decode_state(encode_state(kept, 1))[1]).extra == state.extra


def test_a_part_of_a_later_version_is_refused():
    """Rather than read as something else."""
    state = replace(after(Engine(CONFIG, [CALIBRATION]), [0.5]), extra={"count": ForeignPart(version=9, fields=[])})
    with pytest.raises(ValueError, match="'count' has version 9"):
        CountPolicy().adopt(state)


def test_fits_made_together_are_those_made_one_by_one():
    """To the last bit, whatever the lengths, and whether or not the tail was cut off."""
    rng = np.random.default_rng(1)
    tails = [
        (rng.exponential(size=int(rng.choice([5, 60, 200]))), float(rng.uniform(1, 9)), float(rng.choice([0, 0.3, 1])))
        for _ in range(40)
    ]
    tails.append((np.zeros(20), 1.0, 0.5))
    assert gpd.fit_all(tails) == [gpd.fit(*one) for one in tails]


@pytest.mark.parametrize("assets", [3, 60])
@pytest.mark.parametrize("method", ["spot", "dspot", "quantile", "mad"])
@pytest.mark.parametrize("history", [60, 300])
def test_scores_learnt_together_are_learnt_as_one_by_one(method: str, assets: int, history: int):
    """In columns, of few assets or many, some with new peaks, some with none; a short history's tail is narrowed."""
    rng = np.random.default_rng(2)
    rules = make_method(ThresholdConfig(method=method, max_peaks=30, memory=60, risk=1e-3, tail=0.05))
    states = [rules.calibrate(rng.exponential(size=history)) for _ in range(assets)]
    columns, slots = columns_for(rules), np.arange(1, assets + 1)
    columns.grow(assets + 1)
    for slot, state in zip(slots.tolist(), states, strict=True):
        assert columns.hold(slot, state)
    for _ in range(30):
        scores = rng.exponential(size=(assets, 16)).astype(np.float32).astype(np.float64)
        scores[::3] *= 0.1
        columns.learn(slots, scores)
        together = columns.states(slots)
        for place, state in enumerate(states):
            for score in scores[place].tolist():
                state = rules.update(state, score)
            states[place] = state
            alone = (state.level, state.seen, state.numbers, state.sample.tolist())
            found = together[place]
            assert alone == (found.level, found.seen, found.numbers, found.sample.tolist())
            assert columns.level[place + 1] == state.level


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_block_without_a_finite_mean_is_skipped(odd: float):
    """It would make a place that no machine can come back from."""
    rules = AdaptationRules(AdaptationConfig(block=8, follow=None), 1_000, 1)
    state = rules.fresh()
    for step in range(1, rules.samples + 1):
        seen = Seen(np.array([odd], np.float32), 1.0, 1_000 * EVERY * step)
        state, change = rules.quiet(state, seen, 4.0, 3.0)
    assert (change, state.count, state.serial, len(state.usual)) == (None, 0, 0, 0)


def test_an_infinite_distance_is_never_flat():
    """A tenth of it would bound nothing: such an incident is no regime change, however long it lasts."""
    rules = AdaptationRules(AdaptationConfig(block=8, flat_ms=1_000), 1_000, 1)
    state = rules.turned(rules.fresh(), 0)
    changes = []
    for step in range(1, 60):
        seen = Seen(np.array([np.inf], np.float32), 9.0, 1_000 * EVERY * step)
        with np.errstate(invalid="ignore"):
            state, change = rules.during(state, seen, 0)
        changes.append(change)
    assert set(changes) == {None}


def test_a_dropout_that_takes_an_incident_over_turns_the_adaptation():
    """Blocks that are half filled hold the dropout's cells: they are forgotten with the incident."""
    engine = Engine(CONFIG, [CALIBRATION], model_of=lambda _: REF)
    state = after(engine, [0.5] * 10 + [500.0] * 3)
    assert state.incident.opened_ms is not None
    filling = replace(state.adaptation, sums=np.ones(2, np.float32), count=2, flat_ms=1, scores=(1.0,))
    event = LivenessEvent(0, "p", "a", "dropout", True, 14_000, 9_000, 5.0, 5.0)
    step = engine.on_liveness(replace(state, adaptation=filling), event, Controls())
    assert step is not None
    assert ["update"] == [alert.event for alert in step.alerts]
    assert step.state.incident.opened_ms is None
    assert (step.state.adaptation.count, step.state.adaptation.flat_ms, step.state.adaptation.scores) == (0, None, ())


def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Return the functions of the room."""
    room = Path(module.__file__).parent
    return [
        (f"{path.relative_to(room)}:{node.lineno} {node.name}", node)
        for path in sorted(room.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_no_function_of_the_decision_is_long():
    """Under 60 lines each, docstring included: what does not fit is two concerns."""
    lines: Callable[[ast.FunctionDef], int] = lambda node: (node.end_lineno or 0) - node.lineno + 1  # noqa: E731
    assert [name for name, node in functions() if lines(node) >= 60] == []
