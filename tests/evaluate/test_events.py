"""Faults caught and incidents false, drawn as time lines."""

from __future__ import annotations

import numpy as np
import pytest

from stream_detector.datasets.recording import Recording
from stream_detector.evaluate.data import Case
from stream_detector.evaluate.events import summary, watch
from stream_detector.evaluate.live import Rows, Track
from stream_detector.types import Alert, ModelRef
from tests.evaluate.test_live import config


def alert(incident: str, event: str, start: int, end: int) -> Alert:
    """An event of an incident; times in seconds."""
    return Alert(
        id=f"{incident}-{event}",
        incident=incident,
        event=event,
        stream="pump",
        asset="a",
        start_ms=start * 1_000,
        end_ms=end * 1_000,
        score=2.0,
        threshold=1.0,
        severity="info",
        kind="contextual",
        channels=(),
        model=ModelRef("ae", "1"),
        method="spot",
        risk=1e-4,
        seen=1,
    )


def watched(line: str, alerts: list[Alert], tail_s: float = 0.0):
    """Hold alerts against a line of rows, a second each: x is anomalous."""
    labels = np.array([mark == "x" for mark in line.replace(" ", "")], np.int8)
    ts_ms = 1_000.0 * np.arange(len(labels))
    whole = Recording("a", ts_ms, {"flow": ts_ms}, labels=labels)
    case = Case("a", whole.head(0), whole, config())
    nothing = np.zeros(len(labels), bool)
    rows = Rows(nothing, nothing, ts_ms, ts_ms, ts_ms)
    track = Track("a", np.empty(0, np.int64), np.empty(0), np.empty(0), nothing, nothing, tuple(alerts))
    one = watch(case, track, rows, tail_s * 1_000)
    return summary([one], [rows])


def test_a_fault_is_caught_when_an_incident_is_open_in_it():
    """
    rows   ..xxxx....xxx...
    told       └────┘          two seconds after the fault began; the second fault is missed
    """
    found = watched("..xxxx....xxx...", [alert("1", "open", 3, 4), alert("1", "close", 3, 9)])
    assert (found["faults"], found["caught"], found["delay_s_median"], found["false"]) == (2, 1, 2, 0)


def test_an_incident_that_was_open_before_is_told_apart():
    """
    rows   ......xxx
    told     └───────          an alarm that never ends catches everything
    """
    found = watched("......xxx", [alert("1", "open", 1, 2)])
    assert (found["caught"], found["already_open"], found["delay_s_median"]) == (1, 1, 0)


def test_an_incident_beside_every_fault_is_false():
    """
    rows   xx..........
    told       └─┘   └─┘       the first lies within the windows' reach of the fault
    """
    alerts = [alert("1", "open", 4, 4), alert("1", "close", 4, 6), alert("2", "open", 9, 9), alert("2", "close", 9, 11)]
    found = watched("xx..........", alerts, tail_s=4)
    assert (found["incidents"], found["false"]) == (2, 1)
    assert found["false_per_day"] == pytest.approx(86_400 / 11)
