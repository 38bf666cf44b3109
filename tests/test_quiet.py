"""The quiet path and the chain of policies decide the same: alerts, audit entries and states, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detector.codec import decode_state, encode_alert, encode_audit, encode_state
from stream_detector.config import Config
from stream_detector.decision.driver import Driver, Trace
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.scoring.scorer import SCORE_BITS, round_mantissa
from stream_detector.types import Controls, ModelRef, ScoreBatch, Shifts, WindowBatch

Floats = NDArray[np.float64]
COLUMNS, STEP_MS = 3, 20_000
REFS = (ModelRef("ae", "1"),)


@dataclass(frozen=True)
class Outcome:
    """What a driver leaves of a log."""

    alerts: list[bytes]
    audits: list[bytes]
    states: dict[str, bytes]
    trace: list[tuple[float, float, bool, bool]]


def scored(inputs: Floats, shifts: Floats) -> ScoreBatch:
    """What a detector says that expects 0 of every channel (N,)."""
    parts = np.square(inputs - shifts)
    score, offset = round_mantissa(parts.sum(axis=1), SCORE_BITS), inputs.astype(np.float32)
    model = np.zeros(len(inputs), np.int32)
    return ScoreBatch(score, parts, inputs.copy(), np.zeros_like(inputs), model, REFS, offset)


def rescored(windows: WindowBatch, shifts: Shifts) -> ScoreBatch:
    """The same, of windows whose last cells are the inputs."""
    return scored(windows.values[:, -1].astype(np.float64), shifts.values)


def made_config(rng: np.random.Generator, **threshold: Any) -> Config:
    """A set-up by chance; an hour of event time is 180 windows."""
    method = str(rng.choice(["spot", "spot", "dspot", "quantile", "mad"]))
    settings: dict[str, Any] = {
        "method": method,
        "risk": float(rng.choice([1e-2, 1e-3])),
        "margin": float(rng.choice([1.0, 1.7])),
        "learn_after": int(rng.choice([0, 5, 60])),
        "adapt": bool(rng.random() < 0.9),
        "max_peaks": int(rng.choice([20, 100])),
        "memory": 50,
        "depth": 50,
        **threshold,
    }
    if settings["method"] in ("spot", "dspot") and rng.random() < 0.3:
        settings["budget"] = {"incidents": 5_000, "per": "day"}
    return Config.model_validate(
        {
            "stream": "s",
            "channels": {"a": {}, "b": {}, "c": {}},
            "threshold": settings,
            "window": {"cell_ms": STEP_MS, "length": 4, "stride": 1},
            "incident": {"open_after": 2, "open_of": 3, "close_after": 5},
            "adaptation": {
                "follow": [0.0, 1.0, None][rng.integers(3)],
                "block": int(rng.choice([8, 16])),
                "flat_ms": 1_000_000.0,
                "policy": str(rng.choice(["adapt", "ask"])),
            },
            "audit": bool(rng.random() < 0.8),
        }
    )


def made_inputs(rng: np.random.Generator, assets: int, windows: int) -> Floats:
    """Inputs (windows, assets, N): quiet for the most part, with leaps, drift and noise now and then."""
    inputs = rng.normal(size=(windows, assets, COLUMNS))
    for asset in range(assets):
        for _ in range(int(rng.integers(0, 3))):
            start, length = int(rng.integers(windows)), int(rng.integers(3, 80))
            some = inputs[start : start + length, asset]
            some += [rng.normal(size=COLUMNS) * 8, np.linspace(0, 3, len(some))[:, None]][rng.integers(2)]
    if rng.random() < 0.3:
        inputs[rng.integers(windows), rng.integers(assets)] = np.nan
    return inputs


def made_batches(rng: np.random.Generator, assets: int, windows: int) -> list[list[tuple[int, int]]]:
    """Return (asset, window) pairs in batches of all shapes; an asset's windows come in order."""
    batches: list[list[tuple[int, int]]] = []
    at = 0
    while at < windows:
        depth = min(int(rng.choice([1, 1, 3, 40])), windows - at)
        block = [(asset, at + step) for step in range(depth) for asset in range(assets)]
        if rng.random() < 0.3:  # one asset's windows after the other's
            block.sort()
        cut = int(rng.integers(1, len(block) + 1))
        batches += [one for one in (block[:cut], block[cut:]) if one]
        at += depth
    return batches


def made_controls(rng: np.random.Generator, batches: int) -> dict[int, Controls]:
    """What operators have set from some batches on."""
    found: dict[int, Controls] = {}
    for count, place in enumerate(sorted(rng.choice(batches, min(4, batches), replace=False).tolist())):
        token = f"{count:016d}1"
        found[place] = [
            Controls(count, pins={"m0": 9.0}),
            Controls(count),
            Controls(count, resets={"m1": token}),
            Controls(count, reset_all=token),
            Controls(count, accepts={"m0": token, "m1": token}),
        ][rng.integers(5)]
    return found


def run(
    config: Config,
    calibration: Floats,
    inputs: Floats,
    batches: Sequence[Sequence[tuple[int, int]]],
    *,
    controls: dict[int, Controls],
    quiet: bool,
    stored: frozenset[int] = frozenset(),
) -> tuple[Outcome, Driver, StateTable]:
    """Drive a log; `stored`: batches after which the states are what a store gives back."""
    driver, table, now = Driver(Engine(config, [calibration]), rescored), StateTable(), Controls()
    driver.quiet.on = driver.quiet.on and quiet
    found = Outcome([], [], {}, [])
    for number, batch in enumerate(batches):
        rows = np.stack([inputs[window, asset] for asset, window in batch])
        windows = WindowBatch(
            0,
            [f"m{asset}" for asset, _ in batch],
            np.array([STEP_MS * (window + 1) for _, window in batch]),
            rows[:, None].astype(np.float32),
            np.zeros((len(batch), 1, COLUMNS), bool),
            np.full(len(batch), -1),
        )
        now = controls.get(number, now)
        shifts = driver.shifts([(table, windows.assets)])
        values = np.zeros((1, COLUMNS)) if shifts is None else shifts.values
        scores = scored(windows.values[:, -1].astype(np.float64), values)
        trace = Trace(len(batch))
        decided = driver.judge(table, windows, scores, controls=now, shifts=shifts, trace=trace)
        found.alerts.extend(map(encode_alert, decided.alerts))
        found.audits.extend(map(encode_audit, decided.audits))
        columns = (trace.score, trace.level, trace.anomalous, trace.alarm)
        found.trace.extend(zip(*(np.nan_to_num(one, nan=-1.0).tolist() for one in columns), strict=True))
        if number in stored:
            for asset, state in list(table.items()):
                table[asset] = driver.engine.adopt(decode_state(encode_state(state, 1))[1])
    found.states.update({asset: encode_state(state, 0) for asset, state in table.items()})
    return found, driver, table


@pytest.mark.parametrize("seed", range(40))
def test_both_paths_give_the_same_bytes(seed: int):
    """Whatever the set-up, the machines, the shape of batches, the operators' settings, and where workers restart."""
    rng = np.random.default_rng(seed)
    config, assets = made_config(rng), int(rng.choice([1, 3, 12]))
    calibration = np.square(rng.normal(size=(int(rng.choice([30, 400])), COLUMNS))).sum(axis=1)
    inputs = made_inputs(rng, assets, 400)
    batches = made_batches(rng, assets, len(inputs))
    controls = made_controls(rng, len(batches))
    stored = frozenset(rng.choice(len(batches), len(batches) // 5, replace=False).tolist())
    with np.errstate(all="ignore"):
        chain, _, _ = run(config, calibration, inputs, batches, controls=controls, quiet=False)
        quick, _, _ = run(config, calibration, inputs, batches, controls=controls, quiet=True)
        again, _, _ = run(config, calibration, inputs, batches, controls=controls, quiet=True, stored=stored)
    assert chain.alerts == quick.alerts == again.alerts
    assert chain.audits == quick.audits == again.audits
    assert chain.states == quick.states == again.states
    assert chain.trace == quick.trace == again.trace


def test_quiet_windows_take_the_quiet_path(monkeypatch: pytest.MonkeyPatch):
    """Of healthy machines nearly all do: were it never taken, the test above would say nothing."""
    rng = np.random.default_rng(0)
    config = made_config(rng, method="spot", risk=1e-3, margin=1.7, learn_after=60, adapt=True, budget=None)
    steps = 0
    step = Engine.step

    def counted(self: Engine, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *args)

    monkeypatch.setattr(Engine, "step", counted)
    inputs = rng.normal(size=(300, 20, COLUMNS))
    batches = [[(asset, window) for asset in range(20)] for window in range(300)]
    calibration = np.square(rng.normal(size=(2_000, COLUMNS))).sum(axis=1)
    run(config, calibration, inputs, batches, controls={}, quiet=True)
    assert steps < 0.05 * inputs.shape[0] * inputs.shape[1]
