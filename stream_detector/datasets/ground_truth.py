"""Comparison of incidents with the ground truth: which faults were detected, which incidents were false."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import Alert


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of event time [start_ms, end_ms], UNIX ms, of one asset, with a name for reports."""

    asset: str
    start_ms: float
    end_ms: float
    name: str = "anomaly"


@dataclass(slots=True)
class Incident:
    """An incident, reconstructed from its alerts; `end_ms` is infinite while it is open."""

    id: str
    asset: str
    start_ms: float
    end_ms: float = math.inf


@dataclass(frozen=True, slots=True)
class Tally:
    """All faults and incidents, the faults that were detected and the incidents that were false."""

    faults: list[Interval] = field(default_factory=list)
    detected: list[Interval] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    false: list[Incident] = field(default_factory=list)


def incidents(alerts: Iterable[Alert]) -> list[Incident]:
    """Return the incidents of the alerts, in the order they opened. Duplicate alerts have no effect."""
    found: dict[str, Incident] = {}
    for alert in alerts:
        one = found.setdefault(alert.incident, Incident(alert.incident, alert.asset, alert.start_ms))
        if alert.event == "close":
            one.end_ms = alert.end_ms
    return list(found.values())


def runs(asset: str, ts_ms: NDArray[np.float64], labels: NDArray[np.int8]) -> list[Interval]:
    """Return the intervals of consecutive rows labelled anomalous; `ts_ms`, `labels`: (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (labels > 0).astype(np.int8), [0]])))
    return [
        Interval(asset, float(ts_ms[start]), float(ts_ms[stop - 1]))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def tally(found: Sequence[Incident], faults: Sequence[Interval], tail_ms: float) -> Tally:
    """Match incidents and faults of the same asset by overlap in event time.

    A fault is detected when an incident overlaps it. An incident is false when it overlaps neither a fault nor the
    `tail_ms` after one, the time during which windows still contain readings of the fault.
    """
    detected = [fault for fault in faults if any(_overlap(one, fault, 0.0) for one in found)]
    false = [one for one in found if not any(_overlap(one, fault, tail_ms) for fault in faults)]
    return Tally(list(faults), detected, list(found), false)


def _overlap(incident: Incident, fault: Interval, tail_ms: float) -> bool:
    same = incident.asset == fault.asset
    return same and incident.start_ms <= fault.end_ms + tail_ms and incident.end_ms >= fault.start_ms
