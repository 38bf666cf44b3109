"""Combinations of everything that the decision stage can be configured to do, and what operators do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stream_detector.adapters.memory.store import MemoryStore
from stream_detector.codec import decode_audit, encode_point
from stream_detector.types import ScoreBatch, Shifts, WindowBatch
from stream_detector.worker.slices import Scores
from tests.golden.runs import Operators

Sections = dict[str, Any]

#: An incident opens and closes soon, a change is flat soon: all of it happens within four hours.
_QUICK: Sections = {
    "threshold": {"method": "spot", "risk": 1e-3, "margin": 1.7, "learn_after": 20, "max_peaks": 60},
    "incident": {"open_after": 2, "open_of": 3, "close_after": 6},
    "adaptation": {"follow": 1.0, "block": 12, "flat_ms": 900_000},
    "sensors": {"silent_after_ms": 300_000},
}


def _with(**sections: Sections) -> Sections:
    """Return the quick sections with some of their keys changed."""
    return {name: {**_QUICK.get(name, {}), **sections.get(name, {})} for name in {*_QUICK, *sections}} | {
        name: value for name, value in sections.items() if not isinstance(value, dict)
    }


_BUDGET = {"incidents": 40, "per": "day"}
_FLEET_BUDGET = {"incidents": 2_000, "per": "week", "of": "fleet", "assets": 8}

#: Name -> sections. The name says what differs from `spot`.
POLICIES: dict[str, Sections] = {
    "spot": _with(),
    "dspot": _with(threshold={"method": "dspot", "depth": 50}),
    "quantile": _with(threshold={"method": "quantile", "memory": 200, "risk": 1e-2}),
    "mad": _with(threshold={"method": "mad", "memory": 100}),
    "spot-budget": _with(threshold={"budget": _BUDGET}),
    "spot-fleet-budget-ask": _with(threshold={"budget": _FLEET_BUDGET}, adaptation={"policy": "ask"}),
    "dspot-budget-roams": _with(
        threshold={"method": "dspot", "depth": 30, "budget": _BUDGET, "learn_after": 0}, adaptation={"follow": None}
    ),
    "spot-no-adapt": _with(threshold={"adapt": False}),
    "quantile-no-adapt-told": _with(threshold={"method": "quantile", "adapt": False, "learn_told": True}),
    "spot-learn-told": _with(threshold={"learn_told": True, "margin": 1.0, "learn_after": 5}),
    "mad-learn-told-roams": _with(
        threshold={"method": "mad", "memory": 60, "learn_told": True, "risk": 1e-2}, adaptation={"follow": None}
    ),
    "quantile-budgetless-margin-1": _with(threshold={"method": "quantile", "margin": 1.0, "learn_after": 60}),
    "spot-margin-10-learn-at-once": _with(threshold={"margin": 10.0, "learn_after": 0, "tail": 0.1, "max_peaks": 10}),
    "spot-ask": _with(adaptation={"policy": "ask"}),
    "spot-ask-accepted": _with(adaptation={"policy": "ask", "flat_ms": 600_000.0}),
    "quantile-ask-roams": _with(
        threshold={"method": "quantile", "memory": 50}, adaptation={"policy": "ask", "follow": None, "flat_ms": 600_000}
    ),
    "spot-follow-0": _with(adaptation={"follow": 0.0, "flat_within": 0.5}),
    "spot-follow-0-never-flat": _with(adaptation={"follow": 0.0, "flat_ms": None}),
    "spot-roams-never-flat": _with(adaptation={"follow": None, "flat_ms": None, "block": 40}),
    "spot-roams": _with(adaptation={"follow": None, "flat_within": 4.0, "block": 8}),
    "no-sensors": _with(sensors={"check": False}),
    "no-sensors-late-close": _with(
        sensors={"check": False}, incident={"close_after": 60}, adaptation={"block": 8, "flat_ms": 300_000}
    ),
    "no-silence": _with(sensors={"silent": False, "refused_after": 2}),
    "few-checks": _with(sensors={"checks": ["stuck", "dropout"], "silent_after_ms": None, "refused_after": 50}),
    "incident-at-once": _with(
        incident={"open_after": 1, "open_of": 1, "close_after": 1, "exit_ratio": 1.0, "exit_peak_share": 0.0}
    ),
    "incident-late": _with(
        incident={
            "open_after": 5,
            "open_of": 8,
            "close_after": 20,
            "min_duration_ms": 120_000.0,
            "warning_ratio": 1.0,
            "critical_ratio": 1.2,
            "point_windows": 8,
            "collective_windows": 12,
        }
    ),
    "incident-peak-share": _with(
        incident={"exit_ratio": 0.5, "exit_peak_share": 0.8, "rearm_factor": 1.0, "close_after": 2}
    ),
    "incident-peak-share-budget": _with(
        threshold={"budget": {"incidents": 5, "per": "month"}},
        incident={"exit_peak_share": 0.5, "rearm_factor": 10.0, "close_after": 3, "warning_ratio": 3.0},
    ),
    "stride-3": _with(window={"stride": 3}, adaptation={"block": 8}),
    "no-audit": {**_with(), "audit": False},
}

#: Policies run with a detector per machine, of which one has none.
OF_EACH = ("spot-roams", "quantile", "no-silence")
#: Policies run in several batch sizes, and these.
BATCHED = ("spot", "spot-budget", "quantile-ask-roams", "mad-learn-told-roams")
BATCHES = (7, 400)
#: Policies in which some scores are no number, or infinite.
SPOILT = ("spot", "dspot", "quantile", "mad", "spot-budget", "spot-follow-0", "mad-learn-told-roams")
#: Policies with nobody who changes the controls.
ALONE = ("spot-roams", "incident-late", "no-audit", "dspot")
#: Policies in which operators accept each regime change soon after they are asked, and do nothing else.
ACCEPTED = ("spot-fleet-budget-ask", "spot-ask-accepted", "quantile-ask-roams")

#: A worker with the first policy, then one with the second on what the first has stored.
CHANGES: dict[str, tuple[str, str]] = {
    "spot-to-mad": ("spot", "mad"),
    "mad-to-spot": ("mad", "spot"),
    "spot-to-budget": ("spot", "spot-budget"),
    "budget-to-spot": ("spot-budget", "spot"),
    "peaks-60-to-10": ("spot", "spot-margin-10-learn-at-once"),
    "memory-200-to-50": ("quantile", "quantile-ask-roams"),
    "ask-to-adapt": ("spot-ask", "spot"),
    "sensors-to-none": ("spot", "no-sensors"),
}


#: Equal parts that the messages are run in.
PARTS = 8


class Spoilt:
    """A scorer of whose scores a few of one machine are no number, or infinite."""

    def __init__(self, scorer: Scores, cell_ms: float) -> None:
        """Wrap a scorer; which scores are spoilt depends on the end of the window only."""
        self._scorer, self._cell_ms = scorer, cell_ms

    def score(self, batch: WindowBatch, shifts: Shifts | None = None) -> ScoreBatch:
        """Return the scores, some of them replaced."""
        scores = self._scorer.score(batch, shifts)
        place = np.rint(batch.end_ms / self._cell_ms).astype(np.int64)
        mine = np.array([asset == "machine-8" for asset in batch.assets], np.bool_)
        score = scores.score.copy()
        score[mine & (place % 211 < 2)] = np.nan
        score[mine & (place % 307 < 3)] = np.inf
        return replace(scores, score=score)


def operators(name: str) -> dict[int, Operators]:
    """Return what operators do before each part of the messages under a policy.

    Every control, on one machine and on all; or they accept what they are asked to, or nothing.
    """
    if name in ALONE:
        return {}

    def accept_asked(store: MemoryStore, audits: Sequence[bytes]) -> None:
        newest = {entry.asset: entry.cause for entry in map(decode_audit, audits)}
        for asset in sorted(asset for asset, cause in newest.items() if cause == "regime-ask"):
            store.accept(asset)

    if name in ACCEPTED:
        return dict.fromkeys(range(1, PARTS), accept_asked)

    def pin(store: MemoryStore, audits: Sequence[bytes]) -> None:
        store.pin("machine-2", 12.5)
        store.reset("machine-3")

    def accept(store: MemoryStore, audits: Sequence[bytes]) -> None:
        store.accept("machine-1")
        store.accept("machine-4")
        store.accept("machine-8")
        store.pin("machine-7", 1e6)

    def everybody(store: MemoryStore, audits: Sequence[bytes]) -> None:
        store.unpin("machine-2")
        store.reset(None)

    def back(store: MemoryStore, audits: Sequence[bytes]) -> None:
        for asset, choose in _ROLLBACKS:
            mine = [entry for entry in map(decode_audit, audits) if entry.asset == asset]
            if mine:
                chosen = choose(mine)
                store.rollback(asset, encode_point(chosen.threshold, chosen.adaptation))
        store.accept("machine-1")
        store.unpin("machine-7")

    return {2: pin, 3: accept, 4: everybody, 6: back, 7: accept}


_ROLLBACKS: tuple[tuple[str, Callable[[list[Any]], Any]], ...] = (
    ("machine-1", lambda entries: entries[len(entries) // 2]),
    ("machine-3", lambda entries: entries[0]),
    ("machine-4", lambda entries: entries[-1]),
)
