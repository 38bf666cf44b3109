"""How an asset's baseline follows drift and accepted regime changes. Pure.

A detector is trained once, but machines change. Therefore each asset has a shift, in training spreads, that is
subtracted from its scaled inputs before scoring. It is adjusted so that the model's expectation matches the readings:
the offset of a window is its last cell less the model's expectation, with the shift added back. In a plant with coupled
channels (load, current, heat) the inputs vary widely while the offsets stay at 0, so a shift computed from offsets
follows only what the model can't explain.

Quiet      Offsets of quiet windows are averaged over blocks of `block` windows. A block is learnt only after the next
           one was quiet too, so that the beginning of a fault is not learnt. Its mean becomes `usual`, and the shift
           moves there, within `follow` of the anchor (the shift at training or at the last regime change).
Incident   Nothing is learnt. Each block's mean offset and the mean logarithm of its scores are compared with those of
           the block at the start of the current flat stretch; a block that differs starts a new one. A regime change
           is an incident that has been flat for `flat_ms` and for twice the duration of the change.
Duration   The change starts at the last calm block: one near the anchor whose scores were mostly normal, or any block
           whose scores were mostly low enough to end an incident. It ends when the scores' mean logarithm no longer
           grows by ARRIVED, before or after the opening of the incident. So a slow fault that takes hours until it is
           detected would have to be flat for twice that time, which it never is while it grows. A jump is a separate
           change that starts at the block before it, regardless of the previous state.
           If `follow` is null, healthy drift has no bound and growth is no sign of a fault. Then each block's mean
           offset is compared with the previous one's, only jumps start a new stretch, and the change ends when its
           incident opens; the incident must also have been flat for a quarter of the time since the last calm block.
           An incident that never exceeded severity `info` is then treated as drift faster than the shift: it is
           followed as in quiet windows.
Regime     Shift and anchor move along the mean offsets to the point with the lowest score (relocation.py). If that is
           the current shift, only the scores have grown (more noise): the threshold is recalibrated with the incident's
           newest scores. The same is done for an incident that opens before the machine was calm after a regime change:
           its shift is known already, so the incident lasts until there are ENOUGH scores. The incident closes re-armed
           (incident.py): until its scores are quiet, only higher ones raise an alarm.

The result depends only on the windows in their order. A window is scored with the shift after the previous window,
regardless of batches (driver.py scores windows again after a change of the shift). Only every EVERY-th window of the
event-time grid is used: neighbouring windows overlap and carry the same information, and this keeps the average cost
below a microsecond.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.config import AdaptationConfig
from stream_detector.decision.relocation import relocated
from stream_detector.decision.threshold.sample import LARGEST
from stream_detector.decision.window import Probe
from stream_detector.types import Adaptation, IncidentState, replace

EVERY = 4
#: A shift changes only if at least one channel changes by more than this: smaller steps are noise of a block's mean.
LEAST_STEP = 0.1
#: A flat stretch ends where the distance from normal has changed by this share of it, or the scores' logarithm by this.
GROWTH, LOG_GROWTH = 0.1, 0.4
#: An incident must have been flat for this multiple of the time that it took to develop; with `follow: null` also for
#: this share of the time since the machine was last calm. SHARE is more than GROWTH: so steady growth is never flat.
PATIENCE, SHARE = 2.0, 0.25
#: Number of an incident's newest scores that are kept for a calibration, and the minimum for a calibration.
SCORES, ENOUGH = 64, 50
#: A change has ended when the mean logarithm of scores has not grown by this much since.
ARRIVED = 0.5
#: Smaller scores count as this, since 0 has no logarithm.
LEAST_SIZE = 1e-12
#: Growth of the scores' mean logarithm within two blocks that is a jump, a change of its own.
LEAP = 1.0

Change = Literal["refit", "regime-change"]
Floats = NDArray[np.float32]


class Seen(msgspec.Struct, frozen=True, gc=False):
    """The values of a window that adaptation uses."""

    offset: Floats  # (N,) training spreads
    score: float
    end_ms: int


class AdaptationRules:
    """The rules of one stream. Holds no state of any asset."""

    def __init__(self, config: AdaptationConfig, stride_ms: float, columns: int) -> None:
        """`stride_ms`: time between the ends of two windows; `columns`: number N of numeric columns."""
        self._config = config
        self._follow = np.float32(math.inf if config.follow is None else config.follow)
        self.roams = config.follow is None
        """Whether drift has no bound: then it is followed through incidents of severity `info`, too."""
        self._by_anchor = max(float(self._follow), config.flat_within)
        self._step_ms = stride_ms
        self.samples = max(2, config.block // EVERY)
        """Number of windows used per block."""
        self._nowhere = np.zeros(columns, np.float32)
        self._nowhere.flags.writeable = False

    def fresh(self, state: Adaptation | None = None) -> Adaptation:
        """Return the state of an asset at its training baseline; `state`: its previous state, if any."""
        serial = 0 if state is None else state.serial + bool(np.any(state.shift))
        return Adaptation(serial=serial, shift=self._nowhere, anchor=self._nowhere)

    def adopt(self, state: Adaptation) -> Adaptation:
        """Return a stored state adapted to this configuration: a fresh one if its columns differ."""
        return state if len(state.shift) == len(self._nowhere) == len(state.anchor) else self.fresh(state)

    def due(self, end_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which windows, ending at `end_ms` (W,), are used."""
        found: NDArray[np.bool_] = np.rint(end_ms / self._step_ms).astype(np.int64) % EVERY == 0
        return found

    def is_due(self, end_ms: int) -> bool:
        """Return whether a window that ends at `end_ms` is used."""
        return round(end_ms / self._step_ms) % EVERY == 0

    def creeps(self, incident: IncidentState) -> bool:
        """Return whether an open incident is treated as drift that is faster than the shift."""
        return self.roams and incident.severity == "info"

    def quiet(self, state: Adaptation, seen: Seen, normal: float, low: float) -> tuple[Adaptation, Change | None]:
        """Return the state after a quiet window without an incident that is due; "refit" when its shift moved.

        Scores up to `normal` are at most at the adaptive level; scores up to `low` would end an incident.
        """
        state = _filled(state, seen, seen.score <= normal, seen.score <= low)
        if state.count < self.samples:
            return state, None
        mean = state.sums / np.float32(state.count)
        if not np.isfinite(mean).all():  # there was no level yet that could have kept such readings out
            return skipped(state), None
        return self.concluded(state, mean, float(np.abs(mean - state.anchor).max(initial=0.0)), seen.end_ms)

    def concluded(self, state: Adaptation, mean: Floats, away: float, end_ms: int) -> tuple[Adaptation, Change | None]:
        """Return the state after a full quiet block of finite `mean` (N,), `away` from the anchor at most."""
        calm = self.roams or 2 * (max(state.normal, state.low) if away <= self._by_anchor else state.low) >= state.count
        usual, shift = state.usual, state.shift
        if self.roams and not len(usual):
            usual = shift = mean  # the block right after training: nothing came before it that could have begun a fault
        elif len(state.waiting):
            usual = state.waiting
            shift = state.anchor
            if self._follow:
                shift = np.clip(usual, state.anchor - self._follow, state.anchor + self._follow)
        moved = shift is not state.shift and float(np.abs(shift - state.shift).max(initial=0.0)) > LEAST_STEP
        calm_ms: int | None = end_ms
        came_ms, came, settling = None, 0.0, False
        if not calm and state.calm_ms is not None:
            calm_ms, came_ms, came = self._came(state, end_ms, state.calm_ms)
            settling = state.settling
        after = Adaptation(
            serial=state.serial + moved,
            shift=shift if moved else state.shift,
            anchor=state.anchor,
            usual=usual,
            waiting=mean,
            calm_ms=calm_ms,
            came_ms=came_ms,
            came=came,
            past=_past(state),
            settling=settling,
        )
        return after, "refit" if moved else None

    def calm(self, away: NDArray[np.float64], normal: NDArray[np.int64], low: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return of which full quiet blocks (n,) the machine is calm, as in `concluded`."""
        if self.roams:
            return np.ones(len(away), np.bool_)
        mostly = np.where(away <= self._by_anchor, np.maximum(normal, low), low)
        found: NDArray[np.bool_] = 2 * mostly >= self.samples
        return found

    def moves(self, waiting: Floats, anchor: Floats, shift: Floats) -> NDArray[np.bool_]:
        """Return which shifts move (n,) where the blocks `waiting` (n, N) are learnt, as in `concluded`."""
        target = np.clip(waiting, anchor - self._follow, anchor + self._follow) if self._follow else anchor
        found: NDArray[np.bool_] = np.abs(target - shift).max(axis=1, initial=0.0).astype(np.float64) > LEAST_STEP
        return found

    def turned(self, state: Adaptation, end_ms: int) -> Adaptation:
        """Return the state at the window that opens or closes an incident: blocks not learnt yet may hold its begin."""
        return Adaptation(
            serial=state.serial,
            shift=state.shift,
            anchor=state.anchor,
            usual=state.usual,
            calm_ms=end_ms if state.calm_ms is None else state.calm_ms,
            came_ms=state.came_ms,
            came=state.came,
            past=state.past,
            settling=state.settling,
        )

    def during(self, state: Adaptation, seen: Seen, opened_ms: int) -> tuple[Adaptation, Change | None]:
        """Return the state after a due window of an open incident; "regime-change" once it was flat for long enough.

        The regime policy decides whether the change is accepted as normal (`accepted`).
        """
        score, end_ms = seen.score, seen.end_ms
        kept = float(np.float32(score)) if abs(score) <= LARGEST else math.inf  # non-finite scores are not learnt
        state = replace(_filled(state, seen), scores=(*state.scores[1 - SCORES :], kept))
        if state.count < self.samples:
            return state, None
        mean = np.append(state.sums / np.float32(state.count), np.float32(state.logs / state.count))
        calm_ms = opened_ms if state.calm_ms is None else state.calm_ms
        if not self.roams:
            calm_ms, came_ms, came = self._came(state, end_ms, calm_ms, opened_ms)
            state = replace(state, calm_ms=calm_ms, came_ms=came_ms, came=came, past=_past(state))
        state = replace(state, sums=self._nowhere[:0], count=0, logs=0.0)
        if state.flat_ms is None or self._differs(mean, state):
            return replace(state, waiting=mean, flat_ms=end_ms, asked=False), None
        if self._config.flat_ms is None or state.asked or (state.settling and len(state.scores) < ENOUGH):
            return state, None
        if self.roams:
            patience_ms = max(PATIENCE * (opened_ms - calm_ms), SHARE * (end_ms - calm_ms))
        else:
            patience_ms = PATIENCE * (came_ms - calm_ms)
        if end_ms - state.flat_ms < max(self._config.flat_ms, patience_ms):
            return replace(state, waiting=mean) if self.roams else state, None
        # the first and the newest block of the stretch are equally good estimates: use their mean
        return replace(state, waiting=np.float32(0.5) * (mean + state.waiting), asked=True), "regime-change"

    def accepted(
        self, state: Adaptation, end_ms: int, probe: Probe | None = None
    ) -> tuple[Adaptation, NDArray[np.float64] | None]:
        """Return the state after its regime change is accepted, and scores (n,) for recalibrating the threshold.

        The scores are None if the shift has moved, because the threshold remains valid under the new shift. `probe`
        scores the window under other shifts; without it the new shift is the mean offset.
        """
        place, scores = state.waiting[:-1], None
        if state.settling:
            place = state.shift
        elif probe is not None:
            place = relocated(probe, state.shift, place)
        elif float(np.abs(place - state.shift).max(initial=0.0)) <= self._config.flat_within:
            place = state.shift
        moved = bool(np.any(place != state.shift))
        if not moved and len(state.scores) >= ENOUGH:
            scores = np.array(state.scores)
        serial, settling = state.serial + moved, scores is None
        after = Adaptation(serial=serial, shift=place, anchor=place, usual=place, calm_ms=end_ms, settling=settling)
        return after, scores

    def restored(self, state: Adaptation, earlier: Adaptation, end_ms: int) -> Adaptation:
        """Return the state moved back to the shift and anchor of an `earlier` one."""
        shift = earlier.shift
        return Adaptation(serial=state.serial + 1, shift=shift, anchor=earlier.anchor, usual=shift, calm_ms=end_ms)

    def _came(
        self, state: Adaptation, end_ms: int, calm_ms: int, opened_ms: int | None = None
    ) -> tuple[int, int, float]:
        """Return `calm_ms`, `came_ms` and `came` (start, end and size of the change) after a full, not calm block."""
        strange, block_ms = state.logs / state.count, round(self._config.block * self._step_ms)
        start_ms = max(end_ms - block_ms, calm_ms, opened_ms or calm_ms)
        if state.past and strange > min(state.past) + LEAP:
            return max(calm_ms, start_ms - block_ms), start_ms, strange
        if state.came_ms is None or strange > state.came + ARRIVED:
            return calm_ms, start_ms, strange
        return calm_ms, state.came_ms, state.came

    def _differs(self, mean: Floats, state: Adaptation) -> bool:
        """Whether a block's mean offsets and mean log score differ from those at the start of the flat stretch."""
        away = np.abs(state.waiting[:-1] - state.shift)
        if not np.isfinite(away).all():  # a tenth of it bounds nothing
            return True
        change = np.abs(mean - state.waiting)
        still = bool((change[:-1] <= self._config.flat_within + GROWTH * away).all())
        return not (still and (self.roams or float(change[-1]) <= LOG_GROWTH))


def skipped(state: Adaptation) -> Adaptation:
    """Return the state without the full block, whose mean is not finite."""
    nothing = state.sums[:0]
    return replace(state, waiting=nothing, sums=nothing, count=0, logs=0.0, normal=0, low=0)


def _filled(state: Adaptation, seen: Seen, normal: bool = False, low: bool = False) -> Adaptation:
    return replace(
        state,
        sums=state.sums + seen.offset if state.count else seen.offset.copy(),
        count=state.count + 1,
        logs=state.logs + math.log(max(abs(seen.score), LEAST_SIZE)) if seen.score == seen.score else state.logs,
        normal=state.normal + normal,
        low=state.low + low,
    )


def _past(state: Adaptation) -> tuple[float, ...]:
    """Return the mean log scores of the two newest blocks, that of the full one included."""
    return (*state.past[-1:], state.logs / state.count)
