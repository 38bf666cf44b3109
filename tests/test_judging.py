"""Threshold and incident in turn, and the states they leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_detector.config import ChannelConfig, Config, ThresholdConfig
from stream_detector.judging import Judging
from stream_detector.ports import TaskState
from stream_detector.records import Controls, ModelRef, ScoreBatch, WindowBatch
from stream_detector.task import Task

CONFIG = Config(stream="s", channels={"a": ChannelConfig()}, threshold=ThresholdConfig(learn_after=0))


def batch(assets: list[str], end_ms: int, score: float) -> tuple[WindowBatch, ScoreBatch]:
    """One window an asset, all with the same score."""
    n = len(assets)
    one = np.zeros((n, 1), np.float32)
    windows = WindowBatch(
        0, assets, np.full(n, end_ms), np.zeros((n, 1, 1), np.float32), np.zeros((n, 1, 1), bool), np.full(n, -1)
    )
    return windows, ScoreBatch(np.full(n, score), one, one, one, np.zeros(n, np.int32), (ModelRef("ae", "1"),))


def test_a_reset_of_one_asset_leaves_the_others_as_they_are():
    """The first reset ever made concerns its asset only; what the others learnt stays."""
    judging = Judging(CONFIG, [np.random.default_rng(0).exponential(size=500)])
    task = Task(CONFIG, 0, 1, TaskState({}, 0, {}), {}, {})
    for step in range(50):
        judging.judge(task, *batch(["p", "q"], 1_000 * step, 0.5), 0, Controls())
    seen = task.states["p"].threshold.seen
    after = Controls(version=1, resets={"q": "1700000000000000"})
    for step in range(50, 60):
        judging.judge(task, *batch(["p", "q"], 1_000 * step, 0.5), 0, after)
    assert seen + 10 == task.states["p"].threshold.seen
    assert 500 + 10 >= task.states["q"].threshold.seen
    assert "1700000000000000" == task.states["q"].reset


def told_of(peaks: list[float], **threshold: object) -> int:
    """Return how many incidents as many leaps to these scores open, a quiet time after each."""
    config = Config.model_validate(
        {
            "stream": "s",
            "channels": {"a": ChannelConfig()},
            "threshold": {"learn_after": 0, **threshold},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 10},
            "adaptation": {"flat_ms": None},
        }
    )
    judging = Judging(config, [np.random.default_rng(0).exponential(size=500)])
    task, opened, step = Task(config, 0, 1, TaskState({}, 0, {}), {}, {}), 0, 0
    for peak in peaks:
        for score in [peak] * 40 + [0.5] * 40:
            step += 1
            windows, scores = batch(["p"], 1_000 * step, score)
            scores = replace(scores, offset=np.zeros((1, 1), np.float32))
            opened += sum(alert.event == "open" for alert in judging.judge(task, windows, scores, 0, Controls()))
    return opened


def test_what_was_told_and_is_over_is_no_news_if_asked_for():
    """With learn_told the same leap again opens no incident, a worse one does; without it each does."""
    assert told_of([60.0, 60.0, 60.0, 300.0]) == 4
    assert told_of([60.0, 60.0, 60.0, 300.0], learn_told=True) == 2
