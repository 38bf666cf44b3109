"""Where assets live: messages without keys, and keys that move when partitions are added."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import groupby

import pytest

from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryServer, MemoryStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.scoring.scorer import Scorer
from stream_detector.telemetry.logs import _EVENT
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import Partition
from stream_detector.worker.homes import TOLD
from stream_detector.worker.pipeline import Pipeline
from tests.test_sensor_faults import START, Row, message, rows, trained

__all__ = ["trained"]  # a fixture

SECONDS = 200
AWAY = 10  # s without a message after which an asset is silent
MOVES = 120  # s at which pump-1 moves from partition 0 to 2
Place = Callable[[Row], int]


class Member:
    """A worker, its metrics, and whether it was ever not ready."""

    def __init__(self, floor: Floor, batch: int) -> None:
        config = floor.config
        self.source = MemorySource(floor.log, [entry.topic for entry in config.inputs], batch=batch)
        self.sink = MemorySink(floor.log, self.source, config.alert_topic, config.dead_letter_topic)
        self.metrics = Metrics()
        self.pipeline = Pipeline(
            config,
            self.source,
            self.sink,
            MemoryStore(floor.server),
            Scorer(floor.models, config.scorer),
            calibrations=[one.calibration for one in floor.models.artifacts],
            metrics=self.metrics,
            clock_ms=lambda: floor.now,
            wall_ms=lambda: -1.0,
            profiles=[one.profile for one in floor.models.artifacts],
            model_of=floor.models.ref_of,
        )
        self.pipeline.open()

    @property
    def split(self) -> float:
        """Number of assets on several partitions."""
        return self.metrics.registry.get_sample_value("stream_detector_assets_in_several_tasks") or 0.0


class Floor:
    """A topic of some partitions in memory, the store, and workers with a clock."""

    def __init__(self, trained: tuple[Config, ModelSet], partitions: int = 3, topics: int = 1) -> None:
        config, self.models = trained
        names = [config.inputs[0].topic, *(f"{config.stream}.more{n}" for n in range(1, topics))]
        inputs = [config.inputs[0].model_copy(update={"topic": name}) for name in names]
        self.config = config.model_copy(update={"kafka": config.kafka.model_copy(update={"inputs": inputs})})
        self.log = MemoryLog(dict.fromkeys(names, partitions))
        self.server = MemoryServer()
        self.now = 0.0
        self.members: list[Member] = []

    def join(self, batch: int = 5_000) -> Member:
        """Start a worker."""
        self.members.append(Member(self, batch))
        return self.members[-1]

    def send(self, readings: Iterable[Row], place: Place, topic: int = 0) -> None:
        """Write readings, each to its partition."""
        for row in readings:
            one = message(0, row)
            at = Partition(self.config.inputs[topic].topic, place(row))
            self.log.append(at, one.key, one.value, one.headers, one.timestamp)

    def live(self, readings: Iterable[Row], place: Place) -> None:
        """Write readings second by second, and let the workers follow."""
        for _, those in groupby(readings, key=lambda row: int(row[0])):
            self.send(those, place)
            for _ in range(2):
                self.now += 500.0
                for member in self.members:
                    member.pipeline.step(0)

    def rest(self) -> None:
        """Let the workers go on until nothing happens any more."""
        idle = 0
        while idle < 40:
            busy = [member.pipeline.step(0) for member in self.members]
            self.now += 250.0
            idle = 0 if any(busy) else idle + 1

    @property
    def alerts(self) -> list[dict]:
        """What was published."""
        return [json.loads(one.value) for one in self.log.read(Partition(self.config.alert_topic, 0))]

    def told(self, asset: str = "pump-1") -> list[tuple[str, str, str | None]]:
        """Return event, kind and reason of an asset's alerts; of sensor faults the fault."""
        return [
            (one["event"], one.get("sensor", {}).get("fault", "machine"), one.get("reason"))
            for one in self.alerts
            if one["asset"] == asset
        ]


def broken(assets: int = 4, start: int = 105, end: int = SECONDS) -> list[Row]:
    """Return readings of pumps, of which pump-1 has a fault from `start` to `end`."""
    found = []
    for sent, asset, time, values in rows(assets, SECONDS):
        if asset == "pump-1" and start <= time < end:
            values = {**values, "flow": values["flow"] + 6, "heat": values["heat"] + 3}
        found.append((sent, asset, time, values))
    return found


def moving(row: Row) -> int:
    """Key by key, on two partitions, and from MOVES on pump-1 on the third."""
    return 2 if row[1] == "pump-1" and row[0] >= MOVES else int(row[1] != "pump-1" and row[1] != "pump-0")


def apart(row: Row) -> int:
    """As `moving`, but pump-1 is alone on partition 0 before, which is silent then."""
    return 2 if row[1] == "pump-1" and row[0] >= MOVES else int(row[1] != "pump-1")


def scattered(row: Row) -> int:
    """Without keys: each message somewhere."""
    return random.Random(f"{row[1]} {row[0]}").randrange(3)


def in_turns(row: Row) -> int:
    """Without keys: some seconds on one partition, some on the next."""
    return int(row[0]) // 25 % 3


Warned = Callable[[], list[tuple[str, list[int]]]]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """Return the assets that the log warned of, with their partitions."""

    def found() -> list[tuple[str, list[int]]]:
        events = [one.__dict__.get(_EVENT, {}) for one in caplog.records]
        return [(one["asset"], one["tasks"]) for one in events if one.get("event") == "asset-in-several-tasks"]

    return found


def second(alert: dict) -> float:
    """Return when an alert's event was, s."""
    return (datetime.fromisoformat(alert["end"]).timestamp() * 1_000 - START) / 1_000


def values(floor: Floor) -> list[str]:
    """Return all alerts, in an order of their own."""
    return sorted(map(json.dumps, floor.alerts))


def moved(trained: tuple[Config, ModelSet], place: Place, workers: int = 1) -> Floor:
    """Return a floor on which pump-1 has moved in the middle of an incident, followed live."""
    floor = Floor(trained)
    for _ in range(workers):
        floor.join()
    floor.live(broken(end=140), place)
    floor.rest()
    return floor


@pytest.mark.parametrize("place", [moving, apart])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_asset_that_moves_leaves_no_open_incident(trained, warned, workers, place):
    """Its incident ends where it was, with the reason; nothing is silent or warned of; it goes on where it is."""
    floor = moved(trained, place, workers)
    assert {"machine"} == {fault for _, fault, _ in floor.told()}
    opened = [one["incident"] for one in floor.alerts if one["event"] == "open"]
    closed = [one for one in floor.alerts if one["event"] == "close"]
    assert opened == [one["incident"] for one in closed]
    assert ["moved", None] == [one.get("reason") for one in closed]
    assert MOVES - 1 + AWAY == second(closed[0])
    assert {"pump-1"} == {one["asset"] for one in floor.alerts}
    assert 0 == sum(member.split for member in floor.members)
    assert all("partitions" not in member.pipeline.ready()[1] for member in floor.members)
    assert [] == warned()


def test_how_a_move_was_found_out_changes_no_alert(trained):
    """By the other assets of the partition it left, or, where there are none, by its messages on the new one."""
    assert values(moved(trained, moving)) == values(moved(trained, apart, 2))


@pytest.mark.parametrize("place", [moving, apart])
@pytest.mark.parametrize("batch", [7, 60, 400])
def test_a_replay_gives_the_same(trained, place, batch):
    """All there at once, read in batches."""
    floor = Floor(trained)
    floor.send(broken(end=140), place)
    floor.join(batch)
    floor.rest()
    assert values(moved(trained, place)) == values(floor)


@pytest.mark.parametrize("place", [moving, apart])
@pytest.mark.parametrize("moment", [110, 121, 129, 131, 150])
def test_a_restart_changes_nothing(trained, place, moment):
    """The workers end, and others go on: before the move, while it is found out, and after."""
    readings = broken(end=140)
    floor = Floor(trained)
    floor.join()
    floor.live([row for row in readings if row[0] < moment], place)
    for member in floor.members:
        member.pipeline.close()
    floor.members = []
    floor.join()
    floor.join()
    floor.live([row for row in readings if row[0] >= moment], place)
    floor.rest()
    assert values(moved(trained, place)) == values(floor)


def test_a_sensor_fault_ends_with_the_move_as_well(trained):
    """A stuck sensor's incident, too, is closed where it was opened, and opens again where the asset is."""
    floor = Floor(trained)
    floor.join()
    readings = [
        (sent, asset, time, {**values, "heat": 20.0} if asset == "pump-1" and time >= 60 else values)
        for sent, asset, time, values in rows(4, SECONDS)
    ]
    floor.live(readings, moving)
    floor.rest()
    assert ("close", "stuck", "moved") in floor.told()
    opened = [one[:2] for one in floor.told() if one[0] == "open"]
    assert [("open", "stuck")] * 2 == opened


def test_an_asset_that_has_moved_can_fall_silent(trained):
    """Where it is now; where it was, nothing is told of it."""
    floor = Floor(trained)
    floor.join()
    readings = [row for row in rows(4, SECONDS) if row[1] != "pump-1" or row[0] < 160]
    floor.live(readings, lambda row: 1 if row[1] == "pump-1" and row[0] >= MOVES else moving(row))
    floor.rest()
    assert [("open", "silent", None)] == floor.told()
    assert 159 + AWAY == pytest.approx(second(floor.alerts[0]), abs=0.1)


def test_a_false_silence_ends_when_the_move_is_known(trained):
    """The store is away when the asset moves to another worker's task: that it is silent is taken back later."""
    floor = Floor(trained)
    floor.join()
    floor.join()
    floor.live(broken(end=0, start=0)[: 4 * 115], moving)
    floor.server.available = False
    floor.live(broken(end=0, start=0)[4 * 115 : 4 * 150], moving)
    floor.server.available = True
    floor.live(broken(end=0, start=0)[4 * 150 :], moving)
    floor.rest()
    assert [("open", "silent", None), ("close", "silent", "moved")] == floor.told()


@pytest.mark.parametrize("place", [scattered, in_turns])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("live", [True, False])
def test_messages_without_keys_are_warned_of(trained, warned, place, workers, live):
    """Each asset once by a worker, with its partitions and the fix; none is silent."""
    floor = Floor(trained)
    for _ in range(workers):
        floor.join()
    if live:
        floor.live(rows(4, SECONDS), place)
    else:
        floor.send(rows(4, SECONDS), place)
    floor.rest()
    found = sorted(asset for asset, _ in warned())
    assert [f"pump-{n}" for n in range(4)] == sorted(set(found))
    assert workers > 1 or len(found) == 4
    assert all(len(tasks) > 1 for _, tasks in warned())
    silent = [one["event"] for one in floor.alerts if one.get("sensor", {}).get("fault") == "silent"]
    if live or workers == 1:
        assert [] == silent
    else:  # none of them can know what the others have still to read: it is taken back
        assert silent.count("open") == silent.count("close")
    if place is scattered:
        assert 4 == sum(member.split for member in floor.members)
        said = [member.pipeline.ready()[1] for member in floor.members]
        assert any("comes on partitions 0, 1, 2 (4 assets in all): give messages the asset as" in one for one in said)


def test_one_worker_needs_no_store_to_see_it(trained, warned):
    """What its own tasks read is compared without a call."""
    floor = Floor(trained)
    floor.join()
    floor.live(rows(4, 20), moving)
    floor.server.available = False
    floor.live(rows(4, 100, first=20), scattered)
    assert [f"pump-{n}" for n in range(4)] == sorted(asset for asset, _ in warned())


def test_the_warning_ends_once_there_are_keys(trained, warned):
    """The gauge and /readyz go back by themselves."""
    floor = Floor(trained)
    member = floor.join()
    floor.live(rows(2, 50), scattered)
    assert 2 == member.split
    floor.send(rows(2, 700, first=50), lambda row: 0)
    floor.rest()
    assert 0 == member.split
    assert (True, "3 tasks") == member.pipeline.ready()


def test_a_forgotten_asset_is_not_noted_again(trained, warned):
    """Its messages came on several partitions; the store knows nothing of that any more, and nobody counts it."""
    floor = Floor(trained)
    member = floor.join()
    floor.live(rows(2, 50), scattered)
    assert 2 == member.split
    store = MemoryStore(floor.server)
    token = store.remove("pump-1", "forget")
    left = [row for row in rows(2, 100, first=50) if row[1] == "pump-0"]
    floor.live(left[:10], scattered)
    assert [] == store.holding("pump-1", token)
    store.settle("pump-1", token)
    floor.live(left[10:], scattered)
    assert {"pump-0"} == set(floor.server.stays)
    assert 1 == member.split


def test_joined_topics_are_one_task(trained, warned):
    """An asset comes on the same partition of each, and that is as it should be."""
    floor = Floor(trained, topics=2)
    floor.join()
    floor.join()
    for topic in range(2):
        floor.send(rows(4, 100), lambda row: int(row[1][-1]) % 3, topic)
    floor.rest()
    assert [] == warned()
    assert 0 == sum(member.split for member in floor.members)


def test_of_many_assets_only_some_are_named(trained, warned, caplog):
    """The others are counted: a plant of thousands must not fill the log."""
    floor = Floor(trained)
    member = floor.join()
    floor.live(rows(60, 40), scattered)
    assert TOLD == len(warned())
    counted = [found for one in caplog.records if "assets" in (found := one.__dict__.get(_EVENT, {}))]
    counts = [found["assets"] for found in counted if found["event"] == "assets-in-several-tasks"]
    assert 1 <= len(counts) <= 2
    assert TOLD < counts[-1] <= 60
    assert 60 == member.split


def test_without_sensor_checks_moved_incidents_end_too(trained):
    """Who is silent isn't looked for, but who is elsewhere is known."""
    config, models = trained
    without = config.model_copy(update={"sensors": config.sensors.model_copy(update={"check": False})})
    floor = moved((without, models), moving, 2)
    closed = [one.get("reason") for one in floor.alerts if one["event"] == "close"]
    assert ["moved", None] == closed


@pytest.mark.parametrize("place", [moving, apart])
def test_a_reading_from_the_future_does_not_hide_a_move(trained, place):
    """A lone one, by the broker's clock, too, is no evidence that the asset was still where it had been."""
    year = 365 * 86_400.0
    readings = []
    for sent, asset, time, measured in broken(end=140):
        ahead = year if asset == "pump-1" and int(sent) == 90 else 0.0
        readings.append((sent + ahead, asset, time + ahead, measured))
    floor = Floor(trained)
    floor.join()
    floor.live(readings, lambda row: 0 if row[0] >= year else place(row))
    floor.rest()
    letters = floor.log.read(Partition(floor.config.dead_letter_topic, 0))
    assert [b"too-far-ahead"] == [dict(letter.headers)["error"] for letter in letters]
    assert values(moved(trained, place)) == values(floor)


def test_an_asset_that_was_to_be_judged_again_has_moved(trained):
    """After a reset the topic was made again, with more partitions: its incident ends where it had been."""
    floor = Floor(trained)
    floor.join()
    floor.live([row for row in broken() if row[0] < 115], moving)
    floor.rest()
    for member in floor.members:
        member.pipeline.close()
    floor.members = []
    [opened] = [one for one in floor.alerts if one["asset"] == "pump-1"]
    MemoryStore(floor.server).reset(None)
    floor.log._topics[floor.config.inputs[0].topic] = [[], [], []]
    floor.log.group("detector").committed.clear()
    floor.join()
    floor.live([row for row in broken() if row[0] >= MOVES], moving)
    floor.rest()
    [closed] = [one for one in floor.alerts if one["event"] == "close" and one["incident"] == opened["incident"]]
    assert "moved" == closed["reason"]
    assert closed["end"] >= opened["end"]
