"""Threshold and incident in turn, and the states they leave."""

from __future__ import annotations

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
