"""Judgements -> incidents -> alerts: open, update, close. Pure: takes a state, returns a new state and its alerts.

Open    when at least `open_after` of the last `open_of` windows are anomalous and the run has lasted
        `min_duration_ms`. `start` is the run's first anomalous window; a run ends when none of the last `open_of`
        windows was anomalous.
Update  on an anomalous window whose severity is higher than the incident's (which never decreases, so at most twice),
        or in which another channel clearly leads: with at least LEAD times the share of the current leader. Without
        this factor, channels with about the same share would alternate and every window would be an update.
Close   after `close_after` quiet windows in a row; any other window restarts the count. A window is quiet when its
        score is at most `exit_ratio` times the level, or below `exit_peak_share` of the incident's highest score, even
        if that is above the level: many machines do not return to their previous state, and an alarm that never ends
        hides the next fault.
Re-arm  after a close above `exit_ratio` times the level: windows are anomalous only above a limit, `rearm_factor`
        times the score at the close. The limit decreases with the score, never increases, and is removed once a score
        is at most `exit_ratio` times the level.
Regime  an incident that stays flat is a regime change (adaptation.py). It is reported as `regime-change`, followed by
        a close at the same window if the new state is accepted as normal.

Without windows nothing changes: the incident of an asset that sends nothing stays open until there are quiet windows.

Severity compares the ratio of score and level with `warning_ratio` and `critical_ratio`. Detectors whose scores are
logarithms may have levels of 0 or below. Therefore the ratio is defined as 1 + (score - level)/|level|, which is
score/level for levels above 0. Shares of the peak and the limit after a close use the same ratio.

Kind, as far as it is known at an event: `collective` from `collective_windows` windows on, and `point` when an incident
closes after at most `point_windows`; quiet windows at the end don't count. Otherwise it depends on the leading
channel's values, compared with the training range of that channel. If they are usual in most windows, they don't match
the other channels or the time: `contextual`. If they are unusual in at least half of the windows, the kind is `point`
up to `point_windows` windows, then `collective`.
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
    LivenessEvent,
    ModelRef,
    Severity,
    replace,
)
from stream_detector.windowing.channel_profile import ChannelProfile

LEAD = 1.5

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_LARGEST = float(np.finfo(np.float32).max)  # replaces infinity, which JSON can't represent
_QUIET = IncidentState()


class Basis(msgspec.Struct, frozen=True, gc=False):
    """A window's judgement and the threshold behind it, for its alerts."""

    judgement: Judgement
    risk: float  # of the threshold
    seen: int  # number of normal scores that the threshold has learnt from


class Limit(msgspec.Struct, frozen=True, gc=False):
    """The limit for an asset's scores, for alerts that no window brings."""

    level: float | None  # alarm level
    method: str
    risk: float
    seen: int  # number of normal scores learnt


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event of an incident, to be reported in an alert."""

    name: AlertEvent
    incident: IncidentState
    """The state described in the alert; for `close`, the state just before the incident closed."""
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
        """`columns`: names of the scored columns, in order; `profiles`: by model index, may be empty."""
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
        """Return the state after a window, and the event to be reported in an alert, if any.

        The window's details are read only when there is an event, so quiet windows without an incident are cheap.
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
            waiting,  # keeps the count of windows since the first anomalous one
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
        """Return the state after an open incident was found to be a regime change, and the events `names` to report.

        `close` ends the incident regardless of the scores, because their reference has changed. The incident is then
        re-armed, as after a close by `exit_peak_share`, because the machine has not settled in its new state yet.
        """
        shares = self.shares(window)
        events = [Event(name, state, shares) for name in names]
        if "close" not in names:
            return state, events
        return IncidentState(rearm=self._limit(finite(window.score), judgement.level)), events

    def _during(
        self, state: IncidentState, window: ScoredWindow, judgement: Judgement
    ) -> tuple[IncidentState, Event | None]:
        """Return the state of an open incident after a window, and the event to report, if any."""
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
        """Return whether a window is anomalous after a close by `exit_peak_share`, and the new limit."""
        level, anomalous = judgement.level, judgement.anomalous
        if level is None or level == 0.0:
            if not anomalous and score <= self.quiet_at(level):
                return False, None
            lower = self._limit(score, level)
        else:  # `_limit` and `quiet_at` inlined, for speed
            size = abs(level)
            if not anomalous and score <= level - self._below * size:
                return False, None
            lower = level + (self._rearm_factor * (1.0 + (score - level) / size) - 1.0) * size
            if not -_LARGEST <= lower <= _LARGEST:
                lower = finite(lower)
        return anomalous and score > limit, lower if lower < limit else limit

    def _limit(self, score: float, level: float | None) -> float:
        """Return the score whose ratio to the level is `rearm_factor` times that of `score`."""
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
        """Return the highest score at which a window is quiet by `exit_ratio`."""
        return math.inf if level is None else level - self._below * abs(level)

    def quiet_below(self, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `quiet_at` for an array of levels, (n,)."""
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
        """Return whether the leading channel's value is outside its usual range, regardless of the other channels."""
        usual = self._usual[window.model] if window.model < len(self._usual) else None
        if usual is None:
            return False
        column = self.columns.index(leader.name)
        return not usual[0][column] <= leader.observed <= usual[1][column]

    def shares(self, window: ScoredWindow) -> tuple[ChannelShare, ...]:
        """Return every column's share of a window's score, largest first; equal shares in the order of the columns."""
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
        """Return the alert for an event at a window."""
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
            threshold=score if judgement.level is None else judgement.level,  # there is no level only after a reset
            severity=state.severity,
            kind=self._kind(event.name, state),
            channels=event.shares,
            model=window.ref,
            method="pinned" if judgement.pinned else self.threshold.method,
            risk=basis.risk,
            seen=basis.seen,
            ingest_ms=window.ingest_ms,
        )

    def left(self, state: IncidentState, event: LivenessEvent, model: ModelRef, limit: Limit) -> Alert:
        """Return the close of an incident whose asset has left the task; its score is the incident's highest."""
        assert state.incident is not None
        assert state.first_ms is not None
        score = finite(state.peak)
        return Alert(
            id=alert_id(self.stream, event.asset, event.at_ms, model.version, "close"),
            incident=state.incident,
            event="close",
            stream=self.stream,
            asset=event.asset,
            start_ms=state.first_ms,
            end_ms=event.at_ms,
            score=score,
            threshold=score if limit.level is None else limit.level,
            severity=state.severity,
            kind=self._kind("close", state),
            channels=(),
            model=model,
            method=limit.method,
            risk=limit.risk,
            seen=limit.seen,
            reason="moved",
        )


def alarm_ratio(score: float, level: float | None) -> float:
    """Return the ratio of a score and its level that determines the severity: 1 + (score - level)/|level|."""
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
    """Return a score as a finite number for an alert: infinity and NaN become the largest float32."""
    if -_LARGEST <= value <= _LARGEST:
        return value
    return math.copysign(_LARGEST, value) if value == value else _LARGEST


def _finite_array(values: np.ndarray) -> np.ndarray:
    found = values.astype(np.float64)
    if not np.isfinite(found).all():
        found = np.nan_to_num(found, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return found
