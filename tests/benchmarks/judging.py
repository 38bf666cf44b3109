"""What a decision costs: microseconds a window, from score to threshold, incident and adaptation, in one thread.

    python -m tests.benchmarks.judging --json [--assets 1000] [--windows 200] [--repeats 5] [--history 10000]
    python -m tests.benchmarks.judging --json --against fc20fbf --pairs 5

Scores of healthy machines, one window an asset in turn, as one poll after the other brings them; refits, learning and
the alerts of rare exceedances are in the average.

    quiet    judged by a risk: nearly all windows take the columnar path (`risk` in 0.1.0)
    chain    the same windows, each through the chain of policies
    incident an incident is open at every asset, so that each window takes the chain (`incidents` in 0.1.0)
    budget   by an alert budget
    bursts   20 assets, 50 windows of each in a batch

`--against` measures 0.1.0 in a worktree of that commit, in turn with this version, and prints `quiet_ratio` (quiet over
its `risk` case, learning included) and `chain_ratio` (incident over its `incidents` case), medians over the pairs. No
model is scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.config import Config
from stream_detector.decision.driver import Driver
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.types import Controls, ModelRef, ScoreBatch, WindowBatch
from stream_detector.worker.gc_settings import tune_gc

ROOT = Path(__file__).parents[2]
COLUMNS = 4
STEP_MS = 60_000
RISK: dict[str, object] = {"method": "spot", "risk": 1e-4, "margin": 4}
BUDGET: dict[str, object] = {"method": "spot", "budget": {"incidents": 3, "per": "week"}}


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
    parser.add_argument("--against", metavar="COMMIT", help="measure this commit of 0.1.0 as well, in turn")
    parser.add_argument("--pairs", type=int, default=3, help="for --against (default: 3)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tune_gc()
    found: dict[str, Any] = {"assets": args.assets, "windows": args.windows, "history": args.history}
    if args.against:
        found |= against(args)
    else:
        for name in ("quiet", "chain", "incident", "budget", "bursts"):
            times = case(name, args)
            found[f"{name}_us"], found[f"{name}_median_us"] = round(min(times), 3), round(statistics.median(times), 3)
    sys.stdout.write(json.dumps(found, indent=None if args.json else 2) + "\n")


def against(args: argparse.Namespace) -> dict[str, Any]:
    """Return medians over pairs of this version and of another commit, and their ratios."""
    mine: dict[str, list[float]] = {"quiet": [], "incident": [], "bursts": []}
    theirs: dict[str, list[float]] = {"risk": [], "incidents": []}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", tree, args.against], cwd=ROOT, check=True,
                       capture_output=True)  # fmt: skip
        try:
            for _ in range(args.pairs):
                before = run_there(tree, args)
                for name in theirs:
                    theirs[name].append(before[name]["us_a_score"])
                for name in mine:
                    mine[name].append(min(case(name, args)))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True, capture_output=True)
    pairs = range(args.pairs)
    return {
        "against": args.against,
        "quiet_us": statistics.median(mine["quiet"]),
        "chain_us": statistics.median(mine["incident"]),
        "bursts_us": statistics.median(mine["bursts"]),
        "risk_us_before": statistics.median(theirs["risk"]),
        "incidents_us_before": statistics.median(theirs["incidents"]),
        "quiet_ratio": round(statistics.median(mine["quiet"][i] / theirs["risk"][i] for i in pairs), 4),
        "chain_ratio": round(statistics.median(mine["incident"][i] / theirs["incidents"][i] for i in pairs), 4),
        "bursts_ratio": round(statistics.median(mine["bursts"][i] / theirs["risk"][i] for i in pairs), 4),
    }


def run_there(tree: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return what the benchmark of another version prints, measured with the same settings."""
    command = [sys.executable, "-m", "tests.benchmarks.judging", "--json"]
    for name in ("assets", "windows", "repeats", "history"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def case(name: str, args: argparse.Namespace) -> list[float]:
    """Return the microseconds of a window in one case, one figure a repeat."""
    budget, more = (BUDGET if name == "budget" else RISK), (60.0 if name == "incident" else 0.0)
    if name == "bursts":
        return measure(budget, 20, max(4, args.windows // 50) * 50, args.repeats, args.history, burst=50)
    return measure(budget, args.assets, args.windows, args.repeats, args.history, more=more, chain=name == "chain")


def measure(
    threshold: dict[str, object],
    assets: int,
    windows: int,
    repeats: int,
    history: int,
    *,
    more: float = 0.0,
    chain: bool = False,
    burst: int = 1,
) -> list[float]:
    """Return the microseconds of a window, one figure a repeat; `more` is added to every score.

    `chain`: without the quiet path. `burst`: windows of an asset in a batch.
    """
    config = Config.model_validate(
        {
            "stream": "s",
            "channels": {f"c{index}": {} for index in range(COLUMNS)},
            "threshold": threshold,
            "window": {"cell_ms": STEP_MS, "length": 10, "stride": 1},
        }
    )
    rng = np.random.default_rng(0)
    driver, table, controls = Driver(Engine(config, [rng.exponential(size=history)])), StateTable(), Controls()
    if chain:
        driver.quiet.on = False
    names = [f"asset-{index}" for index in range(assets)]
    times, at = [], 0
    for repeat in range(repeats + 1):
        batches = [batch(names, at + step, burst, rng, more) for step in range(0, windows, burst)]
        at += windows
        began = time.process_time()
        for part, scores in batches:
            driver.judge(table, part, scores, controls=controls)
            table.forget_changes()
        if repeat:  # the first one makes the states
            times.append((time.process_time() - began) / (windows * assets) * 1e6)
    return times


def batch(
    names: list[str], at: int, burst: int, rng: np.random.Generator, more: float
) -> tuple[WindowBatch, ScoreBatch]:
    """Return `burst` windows of each asset, and their scores."""
    count = len(names) * burst
    parts = np.zeros((count, COLUMNS), np.float32)
    cells = np.zeros((count, 1, COLUMNS), np.float32)
    ends = np.repeat(STEP_MS * (at + 1 + np.arange(burst)), len(names))
    windows = WindowBatch(0, names * burst, ends, cells, np.zeros(cells.shape, bool), np.full(count, -1))
    score, offset = rng.exponential(size=count) + more, rng.normal(size=(count, COLUMNS)).astype(np.float32)
    model = np.zeros(count, np.int32)
    return windows, ScoreBatch(score, parts, parts, parts, model, (ModelRef("ae", "1"),), offset=offset)


if __name__ == "__main__":
    main()
