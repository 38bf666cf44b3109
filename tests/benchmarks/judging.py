"""What judging costs: microseconds a score, from score to threshold, incident and adaptation, in one thread.

    python -m tests.benchmarks.judging --json [--assets 1000] [--windows 200] [--repeats 5] [--history 10000]

Scores of healthy machines, one window an asset in turn, as one poll after the other brings them; refits, learning and
the alerts of rare exceedances are in the average. `risk` judges by a risk, `budget` by an alert budget, `incidents`
with an incident open at every asset. The best and the median of the repeats; no model is scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import numpy as np

from stream_detector.config import Config
from stream_detector.decision.engine import Judging
from stream_detector.ports import TaskState
from stream_detector.types import Controls, ModelRef, ScoreBatch, WindowBatch
from stream_detector.worker.gc_settings import tune_gc
from stream_detector.worker.task import Task

COLUMNS = 4
STEP_MS = 60_000
CASES: dict[str, dict[str, object]] = {
    "risk": {"method": "spot", "risk": 1e-4, "margin": 4},
    "budget": {"method": "spot", "budget": {"incidents": 3, "per": "week"}},
    "incidents": {"method": "spot", "risk": 1e-4, "margin": 4},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=1000)
    parser.add_argument("--windows", type=int, default=200, help="of each asset, judged a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--history",
        type=int,
        default=10_000,
        help="scores calibrated on; 10,000 fill the tail, as in the long run. With fewer it is fitted more often",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tune_gc()
    found: dict[str, object] = {"assets": args.assets, "windows": args.windows, "history": args.history}
    for name, threshold in CASES.items():
        times = measure(
            threshold, args.assets, args.windows, args.repeats, 60.0 if name == "incidents" else 0.0, args.history
        )
        found[name] = {"us_a_score": round(min(times), 2), "median_us_a_score": round(statistics.median(times), 2)}
    sys.stdout.write(json.dumps(found, indent=None if args.json else 2) + "\n")


def measure(
    threshold: dict[str, object], assets: int, windows: int, repeats: int, more: float, history: int
) -> list[float]:
    """Return the microseconds of a score, one figure a repeat; `more` is added to every score."""
    config = Config.model_validate(
        {
            "stream": "s",
            "channels": {f"c{index}": {} for index in range(COLUMNS)},
            "threshold": threshold,
            "window": {"cell_ms": STEP_MS, "length": 10, "stride": 1},
        }
    )
    rng = np.random.default_rng(0)
    judging = Judging(config, [rng.exponential(size=history)])
    task = Task(config, 0, 1, TaskState({}, 0, {}), {}, {})
    names = [f"asset-{index}" for index in range(assets)]
    times, at = [], 0
    for repeat in range(repeats + 1):
        batches = [batch(names, (at + step) * STEP_MS, rng, more) for step in range(windows)]
        at += windows
        began = time.process_time()
        for part, scores in batches:
            judging.judge(task, part, scores, 0, Controls())
            task.changed.clear()
        if repeat:  # the first one makes the states
            times.append((time.process_time() - began) / (windows * assets) * 1e6)
        judging.take_audits()
    return times


def batch(names: list[str], end_ms: int, rng: np.random.Generator, more: float) -> tuple[WindowBatch, ScoreBatch]:
    """Return one window an asset, and its scores."""
    count = len(names)
    parts = np.zeros((count, COLUMNS), np.float32)
    cells = np.zeros((count, 1, COLUMNS), np.float32)
    windows = WindowBatch(0, names, np.full(count, end_ms), cells, np.zeros(cells.shape, bool), np.full(count, -1))
    score, offset = rng.exponential(size=count) + more, rng.normal(size=(count, COLUMNS)).astype(np.float32)
    model = np.zeros(count, np.int32)
    return windows, ScoreBatch(score, parts, parts, parts, model, (ModelRef("ae", "1"),), offset=offset)


if __name__ == "__main__":
    main()
