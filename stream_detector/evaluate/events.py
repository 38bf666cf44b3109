"""Figures by incident, as an operator sees them: faults caught, their delays, false incidents per day, time in alarm.

A fault is a run of consecutive rows labelled anomalous. It is caught when an incident of its asset is open at any time
during the fault. Its delay is the time from its first row to the end of the window that opened the incident. It is 0
when the incident was open before the fault; `already_open` counts these cases, because an alarm that never ends catches
every fault.
An incident is false when it overlaps neither a fault nor the time after one during which windows still contain its
readings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.datasets.ground_truth import Incident, Interval, incidents, runs, tally
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.live import Rows, Track

DAY_MS = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Watch:
    """The faults and incidents of one recording, and the time judged."""

    faults: list[Interval]
    delays_ms: list[float | None]  # of each fault, from its start to the alert; None when it was missed
    already_open: int  # faults caught by an incident that was open before they started
    incidents: list[Incident]
    false: list[Incident]
    watched_ms: float  # event time from the first to the last row
    alarm_share: float  # share of rows in alarm


def watch(case: Case, track: Track, rows: Rows, tail_ms: float) -> Watch:
    """Compare a recording's incidents with its labels; `tail_ms`: the length of a window."""
    ts_ms = case.test.ts_ms
    faults = runs(case.asset, ts_ms, case.labels)
    told = {alert.incident: float(alert.end_ms) for alert in track.alerts if alert.event == "open"}
    found = [Incident(one.id, one.asset, told[one.id], one.end_ms) for one in incidents(track.alerts)]
    counts = tally(found, faults, tail_ms)
    delays: list[float | None] = []
    already_open = 0
    for fault in faults:
        mine = [one.start_ms for one in found if one.start_ms <= fault.end_ms and one.end_ms >= fault.start_ms]
        delays.append(max(min(mine) - fault.start_ms, 0.0) if mine else None)
        already_open += bool(mine) and min(mine) < fault.start_ms
    length = float(ts_ms[-1] - ts_ms[0]) if len(ts_ms) else 0.0
    share = float(rows.alarm.mean()) if len(rows.alarm) else 0.0
    return Watch(faults, delays, already_open, found, counts.false, length, share)


def summary(watches: Sequence[Watch], rows: Sequence[Rows]) -> dict[str, Any]:
    """Return the figures over all recordings; times in seconds, shares from 0 to 1."""
    delays = [delay for one in watches for delay in one.delays_ms]
    caught = np.array([delay for delay in delays if delay is not None]) / 1_000
    days = sum(one.watched_ms for one in watches) / DAY_MS
    false = sum(len(one.false) for one in watches)
    return {
        "faults": len(delays),
        "caught": len(caught),
        "caught_share": len(caught) / len(delays) if delays else None,
        "already_open": sum(one.already_open for one in watches),
        "delay_s_median": _finite(np.median(caught)) if len(caught) else None,
        "delay_s_p90": _finite(np.quantile(caught, 0.9)) if len(caught) else None,
        "incidents": sum(len(one.incidents) for one in watches),
        "false": false,
        "false_per_day": false / days if days else None,
        "days": days,
        "alarm_share": _share(one.alarm for one in rows),
    }


def _share(alarms: Iterable[NDArray[np.bool_]]) -> float | None:
    joined = np.concatenate([np.empty(0, np.bool_), *alarms])
    return float(joined.mean()) if len(joined) else None


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
