"""Judgements -> incidents -> alerts: open, update, close. Pure: a state in, a new one and its alerts out.

Open    on the k-th anomalous window of the last n (`open_after`, `open_of`), once the run has lasted
        `min_duration_ms`. `start` is the run's first anomalous window; a run is over when none of the last n windows
        was anomalous.
Update  on an anomalous window whose severity is higher than the incident's (it never falls within an incident, so at
        most twice), or in which another channel leads clearly: with at least LEAD times the share of the leader so
        far. Channels of about the same share would otherwise take turns and every window would be an update.
Close   after `close_after` quiet windows in a row. A window is quiet at a score of at most `exit_ratio` times the
        level, or below `exit_peak_share` of the incident's highest score, even above the level: many machines do not
        return to what they were, and an alarm that never ends hides the next fault. Any other window is not quiet, and
        the count starts again.
Re-arm  after an exit above `exit_ratio` times the level: windows are anomalous only above a limit, `rearm_factor`
        times the score at the exit. The limit falls with the score, never rises, and goes once the score is quiet by
        `exit_ratio`.
Regime  an incident that stays flat is a regime change (adaptation.py): `regime-change` reports it, and a close of the
        same window follows where the new state is taken for normal.

Windows that never come change nothing: an incident of an asset that fell silent stays open until quiet windows come.

Severity is the score over the level, against `warning_ratio` and `critical_ratio`. Detectors whose scores are
logarithms may have levels of 0 or below; so the ratio is taken as 1 + (score - level)/|level|, the same for levels
above 0. Shares of the peak and the limit after an exit are taken of these ratios too.

Kind, as far as is known at an event: `collective` from `collective_windows` on, and `point` when an incident closes
having lasted at most `point_windows`; quiet windows at the end don't count. Between the two the leading channel's
values decide, compared with what training saw of that channel by itself: usual ones mean that they don't go with the
others or with this time, `contextual`; unusual ones in most windows are `collective`, and `point` while there are few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.codec import alert_id, incident_id
from stream_detector.config import IncidentConfig, ThresholdConfig
from stream_detector.decision.threshold import Judgement
from stream_detector.decision.window import ScoredWindow
from stream_detector.types import (
    Alert,
    AlertEvent,
    AlertKind,
    ChannelShare,
    IncidentState,
    Severity,
    replace,
)
from stream_detector.windowing.channel_profile import ChannelProfile

LEAD = 1.5

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_LARGEST = float(np.finfo(np.float32).max)  # stands in for what JSON can't say
_QUIET = IncidentState()


class Basis(msgspec.Struct, frozen=True, gc=False):
    """What a window was judged by, for its alerts."""

    judgement: Judgement
    risk: float  # of the threshold
    seen: int  # normal scores it has learnt from


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something about an incident that an alert reports."""

    name: AlertEvent
    incident: IncidentState
    """As the alert describes it: a closed one as it was."""
    shares: tuple[ChannelShare, ...]


class Incidents:
    """The incidents of one stream under one configuration; holds no state of any asset."""

    def __init__(
        self,
        stream: str,
        columns: Sequence[str],
        config: IncidentConfig,
        threshold: ThresholdConfig,
        profiles: Sequence[ChannelProfile | None] = (),
    ) -> None:
        """`columns`: names of the scored columns, in their order; `profiles` by model index, where there are any."""
        self._usual = [None if one is None else (one["usual_low"], one["usual_high"]) for one in profiles]
        self.stream = stream
        self.columns = tuple(columns)
        self.config = config
        self.threshold = threshold
        self._mask = (1 << config.open_of) - 1
        self._below, self._rearm_factor = 1.0 - config.exit_ratio, config.rearm_factor

    def step(
        self, state: IncidentState, window: ScoredWindow, judgement: Judgement
    ) -> tuple[IncidentState, Event | None]:
        """Return the state after a window, and what an alert is to report of it, if anything.

        The window's details are looked at only when something happens: a quiet window without an incident costs next
        to nothing.
        """
        if state.opened_ms is not None:
            return self._during(state, window, judgement)
        anomalous, rearm = judgement.anomalous, state.rearm
        if rearm is not None:
            score = window.score
            if not -_LARGEST <= score <= _LARGEST:
                score = finite(score)
            anomalous, rearm = self._rearmed(rearm, score, judgement)
        if not anomalous:
            if state.recent == 0 and state.rearm is rearm:
                return state, None
            if recent := (state.recent << 1) & self._mask:
                return replace(state, recent=recent, rearm=rearm), None
            return (_QUIET if rearm is None else IncidentState(rearm=rearm)), None
        recent = ((state.recent << 1) | 1) & self._mask
        first_ms, windows = (window.end_ms, 1) if state.first_ms is None else (state.first_ms, state.windows + 1)
        waiting = IncidentState(recent=recent, first_ms=first_ms, windows=windows, rearm=rearm)
        if recent.bit_count() < self.config.open_after or window.end_ms - first_ms < self.config.min_duration_ms:
            return waiting, None
        score, shares = finite(window.score), self.shares(window)
        opened = replace(
            waiting,  # its windows count from the first anomalous one on, so that its length is known
            rearm=None,
            opened_ms=window.end_ms,
            incident=incident_id(self.stream, window.asset, window.end_ms, window.ref.version),
            severity=self._severity(score, judgement.level),
            leader=shares[0].name,
            peak=score,
            unusual=windows if self._is_unusual(window, shares[0]) else 0,
        )
        return opened, Event("open", opened, shares)

    def settle(
        self, state: IncidentState, window: ScoredWindow, judgement: Judgement, names: Sequence[AlertEvent]
    ) -> tuple[IncidentState, list[Event]]:
        """Return the state after an open incident turned out a regime change, and what alerts report of it.

        `regime-change` reports it; `close` ends it, whatever the scores: what they are compared with has changed. It is
        re-armed, as after an exit by the peak's share, since the machine has yet to settle in its new place.
        """
        shares = self.shares(window)
        events = [Event(name, state, shares) for name in names]
        if "close" not in names:
            return state, events
        return IncidentState(rearm=self._limit(finite(window.score), judgement.level)), events

    def _during(
        self, state: IncidentState, window: ScoredWindow, judgement: Judgement
    ) -> tuple[IncidentState, Event | None]:
        """Take an open incident one window further."""
        score = finite(window.score)
        peak = score if score > state.peak else state.peak
        normal = not judgement.anomalous and score <= self.quiet_at(judgement.level)
        is_quiet = normal or self._is_over(score, judgement.level, peak)
        anomalous = judgement.anomalous and not is_quiet
        quiet = state.quiet + 1 if is_quiet else 0
        severity, leader, unusual = state.severity, state.leader, state.unusual
        name: AlertEvent | None = None
        shares: tuple[ChannelShare, ...] | None = None
        if quiet >= self.config.close_after:
            name = "close"
        elif anomalous:
            reached = self._severity(score, judgement.level)
            if _RANK[reached] > _RANK[severity]:
                severity, name = reached, "update"
            shares = self.shares(window)
            unusual += self._is_unusual(window, shares[0])
            if shares[0].name != leader and shares[0].share >= LEAD * _share_of(leader, shares):
                leader, name = shares[0].name, "update"
        after = replace(
            state,
            recent=((state.recent << 1) | anomalous) & self._mask,
            quiet=quiet,
            severity=severity,
            leader=leader,
            peak=peak,
            windows=state.windows + 1,
            unusual=unusual,
        )
        if name is None:
            return after, None
        event = Event(name, after, shares or self.shares(window))
        if name == "close":
            after = _QUIET if normal else IncidentState(rearm=self._limit(score, judgement.level))
        return after, event

    def _rearmed(self, limit: float, score: float, judgement: Judgement) -> tuple[bool, float | None]:
        """Return whether a window after an exit by the peak's share is anomalous, and the limit after it."""
        level, anomalous = judgement.level, judgement.anomalous
        if level is None or level == 0.0:
            if not anomalous and score <= self.quiet_at(level):
                return False, None
            lower = self._limit(score, level)
        else:  # as `_limit` and `quiet_at`, without the calls
            size = abs(level)
            if not anomalous and score <= level - self._below * size:
                return False, None
            lower = level + (self._rearm_factor * (1.0 + (score - level) / size) - 1.0) * size
            if not -_LARGEST <= lower <= _LARGEST:
                lower = finite(lower)
        return anomalous and score > limit, lower if lower < limit else limit

    def _limit(self, score: float, level: float | None) -> float:
        """Return the score at `rearm_factor` times the ratio of `score`."""
        if level is None or level == 0.0:
            return finite(self._rearm_factor * score)
        size = abs(level)
        return finite(level + (self._rearm_factor * (1.0 + (score - level) / size) - 1.0) * size)

    def _severity(self, score: float, level: float | None) -> Severity:
        ratio = _ratio(score, level)
        if ratio >= self.config.critical_ratio:
            return "critical"
        return "warning" if ratio >= self.config.warning_ratio else "info"

    def quiet_at(self, level: float | None) -> float:
        """Return the highest score of a window that is quiet by `exit_ratio`."""
        return math.inf if level is None else level - self._below * abs(level)

    def quiet_below(self, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `quiet_at` of many levels, (n,)."""
        return level - self._below * np.abs(level)

    def _is_over(self, score: float, level: float | None, peak: float) -> bool:
        return _ratio(score, level) < self.config.exit_peak_share * _ratio(peak, level)

    def _kind(self, event: AlertEvent, state: IncidentState) -> AlertKind:
        length = state.windows - state.quiet
        if length >= self.config.collective_windows:
            return "collective"
        few = length <= self.config.point_windows
        if few and event == "close":
            return "point"
        if 2 * state.unusual < length or not state.unusual:
            return "contextual"
        return "point" if few else "collective"

    def kind_at_close(self, state: IncidentState) -> AlertKind:
        """Return the kind of an open incident that ends without a further window."""
        return self._kind("close", state)

    def _is_unusual(self, window: ScoredWindow, leader: ChannelShare) -> bool:
        """Whether the leading channel's value is unusual by itself."""
        usual = self._usual[window.model] if window.model < len(self._usual) else None
        if usual is None:
            return False
        column = self.columns.index(leader.name)
        return not usual[0][column] <= leader.observed <= usual[1][column]

    def shares(self, window: ScoredWindow) -> tuple[ChannelShare, ...]:
        """Return every column's share of a window's score, largest first; equal ones in the columns' order."""
        contributions = np.maximum(_finite_array(window.contributions), 0.0)
        total = float(contributions.sum())
        shares = contributions / total if total > 0.0 else np.full(len(contributions), 1.0 / len(contributions))
        observed = _finite_array(window.observed)
        expected = _finite_array(window.expected)
        return tuple(
            ChannelShare(self.columns[i], float(shares[i]), float(observed[i]), float(expected[i]))
            for i in np.argsort(-shares, kind="stable")
        )

    def alert(self, event: Event, window: ScoredWindow, basis: Basis) -> Alert:
        """Return the alert that reports an event at a window."""
        state = event.incident
        assert state.incident is not None
        assert state.first_ms is not None
        score, judgement = finite(window.score), basis.judgement
        return Alert(
            id=alert_id(self.stream, window.asset, window.end_ms, window.ref.version, event.name),
            incident=state.incident,
            event=event.name,
            stream=self.stream,
            asset=window.asset,
            start_ms=state.first_ms,
            end_ms=window.end_ms,
            score=score,
            threshold=score if judgement.level is None else judgement.level,  # no level: only after a reset
            severity=state.severity,
            kind=self._kind(event.name, state),
            channels=event.shares,
            model=window.ref,
            method="pinned" if judgement.pinned else self.threshold.method,
            risk=basis.risk,
            seen=basis.seen,
            ingest_ms=window.ingest_ms,
        )


def alarm_ratio(score: float, level: float | None) -> float:
    """Return a score over its level as severity takes it: 1 + (score - level)/|level|."""
    return _ratio(score, level)


def _ratio(score: float, level: float | None) -> float:
    if level is None:
        return 1.0
    if level == 0.0:
        return math.inf if score > 0.0 else 1.0
    return 1.0 + (score - level) / abs(level)


def _share_of(name: str | None, shares: Sequence[ChannelShare]) -> float:
    return next((share.share for share in shares if share.name == name), 0.0)


def finite(value: float) -> float:
    """Return a score as an alert can hold it: one that overflowed or is not a number is as strange as can be."""
    if -_LARGEST <= value <= _LARGEST:
        return value
    return math.copysign(_LARGEST, value) if value == value else _LARGEST


def _finite_array(values: np.ndarray) -> np.ndarray:
    found = values.astype(np.float64)
    if not np.isfinite(found).all():
        found = np.nan_to_num(found, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return found
