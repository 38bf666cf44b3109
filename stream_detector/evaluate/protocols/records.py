"""Streams of single records: `nsl-kdd`, `kdd99`, `creditcard`. Each record is judged by itself.

    nsl-kdd     training on normal rows of KDDTrain+ (or its 20 % file); KDDTest+ is judged, and KDDTest-21 if present
    kdd99       training on normal rows of kddcup.data_10_percent (or kddcup.data); `corrected` is judged. Without that
                file: training on the first half of the normal rows; all other rows are judged
    creditcard  training on the first half of the normal transactions; all other rows are judged; `later` has the
                figures of only the rows after the last training row, as in a live run

Labels of training rows only exclude attacks from training, unless the detector learns from labels. Such a detector is
also trained on the attacks among the training rows (nsl-kdd, kdd99: all rows of the training file). If one file is
split in two (creditcard, kdd99 without a test file), it is trained on all rows up to the last normal training row, and
only later rows are judged, by baselines too: no detector judges a row that any of them was trained on. Test rows are
not used before they are judged. The live threshold is set on training rows. A record counts as alarmed when its own
score is above its level, regardless of open incidents: F1, FPR and recall count such records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config, WindowConfig
from stream_detector.errors import DataError
from stream_detector.evaluate import series
from stream_detector.evaluate.data import Case, Recording
from stream_detector.evaluate.fitting import fit_all, seeded
from stream_detector.evaluate.live import Live
from stream_detector.evaluate.pointwise import Counts, average_precision, roc_auc
from stream_detector.evaluate.protocols.base import Protocol, Request, file_of, sweep
from stream_detector.evaluate.series import Outcome, Run
from stream_detector.models import Labelled, detector_class

#: `kdd99` without a test file, `creditcard`: default share of the normal rows used for training.
TRAIN_SHARE = 0.5
#: Names of KDD Cup 99's files without their endings; the first training file found is used.
_KDD99_TRAIN = (
    "kddcup.data_10_percent",
    "kddcup.data_10_percent_corrected",
    "kddcup.data",
    "kddcup.data.corrected",
    "kddcup.data_corrected",
)
_KDD99_TEST = ("corrected",)


def run_nsl_kdd(request: Request) -> Outcome:
    """Evaluate on NSL-KDD. Raises DataError when training or test file is missing."""
    found: dict[str, Recording] = {}
    for one in _read(request, "nsl-kdd"):
        found.setdefault(_stem(Path(one.source)).lower(), one)  # some mirrors have a copy in a subfolder
    train = found.get("kddtrain+") or found.get("kddtrain+_20percent")
    tests = [found[name] for name in ("kddtest+", "kddtest-21") if name in found]
    if train is None or not tests:
        missing = "KDDTrain+.txt" if train is None else "KDDTest+.txt"
        raise DataError(f"{request.data}: no {missing}; it holds: {', '.join(sorted(found))}")
    return _run(request, "nsl-kdd", train, np.arange(len(train)), tests)


def run_kdd99(request: Request) -> Outcome:
    """Evaluate on KDD Cup 99."""
    found = list(request.read(_kdd99_files(request.data), "kdd99"))
    train, tests = found[0], found[1:]
    if tests:
        return _run(request, "kdd99", train, np.arange(len(train)), tests)
    train_rows, rest = _halved(request, train)
    return _run(request, "kdd99", train, train_rows, [rest])


def _kdd99_files(data: Path) -> list[Path]:
    """Return the training file (the 10 percent if both exist) and the test file if any; `data` may be one file.

    Names of unpacked training files may also end in `_corrected` or `.corrected`; only `corrected` is the test file.
    """
    if not data.is_dir():
        return [data]
    named: dict[str, Path] = {}
    for path in sorted(data.rglob("*"), key=lambda path: (len(path.parts), path)):  # prefer the outermost copy
        if path.is_file():
            named.setdefault(_stem(path).lower(), path)
    train = next((named[name] for name in _KDD99_TRAIN if name in named), None)
    if train is None:
        raise DataError(f"{data}: no kddcup.data_10_percent(.gz) or kddcup.data(.gz)")
    return [train, *(named[name] for name in _KDD99_TEST if name in named)]


def _stem(path: Path) -> str:
    """Return a file's name without `.gz`, `.csv` and `.txt`."""
    return re.sub(r"(\.(gz|csv|txt))+$", "", path.name, flags=re.IGNORECASE)


def run_creditcard(request: Request) -> Outcome:
    """Evaluate on card transactions, in the order of their time."""
    found = _read(request, "creditcard")
    if len(found) > 1:
        raise DataError(f"{request.data}: {len(found)} tables of transactions; give the one to evaluate on")
    (whole,) = found
    train_rows, rest = _halved(request, whole)
    return _run(request, "creditcard", whole, train_rows, [rest])


def _halved(request: Request, whole: Recording) -> tuple[NDArray[np.int64], Recording]:
    """Return the training rows (the first part of the normal rows) and the judged rows (all others), in order.

    If the detector or a baseline learns from labels, the training rows are all rows up to the last of that part, and
    the judged rows all later ones.
    """
    normal = _normal(whole)
    train = normal[: _part(request, len(normal))]
    if any(map(_learns_from_labels, (request.config, *request.baselines.values()))):
        train = np.arange(train[-1] + 1)
    return train, whole.take(np.setdiff1d(np.arange(len(whole)), train))


def _learns_from_labels(config: Config) -> bool:
    return issubclass(detector_class(config.model.kind), Labelled)


def _run(
    request: Request, name: str, source: Recording, train_rows: NDArray[np.int64], tests: Sequence[Recording]
) -> Outcome:
    whole = source.take(train_rows)
    normal = whole.take(_normal(whole))
    own = whole if _learns_from_labels(request.config) else normal
    named = source if len(whole) == len(normal) else whole  # excluding attacks uses labels as well
    seen = set(named.details["attack"].tolist()) if "attack" in named.details else set()
    cases = [Case(file_of(one), own, one, request.config) for one in tests]

    def judged(cases: Sequence[Case], seed: int) -> tuple[Run, dict[str, Any]]:
        config = seeded(cases[0].config, seed)
        train = whole if _learns_from_labels(config) else normal
        live = Live(config, ModelSet(default=fit_all(config, [train])))
        one = series.follow(cases, [live] * len(cases), seed)
        first = _figures(one, 0, seen)
        if name == "creditcard":
            first["later"] = _figures(one, 0, seen, after_ms=float(normal.ts_ms[-1]))
        others = {f"on_{cases[i].asset}": _figures(one, i, seen) for i in range(1, len(cases))}
        return one, {**first, **others}

    outcome = sweep(request, name, cases, judged, ("fpr",))
    outcome.figures["train_rows"] = len(own)
    outcome.figures["train_faulty_rows"] = len(own) - len(normal) if own is whole else 0
    return outcome


def _figures(run: Run, index: int, seen: set[str], after_ms: float = -np.inf) -> dict[str, Any]:
    case, track = run.cases[index], run.tracks[index]
    own_ms = _own_ends(case.test.ts_ms, case.config.window)
    score, said = _by_record(track.end_ms, track.score, track.anomalous, own_ms)
    judged = case.test.ts_ms > after_ms
    truth, score, said = case.labels[judged] > 0, score[judged], said[judged]
    counts = Counts.of(truth, said)
    found: dict[str, Any] = {
        "auc": roc_auc(truth, score),
        "ap": average_precision(truth, score),
        "f1": counts.f1,
        "fpr": counts.far,
        "precision": counts.precision,
        "recall": counts.recall,
        "unscored": int((score == -np.inf).sum()),
        "at_training_level": _fixed(truth, score, float(track.level[0])) if len(track.level) else None,
    }
    if "category" in case.test.details:
        category, attack = (case.test.details[name][judged] for name in ("category", "attack"))
        unseen = truth & ~np.isin(attack.astype(str), sorted(seen))
        known = truth & ~unseen
        for name in sorted(set(category[truth].tolist())):
            of_category = category == name
            found.setdefault("recall_per_category", {})[name] = float(said[of_category].mean())
            found.setdefault("categories", {})[name] = {
                "seen": _share(said, of_category & known),
                "unseen": _share(said, of_category & unseen),
                "all": _share(said, of_category & truth),
            }
        found["recall_unseen_attacks"] = float(said[unseen].mean()) if unseen.any() else None
        found["recall_seen_attacks"] = float(said[known].mean()) if known.any() else None
    return found


def _share(said: NDArray[np.bool_], which: NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the number of attacks and the share of them that was alarmed."""
    return {"attacks": int(which.sum()), "recall": float(said[which].mean()) if which.any() else None}


def _fixed(truth: NDArray[np.bool_], score: NDArray[np.float64], level: float) -> dict[str, float | None]:
    """Return the figures at the level that training set, without adaptation."""
    counts = Counts.of(truth, score > level)
    return {"f1": counts.f1, "fpr": counts.far, "precision": counts.precision, "recall": counts.recall}


def _by_record(
    end_ms: NDArray[np.int64],
    score: NDArray[np.float64],
    anomalous: NDArray[np.bool_],
    own: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each record's own score and judgement; -inf and False if no window ended with it (the last record).

    `own` (N,): end of each record's own window, UNIX ms.
    """
    place = np.minimum(np.searchsorted(end_ms, own), max(len(end_ms) - 1, 0))
    mine = end_ms[place] == own if len(end_ms) else np.zeros(len(own), np.bool_)
    strange = np.where(np.isnan(score), np.inf, score)
    return np.where(mine, strange[place], -np.inf), mine & anomalous[place]


def _own_ends(ts_ms: NDArray[np.float64], window: WindowConfig) -> NDArray[np.float64]:
    """Return the ends (N,), UNIX ms, of the windows of records at `ts_ms` (N,), in order."""
    if window.mode == "grid":
        return np.asarray(np.rint((np.floor(ts_ms / window.cell_ms + 1e-9) + 1) * window.cell_ms))
    ends = np.rint(ts_ms)
    steps = np.arange(len(ends))
    return np.asarray(np.maximum.accumulate(ends - steps) + steps)  # made distinct as in windowing/records.py


def _read(request: Request, format: str) -> list[Recording]:
    return list(request.read(request.data, format))


def _normal(recording: Recording) -> NDArray[np.int64]:
    assert recording.labels is not None
    return np.flatnonzero(recording.labels == 0)


def _part(request: Request, rows: int) -> int:
    amount = TRAIN_SHARE if request.train is None else request.train
    part = int(amount) if amount >= 1 else int(amount * rows)
    if not 0 < part < rows:
        raise DataError(f"--train {amount:g}: with {rows} rows, some must be for training and some be judged")
    return part


def _protocol(name: str, config: str, about: str, layout: str, run: Callable[[Request], Outcome]) -> Protocol:
    return Protocol(name, about, layout, config, ("auc", "ap", "f1", "fpr", "precision", "recall"), run)


NSL_KDD = _protocol(
    "nsl-kdd",
    "nsl-kdd",
    "network connections: training on normal ones of KDDTrain+, KDDTest+ is judged, by attack category",
    "KDDTrain+.txt (or KDDTrain+_20Percent.txt) and KDDTest+.txt",
    run_nsl_kdd,
)
KDD99 = _protocol(
    "kdd99",
    "nsl-kdd",
    "network connections of KDD Cup 99: training on normal ones",
    "kddcup.data_10_percent(.gz), perhaps corrected(.gz)",
    run_kdd99,
)
CREDITCARD = _protocol(
    "creditcard",
    "creditcard",
    "card transactions: training on the first half of the normal ones, all others are judged",
    "creditcard.csv",
    run_creditcard,
)
