"""The score of the Numenta Anomaly Benchmark (Lavin & Ahmad, ICMLA 2015; details follow Numenta's scoring code).

Each row is detected or not. The first 15 % of a file (of at most 5,000 rows) are probation and don't count. With
σ(y) = 2/(1 + exp(5y)) - 1, window widths in rows, and the weights A of a profile:

- a window with a detection earns A_TP·σ(y)/σ(-1) for the earliest one, y = -(rows to the window's end + 1)/width
- a window without a detection costs A_FN
- a detection outside the windows costs A_FP·|σ(y)|, y = rows since the end of the last window/(its width - 1); before
  the first window and beyond y = 3 it costs A_FP

The corpus score is the sum over files, scaled so that no detection at all gives 0, and the detection of every window at
its first row without any false detection gives 100; it can be negative. NAB's own detectors give a score per row, and
one threshold for the whole corpus is chosen per profile, the best in hindsight: `best_threshold`. A live detector uses
its own threshold.
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
    """Weights of hits (tp), false detections (fp) and misses (fn)."""

    tp: float
    fp: float
    fn: float


#: The benchmark's three profiles, as in its `config/profiles.json`.
PROFILES: Mapping[str, Profile] = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class FileScore:
    """One file's score under a profile, and its counts of rows, without probation."""

    score: float
    tp: int
    tn: int
    fp: int
    fn: int


class Series:
    """The weights of one file's rows under one profile."""

    def __init__(self, rows: int, windows: Sequence[tuple[int, int]], profile: Profile) -> None:
        """`windows`: first and last row of each (inclusive), in order and without overlap."""
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
        """Return the score for `detected` (rows,), true for detected rows."""
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
    """Return the number of probation rows at the beginning of a file of `rows` rows.

    >>> probation(4032), probation(18050)
    (604, 750)
    """
    return math.ceil(min(math.floor(PROBATION * rows), PROBATION * PROBATION_ROWS))


def best_threshold(series: Sequence[Series], scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the threshold with the highest total score over all files, and that total.

    Rows with scores at or above the threshold are detected. Of equal totals, the highest threshold is returned.
    `scores`: one array (rows,) per file, higher is more anomalous.
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
    """Return a corpus score on NAB's scale: 0 without detections, 100 for perfect detection. None without a window."""
    null, perfect = -profile.fn * windows, profile.tp * windows
    return 100.0 * (total - null) / (perfect - null) if windows else None


def load_profiles(path: Path) -> dict[str, Profile]:
    """Read NAB's `config/profiles.json`. Raises DataError when the file can't be read or has another format."""
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
