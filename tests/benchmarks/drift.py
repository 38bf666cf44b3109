"""Drift detectors on the scores and offsets of simulated machines: river's beside the product's block means.

    python -m tests.benchmarks.drift [--machines 4] [--config configs/simulated.yaml]

Prints one JSON object. Each machine trains its own detector on its healthy beginning. Of the live part every window
that adaptation looks at (one in four) gives one value a stream: the score's logarithm, and each channel's offset in
training spreads. A machine's detectors are one a stream; a drift is noticed when any of them fires. `blocks` is the
rule of stream_detector/decision/adaptation.py, on offsets alone, with several least steps of a shift.

- `false_a_week`: times that any stream fired on healthy machines, a machine and week
- `scenarios`: of each event or fault: `noticed` of `of`, and `delay_h`, the median hours from its beginning
- `before`: firings before the first event, a machine and week
- `us`: microseconds of an update of one stream; `us_a_window`: of all streams of a machine, spread over all windows
- `bytes`: what one machine's detectors would add to its state, of which all may have 4,096
- `equal`: of each family the most sensitive setting with at most one false notice a machine and week, if any
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import drift

from stream_detector.config import AdaptationConfig, Config
from stream_detector.config import loading as settings
from stream_detector.decision import adaptation
from stream_detector.decision.adaptation import EVERY, AdaptationRules, Seen
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.fitting import fit_each
from stream_detector.evaluate.live import Live
from stream_detector.evaluate.simulated.fleet import Machine, simulated
from stream_detector.simulation.simulate import simulate

SCENARIOS = ("healthy", "load-steps", "season", "maintenance", "sensor-replaced", "slow-wear")
DAYS, TRAINED = 7.0, 0.4
WEEK_MS, HOUR_MS = 604_800_000.0, 3_600_000.0
FALSE_A_WEEK = 1.0
#: Settings of each family from sensitive to insensitive; Page-Hinkley's delta is a quarter spread, not river's 0.005.
ADWIN = (2e-3, 1e-5, 1e-10, 1e-20, 1e-40)  # delta; default 2e-3
PAGE_HINKLEY = (5.0, 15.0, 50.0, 150.0, 500.0)  # threshold; default 50
KSWIN = (5e-3, 1e-6, 1e-12)  # alpha; default 5e-3
BLOCKS = (adaptation.LEAST_STEP, 0.3, 1.0, 2.0)  # least step, spreads


@dataclass(frozen=True, slots=True)
class Stream:
    """One machine's live part, as its detectors see it."""

    machine: Machine
    end_ms: NDArray[np.int64]  # (L,) of the windows looked at
    values: NDArray[np.float64]  # (L, 1 + N): log score, offsets


@dataclass(slots=True)
class Told:
    """When any stream of a machine fired, and what it cost."""

    fired_ms: list[int]
    seconds: float
    bytes: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=4, help="of each scenario")
    parser.add_argument("--config", type=Path, default=Path("configs/simulated.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = settings.load(args.config)
    streams = {name: list(recorded(config, name, args.machines, args.seed)) for name in SCENARIOS}
    families: dict[str, dict[str, Callable[[Stream], Told]]] = {
        "adwin": {f"delta {d:g}": _river(lambda d=d: drift.ADWIN(delta=d)) for d in ADWIN},
        "page-hinkley": {
            f"threshold {t:g}": _river(lambda t=t: drift.PageHinkley(delta=0.25, threshold=t)) for t in PAGE_HINKLEY
        },
        "kswin": {f"alpha {a:g}": _river(lambda a=a: drift.KSWIN(alpha=a, seed=0)) for a in KSWIN},
        "blocks": {f"step {s:g}": _blocks(config, s) for s in BLOCKS},
    }
    found: dict[str, Any] = {"machines": args.machines, "streams": 1 + len(config.numeric_columns), "equal": {}}
    for family, members in families.items():
        rows = {name: measured(run, streams) for name, run in members.items()}
        found[family] = rows
        found["equal"][family] = next((name for name, row in rows.items() if row["false_a_week"] <= FALSE_A_WEEK), None)
    sys.stdout.write(json.dumps(found) + "\n")


def recorded(config: Config, scenario: str, machines: int, seed: int) -> Iterable[Stream]:
    """Yield the streams of some machines to which a scenario happens."""
    for machine in simulated(simulate, config, machines, DAYS, seed, scenario=scenario):
        rows = int(TRAINED * len(machine))
        case = Case.of(machine.asset, machine.rows(0, rows), machine.rows(rows), config)
        parts = Live(config, fit_each(config, [case])).score(case.test).parts
        ends = np.concatenate([windows.end_ms for windows, _ in parts])
        score = np.concatenate([scores.score for _, scores in parts])
        offset = np.concatenate([scores.offset for _, scores in parts if scores.offset is not None])
        stride_ms = config.window.stride * config.window.cell_ms
        due = np.array(AdaptationRules(config.adaptation, stride_ms, offset.shape[1]).due(ends))
        values = np.column_stack([np.log(np.maximum(np.abs(score), 1e-12)), offset])
        yield Stream(machine, ends[due], values[due].astype(np.float64))


def measured(run: Callable[[Stream], Told], streams: dict[str, list[Stream]]) -> dict[str, Any]:
    """Return one setting's figures over all scenarios."""
    told = {name: [run(one) for one in some] for name, some in streams.items()}
    updates = sum(one.values.size for some in streams.values() for one in some)
    windows = EVERY * sum(len(one.end_ms) for some in streams.values() for one in some)
    seconds = sum(one.seconds for some in told.values() for one in some)
    return {
        "false_a_week": round(_a_week(streams["healthy"], told["healthy"]), 2),
        "scenarios": {name: _delays(streams[name], told[name]) for name in SCENARIOS if name != "healthy"},
        "us": round(1e6 * seconds / updates, 2),
        "us_a_window": round(1e6 * seconds / windows, 2),
        "bytes": max(one.bytes for some in told.values() for one in some),
    }


def _delays(streams: Sequence[Stream], told: Sequence[Told]) -> dict[str, Any]:
    """Return how many changes were noticed, each before the next one, and how late; and what fired before them."""
    of, delays, early, early_ms = 0, [], 0, 0.0
    for stream, one in zip(streams, told, strict=True):
        starts = sorted(truth.start_ms for truth in (*stream.machine.events, *stream.machine.faults))
        early += sum(ms < starts[0] for ms in one.fired_ms)
        early_ms += starts[0] - float(stream.end_ms[0])
        for start, stop in zip(starts, [*starts[1:], np.inf], strict=True):
            of += 1
            delays += [ms - start for ms in one.fired_ms if start <= ms < stop][:1]
    return {
        "noticed": len(delays),
        "of": of,
        "delay_h": round(statistics.median(delays) / HOUR_MS, 1) if delays else None,
        "before": round(early * WEEK_MS / early_ms, 2),
    }


def _a_week(streams: Sequence[Stream], told: Sequence[Told]) -> float:
    watched_ms = sum(float(one.end_ms[-1] - one.end_ms[0]) for one in streams)
    return sum(len(one.fired_ms) for one in told) * WEEK_MS / watched_ms


def _river(make: Callable[[], Any]) -> Callable[[Stream], Told]:
    """Return how one of river's detectors a stream is run; it starts anew after a firing, as river's do."""

    def run(stream: Stream) -> Told:
        detectors = [make() for _ in range(stream.values.shape[1])]
        fired: list[int] = []
        largest = 0
        started = time.process_time()
        for end_ms, row in zip(stream.end_ms.tolist(), stream.values.tolist(), strict=True):
            for detector, value in zip(detectors, row, strict=True):
                detector.update(value)
            if any(detector.drift_detected for detector in detectors):
                fired.append(end_ms)
        seconds = time.process_time() - started
        largest = sum(state_bytes(detector) for detector in detectors)
        return Told(fired, seconds, largest)

    return run


def state_bytes(detector: Any) -> int:
    """Return the bytes of a detector's state: its numbers as float64 and its generator; of ADWIN, pickled."""
    if isinstance(detector, drift.PageHinkley):
        return 8 * 6  # n, mean, two sums, their extremes
    if isinstance(detector, drift.KSWIN):
        return 8 * len(detector.window) + 4 * 625  # and the generator it draws its sample by
    return len(pickle.dumps(detector._helper, protocol=5)) if _pickles(detector) else 16 * _buckets(detector)


def _pickles(detector: Any) -> bool:
    try:
        pickle.dumps(detector._helper, protocol=5)
    except TypeError:
        return False
    return True


def _buckets(detector: Any) -> int:
    """Return how many buckets, of a total and a variance each, ADWIN keeps of its window: max_buckets a size."""
    return int(detector.max_buckets + 1) * max(1, int(np.ceil(np.log2(max(detector.width, 2) / detector.max_buckets))))


def _blocks(config: Config, step: float) -> Callable[[Stream], Told]:
    """Return how the block means of quiet windows are run, a shift being noticed from a `step` in spreads on."""

    def run(stream: Stream) -> Told:
        columns = stream.values.shape[1] - 1
        rule = AdaptationRules(AdaptationConfig(follow=1_000.0), config.window.stride * config.window.cell_ms, columns)
        state = rule.fresh()
        offsets = stream.values[:, 1:].astype(np.float32)
        fired: list[int] = []
        least, adaptation.LEAST_STEP = adaptation.LEAST_STEP, step
        started = time.process_time()
        for end_ms, offset in zip(stream.end_ms.tolist(), offsets, strict=True):
            state, change = rule.quiet(state, Seen(offset, 1.0, end_ms), math.inf, math.inf)
            if change is not None:
                fired.append(end_ms)
        seconds = time.process_time() - started
        adaptation.LEAST_STEP = least
        return Told(fired, seconds, 20 * columns)

    return run


if __name__ == "__main__":
    main()
