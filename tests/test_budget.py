"""An alert budget: kept by healthy scores of any memory, whatever their law."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stream_detector.cli.trail import change
from stream_detector.config import ChannelConfig, Config
from stream_detector.decision.driver import Decided, Driver
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.types import Controls, ModelRef, ScoreBatch, WindowBatch

MINUTE_MS = 60_000
WEEK = 7 * 24 * 60  # windows of a minute
REFS = (ModelRef("ae", "1"),)


def make_config(adaptation: dict[str, object] | None = None, **budget: object) -> Config:
    """A set-up with a window a minute and a budget; nothing is followed."""
    return Config.model_validate(
        {
            "stream": "s",
            "channels": {"a": ChannelConfig()},
            "window": {"cell_ms": MINUTE_MS, "length": 1, "stride": 1},
            "threshold": {"budget": {"incidents": 3, "per": "week", **budget}, "learn_after": 0},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 10},
            "adaptation": adaptation or {},
        }
    )


def series(law: str, memory: float, n: int, seed: int) -> np.ndarray:
    """Scores of a Gaussian autoregression with this memory, brought to a law by their ranks in it."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-1.0 / memory) if memory else 0.0
    kicks = rng.normal(size=n) * np.sqrt(1 - keep**2)
    x = np.empty(n)
    value = rng.normal()
    for place, kick in enumerate(kicks.tolist()):
        value = keep * value + kick
        x[place] = value
    return {"chi": x**2, "log-normal": np.exp(0.5 * x), "gauss": 5.0 + x}[law]


def judged(config: Config, scores: np.ndarray, calibration: int) -> tuple[Decided, StateTable, Engine]:
    """Calibrate on the first scores and judge the others."""
    engine, table = Engine(config, [scores[:calibration]]), StateTable()
    live = scores[calibration:]
    n = len(live)
    ends = (np.arange(n) + 1 + calibration) * MINUTE_MS
    one = np.zeros((n, 1), np.float32)
    windows = WindowBatch(0, ["m"] * n, ends, np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), bool), ends)
    batch = ScoreBatch(live.copy(), one, one, one, np.zeros(n, np.int32), REFS, one)
    return Driver(engine).judge(table, windows, batch, controls=Controls()), table, engine


@pytest.mark.parametrize(
    ("law", "memory", "least"),
    [
        ("chi", 5.0, 9),
        ("log-normal", 30.0, 9),
        ("chi", 0.0, 0),
    ],
)
def test_a_budget_is_kept_within_a_factor_of_two(law: str, memory: float, least: int):
    """Of six machines in their first week, after two days of calibration: 9 to 36 incidents instead of 18.

    Scores without memory hardly ever exceed a level twice in three: fewer, and never more.
    """
    config = make_config()
    opened = 0
    for seed in range(6):
        decided, _, _ = judged(config, series(law, memory, 2 * 1_440 + WEEK, seed), 2 * 1_440)
        opened += sum(alert.event == "open" for alert in decided.alerts)
    assert least <= opened <= 36


def test_a_fleet_shares_its_budget():
    """30 incidents a week of ten machines are 3 of each."""
    alone, fleet = make_config(), make_config(incidents=30, of="fleet", assets=10)
    scores = series("chi", 5.0, 1_440 + WEEK, 1)
    expected, _, _ = judged(alone, scores, 1_440)
    found, _, _ = judged(fleet, scores, 1_440)
    assert [alert.id for alert in expected.alerts] == [alert.id for alert in found.alerts]


def test_promised_and_achieved_are_told_and_the_risk_is_audited():
    """What the list and the metrics show; each change of the risk is an entry, and alerts carry the asset's own."""
    config = make_config()
    decided, table, engine = judged(config, series("chi", 5.0, 1_440 + WEEK, 2), 1_440)
    state, budget, alerts = table["m"], engine.rules.budget, decided.alerts
    assert budget is not None
    assert state.budget is not None
    promised, achieved = budget.achieved(state.budget, state.judged_ms)
    assert decided.opened == achieved
    assert decided.promised == pytest.approx(promised, rel=0.03)  # up to the last look at the risk
    assert 3.0 == pytest.approx(promised, rel=0.01)
    assert sum(alert.event == "open" for alert in alerts) == achieved
    risks = [entry for entry in decided.audits if entry.cause == "risk"]
    assert len(risks) > 3
    assert change(risks[1], risks[0]).startswith(f"risk {risks[0].risk:.4g} → {risks[1].risk:.4g}")
    assert config.threshold.risk not in {alert.risk for alert in alerts}


def test_a_level_made_of_a_regime_keeps_the_budgets_risk():
    """Scores that have grown for good are calibrated on, for the risk that the budget gave, and their alerts say it."""
    scores = series("chi", 5.0, 1_440 + WEEK, 2)
    scores[6_000:6_700] = 200.0 + scores[6_000:6_700]
    decided, _, _ = judged(make_config({"block": 16, "flat_ms": 14_400_000}), scores[:6_700], 1_440)
    late = [alert for alert in decided.alerts if alert.end_ms > 6_000 * MINUTE_MS]
    told = [alert for alert in late if alert.event in ("regime-change", "close")]
    assert {"regime-change", "close"} <= {alert.event for alert in told}
    assert 1e-4 not in {alert.risk for alert in told}
    settled = next(entry for entry in decided.audits if entry.cause == "regime-change")
    assert settled.after.level is not None
    assert settled.after.level > 100.0
    assert settled.risk == told[0].risk


def test_scores_that_are_all_alike_start_under_a_budget_too():
    """A figure that never moves has no tail to learn a risk from; it is judged all the same, and a leap alarms."""
    decided, _, _ = judged(make_config(), np.concatenate([np.full(500, 0.5), np.full(5, 50.0)]), 400)
    assert [alert.event for alert in decided.alerts] == ["open"]


def test_parts_of_a_log_make_the_same_risk():
    """One by one or all at once."""
    config = make_config()
    scores = series("log-normal", 5.0, 1_440 + 3_000, 3)
    _, whole, _ = judged(config, scores, 1_440)
    driver, table = Driver(Engine(config, [scores[:1_440]])), StateTable()
    for place, score in enumerate(scores[1_440:].tolist()):
        end = np.array([(place + 1_441) * MINUTE_MS])
        one = np.zeros((1, 1), np.float32)
        windows = WindowBatch(0, ["m"], end, np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), bool), end)
        batch = ScoreBatch(np.array([score]), one, one, one, np.zeros(1, int), REFS)
        driver.judge(table, windows, batch, controls=Controls())
    assert (whole["m"].audited, whole["m"].budget) == (table["m"].audited, table["m"].budget)
    assert whole["m"].threshold.numbers == table["m"].threshold.numbers


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ({"method": "quantile", "budget": {"incidents": 3}}, "budget needs method spot or dspot"),
        ({"budget": {"incidents": 3, "of": "fleet"}}, "of: fleet needs assets"),
        ({"budget": {"incidents": 3, "assets": 4}}, "of: asset takes no assets"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(threshold: dict, said: str):
    """With what is wrong."""
    with pytest.raises(ValueError, match=said):
        Config.model_validate({**json.loads(make_config().model_dump_json()), "threshold": threshold})
