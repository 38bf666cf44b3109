"""How an asset's baseline follows drift and accepted regime changes. Pure.

A detector is trained once; machines change. Each asset therefore has a shift, in training spreads, that is subtracted
from its scaled inputs before they are scored. It is moved so that the model expects what it sees: the offset of a
window is its last cell less what the model expects there, the shift included. In a plant whose channels move together
(load, current, heat) inputs wander far while offsets stay at 0, so a shift made of offsets follows only what the model
can't explain.

Quiet      offsets of quiet windows are averaged over blocks of `block` windows. A block is learnt once the next one was
           quiet too, so that the beginning of a fault is not: its mean becomes `usual`, and the shift goes there, at
           most `follow` away from the anchor (where training, or the last regime change, had it).
Incident   nothing is learnt. Each block's mean offset, and the mean logarithm of its scores, are compared with those of
           the block since which the incident has been flat; a block that differs begins a new flat stretch. A regime
           change is an incident flat for `flat_ms` and for twice as long as it took to come.
Coming     begins with the last calm block: one by its anchor whose scores were mostly normal, or whose scores mostly
           were such as end an incident. It ends where the scores' mean logarithm has not grown by ARRIVED since,
           whether that was before the incident opened or within it. So a slow fault that takes hours to be seen would
           have to stand still for twice as many, and while it grows it never does. A jump is a change of its own
           that starts at the block before it, regardless of the state before.
           Where `follow` is null, healthy drift has no bound and growth says nothing: each block's place is compared
           with the last one's, only jumps begin a new stretch, and a change has come when its incident opens; it
           must have been flat for a quarter of the time since the last calm block, too. There an incident that never
           got beyond severity `info` is drift that got ahead: it is followed as if quiet.
Regime     shift and anchor move to where the model finds the machine least strange, along the mean offsets
           (relocation.py). Where that is where it is, only the scores have grown (noise, not place): the threshold is
           calibrated again on the incident's newest scores. The same where an incident opens before the machine was
           calm at its new place: that is known already, so the incident lasts until there are ENOUGH scores. The
           incident closes re-armed (incident.py): until its scores are quiet, only worse ones alarm.

A function of the windows in their order alone. The shift of a window is that after the window before it, whatever batch
either was scored in (driver.py scores again what a change overtakes). Every EVERY-th window of the event-time grid is
looked at: neighbours overlap and say the same, and the average cost stays under a microsecond.
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
#: A shift is moved only when some channel is to move by more: a smaller step is the noise of a block's mean.
LEAST_STEP = 0.1
#: A flat stretch ends where the distance from normal has changed by this share of it, or the scores' logarithm by this.
GROWTH, LOG_GROWTH = 0.1, 0.4
#: An incident must have been flat for this multiple of the time that it took to develop; with `follow: null` also for
#: this share of the time since the machine was last calm. SHARE is more than GROWTH: so steady growth is never flat.
PATIENCE, SHARE = 2.0, 0.25
#: Newest scores of an incident that are kept for a calibration, and how many it takes.
SCORES, ENOUGH = 64, 50
#: A change has come when the mean logarithm of scores has not grown by this much since.
ARRIVED = 0.5
#: Smaller scores count as one of this size, since 0 has no logarithm.
LEAST_SIZE = 1e-12
#: A jump, a change of its own: the scores' mean logarithm grew by this much within two blocks.
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
        """`stride_ms`: from one window's end to the next; `columns`: N, numeric ones."""
        self._config = config
        self._follow = np.float32(math.inf if config.follow is None else config.follow)
        self.roams = config.follow is None
        """Whether drift has no bound: then it is followed through incidents of severity `info`, too."""
        self._by_anchor = max(float(self._follow), config.flat_within)
        self._step_ms = stride_ms
        self.samples = max(2, config.block // EVERY)
        """Windows looked at in a block."""
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
        """Return which of the windows (W,) that end then are looked at."""
        found: NDArray[np.bool_] = np.rint(end_ms / self._step_ms).astype(np.int64) % EVERY == 0
        return found

    def is_due(self, end_ms: int) -> bool:
        """Return whether a window that ends then is looked at."""
        return round(end_ms / self._step_ms) % EVERY == 0

    def creeps(self, incident: IncidentState) -> bool:
        """Whether an open incident is treated as drift faster than the shift follows."""
        return self.roams and incident.severity == "info"

    def quiet(self, state: Adaptation, seen: Seen, normal: float, low: float) -> tuple[Adaptation, Change | None]:
        """Return the state after a quiet window without an incident that is due; "refit" when its shift moved.

        Scores up to `normal` lie below the adaptive level, those up to `low` would end an incident.
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
        """Return the state after a due window of an open incident; "regime-change" once, when it was flat for long.

        Whether it is normal now (`accepted`) is the policy's to decide.
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
        # the newest block is no better than the one the stretch began with: halfway is the best estimate of both
        return replace(state, waiting=np.float32(0.5) * (mean + state.waiting), asked=True), "regime-change"

    def accepted(
        self, state: Adaptation, end_ms: int, probe: Probe | None = None
    ) -> tuple[Adaptation, NDArray[np.float64] | None]:
        """Return the state once its regime change is accepted, and scores (n,) to calibrate the threshold on.

        None when the inputs have moved: what was learnt of scores holds at their new place, too. `probe` scores the
        window under other shifts; without it the place is where the mean offsets are.
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
        """Return `calm_ms`, `came_ms` and `came` after a full block of a machine that is not calm."""
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
