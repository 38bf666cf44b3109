"""The public names, and what the functions among them take and give; the ways of using them are in docs/library.md."""

from __future__ import annotations

import inspect
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import stream_detector
from stream_detector import (
    Artifact,
    Config,
    ModelSet,
    Reading,
    Recording,
    Worker,
    backtest,
    load_config,
    train,
)
from stream_detector.adapters.memory.log import MemoryLog, MemorySink, MemorySource
from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.api.readings import times_ms
from stream_detector.codec import encode_reading
from stream_detector.datasets.options import DEFAULT_START_MS
from stream_detector.errors import ArtifactError, DataError
from stream_detector.types import Partition
from tests.test_imports import loaded

NAMES = [
    "Alert",
    "Artifact",
    "BacktestResult",
    "Config",
    "Controls",
    "Detector",
    "DetectorError",
    "Engine",
    "Estimator",
    "Format",
    "ModelSet",
    "Reading",
    "Recording",
    "ScoredWindow",
    "Sink",
    "Source",
    "StateStore",
    "Step",
    "ThresholdMethod",
    "Worker",
    "backtest",
    "load_config",
    "read_recordings",
    "train",
]
START_MS = DEFAULT_START_MS


def test_the_public_names_are_these():
    """A name that comes or goes is a change of the public API: it belongs into CHANGELOG.md and docs/library.md."""
    assert NAMES == stream_detector.__all__
    assert sorted([*NAMES, "__version__"]) == dir(stream_detector)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_resolves_and_is_documented(name):
    """Each has a docstring of its own, and so have its methods."""
    found = getattr(stream_detector, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        methods = {key: value for key, value in vars(found).items() if not key.startswith("_")}
        bare = [key for key, value in methods.items() if inspect.isfunction(value) and not value.__doc__]
        assert bare == []


def test_an_unknown_name_is_an_attribute_error():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        stream_detector.Nothing  # noqa: B018


def test_names_are_loaded_when_they_are_used():
    """A set-up is read, and the ports are named, without torch."""
    code = "from stream_detector import Alert, Config, Reading, Source, ThresholdMethod, load_config, read_recordings"
    assert loaded(code, "torch", "kafka", "redis", "sklearn", "river") == []
    assert loaded("from stream_detector import Detector", "torch", "kafka") == ["torch"]


@pytest.fixture(scope="module")
def config() -> Config:
    """Two channels, windows of eight cells."""
    return Config.model_validate(
        {
            "stream": "pump",
            "channels": {"vibration": {}, "current": {}},
            "window": {"length": 8},
            "model": {"kind": "mahalanobis"},
        }
    )


def plant(rows: int, seed: int, fault: slice = slice(0, 0)) -> np.ndarray:
    """Return noise (rows, 2), shifted where there is a fault."""
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    values[fault] += 8.0
    return values


@pytest.fixture(scope="module")
def artifact(config: Config) -> Artifact:
    """Trained on an array."""
    return train(config, plant(1_000, 0))


def test_the_same_readings_give_the_same_artifact_whatever_holds_them(config: Config, artifact: Artifact):
    """Array, table, recording, readings one by one: each becomes the same messages."""
    values = plant(1_000, 0)
    times = START_MS + 1_000.0 * np.arange(1_000)
    columns = {"current": values[:, 1], "vibration": values[:, 0], "unused": values[:, 0]}
    readings = (
        Reading("asset", ts, {"vibration": a, "current": b}) for ts, (a, b) in zip(times, values.tolist(), strict=True)
    )
    others = [
        train(config, values, times=times.astype("int64").astype("datetime64[ms]")),
        train(config, values.tolist(), times=times),
        train(config, columns, times=times),
        train(config, Recording("asset", times, {"vibration": values[:, 0], "current": values[:, 1]})),
        train(config, readings),
    ]
    assert {one.ref.version for one in others} == {artifact.ref.version}


def test_a_table_of_dates_is_read_as_pandas_has_it(config: Config, artifact: Artifact):
    """Columns by name, times from the index."""

    class Frame:
        columns = ("vibration", "current")
        index = (START_MS + 1_000.0 * np.arange(1_000)).astype("int64").astype("datetime64[ms]")

        def __getitem__(self, name: str) -> np.ndarray:
            return plant(1_000, 0)[:, self.columns.index(name)]

    assert artifact.ref == train(config, Frame()).ref


def test_a_missing_value_is_a_missing_reading(config: Config, artifact: Artifact):
    """NaN is not sent."""
    values = plant(600, 1)
    values[100] = np.nan
    result = backtest(config, artifact, values)
    assert 599 == result.readings
    assert len(result.dead_letters) == 0


def test_a_backtest_returns_alerts_typed_and_as_bytes(config: Config, artifact: Artifact):
    """The fault is found; each alert stands there twice."""
    result = backtest(config, artifact, plant(600, 1, slice(300, 340)), asset="pump-1")
    assert ["open", "close"] == [alert.event for alert in result.alerts if alert.event in ("open", "close")]
    assert [json.loads(value)["id"] for value in result.alert_bytes] == [alert.id for alert in result.alerts]
    assert {"pump-1"} == {alert.asset for alert in result.alerts} == set(result.scores.asset)
    entries = map(json.loads, result.audit_bytes)
    assert [(one["asset"], one["cause"]) for one in entries] == [(one.asset, one.cause) for one in result.audits]


def test_a_backtest_returns_every_windows_score(config: Config, artifact: Artifact):
    """One row a window, as it was judged: with the level before it, and whether an incident was open after it."""
    result = backtest(config, artifact, plant(600, 1, slice(300, 340)))
    scores = result.scores
    assert 600 - 8 == len(scores) == len(scores.end_ms) == len(scores.level)  # the last cell never closes
    assert np.array_equal(scores.anomalous, scores.score > scores.level)
    opened = next(alert for alert in result.alerts if alert.event == "open")
    assert scores.end_ms[scores.alarm][0] == opened.end_ms
    assert scores.score[scores.alarm][0] == pytest.approx(opened.score, rel=1e-5)


def test_readings_that_cannot_be_used_come_back_with_the_reason(config: Config, artifact: Artifact):
    """Late ones here."""
    readings = [Reading("a", START_MS + 1_000 * (row if row != 50 else 0), {"vibration": 0.0}) for row in range(100)]
    (letter,) = backtest(config, artifact, readings).dead_letters
    assert ("too-late", 50) == (letter.code, letter.message.offset)


def test_a_detector_of_other_windows_is_refused(config: Config, artifact: Artifact):
    """With the key that differs."""
    other = config.model_copy(update={"window": config.window.model_copy(update={"length": 9})})
    with pytest.raises(ArtifactError, match=r"window\.length"):
        backtest(other, artifact, plant(100, 0))


def test_an_artifact_comes_back_from_its_file(config: Config, artifact: Artifact, tmp_path: Path):
    """Paths may be text."""
    artifact.save(str(tmp_path / "a.safetensors"))
    assert artifact.ref == Artifact.load(str(tmp_path / "a.safetensors")).ref


def test_a_set_up_is_read_by_the_path_as_text(tmp_path: Path):
    """Or as Path."""
    (tmp_path / "pump.yaml").write_text("stream: pump\nchannels: {vibration: {}}\n")
    assert load_config(str(tmp_path / "pump.yaml")) == load_config(tmp_path / "pump.yaml")


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        (np.zeros((5, 3)), {}, r"shape \(5, 3\), expected \(n, 2\)"),
        ({"vibration": [1.0]}, {}, "no column 'current'"),
        ({"vibration": ["x"], "current": [1.0]}, {}, "column 'vibration' holds what is not a number"),
        (np.zeros((3, 2)), {"times": [0.0, 1.0]}, "the timestamps 2"),
        (np.zeros((2, 2)), {"times": ["a", "b"]}, "times are of type"),
        (np.zeros((2, 2)), {"times": [0.0, np.nan]}, "times must be one row of finite moments"),
        ([Reading("a", 0.0, {"vibration": 1.0})], {"times": [0.0]}, "single readings carry their own times"),
        ([Reading("a", 0.0, {"vibration": np.inf})], {}, "asset 'a', the reading at 0 ms: vibration must be"),
        (Recording("a", np.zeros(1), {"x": np.zeros(1)}), {}, r"none of its columns \['x'\]"),
        ([], {}, "the history makes 0 windows"),
    ],
)
def test_readings_that_do_not_fit_are_refused(config: Config, given, options, told):
    """The message names what is wrong."""
    with pytest.raises(DataError, match=told):
        train(config, given, **options)


def test_times_may_be_dates():
    """With an offset or, taken as UTC, without one."""
    naive, aware = datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 12, tzinfo=UTC)
    expected = 1_704_110_400_000.0
    assert [expected] * 2 == times_ms([naive, aware]).tolist()
    assert [expected] == times_ms(np.array(["2024-01-01T12"], "datetime64[h]")).tolist()


def test_labels_reach_a_detector_that_learns_from_them(config: Config):
    """And are needed by it."""
    supervised = Config.model_validate(
        {**config.model_dump(), "model": {"kind": "classifier", "hidden": [4]}, "train": {"epochs": 1}}
    )
    values = plant(600, 0, slice(100, 200))
    faulty = np.zeros(600)
    faulty[100:200] = 1
    with pytest.raises(DataError, match="learns from labelled faults"):
        train(supervised, values)
    assert train(supervised, values, labels=faulty).fit.faulty > 50


class TestWorker:
    """The pipeline as an object: ports in memory here."""

    def make(self, config: Config, models: Artifact | ModelSet) -> tuple[MemoryLog, MemorySink, Worker]:
        """Return a log with readings that hold a fault, the sink, and a worker on both."""
        log = MemoryLog({"pump.readings": 1})
        for row, (a, b) in enumerate(plant(600, 1, slice(300, 340)).tolist()):
            value = encode_reading("pump-1", START_MS + 1_000 * row, {"vibration": a, "current": b})
            log.append(Partition("pump.readings", 0), b"pump-1", value)
        source = MemorySource(log, ["pump.readings"])
        sink = MemorySink(log, source, config.alert_topic, config.dead_letter_topic, audit_topic=config.audit_topic)
        return log, sink, Worker(config, source, sink, MemoryStore(), models)

    def test_it_publishes_what_a_backtest_returns(self, config: Config, artifact: Artifact):
        """The same bytes."""
        _, sink, worker = self.make(config, ModelSet(by_asset={"pump-1": artifact}))
        with worker:
            worker.open()
            while worker.step(0):
                pass
            worker.commit()
        expected = backtest(config, artifact, plant(600, 1, slice(300, 340)), asset="pump-1").alert_bytes
        assert expected == [message.value for message in sink.alerts]
        assert worker.alerts == len(expected)

    def test_it_runs_until_it_is_stopped(self, config: Config, artifact: Artifact):
        """Then commits; closing it again is harmless."""
        _, sink, worker = self.make(config, artifact)
        stop = threading.Event()

        def enough(*_: object) -> None:
            if worker.windows >= 592:
                stop.set()

        worker.health.turning = enough  # type: ignore[method-assign] # each turn of the loop passes here
        worker.run(stop)
        worker.close()
        assert len(sink.alerts) == worker.alerts > 0

    def test_it_refuses_a_detector_of_other_windows(self, config: Config, artifact: Artifact):
        """Before it reads anything."""
        other = config.model_copy(update={"window": config.window.model_copy(update={"length": 9})})
        with pytest.raises(ArtifactError, match=r"window\.length"):
            self.make(other, artifact)
