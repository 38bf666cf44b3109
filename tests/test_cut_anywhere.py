"""One log gives the same alerts, audit entries, states and dead letters, wherever polls, commits and restarts fall.

Each log is read whole, then cut at every message, and at random places, by workers that commit, end and crash between
polls. What is compared are the bytes, in order: of each asset (alerts, audit entries, state), and of each partition
(dead letters).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.codec import decode_state
from stream_detector.config import Config
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.training.train import train
from stream_detector.types import Partition, PlainMessage
from tests.cutting import WHOLE, Cuts, Material, Published, differences, read_log
from tests.golden import material, setups
from tests.golden.runs import config_of

START_MS = 1_700_000_000_000
CHANNELS = ("flow", "heat", "mode")


def assert_cut_anywhere(log: Material, cuts: Cuts, whole: Published | None = None) -> None:
    """Assert that cuts change nothing."""
    assert differences(read_log(log, WHOLE) if whole is None else whole, read_log(log, cuts)) == []


# Set-ups and readings -----------------------------------------------------------------------------------------------


@cache
def trained(topics: int = 1, length: int = 6) -> tuple[Config, ModelSet]:
    """Return a set-up and its detector, trained on ten healthy minutes of four pumps.

    Windows of one cell fill no gap: nothing but who was heard when makes a worker read the log again.
    """
    config = Config.model_validate(
        {
            "stream": "hall",
            "channels": {"flow": {"valid": [-50, 200]}, "heat": {}, "mode": {}},
            "window": {
                "cell_ms": 1_000,
                "length": length,
                "stride": min(2, length),
                "max_gap_ms": 5_000 if length > 1 else 0,
                "max_ahead_ms": 30_000,
            },
            "features": {"smoothing": 0.3, "keep": 1},
            "model": {"kind": "robust-z"},
            "threshold": {"risk": 1e-2, "learn_after": 5},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 3},
            "kafka": {"inputs": [{"topic": f"hall-{topic}"} for topic in range(topics)]},
        }
    )
    chance = np.random.default_rng(0)
    history = [
        Encoded(name.encode(), body(name, second, values(chance)), [])
        for second in range(600)
        for name in ("a", "b", "c", "d")
    ]
    return config, ModelSet(train(config, windows(config, history)))


def values(chance: np.random.Generator, offset: float = 0.0) -> dict[str, float]:
    """Return a healthy reading, or one whose flow is off."""
    flow, heat = 50 + offset + chance.standard_normal(), 20 + 0.5 * chance.standard_normal()
    return {"flow": round(float(flow), 3), "heat": round(float(heat), 3), "mode": float(chance.integers(2))}


def body(asset: str, second: float, measured: dict[str, float]) -> bytes:
    """Return a reading as JSON."""
    return json.dumps({"asset": asset, "ts": START_MS + round(1_000 * second), "values": measured}).encode()


def one_partition(config: Config, models: ModelSet, sent: list[tuple[str, bytes, int]]) -> Material:
    """Return a log of one partition; `sent`: asset, message and the broker's time."""
    partition = Partition(config.inputs[0].topic, 0)
    messages = [PlainMessage(n, at, name.encode(), value) for n, (name, value, at) in enumerate(sent)]
    return Material(config, models, {partition: messages})


# Recordings one after the other -------------------------------------------------------------------------------------


@cache
def one_clock_ahead() -> Material:
    """Return two pumps side by side, one of which has a clock an hour ahead, then a third, far later."""
    config, models = trained()
    chance = np.random.default_rng(1)
    sent = [
        (name, body(name, second + ahead, values(chance)), -1)
        for second in range(100)
        for name, ahead in (("pump-A", 0.0), ("pump-B", 3_600.0))
    ]
    sent += [("pump-C", body("pump-C", 90_000.0 + second, values(chance)), -1) for second in range(300)]
    return one_partition(config, models, sent)


def test_a_recording_after_others_tells_of_none_of_them() -> None:
    """The third pump was not heard before the others' last message: it is no evidence that they fell silent."""
    whole = read_log(one_clock_ahead(), WHOLE)
    assert not [
        alert for name, log in whole.items() if name.startswith("alerts") for alert in log if b"silent" in alert
    ]


@pytest.mark.parametrize("cuts", [Cuts(sizes=[1]), Cuts(sizes=[200]), Cuts(sizes=[1], commit=1.0)])
def test_recordings_one_after_the_other(cuts: Cuts) -> None:
    """Wherever the first poll ends: in the middle of one recording, or where the next begins."""
    assert_cut_anywhere(one_clock_ahead(), cuts)


@pytest.mark.parametrize("seed", range(3))
def test_recordings_one_after_the_other_and_restarts(seed: int) -> None:
    """By workers that end or crash in the middle."""
    cuts = Cuts(random.Random(seed), [1, 20, 150], commit=0.1, restart=0.1, crash=0.05)
    assert_cut_anywhere(one_clock_ahead(), cuts)


def test_a_dropout_outlives_restarts() -> None:
    """The channel's last reading is read again, however long ago it was, until its dropout is told."""
    config, models = trained(length=1)
    config = config.model_copy(update={"sensors": config.sensors.model_copy(update={"silent_after_ms": 3_000})})
    chance = np.random.default_rng(2)
    sent = []
    for second in range(60):
        for name in ("pump-A", "pump-B"):
            measured = values(chance)
            if name == "pump-A" and 20 <= second < 40:
                del measured["heat"]
            sent.append((name, body(name, second, measured), -1))
    log = one_partition(config, models, sent)
    whole = read_log(log, WHOLE)
    assert [b'"open"', b'"close"'] == [
        alert.split(b'"event":')[1].split(b",")[0] for alert in whole["alerts of pump-A"]
    ]
    for seed in range(3):
        assert_cut_anywhere(log, Cuts(random.Random(seed), [1], restart=0.3), whole)


# Readings sent again, or backwards ----------------------------------------------------------------------------------


def clock_faults(sent: list[float], jitter: float = 0.0) -> int:
    """Return how many clock faults open for a pump whose readings have these times, s; equal times have equal values.

    `jitter` is added to each value when it is sent, so that no reading is the same as another.
    """
    config, models = trained()
    config = config.model_copy(update={"sensors": config.sensors.model_copy(update={"refused_after": 5})})
    log = []
    for place, second in enumerate(sent):
        measured = values(np.random.default_rng(round(second)), offset=jitter * place)
        log.append(("pump-A", body("pump-A", second, measured), -1))
    whole = read_log(one_partition(config, models, log), WHOLE)
    alerts = [json.loads(alert.split(b" | ")[1]) for alert in whole.get("alerts of pump-A", [])]
    return sum(one["event"] == "open" and one.get("sensor", {}).get("fault") == "clock" for one in alerts)


def test_a_batch_sent_twice_is_no_clock_fault():
    """A gateway reconnects and sends its last fifty readings again; and a third time, later."""
    once = [float(second) for second in range(100)]
    assert 0 == clock_faults([*once, *once[50:], *map(float, range(100, 120)), *once[60:], 120.0, 121.0])


def test_a_backlog_sent_newest_first_is_no_clock_fault():
    """Thirty stored readings come in the wrong order."""
    once = [float(second) for second in range(60)]
    assert 0 == clock_faults([*once, *map(float, range(89, 59, -1)), 90.0, 91.0])


def test_a_clock_set_back_is_one():
    """The same times as before, with other values."""
    once = [float(second) for second in range(100)]
    assert 1 == clock_faults([*once, *once[60:], 100.0, 101.0, 102.0, 103.0, 104.0, 105.0], jitter=1e-3)


# A time in the future ------------------------------------------------------------------------------------------------


def test_one_reading_from_the_future_moves_no_clock():
    """It is a dead letter; its asset and its neighbour are judged on, and who falls silent later is reported."""
    config, models = trained()
    chance = np.random.default_rng(5)
    sent = []
    for second in range(200):
        for name in ("pump-A", "pump-B"):
            if name == "pump-A" or second < 100:
                jump = 10 * 365 * 86_400.0 if (name, second) == ("pump-A", 50) else 0.0
                sent.append((name, body(name, second + jump, values(chance)), -1))
    log = one_partition(config, models, sent)
    whole = read_log(log, WHOLE)
    letters = [letter for name, kept in whole.items() if name.startswith("dead letters") for letter in kept]
    assert [True] == [b"error=too-far-ahead" in letter for letter in letters]
    assert b"ahead of all other readings" in letters[0]
    assert any(b'"silent"' in alert for alert in whole["alerts of pump-B"])
    assert not any(b'"clock"' in alert for alert in whole.get("alerts of pump-A", []))
    assert decode_state(whole["state of pump-A"][0])[1].judged_ms >= START_MS + 195_000
    for seed in range(3):
        assert_cut_anywhere(log, Cuts(random.Random(seed), [1, 7, 40], commit=0.1, restart=0.05, crash=0.02), whole)


def test_a_pause_of_the_whole_plant_loses_nothing():
    """The first readings after a weekend are confirmed by the next ones."""
    config, models = trained()
    chance = np.random.default_rng(6)
    sent = [
        (name, body(name, second, values(chance)), -1)
        for second in [*range(60), *range(200_000, 200_060)]
        for name in ("pump-A", "pump-B", "pump-C")
    ]
    log = one_partition(config, models, sent)
    whole = read_log(log, WHOLE)
    assert not [name for name in whole if name.startswith("dead letters")]
    assert not [alert for name, kept in whole.items() if name.startswith("alerts") for alert in kept]
    assert_cut_anywhere(log, Cuts(random.Random(1), [1, 7], commit=0.1, restart=0.05), whole)


def test_a_pause_of_a_plant_that_sends_blocks_loses_nothing():
    """Readings of two samples, or of one, some with the time between two of them."""
    config, models = trained()
    chance = np.random.default_rng(7)
    sent = []
    for second in [*range(0, 60, 2), *range(20_000, 20_060, 2)]:
        for name in ("pump-A", "pump-B", "pump-C"):
            pair = [values(chance) for _ in range(2)]
            fields = {"asset": name, "ts": START_MS + 1_000 * second, "interval_ms": 1_000}
            fields["values"] = {channel: [one[channel] for one in pair] for channel in CHANNELS}
            sent.append((name, json.dumps(fields).encode(), -1))
            if name == "pump-B":
                sent[-1] = (name, body(name, second, pair[0]), -1)
    log = one_partition(config, models, sent)
    whole = read_log(log, WHOLE)
    assert 0 == dead(whole)
    for name in ("pump-A", "pump-B", "pump-C"):
        assert decode_state(whole[f"state of {name}"][0])[1].judged_ms >= START_MS + 20_050_000
    assert_cut_anywhere(log, Cuts(random.Random(1), [1, 7], commit=0.1, restart=0.05), whole)


def dead(whole: Published, code: bytes = b"error=") -> int:
    """Return the number of dead letters with a code."""
    return sum(code in letter for name, kept in whole.items() if name.startswith("dead letters") for letter in kept)


@pytest.mark.parametrize("check", [False, True])
def test_a_first_reading_from_the_future_outlives_restarts(check: bool):
    """It is as lone for the worker that goes on, with which no other reading was compared; `check`: sensors."""
    config, models = trained(length=1)
    config = config.model_copy(update={"sensors": config.sensors.model_copy(update={"check": check})})
    chance = np.random.default_rng(1)
    sent = []
    for second in range(40):
        sent += [(name, body(name, second, values(chance)), -1) for name in ("pump-B", "pump-C")]
        if second == 10:
            sent.append(("pump-A", body("pump-A", 86_400.0, values(chance)), -1))
        if second >= 13:
            sent.append(("pump-A", body("pump-A", second, values(chance)), -1))
    log = one_partition(config, models, sent)
    whole = read_log(log, WHOLE)
    assert 1 == dead(whole) == dead(whole, b"error=too-far-ahead")
    for seed in range(8):
        assert_cut_anywhere(log, Cuts(random.Random(seed), [1, 3], commit=0.2, restart=0.2), whole)


def test_late_readings_tell_nothing_of_one_that_waits():
    """After an hour's pause, new readings and a gateway's backlog come by turns: of the new ones, all are used."""
    config, models = trained()
    chance = np.random.default_rng(2)
    times = [*range(60), *(at for k in range(100) for at in (3_600 + k, 30 + k % 30))]
    log = one_partition(config, models, [("pump-A", body("pump-A", at, values(chance)), -1) for at in times])
    whole = read_log(log, WHOLE)
    assert 0 == dead(whole, b"error=too-far-ahead")
    assert decode_state(whole["state of pump-A"][0])[1].judged_ms >= START_MS + 3_695_000
    for seed in range(3):
        assert_cut_anywhere(log, Cuts(random.Random(seed), [1, 7], commit=0.1, restart=0.1), whole)


def test_a_reading_a_cell_waits_for_nothing():
    """A sensor that sends every two minutes is judged up to its newest reading, not one behind."""
    config, models = trained(length=1)
    window = config.window.model_copy(update={"cell_ms": 120_000})
    config = config.model_copy(update={"window": window})
    chance = np.random.default_rng(3)
    sent = [("pump-A", body("pump-A", 120.0 * step, values(chance)), -1) for step in range(20)]
    judged = []
    for until in (19, 20):
        whole = read_log(one_partition(config, models, sent[:until]), WHOLE)
        judged.append(decode_state(whole["state of pump-A"][0])[1].judged_ms)
    start_ms = START_MS // 120_000 * 120_000
    assert [start_ms + 120_000 * 18, start_ms + 120_000 * 19] == judged


# Chaos --------------------------------------------------------------------------------------------------------------


@cache
def chaos() -> Material:
    """Return machines with broken sensors, silences, wrong clocks and messages that are none, in three partitions."""
    config = config_of(setups.CHAOS, "chaos")
    sent = material.with_bad(material.side_by_side(material.chaos(), material.CHAOS_PARTITIONS))
    topic = config.inputs[0].topic
    partitions = {Partition(topic, index): [] for index in range(material.CHAOS_PARTITIONS)}
    for one in sent[:CHAOS_MESSAGES]:
        messages = partitions[Partition(topic, one.partition)]
        messages.append(PlainMessage(len(messages), one.timestamp, one.key, one.value, one.headers))
    return Material(config, ModelSet.load(config), partitions)


CHAOS_MESSAGES = 12_000


@cache
def chaos_whole() -> Published:
    """Return what a worker makes of it in polls as large as can be."""
    return read_log(chaos(), WHOLE)


@pytest.mark.parametrize(
    "cuts",
    [
        Cuts(sizes=[1], commit=0.01),
        Cuts(random.Random(1), [7, 400, 4_000], commit=0.3),
        Cuts(random.Random(2), [1, 50, 400], commit=0.02, restart=0.03, crash=0.01),
        Cuts(random.Random(3), [300, 2_000], restart=0.4, crash=0.2),
    ],
    ids=["every message", "random polls", "restarts", "many restarts"],
)
def test_chaos(cuts: Cuts) -> None:
    """Broken sensors, silences, wrong clocks, bad messages."""
    assert_cut_anywhere(chaos(), cuts, chaos_whole())


# Randomized logs ----------------------------------------------------------------------------------------------------


def random_log(seed: int, topics: int = 1) -> Material:
    """Return a log in which much goes wrong with who is heard, of one to three partitions."""
    config, models = trained(topics, 6 if topics > 1 or seed % 2 else 1)
    chance = random.Random(seed)
    sensors: dict[str, Any] = {"refused_after": chance.choice([2, 3, 5])}
    sensors["silent_after_ms"] = chance.choice([None, 6_000, 9_500, 40_000])
    window: dict[str, Any] = {"lateness_ms": chance.choice([0.0, 0.0, 1_500.0])}
    config = config.model_copy(
        update={
            "sensors": config.sensors.model_copy(update=sensors),
            "window": config.window.model_copy(update=window),
        }
    )
    partitions = chance.choice([1, 1, 2, 3])
    found: dict[Partition, list[PlainMessage]] = {
        Partition(entry.topic, index): [] for entry in config.inputs for index in range(partitions)
    }
    with_broker_time = chance.random() < 0.7 or topics > 1
    plants = [_Pump(f"pump-{n}", random.Random(f"{seed} {n}"), topics) for n in range(chance.randint(2, 7))]
    pauses = [(at, at + chance.choice([3, 20, 4_000])) for at in (chance.randint(30, 200), chance.randint(30, 200))]
    paused = 0.0
    for second in range(240):
        for begin, end in pauses:
            paused += (end - begin) * (second == begin)
        for place, plant in enumerate(plants):
            for topic, value in plant.messages(second, second + paused):
                messages = found[Partition(config.inputs[topic].topic, place % partitions)]
                at = START_MS + round(1_000 * (second + paused)) + 10 * place if with_broker_time else -1
                messages.append(PlainMessage(len(messages), at, plant.name.encode(), value))
    return Material(config, models, found)


class _Pump:
    """What one pump sends, and what goes wrong with it."""

    def __init__(self, name: str, chance: random.Random, topics: int) -> None:
        self.name = name
        self._topics = topics
        self._chance = chance
        self._noise = np.random.default_rng(chance.randrange(2**32))
        self._every = chance.choice([1, 1, 1, 2, 3])
        # readings of several topics are merged by their times: clocks that are far apart don't allow that
        self._clock = chance.choice([0.0] * 6 + ([12.0, -3.0, -500.0, 3_600.0] if topics == 1 else [2.0, -3.0]))
        self._first = chance.choice([0, 0, 0, 60, 150])
        self._jitter = chance.choice([0.0, 0.0, 0.3]) if topics == 1 else 0.0
        self._late = chance.choice([0.0, 0.0, 0.1]) if topics == 1 else 0.0
        kinds = ["silent"] * 6 + ["dropout", "dropout", "refused", "off", "bad", "apart"]
        kinds += ["behind", "ahead", "far-ahead", "again", "again", "backwards", "lone", "lone"] if topics == 1 else []
        self._sent: list[bytes] = []
        self._faults = []
        for _ in range(chance.randint(0, 4)):
            start = chance.randint(self._first, 230)
            stop = start + chance.choice([1, 4, 7, 11, 16, 30, 60])
            self._faults.append((start, stop, chance.choice(kinds), chance.choice(CHANNELS)))

    def messages(self, second: int, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield (topic, message) of what is sent in a second; `now`: the time that a right clock shows then."""
        if second < self._first or second % self._every:
            return
        measured = values(self._noise)
        at = now + self._clock + self._jitter * self._chance.random()
        kinds = {kind: channel for start, stop, kind, channel in self._faults if start <= second < stop}
        if "silent" in kinds:
            return
        if "off" in kinds:
            measured["flow"] += 40.0
        if "dropout" in kinds:
            del measured[kinds["dropout"]]
        if "refused" in kinds:
            measured["flow"] = 900.0
        at += -40.0 * ("behind" in kinds) + 15.0 * ("ahead" in kinds) + 7_000.0 * ("far-ahead" in kinds)
        if self._chance.random() < self._late:
            at -= 1.0
        at += 86_400.0 * any(kind == "lone" and start == second for start, _, kind, _ in self._faults)
        if "bad" in kinds:
            yield 0, b"{"
        if "backwards" in kinds:  # kept, and sent newest first when it is over
            self._sent.insert(0, body(self.name, at, measured))
            return
        ended = {kind for _, stop, kind, _ in self._faults if stop == second}
        if ended & {"backwards", "again"}:
            yield from ((0, each) for each in self._sent)
        if "backwards" in ended:
            self._sent = []
        self._sent = [*self._sent, body(self.name, at, measured)][-20:] if self._topics == 1 else []
        for topic in range(self._topics):
            mine = {name: value for name, value in measured.items() if CHANNELS.index(name) % self._topics == topic}
            parts = [{name: value} for name, value in mine.items()] if "apart" in kinds else [mine]
            for part in parts:
                if part:
                    yield topic, body(self.name, at, part)


SEEDS = range(25)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_logs_in_polls(seed: int) -> None:
    """Cut at every message, and at random, with commits in between."""
    log = random_log(seed)
    whole = read_log(log, WHOLE)
    for cuts in (
        Cuts(sizes=[1]),
        Cuts(random.Random(seed), [1, 5, 60], commit=0.1),
    ):
        assert_cut_anywhere(log, cuts, whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_logs_and_restarts(seed: int) -> None:
    """By workers that commit, end and crash."""
    log = random_log(seed)
    whole = read_log(log, WHOLE)
    for sizes in ([1, 3], [20, 100]):
        assert_cut_anywhere(log, Cuts(random.Random(seed), sizes, commit=0.1, restart=0.05, crash=0.02), whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_joined_logs(seed: int) -> None:
    """Of two topics, each with channels of its own."""
    log = random_log(seed, topics=2)
    whole = read_log(log, WHOLE)
    assert_cut_anywhere(log, Cuts(random.Random(seed), [1, 30, 200], commit=0.1), whole)
    assert_cut_anywhere(log, Cuts(random.Random(seed), [10, 100], commit=0.1, restart=0.05, crash=0.02), whole)
