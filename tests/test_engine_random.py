"""Machines of every whim under set-ups of every kind: batches and restarts change nothing of what is said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_detector.codec import decode_state, encode_alert, encode_audit, encode_state
from stream_detector.config import Config
from stream_detector.decision.driver import Driver
from stream_detector.decision.engine import Engine
from stream_detector.decision.table import StateTable
from stream_detector.scoring.scorer import SCORE_BITS, round_mantissa
from stream_detector.types import Controls, ModelRef, ScoreBatch, Shifts, WindowBatch

Floats = NDArray[np.float64]
ASSETS, COLUMNS, WINDOWS, STEP_MS = ("p", "q"), 3, 700, 10_000
REFS = (ModelRef("ae", "1"),)


def scored(inputs: Floats, shifts: Floats) -> ScoreBatch:
    """What a detector says that expects 0 of every channel (N,)."""
    with np.errstate(all="ignore"):
        parts = np.square(inputs - shifts)
        score, offset = round_mantissa(parts.sum(axis=1), SCORE_BITS), inputs.astype(np.float32)
    model = np.zeros(len(inputs), np.int32)
    return ScoreBatch(score, parts, inputs.copy(), np.zeros_like(inputs), model, REFS, offset)


def made_config(rng: np.random.Generator) -> Config:
    """A set-up by chance; times are so short that all of it happens."""
    method = str(rng.choice(["spot", "dspot", "quantile", "mad"]))
    threshold = {
        "method": method,
        "risk": float(rng.choice([1e-2, 1e-3])),
        "margin": float(rng.choice([1.0, 1.7])),
        "learn_after": int(rng.choice([0, 5, 20, 60])),
        "learn_told": bool(rng.random() < 0.5),
        "max_peaks": int(rng.choice([10, 20, 100])),
        "memory": 50,
    }
    if method in ("spot", "dspot") and rng.random() < 0.5:
        threshold["budget"] = {"incidents": 10_000, "per": "day"}
    return Config.model_validate(
        {
            "stream": "s",
            "channels": {"a": {}, "b": {}, "c": {}},
            "threshold": threshold,
            "window": {"cell_ms": STEP_MS, "length": 4, "stride": 1},
            "incident": {"open_after": 2, "open_of": 3, "close_after": int(rng.choice([3, 10]))},
            "adaptation": {
                "follow": [0.0, 1.0, None][rng.integers(3)],
                "block": int(rng.choice([8, 16])),
                "flat_ms": [None, 200_000.0, 600_000.0][rng.integers(3)],
                "policy": str(rng.choice(["adapt", "ask"])),
            },
        }
    )


def made_inputs(rng: np.random.Generator, odd: bool) -> Floats:
    """Inputs (windows, N) of a machine that steps, drifts and shakes; `odd`: and says what no machine can."""
    inputs, at = rng.normal(size=(WINDOWS, COLUMNS)), 0
    while at < WINDOWS:
        length, what = int(rng.integers(20, 200)), rng.integers(5)
        some = inputs[at : at + length]
        if what == 0:
            inputs[at:] += rng.normal(size=COLUMNS) * 6
        elif what == 1:
            some += rng.normal(size=COLUMNS) * 8
        elif what == 2:
            some *= rng.uniform(1.5, 5)
        elif what == 3:
            some += np.linspace(0, 1, len(some))[:, None] * rng.normal(size=COLUMNS) * 5
        elif odd:
            some[: rng.integers(1, 6), rng.integers(COLUMNS)] = rng.choice([np.nan, np.inf, 1e25, 1e160])
        at += length
    return inputs


def made_controls(rng: np.random.Generator, places: list[int]) -> dict[int, Controls]:
    """What operators have set from each of these places on."""
    controls, found = Controls(), {}
    for count, place in enumerate(places):
        asset, token = ASSETS[rng.integers(2)], f"{count:016d}1"
        controls = [
            lambda c, a, _: replace(c, pins={a: float(rng.uniform(5, 40))}),
            lambda c, _, __: replace(c, pins={}),
            lambda c, a, t: replace(c, resets={**c.resets, a: t}),
            lambda c, a, t: replace(c, accepts={**c.accepts, a: t}),
        ][rng.integers(4)](controls, asset, token)
        found[place] = controls
    return found


def outcome(
    config: Config,
    calibration: Floats,
    inputs: Floats,
    controls: dict[int, Controls],
    cuts: list[int],
    *,
    stored: bool,
    quiet: bool = True,
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return alerts, audit entries and states after windows (W, N), the assets in turn, cut there into batches.

    `stored`: between batches the states are what a store gives back. `quiet`: with the columnar path.
    """

    def rescore(windows: WindowBatch, shifts: Shifts) -> ScoreBatch:
        return scored(windows.values[:, -1].astype(np.float64), shifts.values)

    driver, table = Driver(Engine(config, [calibration]), rescore), StateTable()
    driver.quiet.on = driver.quiet.on and quiet  # there is none under a budget of DSPOT
    alerts, audits, now = [], [], Controls()
    for start, end in zip([0, *cuts], [*cuts, len(inputs)], strict=True):
        some, count = inputs[start:end], end - start
        places = np.arange(start, end)
        windows = WindowBatch(
            0,
            [ASSETS[place % 2] for place in places],
            STEP_MS * (places // 2),
            some[:, None],
            np.zeros((count, 1, COLUMNS), bool),
            np.full(count, -1),
        )
        now = controls.get(start, now)
        shifts = driver.shifts([(table, windows.assets)])
        scores = scored(some, np.zeros((1, COLUMNS)) if shifts is None else shifts.values)
        decided = driver.judge(table, windows, scores, controls=now, shifts=shifts)
        alerts += map(encode_alert, decided.alerts)
        audits += map(encode_audit, decided.audits)
        if stored:
            for asset, state in list(table.items()):
                table[asset] = driver.engine.adopt(decode_state(encode_state(state, 1))[1])
    return alerts, audits, [encode_state(table[asset], 0) for asset in ASSETS]


@pytest.mark.parametrize("seed", range(12))
def test_batches_and_restarts_change_nothing(seed: int):
    """A state that was stored after every window goes on like one that never was, numbers beyond all measure or not."""
    rng = np.random.default_rng(seed)
    config = made_config(rng)
    calibration = np.square(rng.normal(size=(int(rng.choice([10, 60, 600])), COLUMNS))).sum(axis=1)
    inputs = np.stack([made_inputs(rng, seed % 2 == 1) for _ in ASSETS], axis=1).reshape(-1, COLUMNS)
    some = sorted(rng.choice(np.arange(1, len(inputs)), 30, replace=False).tolist())
    controls = made_controls(rng, some[::5])
    with np.errstate(all="ignore"):
        expected = outcome(config, calibration, inputs, controls, some[::5], stored=False)
        assert expected == outcome(config, calibration, inputs, controls, some[::5], stored=False, quiet=False)
        assert expected == outcome(config, calibration, inputs, controls, some, stored=True)
        assert expected == outcome(config, calibration, inputs, controls, list(range(1, len(inputs))), stored=True)
    assert expected[0]
