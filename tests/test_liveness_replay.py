"""Who is heard, told the same whatever the batches and wherever a worker was started anew."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from tests.test_sensor_faults import Hall, Row, rows, trained

__all__ = ["trained"]  # a fixture

SECONDS = 500
Spoil = Callable[[Row], Row | None]


def nothing(row: Row) -> None:
    """Not sent."""


def without(channel: str) -> Spoil:
    """Sent without a channel."""
    return lambda row: (*row[:3], {**row[3], channel: None})


def refused(row: Row) -> Row:
    """Sent with a value that can't be: a dead letter."""
    return (*row[:3], {**row[3], "flow": -90.0})


def behind(row: Row) -> Row:
    """Sent with a time of forty seconds ago: a dead letter."""
    return (*row[:2], row[2] - 40, row[3])


def hall(*faults: tuple[int, float, float, Spoil], every: int = 1) -> list[Row]:
    """Return the readings of five pumps, of which some (pump, from second, to second) are spoilt.

    `every`: the last pump sends once in so many seconds only.
    """
    found: list[Row] = []
    for row in rows(5, SECONDS):
        if row[1] == "pump-4" and int(row[0]) % every:
            continue
        spoilt: Row | None = row
        for pump, start, end, spoil in faults:
            if spoilt is not None and row[1] == f"pump-{pump}" and start <= row[0] < end:
                spoilt = spoil(spoilt)
        if spoilt is not None:
            found.append(spoilt)
    return found


CASES: dict[str, list[Row]] = {
    "a dropout right after the start": hall((1, 20, 60, without("heat"))),
    "a dropout of a pump that sends seldom": hall((4, 100, 200, without("flow")), every=3),
    "a dropout around a pause": hall((1, 100, 150, without("heat")), (1, 103, 107, nothing)),
    "silences of about the shortest length": hall(*((n, 100 + 20 * n, 108.5 + 21 * n, nothing) for n in range(5))),
    "silent after it was refused for long": hall((2, 100, 220, refused), (2, 220, 300, nothing)),
    "refused after it was silent": hall((2, 100, 130, nothing), (2, 130, 260, refused)),
    "refused, and never silent": hall((2, 100, 180, refused), (3, 150, 190, behind)),
    "all refused, one after the other": hall(*((n, 100 + 5 * n, 160 + 5 * n, refused) for n in range(5))),
    "a clock that is behind, then silent": hall((3, 100, 150, behind), (3, 150, 200, nothing)),
}


def whole(trained: tuple[Config, ModelSet], readings: list[Row], batch: int) -> list[str]:
    """Return what a worker tells of it that is never ended."""
    return sorted(map(json.dumps, Hall(trained, readings).run(batch)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_told_does_not_depend_on_batches(trained, case):
    """Polls of one message, of 7, of 400 and of all."""
    large = whole(trained, CASES[case], 5_000)
    assert any("sensor-fault" in alert for alert in large)
    for batch in (1, 7, 400):
        assert large == whole(trained, CASES[case], batch), batch


def restarted(trained: tuple[Config, ModelSet], readings: list[Row], chance: random.Random) -> list[str]:
    """Return what workers tell of it together, each ended after some polls: enough to get past what is read again."""
    place = Hall(trained, readings)
    found: list[str] = []
    for _ in range(100):
        batch = chance.choice([30, 400])
        found += map(json.dumps, place.run(batch, chance.randrange(2, 6) if batch > 30 else chance.randrange(30, 60)))
        if place.read() == place.log.end(place.partition):
            found += map(json.dumps, place.run(5_000))  # and once more: nothing is told again
            return sorted(found)
    raise AssertionError("they never came to the end")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_told_does_not_depend_on_restarts(trained, case, seed):
    """Ended and started anew every few seconds of the recording."""
    assert whole(trained, CASES[case], 5_000) == restarted(trained, CASES[case], random.Random(seed))


@pytest.mark.parametrize("short_of", [1, 3, 6, 9])
def test_what_was_counted_is_not_counted_again(trained, short_of):
    """A worker ended, with a commit, while it reads again what the last one had judged: the states stand further."""
    readings = CASES["refused, and never silent"]
    place = Hall(trained, readings)
    at = 515  # three of pump-2's have been refused, of five that are told
    found = place.run(1, at - 1)
    (position,) = place.log.committed("detector").values()
    assert position.read == at
    found += place.run(1, at - short_of - position.offset - 1)
    found += place.run(5_000)
    assert whole(trained, readings, 5_000) == sorted(map(json.dumps, found))


def test_a_long_patience_outlives_restarts(trained):
    """`silent_after_ms` of minutes: longer than any window is open, and told all the same, once."""
    config, models = trained
    patient = config.model_copy(update={"sensors": config.sensors.model_copy(update={"silent_after_ms": 120_000})})
    readings = hall((1, 100, 300, nothing), (2, 150, 265, nothing), (3, 210, 450, nothing))
    expected = whole((patient, models), readings, 5_000)
    assert 4 == sum('"silent"' in alert for alert in expected)
    for seed in range(3):
        assert expected == restarted((patient, models), readings, random.Random(seed))
