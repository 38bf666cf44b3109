"""`stream-detector thresholds` on a real Valkey."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from stream_detector.adapters.redis import RedisStore
from stream_detector.cli import thresholds
from stream_detector.codec import encode_point
from stream_detector.config import RedisConfig
from stream_detector.errors import ConfigError, DecodeError, StoreError
from stream_detector.types import Adaptation, AssetState, IncidentState, ThresholdState

Run = Callable[..., str]


def state(level: float | None, opened: bool = False, judged_ms: int = 1_583_748_873_000) -> AssetState:
    """A state as a worker leaves it."""
    incident = IncidentState()
    if opened:
        incident = IncidentState(
            recent=0b111,
            quiet=1,
            first_ms=1_583_748_800_000,
            opened_ms=1_583_748_801_000,
            incident="id",
            severity="warning",
            leader="vibration",
            peak=9.5,
            windows=12,
        )
    return AssetState(
        threshold=ThresholdState(method="spot", level=level, seen=18_233, numbers=(), sample=np.ones(200, np.float32)),
        incident=incident,
        judged_ms=judged_ms,
    )


@pytest.fixture
def stream(unique: Callable[[str], str]) -> str:
    """A stream of this test's own."""
    return unique("thresholds")


@pytest.fixture
def config(valkey: str, stream: str, tmp_path: Path) -> Path:
    """A set-up on the embedded Valkey."""
    path = tmp_path / "pump.yaml"
    path.write_text(f"stream: {stream}\nchannels: {{vibration: {{}}}}\nredis: {{url: '{valkey}'}}\n")
    return path


@pytest.fixture
def store(valkey: str, stream: str) -> RedisStore:
    """The worker's store, with three assets in two tasks."""
    store = RedisStore(RedisConfig(url=valkey), stream)
    store.save(0, store.acquire(0), 1, {"pump-1": state(4.02), "pump-2": state(None)}, {})
    store.save(1, store.acquire(1), 1, {"fan-1": state(2.5, opened=True)}, {})
    return store


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `thresholds ACTION CONFIG …` and return what it printed."""

    def command(action: str, *arguments: str) -> str:
        parser = argparse.ArgumentParser()
        thresholds.add_parser(parser.add_subparsers())
        assert thresholds.run(parser.parse_args(["thresholds", action, str(config), *arguments])) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return command


def test_list_says_how_every_asset_is_judged(store: RedisStore, run: Run):
    """A row an asset, by name, over all tasks."""
    store.pin("pump-1", 6.5)
    rows: list[dict[str, Any]] = json.loads(run("list", "--json"))
    judged = "2020-03-09T10:14:33.000Z"
    spot = {"method": "spot", "seen": 18_233, "judged": judged}
    assert rows == [
        {"asset": "fan-1", "task": 1, "level": 2.5, "pinned": None, "incident": "warning", **spot},
        {"asset": "pump-1", "task": 0, "level": 4.02, "pinned": 6.5, "incident": None, **spot},
        {"asset": "pump-2", "task": 0, "level": None, "pinned": None, "incident": None, **spot},
    ]


def test_list_is_a_table_for_people(store: RedisStore, run: Run):
    """Headers and a line an asset."""
    store.pin("pump-1", 6.5)
    lines = run("list").splitlines()
    assert all(header in lines[1] for header in ("asset", "level", "pinned", "incident"))
    row = next(line for line in lines if "pump-1" in line)
    assert "4.02" in row
    assert "6.5" in row


def test_list_of_nothing(run: Run):
    """A stream that no worker has judged yet is said to be so."""
    assert run("list") == "no asset has been judged yet\n"
    assert json.loads(run("list", "--json")) == []


def test_list_shows_an_asset_once_where_it_is_judged_now(store: RedisStore, run: Run):
    """After a change of partitions an old task still holds a state of it; the newer one counts."""
    store.save(7, store.acquire(7), 1, {"pump-1": state(9.0, judged_ms=1_583_748_874_000)}, {})
    rows = {row["asset"]: (row["task"], row["level"]) for row in json.loads(run("list", "--json"))}
    assert rows["pump-1"] == (7, 9.0)


def test_show_tells_all_of_one_asset(store: RedisStore, run: Run):
    """What list says, the incident and resets."""
    store.reset("fan-1")
    shown = json.loads(run("show", "fan-1", "--json"))
    assert shown["level"] == 2.5
    assert shown["scores_kept"] == 200
    assert shown["incident_opened"] == "2020-03-09T10:13:21.000Z"
    assert (shown["incident_leader"], shown["incident_peak"], shown["incident_windows"]) == ("vibration", 9.5, 12)
    assert shown["reset_requested"].startswith("20")
    assert shown["reset"] is None
    text = run("show", "fan-1")
    assert "incident leader" in text
    assert "vibration" in text


def test_pin_and_unpin(store: RedisStore, run: Run):
    """A worker sees the pin and that something changed."""
    version = store.controls_version()
    assert "pump-1 is pinned: alarms above 6.5" in run("pin", "pump-1", "6.5")
    assert store.controls().pins == {"pump-1": 6.5}
    assert store.controls_version() > version
    assert "adaptive level again" in run("unpin", "pump-1")
    assert store.controls().pins == {}
    assert "pump-1 was not pinned" in run("unpin", "pump-1")
    assert json.loads(run("pin", "pump-1", "2", "--json")) == {"action": "pin", "asset": "pump-1", "level": 2.0}
    assert json.loads(run("unpin", "pump-1", "--json")) == {"action": "unpin", "asset": "pump-1", "was_pinned": True}


@pytest.mark.parametrize("level", ["0", "-1", "nan", "inf"])
def test_a_pin_must_be_finite_and_above_0(store: RedisStore, run: Run, level: str):
    """Anything else would alarm always or never."""
    with pytest.raises(ConfigError, match="LEVEL must be finite and above 0"):
        run("pin", "pump-1", "--", level)
    assert store.controls().pins == {}


def test_an_unknown_asset_is_told_with_near_names(store: RedisStore, run: Run):
    """A slip of the key must not pin what doesn't exist."""
    for action, arguments in (("pin", ["6"]), ("unpin", []), ("show", []), ("reset", [])):
        with pytest.raises(ConfigError, match=r"no asset 'pmup-1'; did you mean 'pump-1'"):
            run(action, "pmup-1", *arguments)
    assert store.controls().version == 0


def test_an_asset_not_seen_yet_can_be_pinned_by_force(store: RedisStore, run: Run):
    """It is listed, shown and unpinned like the others."""
    with pytest.raises(ConfigError, match="--force"):
        run("pin", "pump-9", "6")
    run("pin", "pump-9", "6", "--force")
    row = next(row for row in json.loads(run("list", "--json")) if row["asset"] == "pump-9")
    assert (row["pinned"], row["level"], row["judged"]) == (6.0, None, None)
    assert json.loads(run("show", "pump-9", "--json"))["pinned"] == 6.0
    run("unpin", "pump-9")
    assert store.controls().pins == {}


def test_reset_one_or_all(store: RedisStore, run: Run):
    """A worker that holds the asset starts it from the calibration again."""
    run("reset", "pump-1")
    assert set(store.controls().resets) == {"pump-1"}
    assert "all assets" in run("reset", "--all")
    assert (store.controls().resets, store.controls().reset_all > "") == ({}, True)


def test_an_asset_named_like_a_pattern_is_one_asset(store: RedisStore, run: Run):
    """Only --all means all."""
    with pytest.raises(ConfigError, match=r"no asset '\*'"):
        run("reset", "*")
    store.save(3, store.acquire(3), 1, {"*": state(3.0)}, {})
    assert json.loads(run("reset", "*", "--json")) == {"action": "reset", "asset": "*", "all": False}
    assert (set(store.controls().resets), store.controls().reset_all) == ({"*"}, "")
    assert json.loads(run("reset", "--all", "--json")) == {"action": "reset", "asset": None, "all": True}


@pytest.mark.parametrize("action", ["list", "show"])
def test_names_are_harmless_on_a_terminal(store: RedisStore, run: Run, action: str):
    """Control characters, line ends, marks of direction and rich's markup are shown, not obeyed."""
    asset = "a\nb\x1b[31mred\x9b0m\u202e[bold][/]\u2028"
    store.save(3, store.acquire(3), 1, {asset: state(3.0)}, {})
    arguments = (asset,) if action == "show" else ()
    shown = run(action, *arguments)
    assert r"a\nb\x1b[31mred\x9b0m\u202e[bold][/]\u2028" in shown
    assert all(line.isprintable() for line in shown.split("\n"))
    found = run(action, *arguments, "--json")
    assert all(line.isprintable() for line in found.split("\n"))
    rows = json.loads(found)
    assert asset in [row["asset"] for row in (rows if action == "list" else [rows])]


def test_reset_wants_to_know_what(run: Run):
    """Neither an asset nor --all is an error, not a reset of everything."""
    with pytest.raises(SystemExit):
        run("reset")


def test_a_store_that_is_away_is_said(run: Run, config: Path):
    """With its address."""
    config.write_text("stream: pump\nchannels: {vibration: {}}\nredis: {url: 'redis://127.0.0.1:1/0'}\n")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/0 can't be reached"):
        run("list")


def test_accept_needs_a_regime_change(store: RedisStore, config: Path, run: Run):
    """Only an open incident that was told as one can become the normal."""
    for asset in ("pump-1", "fan-1"):
        with pytest.raises(ConfigError, match="no open incident that was reported as a regime change"):
            run("accept", asset)
    flat = replace(state(4.0, opened=True), adaptation=Adaptation(asked=True))
    store.save(2, store.acquire(2), 1, {"fan-2": flat}, {})
    assert "fan-2: the state it is in becomes its normal" in run("accept", "fan-2")
    assert ["fan-2"] == list(store.controls().accepts)


def test_what_is_gone_back_to_is_kept_with_the_controls(store: RedisStore):
    """Sample and shift of the entry survive the store."""
    shift = np.array([0.5], np.float32)
    point = encode_point(state(4.0).threshold, Adaptation(serial=3, shift=shift, anchor=shift))
    store.rollback("pump-1", point)
    token, found = store.controls().rollbacks["pump-1"]
    assert token.isdecimal()
    assert (4.0, 200, [0.5]) == (found.threshold.level, len(found.threshold.sample), found.adaptation.shift.tolist())
    with pytest.raises(DecodeError):
        store.rollback("pump-1", b"odd")
