"""Assets that operators retire or have forgotten: exactly once, whatever fails, also when they send nothing."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import decode_audit, decode_state, encode_state
from stream_detector.config import Config
from stream_detector.errors import BrokerError
from stream_detector.types import Position, RemovalAction, Removed
from tests.exactly_once import STEPS, strike_at
from tests.rig import START_MS, CrashError, Plant, Sent, ids, make_config, recorded
from tests.test_audit import SCHEMA
from tests.test_liveness_replay import hall, nothing, without
from tests.test_sensor_faults import Hall, told, trained

__all__ = ["trained"]  # a fixture

GONE = "pump-1"
ROWS, LAST = 200, 150


def faulty() -> list[Sent]:
    """Four pumps in two partitions; pump-1 is broken when its last reading comes, long before the others'."""
    sent = []
    for one in recorded(assets=4, rows=ROWS, partitions=2, faults=False):
        row = (one.ts_ms - START_MS) // 1_000
        if one.asset == GONE and row > LAST:
            continue
        if one.asset == GONE and row > LAST - 20:
            fields = {"asset": GONE, "ts": one.ts_ms, "vibration": 9.0, "current": -9.0}
            one = Sent(one.partition, one.asset, one.ts_ms, json.dumps(fields).encode())
        sent.append(one)
    return sent


def again(rows: int = 60) -> list[Sent]:
    """Return readings of pump-1 after its return."""
    found = []
    for one in recorded(assets=2, rows=rows, partitions=2, faults=False, seed=5):
        fields: dict[str, Any] = json.loads(one.value) if one.asset == GONE and one.value.endswith(b"}") else {}
        ts_ms = one.ts_ms + (ROWS + 100) * 1_000
        if fields and one.ts_ms >= START_MS:
            fields["ts"] = ts_ms
            found.append(Sent(one.partition, GONE, ts_ms, json.dumps(fields).encode()))
    return sorted(found, key=lambda sent: sent.ts_ms)


def make(delivery: str = "exactly_once", **sections: Any) -> tuple[Plant, Config]:
    config = make_config(delivery=delivery, commit_interval_ms=100, **sections)
    plant = Plant(config, partitions=2)
    plant.write(faulty())
    return plant, config


def alerts(plant: Plant, asset: str = GONE) -> list[dict[str, Any]]:
    return [alert for alert in map(json.loads, plant.alerts) if alert["asset"] == asset]


def audits(plant: Plant) -> list[dict[str, Any]]:
    entries = [json.loads(message.value or b"") for message in plant.published(plant.config.audit_topic)]
    return [entry for entry in entries if entry["asset"] == GONE]


def is_gone(plant: Plant) -> bool:
    """Whether nothing of the asset's state is left in either version."""
    kept = [version for task in plant.server.tasks.values() for version in (task.new.get(GONE), task.old.get(GONE))]
    return all(version is None or isinstance(version[1], Removed) for version in kept)


def remove(plant: Plant, action: RemovalAction = "retire") -> str:
    return MemoryStore(plant.server).remove(GONE, action)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_retired_asset_is_closed_once_and_nothing_of_it_stays(delivery: str):
    """Without any further reading: a close at the last window judged, an audit entry, and both versions gone."""
    plant, _ = make(delivery)
    worker = plant.worker()
    plant.run(worker)
    before = alerts(plant)
    state = {asset: state for _, asset, state in MemoryStore(plant.server).assets()}[GONE]
    assert [alert["event"] for alert in before][-1] != "close"
    others = {asset: value for asset, value in plant.states().items() if asset != GONE}
    token = remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    [close] = alerts(plant)[len(before) :]
    assert close["reason"] == "retired"
    assert (close["event"], close["incident"], close["channels"]) == ("close", before[0]["incident"], [])
    assert close["end"] == "2020-09-13T12:29:08Z"
    assert state.judged_ms == 1_600_000_148_000
    assert close["score"] == pytest.approx(state.incident.peak, rel=1e-5)
    assert close["severity"] == before[-1]["severity"]
    entry = audits(plant)[-1]
    jsonschema.validate(entry, SCHEMA)
    assert (entry["cause"], entry["at"], entry["after"]["level"]) == ("retire", close["end"], None)
    assert entry["before"]["level"] == pytest.approx(state.threshold.level, rel=1e-5)
    assert plant.states() == others
    assert is_gone(plant)
    assert MemoryStore(plant.server).holding(GONE, token) == []


def test_what_must_go_is_not_written_once_more():
    """The audit entry of an asset that is forgotten says nothing of what was known."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    remove(plant, "forget")
    plant.clock.now += 500
    plant.run(worker)
    value = [m.value or b"" for m in plant.published(plant.config.audit_topic) if b'"forget"' in (m.value or b"")]
    [entry] = map(decode_audit, value)
    assert (entry.cause, entry.before, entry.threshold.level, entry.adaptation.serial) == ("forget", None, None, 0)
    assert is_gone(plant)


def test_it_takes_effect_within_a_second():
    """Also with commits that are far apart."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    plant.config.__dict__["commit_interval_ms"] = 60_000.0
    remove(plant)
    began = plant.clock.now
    while alerts(plant)[-1]["event"] != "close":
        worker.pipeline.step(0)
        plant.clock.now += 20
    assert plant.clock.now - began <= 1_000


def test_it_starts_from_the_calibration_when_it_comes_back():
    """As an asset that was never there; and the removal is not repeated, whoever has the task."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    token = remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    plant.write(again())
    plant.run(worker)
    found = decode_state(plant.states()[GONE])[1]
    assert found.applied.removed == token
    assert found.threshold.seen < 500
    causes = [entry["cause"] for entry in audits(plant)]
    assert causes[causes.index("retire") + 1] == "calibrate"
    assert causes.count("retire") == 1
    told, states = plant.alerts, plant.states()
    worker.source.expel()
    plant.run(plant.worker())
    assert (plant.alerts, plant.states()) == (told, states)
    first = [alert["event"] for alert in alerts(plant) if alert["incident"] == alerts(plant)[0]["incident"]]
    assert first.count("close") == 1


def test_a_state_after_a_removal_is_read_back():
    """With the token; a state without one has the bytes it always had."""
    plant, _ = make()
    plant.run(plant.worker())
    state = decode_state(plant.states()["pump-0"])[1]
    marked = decode_state(encode_state(type(state)(**{**_fields(state), "applied": _removed(state)}), 3))[1]
    assert marked.applied.removed == "0000000000000007"
    assert len(encode_state(state, 3)) < len(encode_state(marked, 3))


def _fields(state: Any) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__struct_fields__}


def _removed(state: Any) -> Any:
    return type(state.applied)(**{**_fields(state.applied), "removed": "0000000000000007"})


def test_a_restart_takes_nothing_up_again():
    """The log is read again from before the removal: no state, no alert comes of it."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500
    for _ in range(60):
        worker.pipeline.step(0)
        plant.clock.now += 20
    told, states = len(plant.alerts), plant.states()
    assert GONE not in states
    for _ in range(2):
        worker.source.expel()
        worker = plant.worker(16)
        plant.run(worker)
    assert (len(plant.alerts), plant.states()) == (told, states)
    assert is_gone(plant)


def test_the_mark_goes_when_the_log_is_not_read_again():
    """Once the offsets lie behind all that was read before, nothing of the asset is in the store."""
    plant, _ = make()
    worker = plant.worker(16)
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    plant.write(
        Sent(one.partition, one.asset, one.ts_ms + ROWS * 1_000, _later(one.value))
        for one in recorded(assets=4, rows=2_000, partitions=2, faults=False)
        if one.asset != GONE and one.value.endswith(b"}")
    )
    plant.run(worker)
    assert not any(GONE in kept.new or GONE in kept.old or GONE in kept.seen for kept in plant.server.tasks.values())


def _later(value: bytes) -> bytes:
    fields = json.loads(value)
    return json.dumps({**fields, "ts": fields["ts"] + ROWS * 1_000}).encode()


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[bytes], list[bytes], dict[str, bytes]]:
    """Alerts, audit entries and states when nothing happens."""
    plant, _ = make()
    worker = plant.worker(16)
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    return what(plant)


def what(plant: Plant) -> tuple[list[bytes], list[bytes], dict[str, bytes]]:
    entries = [message.value or b"" for message in plant.published(plant.config.audit_topic)]
    return sorted(plant.alerts), sorted(entries), plant.states()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time", [1, 2, 3])
def test_a_crash_at_any_step_of_a_removal(undisturbed: Any, step: str, time: int):
    """Nothing missing, nothing repeated, and nothing of the state left."""
    plant, _ = make()
    worker = plant.worker(16)
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500
    worker.faults.strike = strike_at(step, time)
    try:
        plant.run(worker)
    except CrashError:
        worker.source.expel()
        plant.run(plant.worker(64))
    assert what(plant) == undisturbed
    assert is_gone(plant)


@pytest.mark.parametrize("step", ["flush", "flushed", "commit", "committed"])
def test_a_broker_that_fails_in_a_removal(undisturbed: Any, step: str):
    """All is taken back and done again."""
    plant, _ = make()
    worker = plant.worker(16)
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500
    worker.faults.strike = strike_at(step, 1, BrokerError)
    for _ in range(15):
        try:
            worker.pipeline.step(0)
        except BrokerError:
            plant.clock.now += 1_000
        plant.clock.now += 20
    plant.run(worker)
    assert what(plant) == undisturbed
    assert is_gone(plant)


def test_a_store_that_goes_away_in_a_removal(undisturbed: Any):
    """The removal waits for it: otherwise its next owner would close the incident once more."""
    plant, _ = make()
    worker = plant.worker(16)
    plant.run(worker)
    remove(plant)
    plant.clock.now += 500

    def strike(step: str) -> None:
        if step == "flushed" and worker.pipeline.alerts > told:
            plant.server.available = False

    told = worker.pipeline.alerts
    worker.faults.strike = strike
    for _ in range(100):
        worker.pipeline.step(0)
        plant.clock.now += 20
    assert not plant.server.available
    assert alerts(plant)[-1]["event"] != "close"
    worker.faults.strike = lambda step: None
    plant.server.available = True
    plant.run(worker)
    assert what(plant) == undisturbed


def test_a_removal_waits_for_the_end_of_a_replay(undisturbed: Any):
    """A store without its last commits: the state there is not yet the one that the removal met."""
    plant, _ = make()
    plant.write([])
    worker = plant.worker(16)
    for _ in range(30):
        worker.pipeline.step(0)
        plant.clock.now += 20
    plant.server.available = False
    for _ in range(200):
        worker.pipeline.step(0)
        plant.clock.now += 20
    worker.source.expel()
    plant.server.available = True
    remove(plant)
    plant.run(plant.worker(16))
    assert what(plant)[0] == undisturbed[0]
    assert GONE not in plant.states()
    assert is_gone(plant)


def test_an_asset_that_goes_on_sending_begins_again():
    """It is removed, and judged from the calibration on by its next window."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    MemoryStore(plant.server).remove("pump-0", "forget")
    plant.clock.now += 500
    plant.run(worker)
    assert "pump-0" not in plant.states()
    plant.write(
        Sent(one.partition, one.asset, one.ts_ms + ROWS * 1_000, _later(one.value))
        for one in recorded(assets=1, rows=60, partitions=2, faults=False)
        if one.value.endswith(b"}")
    )
    plant.run(worker)
    assert "pump-0" in plant.states()


def test_a_retired_asset_is_no_more_than_settings_of_others(undisturbed: Any):
    """Removing what is not there changes nothing, and its control can be settled."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    before = plant.states()
    store = MemoryStore(plant.server)
    token = store.remove("nobody", "forget")
    plant.clock.now += 500
    plant.run(worker)
    assert plant.states() == before
    assert store.holding("nobody", token) == []
    store.settle("nobody", token)
    assert store.controls().removals == {}


def judge_again(plant: Plant) -> None:
    """Reset all and set the offsets back; retention has taken what pump-1 sent."""
    MemoryStore(plant.server).reset(None)
    for partition in plant.log.group("detector").committed:
        plant.log.delete_before(partition, int(plant.log.end(partition) * 0.85))
    set_back(plant)


def set_back(plant: Plant) -> None:
    """Have the log read again from its beginning, by a tool that drops the metadata of a commit."""
    committed = plant.log.group("detector").committed
    committed.update(dict.fromkeys(committed, Position(0, 0, 0)))


@pytest.mark.parametrize("running", [False, True])
def test_an_asset_that_was_to_be_judged_again_is_retired(running: bool):
    """Nothing of it has come since, so its incident ends where it was opened. `running`: the workers, meanwhile."""
    plant, _ = make()
    worker = plant.worker(50)
    plant.run(worker)
    worker.pipeline.close()
    judge_again(plant)
    if running:
        worker = plant.worker(50)
        plant.run(worker)
    remove(plant)
    if not running:
        worker = plant.worker(50)
    plant.run(worker)
    opened, closed = alerts(plant)
    assert (closed["event"], closed["incident"], closed["reason"]) == ("close", opened["incident"], "retired")
    assert closed["end"] >= opened["end"]
    jsonschema.validate(audits(plant)[-1], SCHEMA)
    assert is_gone(plant)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_after_a_reset_of_all_a_removed_asset_is_judged_again(delivery: str):
    """As the others, when the log is read again; without the reset it is not."""
    plant, config = make(delivery)
    worker = plant.worker(50)
    plant.run(worker)
    first = alerts(plant)
    remove(plant)
    plant.run(worker)
    worker.pipeline.close()
    for reset in (False, True):
        before = len(alerts(plant))
        if reset:
            MemoryStore(plant.server).reset(None)
        if delivery == "exactly_once":
            set_back(plant)
        else:  # a topic made again
            plant.log._topics[config.inputs[0].topic] = [[], []]
            plant.log.group("detector").committed.clear()
            plant.write(faulty())
        worker = plant.worker(50)
        plant.run(worker)
        worker.pipeline.close()
        assert alerts(plant)[before:] == (first if reset else [])


def test_a_lost_setting_is_no_reset():
    """A reset that the store no longer has, as after a removal or a loss, does not reset the asset once more."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    MemoryStore(plant.server).reset("pump-0")
    later = [
        Sent(one.partition, one.asset, one.ts_ms + ROWS * 1_000, _later(one.value))
        for one in recorded(assets=1, rows=60, partitions=2, faults=False)
        if one.value.endswith(b"}")
    ]
    plant.clock.now += 500
    plant.write(later[:30])
    plant.run(worker)
    plant.server.resets.clear()
    plant.server.version += 1
    plant.clock.now += 500
    plant.write(later[30:])
    plant.run(worker)
    entries = [json.loads(message.value or b"") for message in plant.published(plant.config.audit_topic)]
    assert [entry["cause"] for entry in entries if entry["asset"] == "pump-0"].count("reset") == 1


def test_a_removal_shows_in_the_metrics():
    """Alerts of a removal are counted like any other."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)
    closed = worker.metric("alerts_total", event="close", severity=alerts(plant)[-1]["severity"])
    remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    assert worker.metric("alerts_total", event="close", severity=alerts(plant)[-1]["severity"]) == closed + 1


def test_a_report_goes_with_its_asset():
    """And does not come back with what the worker still knows of its readings, until there are newer ones."""
    plant, _ = make()
    worker = plant.worker()
    plant.run(worker)

    def pass_time(ms: float) -> set[str]:
        end = plant.clock.now + ms
        while plant.clock.now < end:
            worker.pipeline.step(0)
            plant.clock.now += 100
        return {asset for _, asset, _ in MemoryStore(plant.server).reports()}

    assert GONE in pass_time(20_000)
    remove(plant)
    assert GONE not in pass_time(40_000)
    worker.source.expel()
    worker = plant.worker()
    assert GONE not in pass_time(40_000)
    plant.write(again())
    assert GONE in pass_time(40_000)


def quiet_hall(trained: tuple[Config, ModelSet]) -> Hall:
    """Five pumps, of which pump-1 stops for good after 150 s, and pump-2 has a channel that does."""
    return Hall(trained, hall((1, 150, 1_000, nothing), (2, 100, 1_000, without("heat"))))


def test_a_retired_asset_is_not_expected(trained: tuple[Config, ModelSet]):
    """It is not reported silent, with or without a restart; without the removal it is."""
    assert told(quiet_hall(trained).run(400))
    for steps in (75, 76, 77):  # it has just stopped
        plant = quiet_hall(trained)
        assert told(plant.run(10, steps)) == []
        MemoryStore(plant.server).remove("pump-1", "retire")
        [position] = plant.log.committed("detector").values()
        alerts = plant.run(1, position.read - position.offset + 2)  # the removal comes after the replay
        assert MemoryStore(plant.server).find("pump-1") is None
        alerts += plant.run(100, 1) + plant.run(100, 1) + plant.run(400)
        assert told(alerts) == []
        assert MemoryStore(plant.server).find("pump-1") is None


def test_open_sensor_faults_are_closed(trained: tuple[Config, ModelSet]):
    """One close each, of the incident that was opened, with the fault's fields."""
    plant = quiet_hall(trained)
    opened = plant.run(100)
    for asset in ("pump-1", "pump-2"):
        MemoryStore(plant.server).remove(asset, "retire")
    closed = plant.run(100)
    for asset, fault, channel in (("pump-1", "silent", None), ("pump-2", "dropout", "heat")):
        [[begin, *_]] = [[a for a in opened if a["asset"] == asset and a.get("sensor", {}).get("fault") == fault]]
        [end] = [alert for alert in closed if alert["asset"] == asset]
        assert (end["event"], end["kind"], end["incident"]) == ("close", "sensor-fault", begin["incident"])
        assert (end["sensor"]["fault"], end["sensor"].get("channel")) == (fault, channel)
        assert end["start"] == begin["start"]
        assert end["channels"] == []
    assert plant.run(100) == []


@pytest.mark.parametrize("step", STEPS)
def test_at_least_once_repeats_the_same_bytes(step: str):
    """A crash may repeat the close, never change it; nothing of the state is left."""
    plant, _ = make("at_least_once")
    worker = plant.worker(16)
    plant.run(worker)
    before = len(alerts(plant))
    remove(plant)
    plant.clock.now += 500
    worker.faults.strike = strike_at(step, 1)
    with pytest.raises(CrashError):
        plant.run(worker)
    worker.source.expel()
    plant.run(plant.worker(64))
    assert len(ids(plant.alerts)) == len({alert["id"] for alert in map(json.loads, plant.alerts)})
    assert len({alert["id"] for alert in alerts(plant)[before:]}) == 1
    assert is_gone(plant)


def test_a_key_of_records_is_removed():
    """Records are windows of their own: the next one begins, after a restart and with an earlier time, too."""
    config = make_config(
        window={"mode": "records", "length": 1, "stride": 1}, delivery="exactly_once", commit_interval_ms=100
    )
    plant = Plant(config, partitions=2)
    plant.write(recorded(assets=2, rows=50, partitions=2, faults=False))
    worker = plant.worker(16)
    plant.run(worker)
    [judged_ms] = [state.judged_ms for _, asset, state in MemoryStore(plant.server).assets() if asset == GONE]
    token = remove(plant)
    plant.clock.now += 500
    plant.run(worker)
    assert set(plant.states()) == {"pump-0"}
    worker.source.expel()
    worker = plant.worker(16)
    plant.run(worker)
    assert set(plant.states()) == {"pump-0"}
    fields = {"asset": GONE, "ts": START_MS, "vibration": 0.1, "current": 0.1}
    plant.write([Sent(1, GONE, START_MS, json.dumps(fields).encode())])
    plant.run(worker)
    state = decode_state(plant.states()[GONE])[1]
    assert state.applied.removed == token
    assert state.judged_ms >= START_MS
    assert judged_ms > START_MS
