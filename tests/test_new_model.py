"""A new artifact starts from its own calibration: thresholds learnt from another model's scores are of no use to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.codec import decode_audit, decode_state, encode_point, encode_state
from stream_detector.config import ChannelConfig, Config, IncidentConfig, ThresholdConfig
from stream_detector.config.budget import BudgetConfig
from stream_detector.decision.driver import Driver
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.types import (
    Alert,
    AssetState,
    Audit,
    Controls,
    ModelRef,
    ScoreBatch,
    WindowBatch,
    replace,
)
from tests.rig import CALIBRATION, LastValue, Plant, Sent, make_config, recorded

# The worker ---------------------------------------------------------------------------------------------------------

SENT = recorded(assets=6, rows=300)
HALF = len(SENT) // 2
#: Scores of the second model are a hundred times those of the first.
SCALE = 100.0


def split(sent: Sequence[Sent]) -> tuple[Sequence[Sent], Sequence[Sent]]:
    """Return the messages that the first model judges, and those after it."""
    return sent[:HALF], sent[HALF:]


def replaced(batch: int | None = None, workers: int = 1, **sections: object) -> Plant:
    """Let the first model judge the first half; stop its worker; let the second model judge the rest."""
    plant = Plant(make_config(**sections))
    first, rest = split(SENT)
    plant.write(first)
    before = plant.worker(batch, model=LastValue("1"))
    plant.run(before)
    before.pipeline.close()
    plant.write(rest)
    after = [plant.worker(batch, model=LastValue("2", SCALE)) for _ in range(workers)]
    plant.run(*after)
    for worker in after:
        worker.pipeline.close()
    return plant


def audits(plant: Plant) -> list[Audit]:
    """Return the entries of the audit topic."""
    return [decode_audit(message.value or b"") for message in plant.published(plant.config.audit_topic)]


def states(plant: Plant) -> dict[str, AssetState]:
    """Return the states in the store."""
    return {asset: state for _, asset, state in MemoryStore(plant.server).assets()}


def test_levels_start_again_from_the_new_calibration():
    """Every asset's, at its first window by the new model, with an entry of its own that says so."""
    plant = replaced()
    new = [entry for entry in audits(plant) if entry.cause == "new-model"]
    assert sorted(entry.asset for entry in new) == [f"pump-{n}" for n in range(6)]
    for entry in new:
        assert entry.model.version == "2"
        assert entry.before is not None
        assert entry.before.level is not None
        assert entry.after.level is not None
        assert entry.before.level < 10.0
        assert 100.0 < entry.after.level < 1_000.0
        assert entry.after.seen == len(CALIBRATION)
    assert {state.model for state in states(plant).values()} == {"2"}
    assert all(100.0 < (state.threshold.level or 0.0) < 1_000.0 for state in states(plant).values())


def test_as_many_incidents_as_with_one_model():
    """With the old levels kept, a hundredfold score would alarm throughout; with too high ones, never."""
    same = Plant()
    same.write(SENT)
    same.run(same.worker())
    plant = replaced()

    def opened(of: Plant) -> list[str]:
        return [alert["asset"] for alert in map(json.loads, of.alerts) if alert["event"] == "open"]

    assert 0.5 * len(opened(same)) <= len(opened(plant)) <= 1.5 * len(opened(same))


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (17, 2), (300, 3)])
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_batches_and_workers_change_nothing(batch: int, workers: int, delivery: str):
    """Which model judged which window follows from where the first worker stopped, not from how the second ran."""
    expected, plant = replaced(delivery=delivery), replaced(batch, workers, delivery=delivery)
    assert sorted(plant.alerts) == sorted(expected.alerts)
    assert plant.states() == expected.states()
    assert sorted(map(repr, audits(plant))) == sorted(map(repr, audits(expected)))


def test_a_worker_says_so_once_per_task(caplog):
    """A line in the log with the number of assets, and a metric; a restart with the same model says nothing."""
    plant = Plant()
    first, rest = split(SENT)
    plant.write(first)
    before = plant.worker(model=LastValue("1"))
    plant.run(before)
    before.pipeline.close()
    plant.write(rest[:600])
    with caplog.at_level(logging.INFO):
        after = plant.worker(model=LastValue("2", SCALE))
        plant.run(after)
    told = [record.getMessage() for record in caplog.records if "another model" in record.getMessage()]
    assert [line.partition(";")[0] for line in told] == [
        f"task {task}: another model judges 2 of 2 assets by now" for task in range(3)
    ]
    assert after.metric("model_changes_total") == 6
    after.pipeline.close()
    caplog.clear()
    plant.write(rest[600:])
    again = plant.worker(model=LastValue("2", SCALE))
    plant.run(again)
    assert not [record for record in caplog.records if "model" in record.getMessage()]
    assert again.metric("model_changes_total") == 0
    assert len([entry for entry in audits(plant) if entry.cause == "new-model"]) == 6


def test_states_of_earlier_versions_are_taken_for_todays_model(caplog):
    """An update of the program alone costs no level; it is said, in case the artifact changed, too."""
    plant = Plant()
    first, rest = split(SENT)
    plant.write(first)
    before = plant.worker(model=LastValue("1"))
    plant.run(before)
    before.pipeline.close()
    kept = states(plant)
    for task in plant.server.tasks.values():  # as 0.2 wrote them
        task.new |= {asset: (epoch, replace(state, model="")) for asset, (epoch, state) in task.new.items()}
    plant.write(rest[:60])
    with caplog.at_level(logging.INFO):
        after = plant.worker(model=LastValue("1"))
        plant.run(after)
    told = [record for record in caplog.records if "name no model" in record.getMessage()]
    assert [record.getMessage().partition(" are of")[0] for record in told] == [
        f"task {task}: the states of 2 assets" for task in range(3)
    ]
    assert not [entry for entry in audits(plant) if entry.cause == "new-model"]
    assert {state.model for state in states(plant).values()} == {"1"}
    assert all(state.threshold.seen >= kept[asset].threshold.seen for asset, state in states(plant).items())


# The engine ---------------------------------------------------------------------------------------------------------

CONFIG = Config(
    stream="s",
    channels={"a": ChannelConfig()},
    threshold=ThresholdConfig(learn_after=0, margin=1.0),
    incident=IncidentConfig(close_after=3),
)
OLD = np.random.default_rng(0).exponential(size=500)
NEW = SCALE * np.random.default_rng(1).exponential(size=500)


class Judged:
    """One asset's windows, a second apart, by one model after another."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.config = config
        self.table = StateTable()
        self.controls = Controls()
        self.alerts: list[Alert] = []
        self.audits: list[Audit] = []
        self.use("1", OLD)

    def use(self, version: str, calibration: np.ndarray) -> None:
        """Go on with another artifact, as a worker does that takes over stored states."""
        self.version, self.driver = version, Driver(Engine(self.config, [calibration]))
        stored = {asset: decode_state(encode_state(state, 0))[1] for asset, state in self.table.items()}
        self.table = StateTable({asset: self.driver.engine.adopt(state) for asset, state in stored.items()})

    def feed(self, *scores: float) -> AssetState:
        """Judge windows; return the state after them."""
        one = np.zeros((1, 1), np.float32)
        for score in scores:
            known = self.table.get("p")
            end = np.array([0 if known is None else known.judged_ms + 1_000])
            windows = WindowBatch(0, ["p"], end, one[None], np.zeros((1, 1, 1), bool), np.full(1, -1))
            models = (ModelRef("ae", self.version),)
            batch = ScoreBatch(np.array([score]), one, one, one, np.zeros(1, np.int32), models)
            found = self.driver.judge(self.table, windows, batch, controls=self.controls)
            self.alerts += found.alerts
            self.audits += found.audits
        return self.table["p"]


def test_the_first_window_of_the_new_model_is_judged_as_of_a_new_asset():
    """Nothing that the old scores taught plays a role: level, peaks, scores that wait, shift."""
    judged, fresh = Judged(), Judged()
    judged.feed(*np.random.default_rng(2).exponential(size=200))
    judged.use("2", NEW)
    fresh.use("2", NEW)
    after, alone = judged.feed(80.0), fresh.feed(80.0)
    assert repr(after.threshold) == repr(alone.threshold)
    assert after.adaptation.serial == 0
    assert after.model == "2"


def test_an_open_incident_goes_on_and_closes_by_the_new_level():
    """It isn't dropped, and the old scores' peak, on another scale, decides nothing."""
    judged = Judged()
    judged.feed(*[0.5] * 20, 500.0, 500.0, 400.0)
    opened = judged.table["p"].incident
    assert opened.opened_ms is not None
    judged.use("2", NEW)
    during = judged.feed(1_500.0, 2_000.0).incident
    assert (during.incident, during.opened_ms, during.peak) == (opened.incident, opened.opened_ms, 2_000.0)
    judged.feed(90.0, 60.0, 50.0, 40.0)
    assert judged.table["p"].incident.opened_ms is None
    assert [alert.event for alert in judged.alerts if alert.event != "update"] == ["open", "close"]
    assert {alert.incident for alert in judged.alerts} == {opened.incident}


def test_a_limit_left_by_an_incident_does_not_outlive_the_model():
    """After an exit by the peak's share only scores above a limit alarm; of the new model's it knows nothing."""
    judged = Judged()
    judged.feed(*[0.5] * 20, 5_000.0, 5_000.0, *[20.0] * 5)
    assert judged.table["p"].incident.rearm is not None
    judged.use("2", NEW)
    assert judged.feed(50.0).incident.rearm is None


def test_a_pin_stays():
    """An operator set it; it is theirs to take off."""
    judged = Judged()
    judged.controls = Controls(version=1, pins={"p": 9.0})
    judged.feed(*[0.5] * 20)
    judged.use("2", NEW)
    assert judged.feed(60.0).applied.pinned == 9.0
    assert [entry.cause for entry in judged.audits] == ["calibrate", "new-model"]
    assert judged.audits[-1].after.pinned == 9.0


def test_a_budget_starts_again_with_the_new_scores():
    """Its counts are of exceedances of the old tail."""
    config = CONFIG.model_copy(update={"threshold": ThresholdConfig(budget=BudgetConfig(incidents=2), learn_after=0)})
    judged, fresh = Judged(config), Judged(config)
    judged.feed(*np.random.default_rng(2).exponential(size=200))
    judged.use("2", NEW)
    fresh.use("2", NEW)
    state, alone = judged.feed(60.0), fresh.feed(60.0)
    assert state.budget is not None
    assert alone.budget is not None
    assert state.budget.start_ms == state.judged_ms
    assert (state.budget.shadow, state.budget.rarer) == (alone.budget.shadow, alone.budget.rarer)


def test_another_method_and_another_model_are_one_change():
    """One calibration, told once."""
    judged = Judged()
    judged.feed(*[0.5] * 20)
    judged.config = CONFIG.model_copy(update={"threshold": ThresholdConfig(method="quantile", risk=0.01)})
    judged.use("2", NEW)
    state = judged.feed(60.0, 50.0)
    assert (state.threshold.method, state.applied.reset) == ("quantile", "")
    assert [entry.cause for entry in judged.audits] == ["calibrate", "new-model"]


def test_nothing_is_restored_that_another_model_scored():
    """A rollback asked for just before the new artifact took over gives that model's calibration."""
    judged = Judged()
    judged.feed(*[0.5] * 20)
    entry = judged.audits[0]
    _, point = decode_state(encode_point(entry.threshold, entry.adaptation, entry.model.version))
    judged.use("2", NEW)
    judged.controls = Controls(version=1, rollbacks={"p": ("0000000000000001", point)})
    state = judged.feed(60.0)
    assert 100.0 < (state.threshold.level or 0.0)
    assert [entry.cause for entry in judged.audits] == ["calibrate", "new-model", "rollback"]
    judged.use("1", OLD)
    judged.controls = Controls(version=2, rollbacks={"p": ("0000000000000002", point)})
    assert (judged.feed(0.5).threshold.level or 0.0) < 100.0


def test_a_state_that_names_no_model_keeps_its_level():
    """Of versions before 0.3: it is taken for one of the model that judges now."""
    judged = Judged()
    before = judged.feed(*np.random.default_rng(2).exponential(size=200))
    judged.table["p"] = replace(before, model="")
    judged.use("2", NEW)
    after = judged.feed(0.5)
    assert after.threshold.level == pytest.approx(before.threshold.level, rel=0.01)
    assert after.model == "2"
    assert "new-model" not in [entry.cause for entry in judged.audits]


def test_another_model_for_each_asset_concerns_that_asset():
    """A fleet's detectors have versions of their own where each is a file."""
    table = StateTable()
    driver = Driver(Engine(CONFIG, [OLD, NEW]))
    one = np.zeros((2, 1), np.float32)

    def judge(end_ms: int, models: tuple[ModelRef, ...]) -> None:
        windows = WindowBatch(
            0, ["p", "q"], np.full(2, end_ms), one[:, None], np.zeros((2, 1, 1), bool), np.full(2, -1)
        )
        batch = ScoreBatch(np.array([0.5, 50.0]), one, one, one, np.arange(2, dtype=np.int32), models)
        driver.judge(table, windows, batch, controls=Controls())

    for step in range(30):
        judge(1_000 * step, (ModelRef("ae", "1"), ModelRef("ae", "a")))
    seen = {asset: table[asset].threshold.seen for asset in "pq"}
    assert set(seen.values()) == {530}
    for asset in "pq":
        table[asset] = table[asset]  # as loaded
    judge(30_000, (ModelRef("ae", "2"), ModelRef("ae", "a")))
    assert (table["p"].threshold.seen, table["q"].threshold.seen) == (501, 531)


def test_a_budget_taken_out_of_the_set_up_costs_one_calibration():
    """Not one at each restart: the counts of the budget go with it."""
    judged = Judged(
        CONFIG.model_copy(update={"threshold": ThresholdConfig(budget=BudgetConfig(incidents=2), learn_after=0)})
    )
    judged.feed(*[0.5] * 20)
    judged.config = CONFIG
    for _ in range(3):
        judged.use("1", OLD)
        judged.feed(*[0.5] * 20)
    assert judged.table["p"].budget is None
    assert judged.table["p"].threshold.seen == 560
    assert [entry.cause for entry in judged.audits].count("calibrate") == 2
