"""The messages of the golden cases: simulated, seeded, and where recorded, recorded by others."""

from __future__ import annotations

import heapq
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from stream_detector.datasets import read
from stream_detector.datasets.recording import Recording
from stream_detector.datasets.replay import Plan, schedule
from stream_detector.simulation.simulate import simulate
from tests.chaos.material import _course, _knock
from tests.golden.runs import Sent, from_recordings
from tests.golden.setups import SKAB, SUITES

#: The recordings of SKAB, where they are.
SKAB_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "skab" / "valve1"
SKAB_ROWS = 400  # of each file, to train on
START_MS = 1_736_172_000_000.0
TRAINED = 0.4  # share of a simulated recording, at its beginning, in which nothing happens


# SKAB ---------------------------------------------------------------------------------------------------------------


def skab() -> list[Recording]:
    """Return the recordings of valve1, in the order of their numbers."""
    paths = sorted(SKAB_FOLDER.glob("*.csv"), key=lambda path: int(path.stem))
    return [one.carrying(SKAB["channels"]) for one in read(paths, "skab")]


# Waveforms ----------------------------------------------------------------------------------------------------------

_BLOCK, _RATE_HZ = 256, 25_600.0


def waveforms(rows: int = 700) -> list[Recording]:
    """Return two bearings, a block of two accelerometers every ten seconds, which wear out from the middle on."""
    return [_bearing(f"bearing-{number}", rows, number) for number in (1, 2)]


def _bearing(asset: str, rows: int, seed: int) -> Recording:
    rng = np.random.default_rng([seed, 77])
    horizontal, vertical = [], []
    time_s = np.arange(_BLOCK) / _RATE_HZ
    for row in range(rows):
        at = row / rows  # one creeps, is repaired and breaks for a moment; the other breaks
        wear = (max(0.0, at - 0.5) * 3.0 * (at < 0.8) + (0.9 < at < 0.92)) if seed == 1 else float(at > 0.7)
        shaft = 0.3 * np.sin(2 * np.pi * (90.0 * time_s + rng.random()))
        ring = np.exp(-900.0 * (time_s % 0.004)) * np.sin(2 * np.pi * 4_000.0 * (time_s % 0.004))
        for blocks, share in ((horizontal, 1.0), (vertical, 0.6)):
            noise = 0.2 * rng.normal(size=_BLOCK)
            blocks.append(np.round(shaft * share + noise + 3.0 * share * wear * ring, 3))
    heat = np.round(40.0 + 0.5 * rng.normal(size=rows).cumsum() * 0.1 + 0.1 * rng.normal(size=rows), 2)
    heat[3::10] = np.nan  # not every block has a temperature beside it
    return Recording(
        asset,
        START_MS + 10_000.0 * np.arange(rows),
        {"temperature": heat},
        {"horizontal": list(horizontal), "vertical": list(vertical)},
        1_000.0 / _RATE_HZ,
    )


# Records ------------------------------------------------------------------------------------------------------------


def records(rows: int = 4_000, seed: int = 0) -> list[Sent]:
    """Return the payments of three cards, few of them odd; some messages lack a field or are none."""
    rng = np.random.default_rng([seed, 5])
    chance = random.Random(seed)
    sent: list[Sent] = []
    for row in range(rows):
        card, odd = f"card-{row % 3}", bool(rng.random() < 0.02)
        amount = float(np.round(np.exp(rng.normal(3.0 + 3.0 * odd, 0.6)), 2))
        values: dict[str, object] = {
            "amount": amount,
            "age": float(rng.integers(20, 70)),
            "speed": float(np.round(rng.normal(odd * 4.0), 3)),
            "shop": chance.choices(["food", "fuel", "books", "?"], [70, 20, 9, 1 + 30 * odd])[0],
            "place": f"town-{int(rng.integers(12 + 20 * odd))}",
        }
        if row % 331 == 7:
            del values["shop"]
        if row % 401 == 9:
            values["age"] = 400.0
        body: object = {"asset": card, "ts": int(START_MS) + 1_500 * row, "values": values}
        value = b"{" if row % 997 == 11 else json.dumps(body).encode()
        sent.append(Sent(card.encode(), value, []))
    return sent


# The simulator's suites ---------------------------------------------------------------------------------------------

_DAYS = 4.0
#: Suite -> the machines in it, each (name, machines, days, seed, options of `simulate`).
_SUITES: dict[str, list[tuple[str, int, float, int, dict[str, str]]]] = {
    "healthy": [("healthy", 3, 3.0, 11, {"scenario": "healthy"})],
    "nuisance": [
        (name, 1, _DAYS, 20 + place, {"scenario": name})
        for place, name in enumerate(("load-steps", "season", "maintenance", "sensor-replaced"))
    ],
    "faults": [
        (name, 1, _DAYS, 30 + place, {"scenario": name})
        for place, name in enumerate(("slow-wear", "intermittent", "two-faults"))
    ],
    "kinds": [
        (
            "kinds",
            1,
            _DAYS,
            40,
            {"faults": "knock@70h+60s:0.9,unbalance@60h+40m~60s:0.6,bearing-outer@85h+4h~10m:0.7", "profile": "day"},
        ),
        ("sensors", 7, _DAYS, 41, {"scenario": "sensor-faults"}),
    ],
}


def suite(name: str) -> tuple[list[Recording], list[Recording]]:
    """Return the machines of a suite: the beginnings to train on, and what is judged."""
    rate_hz = 1_000.0 / SUITES["window"]["cell_ms"]
    whole = [
        recording
        for title, machines, days, seed, options in _SUITES[name]
        for recording in simulate(
            machines,
            24.0 * days,
            seed,
            rate_hz,
            name=title,
            channels=list(SUITES["channels"]),
            **options,  # type: ignore[arg-type]
        )
    ]
    cut = [round(TRAINED * len(one)) for one in whole]
    return (
        [one.head(rows) for one, rows in zip(whole, cut, strict=True)],
        [one.rows(rows) for one, rows in zip(whole, cut, strict=True)],
    )


def side_by_side(recordings: Sequence[Recording], partitions: int = 1) -> list[Sent]:
    """Return the messages in the order in which they were sent, with that time as the broker's."""

    def of(place: int, one: Recording) -> Iterator[tuple[float, int, Sent]]:
        partition = zlib.crc32(one.asset.encode()) % partitions
        for message in one.messages():
            sent = Sent(message.key, message.value, message.headers, round(message.sent_ms), partition)
            yield message.sent_ms, place, sent

    merged = heapq.merge(*(of(place, one) for place, one in enumerate(recordings)), key=lambda item: item[:2])
    return [sent for _, _, sent in merged]


# Chaos --------------------------------------------------------------------------------------------------------------

CHAOS_PARTITIONS = 3
_CHAOS_MINUTES = 14.0


@cache
def chaos(records: bool = False) -> list[Recording]:
    """Return machines as the chaos runs have them: broken sensors, silences, wrong clocks, changes and faults."""
    assets, seed = (6, 3) if records else (23, 1)
    chance = random.Random(seed)
    plans: list[str] = []
    knocked: list[float] = []
    for index in range(1, assets + 1):
        courses, until = _course(index, _CHAOS_MINUTES, chance)
        plans += [f"machine-{index}={course}" for course in courses]
        knocked.append(until)
    recordings = simulate(assets, _CHAOS_MINUTES / 60, seed=seed, faults=", ".join(plans))
    for recording, until in zip(recordings, knocked, strict=True):
        _knock(recording, chance, until)
        if records:
            modes = chance.choices(["run", "idle", "?"], [90, 9, 1], k=len(recording))
            recording.values["mode"] = np.array(modes, object)
    return recordings


_JSON = [("content-type", b"application/json")]
#: What a topic may hold beside readings: one message for every way in which it can be none.
_BAD: tuple[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]], ...] = (
    (b"machine-1", None, []),
    (b"machine-1", b"", []),
    (b"machine-1", b"broken", []),
    (b"machine-1", b"\xc1", [("content-type", b"application/msgpack")]),
    (b"machine-1", b"<reading/>", [("content-type", b"text/xml")]),
    (b"machine-2", b"[1, 2]", _JSON),
    (None, b'{"ts": 1736172000000, "values": {"vibration": 1}}', []),
    (b"\xff\xfe", b'{"ts": 1736172000000, "values": {"vibration": 1}}', []),
    (b"machine-2", b'{"asset": 7, "ts": 1736172000000, "values": {"vibration": 1}}', []),
    (b"machine-2", b'{"asset": "machine-2", "values": {"vibration": 1}}', []),
    (b"machine-2", b'{"asset": "machine-2", "ts": "yesterday", "values": {"vibration": 1}}', []),
    (b"machine-2", b'{"asset": "machine-2", "ts": 1736172000, "values": {"vibration": 1}}', []),
    (b"machine-3", b'{"asset": "machine-3", "ts": "2025-01-06T14:00:00Z", "values": {"noise": 1}}', []),
    (b"machine-3", b'{"asset": "machine-3", "ts": "2025-01-06T14:00:00Z", "values": {"vibration": "loud"}}', []),
    (b"machine-3", b'{"asset": "machine-3", "ts": "2025-01-06T14:00:00Z", "values": {"temperature": 9000}}', []),
    (b"machine-3", b'{"asset": "machine-3", "ts": "2025-01-06T14:00:00Z", "values": {"vibration": [1, 2]}}', []),
    (b"machine-3", b'{"asset": "machine-3", "ts": "2199-01-06T14:00:00Z", "values": {"vibration": 1}}', []),
    (b"machine-1", b'{"asset": "machine-1", "ts": "2025-01-06T14:00:00Z", "values": {"vibration": 1}}', []),
    (b"machine-1", b'{"asset": "machine-1", "pad": "' + b"x" * 1_100_000 + b'"}', []),
)
_BAD_EVERY = 450


def with_bad(sent: Sequence[Sent]) -> list[Sent]:
    """Return the messages with one that is none after so many of them, each kind in turn."""
    found: list[Sent] = []
    for count, one in enumerate(sent):
        found.append(one)
        if count % _BAD_EVERY == _BAD_EVERY - 1:
            key, value, headers = _BAD[count // _BAD_EVERY % len(_BAD)]
            found.append(Sent(key, value, headers, one.timestamp, one.partition))
    return found


# The fleet of the policies ------------------------------------------------------------------------------------------

_FLEET_HOURS, _FLEET_RATE_HZ = 7.0, 0.1
#: Machine -> what happens to it.
_PLANS = (
    "machine-1=load-step@45%:0.7, machine-1=load-step@75%:0.5, "
    "machine-2=bearing-outer@50%+40m:0.9, machine-2=knock@80%+60s:0.9, machine-2=bearing-inner@90%+15m:0.9, "
    "machine-3=season@42%~15000s:1, machine-3=unbalance@85%+10m:0.6, "
    "machine-3=sensor-stuck/vibration@22200s+700s, machine-3=sensor-stuck/temperature@22200s+700s, "
    "machine-3=sensor-stuck/current@22200s+700s, machine-3=sensor-dropout/vibration@22800s+700s, "
    "machine-3=sensor-dropout/temperature@22800s+700s, "
    "machine-4=load-step@68%:0.9, machine-4=sensor-dropout/vibration@68%+20m, "
    "machine-4=sensor-replaced/temperature@55%:0.3, machine-4=overload@80%+15m:0.8, "
    "machine-5=sensor-stuck/temperature@45%+25m, machine-5=sensor-dropout/vibration@57%+20m, "
    "machine-5=sensor-saturated/vibration@69%+15m, machine-5=sensor-out-of-range/current@80%+15m:0.9, "
    "machine-6=silent@50%+20m, machine-6=overheating@62%+20m:0.8, machine-6=clock-behind@90%+10m:0.1, "
    "machine-7=intermittent@50%+150m:0.8, "
    "machine-8=maintenance@50%:0.9, machine-8=supply-dip@75%+10m:0.9, machine-8=sensor-offset/temperature@88%+20m:0.9"
)

#: Machine (from 0), first row, rows and vibration that no machine can have: within float32, beyond what squares well.
_EXTREMES = ((6, 200, 2, 1e20), (6, 300, 2, 3e38), (6, 400, 30, 3e38), (1, 40, 2, 1e9), (0, 1_200, 2, 3e38))


@cache
def fleet() -> list[Recording]:
    """Return eight machines, whole: load steps, drift, replaced and broken sensors, faults that come and stay."""
    return simulate(8, _FLEET_HOURS, 5, _FLEET_RATE_HZ, _PLANS)


@cache
def fleet_messages() -> tuple[Sent, ...]:
    """Return what is judged of the fleet, side by side, with values that no machine can have and a stranger."""
    judged = [one.rows(round(0.36 * len(one))) for one in fleet()]
    for machine, row, rows, value in _EXTREMES:
        values = judged[machine].values
        values["vibration"] = values["vibration"].copy()
        values["vibration"][row : row + rows] = value
    judged.append(_stranger())
    return tuple(replace(one, timestamp=-1) for one in side_by_side(judged))


def _stranger() -> Recording:
    """Return a machine that training never saw."""
    [one] = simulate(1, 2.0, 9, _FLEET_RATE_HZ, "none", start_ms=START_MS + 10_000_000.0, name="stranger")
    return one


def apart(recordings: Sequence[Recording]) -> list[Sent]:
    """Return readings on two topics, each with channels of its own, in step."""
    sent: list[Sent] = []
    for _, message in schedule(list(recordings), Plan(""), 0.0):
        whole = json.loads(message.value)
        for topic, names in enumerate((("vibration",), ("temperature", "current"))):
            if values := {name: whole["values"][name] for name in names if name in whole["values"]}:
                value = json.dumps({**whole, "values": values}).encode()
                partition = zlib.crc32(message.key) % 2
                sent.append(Sent(message.key, value, message.headers, -1, partition, topic))
    return sent


def one_after_another(recordings: Sequence[Recording], msgpack_too: bool = False) -> list[Sent]:
    """Return the messages of recordings, one recording after the other; `msgpack_too`: every second as MessagePack."""
    found: list[Sent] = []
    for place, one in enumerate(recordings):
        found += from_recordings(one.messages(format="msgpack" if msgpack_too and place % 2 else "json"))
    return found
