"""`stream-detector assets` on a real Valkey."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from stream_detector.adapters.redis import RedisStore
from stream_detector.cli import assets
from stream_detector.config import RedisConfig
from stream_detector.errors import ConfigError, StoreError
from stream_detector.types import (
    AssetReport,
    AssetState,
    IncidentState,
    RecordedVerdict,
    Removed,
    SensorFault,
    SensorState,
    ThresholdState,
)

Run = Callable[..., str]
JUDGED_MS = 1_583_748_873_000
QUIET = AssetState(
    judged_ms=JUDGED_MS,
    threshold=ThresholdState(method="spot", level=4.02, seen=500, sample=np.ones(20, np.float32)),
)
ALARMED = replace(
    QUIET,
    incident=IncidentState(first_ms=JUDGED_MS - 9_000, opened_ms=JUDGED_MS - 5_000, incident="id", severity="warning"),
)
BROKEN = replace(
    QUIET,
    sensors=SensorState(
        faults=(
            SensorFault(channel="vibration", fault="stuck", since_ms=JUDGED_MS - 60_000, incident="id-2"),
            SensorFault(channel="vibration", fault="out-of-range", since_ms=JUDGED_MS),  # suspected only
        )
    ),
)


@pytest.fixture
def stream(unique: Callable[[str], str]) -> str:
    """A stream of this test's own."""
    return unique("assets")


@pytest.fixture
def config(valkey: str, stream: str, tmp_path: Path) -> Path:
    """A set-up on the embedded Valkey."""
    path = tmp_path / "pump.yaml"
    path.write_text(f"stream: {stream}\nchannels: {{vibration: {{}}}}\nredis: {{url: '{valkey}'}}\n")
    return path


@pytest.fixture
def store(valkey: str, stream: str) -> RedisStore:
    """The worker's store, with assets of every kind in two tasks."""
    store = RedisStore(RedisConfig(url=valkey), stream)
    first, second = store.acquire(0), store.acquire(1)
    store.save(0, first, 1, {"pump-1": QUIET, "pump-2": ALARMED}, {})
    store.save(1, second, 1, {"fan-1": BROKEN}, {})
    store.report(0, first, {"pump-1": AssetReport(JUDGED_MS + 500, 1.5, 4.02), "pump-2": AssetReport(JUDGED_MS, 9.0)})
    store.report(
        1,
        second,
        {
            "fan-1": AssetReport(JUDGED_MS + 1_000, 0.5, 4.02),
            "fan-2": AssetReport(12, reason="event-times", detail="s"),
        },
    )
    return store


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `assets ACTION CONFIG …` and return what it printed; no action: `assets CONFIG …`."""

    def command(action: str | None, *arguments: str, status: int = 0) -> str:
        parser = argparse.ArgumentParser()
        assets.add_parser(parser.add_subparsers())
        words = [] if action is None else [action]
        assert assets.run(parser.parse_args(["assets", *words, str(config), *arguments])) == status
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return command


def test_every_asset_has_a_row(store: RedisStore, run: Run):
    """By name, over all tasks: last reading, last window, last score, level to alarm above, state."""
    store.pin("pump-1", 6.5)
    rows: dict[str, dict[str, Any]] = {row["asset"]: row for row in json.loads(run("list", "--json"))}
    assert list(rows) == ["fan-1", "fan-2", "pump-1", "pump-2"]
    assert rows["pump-1"] == {
        "asset": "pump-1",
        "task": 0,
        "read": "2020-03-09T10:14:33.500Z",
        "judged": "2020-03-09T10:14:33.000Z",
        "score": 1.5,
        "level": 6.5,
        "state": "pinned",
        "severity": None,
        "faults": [],
        "pinned": 6.5,
        "reason": None,
        "detail": None,
    }
    assert (rows["pump-2"]["state"], rows["pump-2"]["severity"]) == ("alarm", "warning")
    assert rows["fan-1"]["state"] == "sensor-fault"
    assert rows["fan-1"]["faults"] == [{"fault": "stuck", "channel": "vibration", "since": "2020-03-09T10:13:33.000Z"}]
    assert (rows["fan-2"]["state"], rows["fan-2"]["reason"], rows["fan-2"]["judged"]) == (
        "not-judged",
        "event-times",
        None,
    )
    assert rows["fan-2"]["read"] == "1970-01-01T00:00:00.012Z"


def test_the_level_is_the_one_to_alarm_above(store: RedisStore, config: Path, run: Run):
    """With a margin, scores between the adaptive level and that one don't alarm."""
    config.write_text(config.read_text() + "threshold: {margin: 1.5}\n")
    rows = {row["asset"]: row for row in json.loads(run("list", "--json"))}
    assert rows["pump-2"]["level"] == pytest.approx(1.5 * 4.02)


def test_the_list_is_a_table_for_people(store: RedisStore, run: Run):
    """And the word `list` can be left out, options first or last."""
    text = run("list")
    assert all(part in text for part in ("last reading", "in alarm: warning", "sensor fault: stuck vibration"))
    assert text == run(None)
    assert json.loads(run(None, "--json")) == json.loads(run("list", "--json"))


def test_only_those_that_are_not_judged(store: RedisStore, run: Run):
    """With the reason; one of which nothing is known but a reading counts, too."""
    store.report(0, store.acquire(0), {"pump-9": AssetReport(JUDGED_MS)})
    rows = json.loads(run("list", "--not-judged", "--json"))
    assert [(row["asset"], row["reason"]) for row in rows] == [("fan-2", "event-times"), ("pump-9", "no-window")]


def test_nothing_to_list(run: Run, store: RedisStore, valkey: str):
    """An empty list says why it is empty."""
    for task in store.tasks():
        store.report(task, store.acquire(task), {"fan-2": None})
    assert run("list", "--not-judged") == "every asset is judged\n"


def test_nothing_was_seen_yet(run: Run):
    """A stream without workers."""
    assert run("list") == run("list", "--not-judged") == "no asset has been seen yet\n"
    assert run(None, "--json") == "[]\n"


def test_an_asset_that_moved_to_another_task_is_listed_once(store: RedisStore, run: Run):
    """The newest state and the newest report count."""
    token = store.acquire(7)
    store.save(7, token, 1, {"pump-1": replace(ALARMED, judged_ms=JUDGED_MS + 1)}, {})
    store.report(7, token, {"pump-1": AssetReport(JUDGED_MS + 9_000, 7.0, 4.0)})
    [row] = [row for row in json.loads(run("list", "--json")) if row["asset"] == "pump-1"]
    assert (row["task"], row["state"], row["score"]) == (7, "alarm", 7.0)


def test_names_and_details_are_harmless_on_a_terminal(store: RedisStore, run: Run):
    """They come from messages."""
    store.report(0, store.acquire(0), {"\x1b[31mpump\n": AssetReport(1, reason="gaps", detail="\x1b]0;x")})
    text = run("list")
    assert "\x1b" not in text
    assert r"\x1b[31mpump\n" in text


def test_a_store_that_is_away_is_named(run: Run, config: Path):
    """With its address."""
    config.write_text("stream: pump\nchannels: {vibration: {}}\nredis: {url: 'redis://127.0.0.1:1/0'}\n")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/0 can't be reached"):
        run("list")


def work(store: RedisStore, stop: threading.Event) -> None:
    """Remove assets as a worker does: the mark takes the place of both versions, one save after the other."""
    epochs = dict.fromkeys(store.tasks(), 1)
    tokens = {task: store.acquire(task) for task in epochs}
    while not stop.wait(0.02):
        for asset, removal in store.controls().removals.items():
            for task in store.holding(asset, removal.token):
                epochs[task] += 1
                mark = {asset: Removed(JUDGED_MS, JUDGED_MS, removal.token)}
                store.save(task, tokens[task], epochs[task], mark, {})


@pytest.fixture
def worker(store: RedisStore, valkey: str, stream: str) -> Iterator[None]:
    """Someone who does what operators ask for."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(RedisStore(RedisConfig(url=valkey), stream), stop))
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("worker")
def test_an_asset_is_retired(store: RedisStore, run: Run):
    """Its row is gone, its settings are, and the order is settled."""
    store.pin("pump-2", 9.0)
    assert "pump-2 is retired" in run("retire", "pump-2")
    assert [row["asset"] for row in json.loads(run("list", "--json"))] == ["fan-1", "fan-2", "pump-1"]
    assert (store.controls().pins, store.controls().removals) == ({}, {})
    done = json.loads(run("retire", "pump-1", "--json"))
    assert done == {"action": "retire", "asset": "pump-1", "done": True, "tasks": []}


def test_a_removal_that_nobody_has_done_says_so(store: RedisStore, run: Run):
    """With the tasks that are waited for; not to wait is no failure, and it can be repeated."""
    done = json.loads(run("retire", "pump-2", "--wait", "0.3", "--json", status=1))
    assert (done["done"], done["tasks"]) == (False, [0])
    assert "as soon as a worker has task 0" in run("retire", "pump-2", "--wait", "0")
    assert store.controls().removals["pump-2"].action == "retire"


def test_an_asset_without_a_state_needs_no_worker(store: RedisStore, run: Run):
    """Only its report is deleted; one that was pinned only, too."""
    store.pin("pump-9", 1.0)
    assert "fan-2 is forgotten" in run("forget", "fan-2")
    assert "pump-9 is forgotten" in run("forget", "pump-9")
    assert [row["asset"] for row in json.loads(run("list", "--json"))] == ["fan-1", "pump-1", "pump-2"]


def test_an_unknown_asset_is_refused_with_near_names(store: RedisStore, run: Run):
    """A slip of the key removes nothing."""
    for action in ("retire", "forget"):
        with pytest.raises(ConfigError, match=r"no asset 'pmup-1'; did you mean 'pump-1'"):
            run(action, "pmup-1")
    assert store.controls().version == 0


@pytest.mark.usefixtures("worker")
def test_verdicts_that_cannot_be_found_are_told(store: RedisStore, run: Run, config: Path):
    """Which alerts are the asset's, only the alert topic knows; without it, the rest is done and the status is 1."""
    config.write_text(config.read_text() + "kafka: {bootstrap_servers: ['127.0.0.1:1'], start_timeout_ms: 0}\n")
    store.record_verdicts([RecordedVerdict("a", "true-alarm", "", "", 1, 0, 0)], 10)
    assert "verdicts on its alerts are still kept" in run("forget", "pump-1", status=1)
    assert len(store.verdicts()) == 1
    assert store.find("pump-1") is None


@pytest.mark.usefixtures("worker")
def test_a_retired_asset_can_be_forgotten_later(store: RedisStore, run: Run, config: Path):
    """The verdicts are left to delete when nothing else of the asset is known any more; a repeated `forget`, too."""
    config.write_text(config.read_text() + "kafka: {bootstrap_servers: ['127.0.0.1:1'], start_timeout_ms: 0}\n")
    store.record_verdicts([RecordedVerdict("a", "true-alarm", "", "", 1, 0, 0)], 10)
    assert "pump-1 is retired" in run("retire", "pump-1")
    assert "verdicts on its alerts are still kept" in run("forget", "pump-1", status=1)
    with pytest.raises(ConfigError, match="no asset 'pump-1'"):
        run("retire", "pump-1")


@pytest.mark.parametrize("seconds", ["-1", "nan", "x", "1e9"])
def test_a_wrong_time_to_wait_is_refused(run: Run, seconds: str):
    """By the parser."""
    with pytest.raises(SystemExit):
        run("retire", "pump-1", f"--wait={seconds}")
