"""Whether a detector can alarm at all: windows far outside, scored, against the level that an asset starts with.

    window  ─ each channel moved by 5, 10, 30 spreads ─▶ scores ─▶ reach (C + 1, 3), kept in the artifact
    reach, calibration, threshold settings ─▶ Findings: which channels can't alarm, from how many spreads others do

A detector learns without complaint from a history that is constant, or from inputs that hide every change; a score
that is bounded may end below the level that extreme value theory draws from normal scores. Neither shows until a fault
goes unnoticed. Levels adapt later, so this speaks of the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.artifacts.artifact import REACH_SPREADS, Artifact
from stream_detector.config import Config
from stream_detector.config.model import MetricConfig
from stream_detector.decision.rules import Rules
from stream_detector.decision.threshold import alarm_level
from stream_detector.models import Detector, Labelled, detector_class
from stream_detector.models.preprocessing import Preprocess
from stream_detector.telemetry.logs import event
from stream_detector.training.calibration import score_windows
from stream_detector.training.history import History

log = logging.getLogger(__name__)

#: Normal windows that are moved; the median over them counts, so that one odd window decides nothing.
BASES = 5
#: Codes tried for an unseen category.
_CODES = 8
_MOST_NUMBERS = 1 << 21
_LARGEST = float(np.finfo(np.float64).max)
#: Most artifacts looked at when a worker starts.
MOST_LOADED = 100
#: Most channels named in one message.
_NAMED = 5


def measure_reach(detector: Detector, preprocess: Preprocess, histories: list[History]) -> NDArray[np.float64]:
    """Return the scores that windows far outside reach, (C + 1, S): by column and by REACH_SPREADS.

    Normal windows are moved in one column, up and down, whole or in their last half, and with noise of that size. The
    highest score of these counts. The last row is of windows moved in all numeric columns at once. A column of
    categories gets a category that training has not seen, whatever the size.
    """
    bases = _bases(histories)
    count, columns = len(bases), bases.shape[2]
    reach = np.full((columns + 1, len(REACH_SPREADS)), -_LARGEST)
    for some in _grouped(_moved(preprocess, bases)):
        x = torch.cat([moved for _, _, moved in some])
        seeds = torch.arange(len(x)) if detector.stochastic else None
        scores = np.nan_to_num(score_windows(detector, x, seeds), nan=_LARGEST, posinf=_LARGEST, neginf=-_LARGEST)
        ends = np.cumsum([len(moved) for _, _, moved in some])
        for (row, places, _), own in zip(some, np.split(scores, ends[:-1]), strict=True):
            reach[row, places] = np.median(own.reshape(-1, count).max(axis=0))
    categories = preprocess.scaler.categories
    reach[-1] = np.maximum(reach[-1], reach[categories].max(axis=0, initial=-_LARGEST))
    return reach


def _moved(preprocess: Preprocess, bases: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield windows (P·n, K, F), scaled, that the `n` bases (n, K, C) become; with where in the reach they count."""
    scaler = preprocess.scaler
    count, length = bases.shape[:2]
    numbers = len(scaler.numbers)
    which = torch.eye(numbers, dtype=torch.float64)
    rows = [(column, which[place]) for place, column in enumerate(scaler.numbers)]
    if numbers:
        rows.append((-1, torch.ones(numbers, dtype=torch.float64)))
    moves = torch.stack(list(_moves(length, numbers)))  # (P, K, N)
    repeated = bases.repeat(len(moves), 1, 1)
    for row, chosen in rows:
        for place, spreads in enumerate(REACH_SPREADS):
            shift = (-spreads * moves * chosen).repeat_interleave(count, dim=0)
            yield row, slice(place, place + 1), scaler(repeated, shift)
    for place, column in enumerate(scaler.categories):
        codes = torch.tensor(_unseen(preprocess, place), dtype=bases.dtype)
        other = bases.repeat(len(codes), 1, 1)
        other[..., column] = codes.repeat_interleave(count)[:, None]
        yield column, slice(None), scaler(other)


def _grouped(moved: Iterator[tuple[int, slice, Tensor]]) -> Iterator[list[tuple[int, slice, Tensor]]]:
    """Yield what is scored at once."""
    group: list[tuple[int, slice, Tensor]] = []
    for one in moved:
        group.append(one)
        if sum(tensor.numel() for *_, tensor in group) >= _MOST_NUMBERS:
            yield group
            group = []
    if group:
        yield group


def _bases(histories: list[History]) -> Tensor:
    """Return some normal windows (n, K, C), spread over the histories; how they were batched plays no role."""
    parts = [part for history in histories for part in history.physical]
    normal = np.flatnonzero(~np.concatenate([faulty for history in histories for faulty in history.faulty]))
    chosen = normal[np.linspace(0, len(normal) - 1, min(BASES, len(normal))).astype(np.intp)]
    ends = np.cumsum([len(part) for part in parts])
    part_of = np.searchsorted(ends, chosen, side="right")
    return torch.stack([parts[part][row - ends[part]] for part, row in zip(part_of, chosen.tolist(), strict=True)])


def _moves(length: int, numbers: int) -> Iterator[Tensor]:
    """Yield what is added to a window, (K, N), for a size of 1."""
    whole, late = torch.ones(length, 1, dtype=torch.float64), torch.zeros(length, 1, dtype=torch.float64)
    late[length // 2 :] = 1.0
    draw = torch.Generator().manual_seed(0)
    for move in (whole, -whole, late, -late, torch.randn(length, numbers, generator=draw, dtype=torch.float64)):
        yield move.expand(-1, numbers)


def _unseen(preprocess: Preprocess, place: int) -> list[int]:
    known = set(preprocess.scaler.known(place).tolist())
    return [code for code in range(len(known) + _CODES) if code not in known][:_CODES]


@dataclass(frozen=True, slots=True)
class Findings:
    """What can be said, before any live window, of an artifact's alarms under a set-up's threshold."""

    limit: float
    """The level to alarm above at the start, or while there is none the highest calibration score."""
    level: float | None
    """The level to alarm above of an asset that starts with this artifact; None: its scores are too few for one."""
    highest: float | None
    """The highest score of windows far outside; None for artifacts of versions before 0.3, which were not tried."""
    alarms_from: dict[str, float | None]
    """By channel, the least of REACH_SPREADS that alarms; None where none does."""
    constant: bool
    """Whether all calibration scores are the same."""
    hint: str
    """What to change where something can't alarm."""

    @property
    def cannot_alarm(self) -> bool:
        """Whether no window far outside alarms."""
        return self.highest is not None and self.highest <= self.limit

    @property
    def mute(self) -> list[str]:
        """The channels that can't alarm by themselves."""
        return [channel for channel, spreads in self.alarms_from.items() if spreads is None]

    @property
    def never(self) -> str:
        """The sentence about a detector that can never alarm."""
        limit = "the level to alarm above starts at" if self.level is not None else "normal ones reach"
        return (
            f"the detector can never alarm: windows {REACH_SPREADS[-1]:g} spreads away score at most "
            f"{self.highest:.4g}, and {limit} {self.limit:.4g}; {self.hint}"
        )

    def texts(self) -> list[str]:
        """Return what a user must see, a sentence each; none where all is well."""
        found = []
        if self.constant:
            found.append(
                "all calibration windows have the same score: the history is constant, or the detector does not see "
                "what changes in it"
            )
        if self.cannot_alarm:
            found.append(self.never)
        elif self.mute:
            named = ", ".join(self.mute[:_NAMED]) + (f" and {len(self.mute) - _NAMED} more" * (len(self.mute) > _NAMED))
            found.append(
                f"{'channel' if len(self.mute) == 1 else 'channels'} {named} can't alarm alone: moved by "
                f"{REACH_SPREADS[-1]:g} spreads, no window scores above the level at the start, {self.limit:.4g}; "
                f"{self.hint}"
            )
        if self.level is None:
            found.append(
                "its calibration scores are too few for a level, so nothing alarms until an asset has been scored for "
                "a while; give a longer history, or set train.folds"
            )
        return found


def findings(config: Config, artifact: Artifact) -> Findings:
    """Return what an artifact's alarms can be under the threshold settings of `config`."""
    scores = artifact.calibration
    level = starting_level(config, scores)
    limit = float(scores.max()) if level is None else level
    alarms_from: dict[str, float | None] = {}
    highest: float | None = None
    if artifact.reach is not None:
        reach = np.maximum.accumulate(artifact.reach, axis=1)
        highest = float(reach.max())
        names = [name for name, channel in artifact.config.channels.items() for _ in channel.columns(name)]
        for name, scored in zip(names, reach[:-1].tolist(), strict=True):
            sizes = [size for size, score in zip(REACH_SPREADS, scored, strict=True) if score > limit]
            if (known := alarms_from.get(name)) is not None:  # of another column of the channel
                sizes.append(known)
            alarms_from[name] = min(sizes, default=None)
    return Findings(
        limit=limit,
        level=level,
        highest=highest,
        alarms_from=alarms_from,
        constant=len(scores) > 1 and bool((scores == scores[0]).all()),
        hint=_hint(config, artifact),
    )


def starting_level(config: Config, scores: NDArray[np.float64]) -> float | None:
    """Return the level to alarm above of an asset that starts with these calibration scores (n,), oldest first."""
    rules = Rules(config, [scores])
    threshold = rules.fresh[0]
    if rules.budget is not None:
        _, threshold = rules.budget.start(threshold, scores, 0)
    return alarm_level(threshold.level, rules.margin)


def warn(config: Config, artifacts: Sequence[Artifact]) -> int:
    """Log what users must see of loaded artifacts' alarms; return how many can never alarm.

    Of many artifacts only the first MOST_LOADED are looked at, since each has its level calculated for it.
    """
    never = 0
    for artifact in artifacts[:MOST_LOADED]:
        found = findings(config, artifact)
        never += found.cannot_alarm
        for text in found.texts():
            log.warning(
                "artifact %s: %s", artifact.ref.version, text, extra=event("cannot-alarm", version=artifact.ref.version)
            )
    return never


def _hint(config: Config, artifact: Artifact) -> str:
    model, features = artifact.config.model, artifact.config.features
    if isinstance(model, MetricConfig) and model.normalise == "instance":
        seen = "windows of one cell have none: " if artifact.preprocess.length == 1 else ""
        return (
            f"under model.normalise: instance only the shape of a window counts ({seen}features.keep); set "
            "model.normalise: none, or choose another model.kind"
        )
    if issubclass(detector_class(model.kind), Labelled):
        return f"model.kind {model.kind} finds faults like those labelled; label more, or choose another model.kind"
    clip = "" if features.clip is None else f"raise features.clip ({features.clip:g}), "
    return (
        f"{clip}choose another model.kind, lower threshold.margin ({config.threshold.margin:g}), raise threshold.risk "
        f"({config.threshold.risk:g}), or train on a history in which these channels vary as they do in operation"
    )
