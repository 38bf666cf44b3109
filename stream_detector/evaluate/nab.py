"""The Numenta Anomaly Benchmark's score (Lavin & Ahmad, ICMLA 2015; Numenta's scoring code decides details).

Rows are detected or not. The first 15 % of a file (of at most 5,000 rows) are probation and never count. With
σ(y) = 2/(1 + exp(5y)) - 1, window widths in rows, and the weights A of a profile:

- a window that holds a detection earns A_TP·σ(y)/σ(-1) of the earliest, at y = -(rows to the window's end + 1)/width
- a window without one costs A_FN
- a detection outside costs A_FP·|σ(y)|, y = rows since the last window ended/(its width - 1); 1 before the first
  window and beyond y = 3

The corpus score is the sum over files, scaled so that no detection at all is 0 and every window found at its first row
without a false detection is 100; it can be negative. NAB's own detectors give a score a row, and one threshold for the
whole corpus and profile is chosen to be the best in hindsight: `best_threshold`. A live detector has its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError

PROBATION = 0.15
PROBATION_ROWS = 5_000
#: Above every score: nothing is detected.
NOTHING = math.inf


@dataclass(frozen=True, slots=True)
class Profile:
    """What hits, misses and false detections weigh."""

    tp: float
    fp: float
    fn: float


#: The benchmark's three, as `config/profiles.json` has them.
PROFILES: Mapping[str, Profile] = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class FileScore:
    """One file's score under a profile, and the rows by kind, probation left out."""

    score: float
    tp: int
    tn: int
    fp: int
    fn: int


class Series:
    """One file's rows against its windows under one profile."""

    def __init__(self, rows: int, windows: Sequence[tuple[int, int]], profile: Profile) -> None:
        """`windows`: (first, last) row of each, both inside, in order and without overlap."""
        self._profile = profile
        start = probation(rows)
        self.window = np.full(rows, -1)
        weight = np.full(rows, -profile.fp)
        for index, (first, last) in enumerate(windows):
            width = last - first + 1
            inside = np.arange(first, last + 1)
            self.window[inside] = index
            weight[inside] = _sigmoid(-(last - inside + 1) / width) * profile.tp / _sigmoid(np.array(-1.0))
            until = windows[index + 1][0] if index + 1 < len(windows) else rows
            past = np.arange(last + 1, until)
            y = (past - last) / (width - 1) if width > 1 else np.full(len(past), np.inf)
            weight[past] = np.where(y > 3.0, -1.0, _sigmoid(np.minimum(y, 3.0))) * profile.fp
        self.weight = weight
        self.scorable = np.arange(rows) >= start
        self.windows = np.unique(self.window[self.scorable & (self.window >= 0)])

    def score(self, detected: NDArray[np.bool_]) -> FileScore:
        """Return the score of the rows detected, (rows,)."""
        inside = self.window >= 0
        hit = detected & self.scorable
        false = hit & ~inside
        total = float(self.weight[false].sum())
        for index in self.windows:
            mine = hit & (self.window == index)
            total += float(self.weight[mine].max()) if mine.any() else -self._profile.fn
        tp, fp = int((hit & inside).sum()), int(false.sum())
        positive = int((inside & self.scorable).sum())
        return FileScore(total, tp, int(self.scorable.sum()) - positive - fp, fp, positive - tp)


def probation(rows: int) -> int:
    """Return how many rows at the beginning of a file don't count.

    >>> probation(4032), probation(18050)
    (604, 750)
    """
    return math.ceil(min(math.floor(PROBATION * rows), PROBATION * PROBATION_ROWS))


def best_threshold(series: Sequence[Series], scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the threshold with the highest total score over all files, and that score; rows at or above it count.

    Of equal totals the highest threshold is taken. `scores`: each file's, (rows,), higher is stranger.
    """
    rows = [np.flatnonzero(one.scorable) for one in series]
    place = np.concatenate([np.full(len(mine), index) for index, mine in enumerate(rows)])
    row = np.concatenate(rows)
    value = np.concatenate([score[mine] for score, mine in zip(scores, rows, strict=True)])
    best = (NOTHING, total := sum(-one._profile.fn * len(one.windows) for one in series))
    found: dict[tuple[int, int], float] = {}
    order = np.argsort(-value, kind="stable")
    for step, at in enumerate(order.tolist()):
        file, index = int(place[at]), int(row[at])
        one, weight = series[file], float(series[file].weight[index])
        window = int(one.window[index])
        if window < 0:
            total += weight
        else:
            before = found.get((file, window), -one._profile.fn)
            total += max(weight - before, 0.0)
            found[file, window] = max(weight, before)
        is_last = step + 1 == len(order) or value[order[step + 1]] != value[at]
        if is_last and total > best[1]:
            best = (float(value[at]), total)
    return best


def normalised(total: float, windows: int, profile: Profile) -> float | None:
    """Return a corpus score on NAB's scale: 0 for no detection, 100 for perfect ones. None without a window."""
    null, perfect = -profile.fn * windows, profile.tp * windows
    return 100.0 * (total - null) / (perfect - null) if windows else None


def load_profiles(path: Path) -> dict[str, Profile]:
    """Read NAB's `config/profiles.json`. Raises DataError when it is not that."""
    try:
        entries = json.loads(path.read_bytes())
        return {
            name: Profile(*(float(entry["CostMatrix"][key]) for key in ("tpWeight", "fpWeight", "fnWeight")))
            for name, entry in entries.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not NAB's profiles, {{name: {{CostMatrix: {{tpWeight, …}}}}}}: {error!r}") from error


def _sigmoid(y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2.0 / (1.0 + np.exp(5.0 * y)) - 1.0)
