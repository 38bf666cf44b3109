"""Sensor faults from the log to the alert: what each is told as, once, whatever the batches and across restarts."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest

from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from stream_detector.types import Partition, PlainMessage
from stream_detector.worker.pipeline import Pipeline

START = 1_700_000_000_000
SECONDS = 900
PLAN = {
    "stream": "hall",
    "channels": {"flow": {"valid": [-50, 200]}, "heat": {}, "mode": {}},
    "window": {"cell_ms": 1_000, "length": 10, "lateness_ms": 0, "max_gap_ms": 8_000, "max_ahead_ms": 30_000},
    "features": {"smoothing": 0.3, "keep": 1},
    "model": {"kind": "robust-z"},
    "incident": {"open_after": 2, "open_of": 3, "close_after": 5},
}
Row = tuple[float, str, float, dict[str, float | None]]  # sent at (s), asset, its time (s), values


def rows(assets: int, seconds: int, seed: int = 0, first: int = 0) -> list[Row]:
    """Return healthy readings of pumps that send every second, `mode` a switch that hardly ever turns."""
    rng = np.random.default_rng([seed, first])
    found: list[Row] = []
    for second in range(first, first + seconds):
        for number in range(assets):
            flow, heat = 50 + rng.standard_normal(), 20 + 0.5 * rng.standard_normal()
            values = {"flow": round(float(flow), 3), "heat": round(float(heat), 3), "mode": float(second // 200 % 2)}
            found.append((second + 0.01 * number, f"pump-{number}", second + 0.01 * number, values))
    return found


def message(offset: int, row: Row) -> PlainMessage:
    """Return a row as the log holds it: sent when it was sent."""
    sent, asset, time, values = row
    said = {name: value for name, value in values.items() if value is not None}
    body = {"asset": asset, "ts": START + round(1_000 * time), "values": said}
    return PlainMessage(offset, START + round(1_000 * sent), asset.encode(), json.dumps(body).encode())


@pytest.fixture(scope="module")
def trained() -> tuple[Config, ModelSet]:
    """Return a set-up and its detector, trained on ten healthy minutes of four pumps."""
    config = Config.model_validate(PLAN)
    history = (Encoded(one.key or b"", one.value or b"", []) for one in map(message, range(10**6), rows(4, 600, 9)))
    return config, ModelSet(train(config, windows(config, history)))


class Hall:
    """A worker on a log in memory, which may be ended and started again."""

    def __init__(self, trained: tuple[Config, ModelSet], readings: Iterable[Row]) -> None:
        """Write the readings to the log, in the order in which they were sent."""
        self.config, self.models = trained
        topic = self.config.inputs[0].topic
        self.log, self.partition = MemoryLog({topic: 1}), Partition(topic, 0)
        for place, row in enumerate(sorted(readings, key=lambda row: row[0])):
            one = message(place, row)
            self.log.append(self.partition, one.key, one.value, one.headers, one.timestamp)
        self.server = MemoryServer()

    def read(self) -> int:
        """Return how far the group has read."""
        return next((position.read for position in self.log.committed("detector").values()), 0)

    def run(self, batch: int, steps: int | None = None) -> list[dict]:
        """Run a worker to the log's end or for so many polls, commit, and return what it published."""
        config = self.config.model_copy(
            update={"kafka": self.config.kafka.model_copy(update={"max_poll_records": batch})}
        )
        source = MemorySource(self.log, [self.config.inputs[0].topic])
        sink = MemorySink(self.log, source, config.alert_topic, config.dead_letter_topic)
        before = len(sink.alerts)
        pipeline = Pipeline(
            config,
            source,
            sink,
            MemoryStore(self.server),
            Scorer(self.models, config.scorer),
            calibrations=[one.calibration for one in self.models.artifacts],
            clock_ms=lambda: 0.0,
            wall_ms=lambda: -1.0,
            profiles=[one.profile for one in self.models.artifacts],
            model_of=self.models.ref_of,
        )
        pipeline.open()
        done = 0
        while pipeline.step(0) and (steps is None or done < steps):
            done += 1
        pipeline.commit()
        pipeline.close()
        return [json.loads(alert.value) for alert in sink.alerts[before:]]


def told(alerts: Iterable[dict], asset: str = "pump-1") -> list[tuple[str, str, str | None, int]]:
    """Return event, fault, channel and second of an asset's alerts of kind sensor-fault."""
    found = []
    for alert in alerts:
        if alert["asset"] == asset and alert["kind"] == "sensor-fault":
            second = np.datetime64(alert["end"][:-1]).astype("datetime64[ms]").astype(int) - START
            sensor = alert["sensor"]
            found.append((alert["event"], sensor["fault"], sensor.get("channel"), round(second / 1_000)))
    return found


def with_fault(fault: str) -> list[Row]:
    """Return the readings of four pumps, of which pump-1 has a fault from 300 s to 360 s."""
    found: list[Row] = []
    held = 20.0
    for sent, asset, time, values in rows(4, SECONDS):
        if asset == "pump-1" and not 300 <= time < 360:
            held = values["heat"]
        if asset == "pump-1" and 300 <= time < 360:
            if fault == "silent":
                continue
            new = {
                "stuck": {"heat": held},
                "dropout": {"heat": None},
                "saturated": {"heat": min(60.0, 59.0 + 5 * abs(values["heat"] - 20))},
                "out-of-range": {"heat": -values["heat"] * 3},
                "refused": {"flow": 900.0},
            }.get(fault, {})
            values = {**values, **new}
            time += {"ahead": 600.0, "behind": -120.0}.get(fault, 0.0)
        found.append((sent, asset, time, values))
    return found


EXPECTED = {
    "stuck": ("stuck", "heat"),
    "dropout": ("dropout", "heat"),
    "saturated": ("saturated", "heat"),
    "out-of-range": ("out-of-range", "heat"),
    "refused": ("out-of-range", "flow"),
    "silent": ("silent", None),
    "ahead": ("clock", None),
    "behind": ("clock", None),
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_sensor_fault_is_told_as_what_it_is_and_ends(trained, fault):
    """An incident of kind sensor-fault within seconds, closed after it; no other asset, and no machine, is blamed."""
    alerts = Hall(trained, with_fault(fault)).run(1_000)
    found = told(alerts)
    assert {row[1:3] for row in found if row[0] == "close"} == {EXPECTED[fault]}
    assert 300 <= found[0][3] <= 325
    assert found[-1][0] == "close"
    assert 359 <= found[-1][3] <= 390
    last = {alert["incident"]: alert["kind"] for alert in alerts}
    assert set(last.values()) == {"sensor-fault"}
    assert {alert["asset"] for alert in alerts} == {"pump-1"}


@pytest.mark.parametrize("fault", EXPECTED)
def test_alerts_do_not_depend_on_batches(trained, fault):
    """Polls of 3 or of 5,000 messages give the same alerts, byte for byte."""
    small, large = (Hall(trained, with_fault(fault)).run(batch) for batch in (3, 5_000))
    assert sorted(map(json.dumps, small)) == sorted(map(json.dumps, large))


@pytest.mark.parametrize("fault", EXPECTED)
def test_a_restart_changes_no_alert(trained, fault):
    """Ended and started anew in the middle of the fault, and once more: nothing lost, nothing told twice."""
    whole = Hall(trained, with_fault(fault)).run(5_000)
    hall = Hall(trained, with_fault(fault))
    parts = [*hall.run(41, 29), *hall.run(41, 1), *hall.run(41, 2), *hall.run(5_000)]
    assert sorted(map(json.dumps, whole)) == sorted(map(json.dumps, parts))


def test_a_healthy_hall_tells_of_no_sensor(trained):
    """Noise, a switch, and a pump that joins and one that is late to send."""
    alerts = Hall(trained, [*rows(4, SECONDS), *rows(6, 300, first=SECONDS)]).run(1_000)
    assert [alert for alert in alerts if alert["kind"] == "sensor-fault"] == []


def test_a_partition_that_pauses_as_a_whole_makes_nobody_silent(trained):
    """An hour without any message is a pause of the plant, or of the broker."""
    alerts = Hall(trained, [*rows(4, 300), *rows(4, 300, first=3_900)]).run(1_000)
    assert [alert for alert in alerts if alert["kind"] == "sensor-fault"] == []


def test_sensors_may_send_their_channels_apart(trained):
    """A message a channel is no dropout of the others."""
    apart = [
        (sent + 0.001 * place, asset, time, {name: values[name]})
        for sent, asset, time, values in rows(4, 300)
        for place, name in enumerate(values)
    ]
    alerts = Hall(trained, apart).run(1_000)
    assert [alert for alert in alerts if alert["kind"] == "sensor-fault"] == []


def test_checks_can_be_switched_off(trained):
    """sensors.check: false tells of no sensor; sensors.silent: false of no silence only."""
    config, models = trained
    off = config.model_copy(update={"sensors": config.sensors.model_copy(update={"check": False})})
    assert told(Hall((off, models), with_fault("stuck")).run(1_000)) == []
    quiet = config.model_copy(update={"sensors": config.sensors.model_copy(update={"silent": False})})
    assert told(Hall((quiet, models), with_fault("silent")).run(1_000)) == []


def test_only_the_faults_asked_for_are_told(trained):
    """Without `saturated` among sensors.checks a pinned channel is no sensor's fault; a stuck one still is."""
    config, models = trained
    some = config.sensors.model_copy(update={"checks": ["stuck"]})
    config = config.model_copy(update={"sensors": some})
    assert told(Hall((config, models), with_fault("saturated")).run(1_000)) == []
    assert told(Hall((config, models), with_fault("stuck")).run(1_000)) != []


def test_what_messages_told_after_the_last_window_is_told_before_a_commit(trained):
    """A fault read off messages that complete no window is not passed over by the commit of a stop or a rebalance."""
    hall = Hall(trained, rows(4, 600))
    hall.run(5_000)
    partition = Partition(hall.config.inputs[0].topic, 0)
    for n in range(8):
        time = 599.5 + 0.01 * n
        one = message(10_000 + n, (time, "pump-1", time, {"flow": 900.0, "heat": 20.0, "mode": 0.0}))
        hall.log.append(partition, one.key, one.value, one.headers, one.timestamp)
    found = [one[:3] for one in told([*hall.run(5_000), *hall.run(5_000)])]
    assert [("open", "out-of-range", "flow")] == found


def test_a_fault_that_is_judged_again_begins_anew(trained: tuple[Config, ModelSet]):
    """The recording ends in the middle of one; after a reset and with the topic made again, the same is told."""
    readings = [row for row in with_fault("stuck") if row[0] < 340]
    plant = Hall(trained, readings)
    first = told(plant.run(100))
    assert ["open"] == [one[0] for one in first]
    MemoryStore(plant.server).reset(None)
    plant.log = Hall(trained, readings).log
    assert first == told(plant.run(100))
