"""An alert budget turned into a risk. Pure: a state in, a new one out.

An incident is not a window. Exceedances come in clusters, since windows overlap and machines have memory, and only
clusters that pass the incident's opening rule count. How many incidents a level costs can't be seen at a level that
they may exceed three times a week; so it is counted where they are frequent. The opening and closing rules run in the
shadow at two levels: at t, the threshold of SPOT's tail, which a share τ of the scores lies above, and at the level
that a quarter of the tail exceeds. Clusters that keep their form as the level rises (an extremal index below 1;
Leadbetter 1983) make incidents rarer in proportion to the share above, exponent 1; scores without memory, of which two
must meet by chance, with its square. So

    incidents per ms at risk r  =  S/T · (r/τ)^e     S: shadow incidents in T ms, at first those of the calibration
    e  =  log(S/S₄) / log 4, within 1 to 2           S₄: those at the higher level
    r  =  τ · (budget per ms · T/S · c)^(1/e)
    c  =  (A + promised)/(A + opened)

c corrects by what came of it: `opened` incidents of the `promised` ones so far, A of each added so that the first few
don't swing it. Counts are halved every period, so that old ones are forgotten. What the shadow sees during an incident
is the incident's. The risk is reset `TURNS` times per period.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import IncidentConfig
from stream_detector.config.budget import PERIOD_MS, BudgetConfig
from stream_detector.decision.threshold.spot import Spot
from stream_detector.types import BudgetState, ThresholdState, replace

A = 2.0
TURNS = 56  # every third hour of a week
LEAST_RISK, MOST_RISK = 1e-8, 0.5  # the latter as a share of τ: nearer, the level would be t itself
STEP = 0.05  # smallest relative change of a risk that is applied


class Budget:
    """The controller of one stream; holds no state of any asset."""

    def __init__(self, config: BudgetConfig, incident: IncidentConfig, method: Spot, stride_ms: float) -> None:
        """`stride_ms`: from one window's end to the next."""
        self.config = config
        self._rate = config.rate
        self._period_ms = PERIOD_MS[config.per]
        self._turn_ms = self._period_ms / TURNS
        self._method = method
        self._stride_ms = stride_ms
        self._mask = (1 << incident.open_of) - 1
        self._open_after, self._close_after = incident.open_after, incident.close_after

    def start(
        self, threshold: ThresholdState, scores: NDArray[np.float64], end_ms: int
    ) -> tuple[BudgetState, ThresholdState]:
        """Return the state of an asset whose threshold was calibrated on `scores` (n,), oldest first."""
        state = BudgetState(start_ms=end_ms, set_ms=end_ms, since_ms=end_ms)
        if threshold.level is None:
            return state, threshold
        t, high = self._method.tail_from(threshold), self._method.tail_quarter(threshold)
        for score in scores.tolist():
            if score > t or state.recent or state.quiet >= 0:
                state = self._shadowed(state, score > t, score > high)
        state = replace(_without_shadow(state), elapsed_ms=len(scores) * self._stride_ms)
        return self._turned(state, threshold, end_ms)

    @property
    def turn_ms(self) -> float:
        """Event time between two looks at the risk."""
        return self._turn_ms

    def step(
        self, state: BudgetState, threshold: ThresholdState, score: float, end_ms: int, *, opened: bool, alarmed: bool
    ) -> tuple[BudgetState, ThresholdState, bool]:
        """Return the states after a window, and whether its risk was changed.

        `opened`: the window opened an incident; `alarmed`: it belongs to one.
        """
        if opened:
            state = replace(_without_shadow(state), opened=state.opened + 1.0, opened_ever=state.opened_ever + 1)
        elif not alarmed and threshold.level is not None:
            above = score > self._method.tail_from(threshold)
            if above or state.recent or state.quiet >= 0:
                rare = above and score > self._method.tail_quarter(threshold)
                state = self._shadowed(state, above, rare)
        if end_ms - state.set_ms < self._turn_ms or threshold.level is None:
            return state, threshold, False
        before = threshold
        state, threshold = self._turned(state, threshold, end_ms)
        return state, threshold, threshold is not before

    def moved(self, calibrated: ThresholdState, before: ThresholdState) -> ThresholdState:
        """Return a state just calibrated with the risk that the one before it had; both have a level."""
        return self._method.with_risk(calibrated, self._method.risk_of(before))

    def promised(self, before: BudgetState, after: BudgetState) -> float:
        """Return the incidents that the budget allows for the time that a step counted."""
        return self._rate * (after.set_ms - before.set_ms)

    def achieved(self, state: BudgetState, end_ms: int) -> tuple[float, float]:
        """Return the incidents promised at most from the start to `end_ms`, and those that opened."""
        return self._rate * max(end_ms - state.start_ms, 0), float(state.opened_ever)

    def _shadowed(self, state: BudgetState, above: bool, rare: bool) -> BudgetState:
        """Return the state after one more score, by the rules that open and close incidents, at both levels."""
        shadow, recent, quiet = self._ruled(state.shadow, state.recent, state.quiet, above)
        rarer, rarer_recent, rarer_quiet = self._ruled(state.rarer, state.rarer_recent, state.rarer_quiet, rare)
        return replace(
            state,
            shadow=shadow,
            recent=recent,
            quiet=quiet,
            rarer=rarer,
            rarer_recent=rarer_recent,
            rarer_quiet=rarer_quiet,
        )

    def _ruled(self, count: float, recent: int, quiet: int, above: bool) -> tuple[float, int, int]:
        recent = ((recent << 1) | above) & self._mask
        if quiet >= 0:
            quiet = 0 if above else quiet + 1
            if quiet >= self._close_after:
                return count, 0, -1
        elif above and recent.bit_count() >= self._open_after:
            return count + 1.0, recent, 0
        return count, recent, quiet

    def _turned(self, state: BudgetState, threshold: ThresholdState, end_ms: int) -> tuple[BudgetState, ThresholdState]:
        """Return the states with the risk that suits what was counted."""
        passed = float(end_ms - state.set_ms)
        state = replace(
            state, set_ms=end_ms, elapsed_ms=state.elapsed_ms + passed, promised_ms=state.promised_ms + passed
        )
        if end_ms - state.since_ms >= self._period_ms:
            state = replace(
                state,
                since_ms=end_ms,
                elapsed_ms=0.5 * state.elapsed_ms,
                shadow=0.5 * state.shadow,
                rarer=0.5 * state.rarer,
                opened=0.5 * state.opened,
                promised_ms=0.5 * state.promised_ms,
            )
        share = self._method.tail_share(threshold)
        correction = (A + self._rate * state.promised_ms) / (A + state.opened)
        exponent = math.log((state.shadow + 1.0) / (state.rarer + 1.0)) / math.log(4.0)
        wanted = self._rate * state.elapsed_ms / (state.shadow + 0.5) * correction
        risk = share * wanted ** (1.0 / min(max(exponent, 1.0), 2.0))
        risk = min(max(risk, LEAST_RISK), MOST_RISK * share)
        if abs(risk - self._method.risk_of(threshold)) <= STEP * risk:
            return state, threshold
        return state, self._method.with_risk(threshold, risk)


def _without_shadow(state: BudgetState) -> BudgetState:
    """Return a state in which no shadow incident is open or about to open."""
    return replace(state, recent=0, quiet=-1, rarer_recent=0, rarer_quiet=-1)
