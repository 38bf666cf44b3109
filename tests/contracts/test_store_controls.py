"""What operators set and people say of alerts, as every StateStore keeps it: on memory, Valkey and Redis."""

from __future__ import annotations

import math

import pytest

from stream_detector.errors import ConfigError
from stream_detector.types import RecordedVerdict
from tests.contracts.states import at, backend, store
from tests.stores import Backend, Store

__all__ = ["backend", "store"]  # fixtures


def test_controls_reach_other_connections_and_are_counted(backend: Backend, store: Store):
    """Every change an operator makes shows in what a worker's save returns, and in the cheap count."""
    operator = backend.connect()
    token = store.acquire(3)
    before = store.save(3, token, 1, {}, at(1, 1))
    assert (before, store.controls_version()) == (0, 0)
    operator.pin("pump-1", 0.1)
    operator.pin("pump-1", 1 / 3)
    operator.pin("pump-2", 5.0)
    assert operator.unpin("pump-2") is True
    assert operator.unpin("pump-2") is False
    found = store.controls()
    assert (found.version, found.pins, found.resets) == (4, {"pump-1": 1 / 3}, {})
    assert store.save(3, token, 2, {}, at(2, 2)) == 4 == store.controls_version()


def test_a_reset_is_told_apart_from_the_one_before(store: Store):
    """Each reset has a token of its own, and of two the later one sorts last."""
    store.reset("pump-1")
    first = store.controls().resets["pump-1"]
    store.reset("pump-1")
    second = store.controls().resets["pump-1"]
    assert first < second
    assert store.controls().version == 2


def test_a_reset_of_all_replaces_those_before_it(store: Store):
    """After a reset of everything, single ones given before it have nothing more to say."""
    store.reset("pump-1")
    before = store.controls().resets["pump-1"]
    store.reset(None)
    found = store.controls()
    assert found.resets == {}
    assert found.reset_all > before


def test_an_asset_may_be_named_like_a_pattern(store: Store):
    """`*` is an asset's name like any other: neither is reset with the other."""
    store.reset("*")
    found = store.controls()
    assert (set(found.resets), found.reset_all) == ({"*"}, "")
    store.reset(None)
    store.reset("*")
    found = store.controls()
    assert set(found.resets) == {"*"}
    assert found.resets["*"] > found.reset_all > ""


def test_a_pin_must_be_finite(store: Store):
    """NaN would alarm on everything, infinity on nothing."""
    for level in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError, match="pump-1"):
            store.pin("pump-1", level)
    assert store.controls().version == 0


def said(alert: str, verdict: str = "true-alarm", ts_ms: int = 0, offset: int = 0) -> RecordedVerdict:
    """A verdict with a note that JSON and the layout might trip over."""
    return RecordedVerdict(alert, verdict, "shift 2: day", 'hose "moved" é', ts_ms, 0, offset)


def test_verdicts_are_kept_by_alert(store: Store) -> None:
    """Of each alert the last verdict counts, whatever order they come in, and the same again changes nothing."""
    first, second, other = said("a", ts_ms=5, offset=1), said("a", "false-alarm", 5, 2), said("b", ts_ms=-1, offset=3)
    store.record_verdicts([second, other], 100)
    store.record_verdicts([first, second], 100)
    store.record_verdicts([], 100)
    assert [other, second] == store.verdicts()


def test_the_newest_verdicts_are_kept(store: Store) -> None:
    """Beyond the number to keep, the oldest go; an old one that comes again doesn't drive a newer one out."""
    many = [said(f"a-{index:04d}", ts_ms=index, offset=index) for index in range(1_200)]
    store.record_verdicts(many, 1_000)
    store.record_verdicts(many[:300], 1_000)
    assert many[200:] == store.verdicts()


def test_verdicts_are_no_part_of_what_is_versioned(store: Store) -> None:
    """They neither count as a change of operators' settings nor show up among tasks."""
    store.record_verdicts([said("a")], 10)
    assert (0, []) == (store.controls_version(), store.tasks())
