"""An evaluation decides as a worker would, and never from what comes later."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.codec import encode_alert
from stream_detector.config import Config, WindowConfig
from stream_detector.datasets.recording import Recording
from stream_detector.evaluate.data import Case, encoded
from stream_detector.evaluate.fitting import fit_each
from stream_detector.evaluate.live import Live, Track, decide, overlaid, ratio
from stream_detector.evaluate.offline import Backtest
from stream_detector.scoring.scorer import Scorer
from stream_detector.types import WindowBatch
from tests.evaluate.data import series

START = 1_583_748_000_000.0


def config() -> Config:
    """Two sensors, a verdict a second."""
    return Config.model_validate(
        {
            "stream": "pump",
            "channels": {"flow": {}, "pressure": {}},
            "window": {"cell_ms": 1_000, "length": 20},
            "features": {"smoothing": 0.3, "keep": 1},
            "model": {"kind": "ae", "hidden": [8], "latent": 1},
            "train": {"epochs": 10},
            "threshold": {"method": "quantile", "risk": 1e-2},
        }
    )


def recording(rows: int, fault: range, seed: int = 0, name: str = "pump-1") -> Recording:
    """A labelled recording, a row a second."""
    values = series(rows, fault, seed, 2)
    return Recording(
        asset=name,
        ts_ms=START + 1_000.0 * np.arange(rows),
        values={"flow": values[:, 0], "pressure": values[:, 1]},
        labels=np.isin(np.arange(rows), fault).astype(np.int8),
    )


@pytest.fixture(scope="module")
def case() -> Case:
    """400 rows to train on, 300 to judge, a fault from the 500th on."""
    whole = recording(700, range(500, 560))
    return Case("pump-1", whole.head(400), whole.rows(400), config(), 400)


@pytest.fixture(scope="module")
def live(case: Case) -> Live:
    """Its trained detector."""
    return Live(case.config, fit_each(case.config, [case]))


def test_alerts_are_those_of_a_worker(case, live):
    """The same bytes as the pipeline publishes for the same rows."""
    track = live.judges().follow(live.score(case.test))
    artifacts = live.models.artifacts
    worker = Backtest(
        case.config,
        Scorer(live.models, case.config.scorer),
        [one.calibration for one in artifacts],
        profiles=[one.profile for one in artifacts],
        model_of=live.models.ref_of,
    )
    published = list(worker.run(encoded(case.test)))
    assert published == [encode_alert(alert) for alert in track.alerts]
    assert len(published) >= 2


def test_the_alarm_is_up_while_an_incident_is_open(case, live):
    """From the alert that opens it to the one that closes it."""
    track = live.judges().follow(live.score(case.test))
    opened = next(alert for alert in track.alerts if alert.event == "open")
    closed = next(alert for alert in track.alerts if alert.event == "close")
    inside = (track.end_ms >= opened.end_ms) & (track.end_ms < closed.end_ms)
    assert track.alarm[inside].all()
    assert not track.alarm[track.end_ms < opened.end_ms].any()
    assert opened.threshold == pytest.approx(track.level[track.end_ms == opened.end_ms][0], rel=1e-5)


@pytest.mark.parametrize("until", [120, 121, 150, 260])
def test_no_decision_depends_on_later_rows(case, live, until):
    """Whatever comes after row t, what was said of the rows up to t stays."""
    whole = case.test
    rng = np.random.default_rng(until)
    other = Recording(
        asset=whole.asset,
        ts_ms=whole.ts_ms,
        values={
            name: np.where(np.arange(len(whole)) <= until, column, rng.normal(size=len(whole)))
            for name, column in whole.values.items()
        },
    )
    said = [decide(live.judges().follow(live.score(one)), one.ts_ms, WindowConfig()) for one in (whole, other)]
    assert said[0].alarm[: until + 1].tolist() == said[1].alarm[: until + 1].tolist()
    assert said[0].score[: until + 1].tolist() == said[1].score[: until + 1].tolist()
    assert said[0].score[until + 1 :].tolist() != said[1].score[until + 1 :].tolist()


def track(ends: list[int], alarm: list[bool]) -> Track:
    """Windows that end at these times."""
    count = len(ends)
    return Track(
        "a", np.array(ends), np.arange(float(count)), np.full(count, 2.0), np.array(alarm), np.array(alarm), ()
    )


def test_a_row_has_the_decision_of_the_newest_window_up_to_it():
    """
    cells of 10   │ 1 · 5 │ · │ 22 · · 28 │ 35 │
    windows end           10           30   40
    row 1: another row follows in its cell, so no window ends with it yet
    """
    ts_ms = np.array([1.0, 5.0, 22.0, 28.0, 35.0])
    rows = decide(track([10, 30, 40], [True, False, True]), ts_ms, WindowConfig(cell_ms=10))
    assert [False, True, True, False, True] == rows.alarm.tolist()
    assert [-np.inf, 0, 0, 1, 2] == rows.score.tolist()
    assert [True, False, False, False, False] == np.isnan(rows.level).tolist()


def test_the_last_row_keeps_the_decision_before_it():
    """Its cell ends with a later reading, and there is none; live, nothing is said of it either."""
    rows = decide(track([10, 30], [True, False]), np.array([1.0, 5.0, 22.0, 28.0, 35.0]), WindowConfig(cell_ms=10))
    assert [False, True, True, False, False] == rows.alarm.tolist()
    assert [-np.inf, 0, 0, 1, 1] == rows.score.tolist()


def test_without_a_window_nothing_is_alarmed():
    """A recording shorter than a window."""
    rows = decide(track([], []), np.array([1.0, 2.0]), WindowConfig(cell_ms=10))
    assert ([False, False], [-np.inf, -np.inf]) == (rows.alarm.tolist(), rows.score.tolist())


def test_scores_are_pooled_as_ratios_to_their_level():
    """1 at the level, also where levels are logarithms below 0; what is not a number is as strange as can be."""
    score, level = np.array([4.0, 2.0, -1.0, -2.0, np.nan, 3.0]), np.array([2.0, 2.0, -2.0, -2.0, 2.0, np.nan])
    assert [2, 1, 1.5, 1, np.inf, 3] == ratio(score, level).tolist()


@pytest.mark.parametrize("stride", [1, 3])
def test_overlapping_windows_are_kept_as_views_of_their_cells(stride):
    """A window's cells are there once, not as often as windows hold them; after a gap windows stay as they were."""
    cells = np.arange(160, dtype=np.float32).reshape(80, 2)
    starts = np.arange(0, 70, stride)
    values = cells[starts[:, None] + np.arange(10)]
    filled, ends = values % 3 == 0, starts + 10
    batch = WindowBatch(0, ["a"] * len(ends), ends, values, filled, np.full(len(ends), -1))
    found = overlaid(batch, stride)
    assert np.array_equal(found.values, values)
    assert np.array_equal(found.filled, filled)
    assert found.values.base is not None
    apart = WindowBatch(0, ["a"] * 2, ends[[0, 5]], values[[0, 5]], filled[[0, 5]], ends[:2])
    assert overlaid(apart, stride) is apart
