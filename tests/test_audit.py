"""The audit topic: what is told, that it is the same however the log is read, and the way back to an entry."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import replace

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.codec import audit_id, decode_audit, encode_audit, encode_point
from stream_detector.decision.audit import LEVEL_MS, level_moved
from stream_detector.errors import DecodeError
from stream_detector.types import AuditedLevel
from tests.rig import CrashError, Plant, make_config
from tests.test_adaptation import ADAPTING, MOVED

SCHEMA = json.loads((Path(__file__).parents[1] / "stream_detector/schemas/audit.schema.json").read_text())
HALF, MOST = len(MOVED) // 2, len(MOVED) * 7 // 8


def seen(plant: Plant, worker) -> None:
    """Let the worker see what operators set."""
    plant.clock.now += 1_000
    worker.pipeline.step(0)


def make_plant(messages=MOVED, **sections) -> Plant:
    """A plant with messages on its log."""
    plant = Plant(make_config(adaptation=ADAPTING, **sections), partitions=2)
    plant.write(messages)
    return plant


def audits(plant: Plant) -> list[bytes]:
    """Values on the audit topic, in order."""
    return [message.value or b"" for message in plant.published(plant.config.audit_topic)]


def entries(plant: Plant, asset: str = "pump-0") -> list:
    """The asset's entries, in order."""
    return [entry for entry in map(decode_audit, audits(plant)) if entry.asset == asset]


@pytest.fixture(scope="module")
def undisturbed() -> Plant:
    """What one worker makes of the messages."""
    plant = make_plant()
    plant.run(plant.worker())
    return plant


def test_every_change_is_told(undisturbed: Plant):
    """From the calibration on; each entry begins where the one before left the shift, and all keep the contract."""
    for value in audits(undisturbed):
        jsonschema.validate(json.loads(value), SCHEMA)
        assert value == encode_audit(decode_audit(value))
    found = entries(undisturbed)
    assert "calibrate" == found[0].cause
    assert found[0].before is None
    assert {"refit", "regime-change"} <= {entry.cause for entry in found}
    for before, after in itertools.pairwise(found):
        assert after.before is not None
        assert before.after.shift == after.before.shift
    assert len({audit_id(entry) for entry in found}) == len(found)


@pytest.mark.parametrize("batch", [1, 50])
def test_batches_and_workers_tell_the_same(undisturbed: Plant, batch: int):
    """The very bytes."""
    plant = make_plant()
    plant.run(plant.worker(batch), plant.worker(batch))
    assert sorted(audits(undisturbed)) == sorted(audits(plant))


@pytest.mark.parametrize("step", ["flushed", "saved", "committed"])
def test_a_crash_tells_nothing_twice(undisturbed: Plant, step: str):
    """Exactly once, entries are in the transaction of the alerts."""
    plant = make_plant(delivery="exactly_once", commit_interval_ms=100)
    worker = plant.worker(300)
    left = [2]

    def strike(at: str) -> None:
        left[0] -= at == step
        if at == step and left[0] == 0:
            raise CrashError(step)

    worker.faults.strike = strike
    with pytest.raises(CrashError):
        plant.run(worker)
    worker.source.expel()
    plant.run(plant.worker(300))
    assert sorted(audits(undisturbed)) == sorted(audits(plant))


def test_operators_are_told_and_an_entry_can_be_gone_back_to():
    """Pin, unpin, reset; then back to what held before all of it, sample and shift included."""
    plant = make_plant(MOVED[:HALF])
    worker, store = plant.worker(), MemoryStore(plant.server)
    plant.run(worker)
    target = entries(plant)[-1]
    before = store.find("pump-0")[1]
    turns = [lambda: store.pin("pump-0", 50.0), lambda: store.unpin("pump-0"), lambda: store.reset("pump-0")]
    rest, step = MOVED[HALF:], 300
    for place, turn in enumerate(turns):
        turn()
        seen(plant, worker)
        plant.write(rest[place * step : (place + 1) * step])
        plant.run(worker)
    causes = [entry.cause for entry in entries(plant)]
    assert ["pin", "unpin", "reset"] == [cause for cause in causes if cause in ("pin", "unpin", "reset")]
    point = target
    assert point.threshold.sample.tolist() == before.threshold.sample.tolist() or before.judged_ms > target.at_ms
    store.rollback("pump-0", encode_point(target.threshold, target.adaptation))
    seen(plant, worker)
    plant.write(rest[3 * step : 3 * step + 60])
    plant.run(worker)
    (back,) = [entry for entry in entries(plant) if entry.cause == "rollback"]
    assert target.after.level == back.after.level
    assert target.after.shift == back.after.shift
    assert target.after.seen == back.after.seen


def test_a_regime_change_waits_for_an_operator_under_ask():
    """Told as asked; accepted, it closes with the next window."""
    plant = Plant(make_config(adaptation={**ADAPTING, "policy": "ask"}), partitions=2)
    plant.write(MOVED[:MOST])
    worker, store = plant.worker(), MemoryStore(plant.server)
    plant.run(worker)
    assert "regime-ask" == entries(plant)[-1].cause
    assert store.find("pump-0")[1].incident.opened_ms is not None
    store.accept("pump-0")
    seen(plant, worker)
    plant.write(MOVED[MOST:])
    plant.run(worker)
    assert "accept" in [entry.cause for entry in entries(plant)]
    mine = [json.loads(value) for value in plant.alerts if b'"pump-0"' in value]
    told = [alert["incident"] for alert in mine if alert["event"] == "regime-change"]
    assert "close" in [alert["event"] for alert in mine if alert["incident"] == told[-1]]


def test_small_moves_of_a_level_are_told_together():
    """By a fifth at once, by anything once an hour, and not at all when nothing moved."""
    audited = AuditedLevel(level=4.0, at_ms=0)
    assert not level_moved(audited, 4.7, 1_000)
    assert level_moved(audited, 4.9, 1_000)
    assert level_moved(audited, 3.1, 1_000)
    assert level_moved(audited, 4.01, LEVEL_MS)
    assert not level_moved(audited, 4.0, 10 * LEVEL_MS)
    assert level_moved(replace(audited, level=None), 4.0, 0)


def test_foreign_bytes_are_no_entry(undisturbed: Plant):
    """Cut, changed or foreign bytes raise bad-audit."""
    value = audits(undisturbed)[0]
    fields = json.loads(value)
    odd = [b"", b"[]", b"{}", value[:-9], json.dumps({**fields, "schema": 2}).encode()]
    odd += [json.dumps({**fields, "cause": "whim"}).encode(), json.dumps({**fields, "after": None}).encode()]
    for each in odd:
        with pytest.raises(DecodeError, match="bad-audit"):
            decode_audit(each)


def test_nothing_is_told_when_it_is_turned_off():
    """audit: false."""
    plant = make_plant(audit=False)
    plant.run(plant.worker())
    assert [] == audits(plant)
