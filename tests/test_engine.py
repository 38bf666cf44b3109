"""Threshold and incident in turn, and the states they leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_detector.config import ChannelConfig, Config, IncidentConfig, ThresholdConfig
from stream_detector.decision.driver import Driver
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.types import Audit, Controls, ModelRef, ScoreBatch, WindowBatch

CONFIG = Config(stream="s", channels={"a": ChannelConfig()}, threshold=ThresholdConfig(learn_after=0))


def fed(driver: Driver, table: StateTable, scores: list[float]) -> None:
    """Judge one window after the other of the asset p, a second apart."""
    state = table.get("p")
    begin = 0 if state is None else state.judged_ms + 1_000
    for step, score in enumerate(scores):
        driver.judge(table, *batch(["p"], begin + 1_000 * step, score), controls=Controls())


def batch(assets: list[str], end_ms: int, score: float) -> tuple[WindowBatch, ScoreBatch]:
    """One window an asset, all with the same score."""
    n = len(assets)
    one = np.zeros((n, 1), np.float32)
    windows = WindowBatch(
        0, assets, np.full(n, end_ms), np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), bool), np.full(n, -1)
    )
    return windows, ScoreBatch(np.full(n, score), one, one, one, np.zeros(n, np.int32), (ModelRef("ae", "1"),))


def test_a_reset_of_one_asset_leaves_the_others_as_they_are():
    """The first reset ever made concerns its asset only; what the others learnt stays."""
    driver, table = Driver(Engine(CONFIG, [np.random.default_rng(0).exponential(size=500)])), StateTable()
    for step in range(50):
        driver.judge(table, *batch(["p", "q"], 1_000 * step, 0.5), controls=Controls())
    seen = table["p"].threshold.seen
    after = Controls(version=1, resets={"q": "1700000000000000"})
    for step in range(50, 60):
        driver.judge(table, *batch(["p", "q"], 1_000 * step, 0.5), controls=after)
    assert seen + 10 == table["p"].threshold.seen
    assert 500 + 10 >= table["q"].threshold.seen
    assert "1700000000000000" == table["q"].applied.reset


@pytest.mark.parametrize("learn_after", [0, 20])
def test_a_fault_that_comes_and_goes_does_not_lift_the_level(learn_after: int):
    """Scores that fall off after each time it was there lie below the level, but are those of the fault."""
    config = CONFIG.model_copy(
        update={"threshold": ThresholdConfig(learn_after=learn_after), "incident": IncidentConfig(close_after=5)}
    )
    rng = np.random.default_rng(1)
    driver, table = Driver(Engine(config, [rng.exponential(size=2_000)])), StateTable()
    fed(driver, table, rng.exponential(size=100).tolist())
    level = table["p"].threshold.level
    assert level is not None
    for _ in range(60):
        fed(driver, table, [60.0, 400.0, 300.0, 60.0, *np.geomspace(0.95 * level, 0.3, 12), *[0.3] * 14])
    after = table["p"].threshold.level
    assert after is not None
    assert after < 1.2 * level


def test_what_led_to_an_incident_is_not_learnt():
    """Scores that wait to be learnt when it opens may be its beginning; during it none is learnt."""
    config = CONFIG.model_copy(update={"threshold": ThresholdConfig(learn_after=20)})
    driver, table = Driver(Engine(config, [np.random.default_rng(0).exponential(size=500)])), StateTable()
    fed(driver, table, [0.5] * 50)
    assert 4 * 20 <= len(table["p"].threshold.pending) <= 4 * 25
    fed(driver, table, [500.0, 500.0, *[0.5] * 10])
    assert table["p"].incident.opened_ms is not None
    assert b"" == table["p"].threshold.pending
    assert 500 + 30 == table["p"].threshold.seen


def told_of(peaks: list[float], **threshold: object) -> int:
    """Return how many incidents as many leaps to these scores open, a quiet time after each."""
    config = Config.model_validate(
        {
            "stream": "s",
            "channels": {"a": ChannelConfig()},
            "threshold": {"learn_after": 0, **threshold},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 10},
            "adaptation": {"flat_ms": None},
        }
    )
    driver, table, opened, step = (
        Driver(Engine(config, [np.random.default_rng(0).exponential(size=500)])),
        StateTable(),
        0,
        0,
    )
    for peak in peaks:
        for score in [peak] * 40 + [0.5] * 40:
            step += 1
            windows, scores = batch(["p"], 1_000 * step, score)
            scores = replace(scores, offset=np.zeros((1, 1), np.float32))
            decided = driver.judge(table, windows, scores, controls=Controls())
            opened += sum(alert.event == "open" for alert in decided.alerts)
    return opened


def test_what_was_told_and_is_over_is_no_news_if_asked_for():
    """With learn_told the same leap again opens no incident, a worse one does; without it each does."""
    assert told_of([60.0, 60.0, 60.0, 3_000.0]) == 4
    assert told_of([60.0, 60.0, 60.0, 3_000.0], learn_told=True) == 2


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_what_was_told_teaches_no_score_that_is_no_number(odd: float):
    """Scores no state can hold are left out: a level made of them would be none, or above all that may come."""
    assert told_of([60.0, odd, 3_000.0], learn_told=True) == 3


def test_a_level_that_is_not_to_adapt_learns_nothing_of_what_was_told():
    """The same leap is told each time."""
    assert told_of([60.0, 60.0, 60.0], learn_told=True, adapt=False) == 3


def changes(accepted_from: int) -> list[tuple[str, int]]:
    """Return causes and times of the audit entries of an asset that wanders, with an acceptance from a window on."""
    settings = {"stream": "s", "channels": {"a": ChannelConfig()}, "adaptation": {"follow": None, "block": 8}}
    driver, table = (
        Driver(Engine(Config.model_validate(settings), [np.random.default_rng(0).exponential(size=500)])),
        StateTable(),
    )
    audits: list[Audit] = []
    for step in range(100):
        windows, scores = batch(["p"], 1_000 * step, 0.5)
        scores = replace(scores, offset=np.full((1, 1), 0.05 * step, np.float32))
        controls = Controls(version=1, accepts={"p": "1700000000000000"}) if step >= accepted_from else Controls()
        audits += driver.judge(table, windows, scores, controls=controls).audits
    return [(entry.cause, entry.at_ms) for entry in audits]


def test_an_acceptance_that_finds_nothing_hides_no_entry():
    """Asked for when no incident is open, with the very window that moves the shift: that move is told all the same."""
    undisturbed = changes(1_000)
    moves = [at_ms // 1_000 for cause, at_ms in undisturbed if cause == "refit"]
    assert len(moves) > 1
    assert [changes(step) for step in moves] == [undisturbed] * len(moves)
