"""Which faults were caught and which incidents were false; all times in ms of one asset unless said otherwise."""

import math
from dataclasses import replace

import numpy as np

from stream_detector.datasets.ground_truth import Incident, Interval, incidents, runs, tally
from stream_detector.types import Alert, ChannelShare, ModelRef

ALERT = Alert(
    id="1",
    incident="a",
    event="open",
    stream="pump",
    asset="pump-1",
    start_ms=90,
    end_ms=100,
    score=2.0,
    threshold=1.0,
    severity="info",
    kind="contextual",
    channels=(ChannelShare("current", 1.0, 1.0, 0.0),),
    model=ModelRef("ae", "1"),
    method="spot",
    risk=1e-4,
    seen=10,
)


def test_an_incident_lasts_from_its_first_anomalous_window_to_its_close():
    """Updates change neither end."""
    alerts = [ALERT, replace(ALERT, event="update", end_ms=150), replace(ALERT, event="close", end_ms=200)]
    assert [Incident("a", "pump-1", 90, 200)] == incidents(alerts)


def test_an_incident_without_a_close_is_still_open():
    """Its end lies in the future."""
    assert [Incident("a", "pump-1", 90, math.inf)] == incidents([ALERT])


def test_alerts_that_came_twice_count_once():
    """At-least-once delivery may repeat them."""
    assert 1 == len(incidents([ALERT, ALERT, replace(ALERT, event="close", end_ms=200), ALERT]))
    assert 200 == incidents([ALERT, replace(ALERT, event="close", end_ms=200), ALERT])[0].end_ms


def test_runs_are_the_stretches_of_labelled_rows():
    """Also at the very beginning and end; times are those of the first and the last row."""
    ts, labels = np.arange(8) * 10.0, np.array([1, 1, 0, 0, 1, 0, 0, 1], np.int8)
    assert [(0, 10), (40, 40), (70, 70)] == [(one.start_ms, one.end_ms) for one in runs("pump-1", ts, labels)]
    assert [] == runs("pump-1", ts, np.zeros(8, np.int8))


def test_a_fault_is_detected_by_an_incident_that_overlaps_it():
    """Not by one before it, after it, or of another asset."""
    faults = [Interval("pump-1", 100, 200), Interval("pump-1", 300, 400), Interval("pump-2", 100, 200)]
    found = [Incident("a", "pump-1", 150, 160), Incident("b", "pump-1", 210, 220)]
    assert [faults[0]] == tally(found, faults, 0).detected


def test_an_open_incident_overlaps_all_that_follows():
    """Its end is not known, so a fault that begins during it is detected."""
    assert 1 == len(tally([Incident("a", "pump-1", 50)], [Interval("pump-1", 100, 200)], 0).detected)


def test_an_incident_is_false_when_it_overlaps_no_fault_nor_its_tail():
    """While windows still hold readings of the fault an incident is its echo."""
    found = [Incident("a", "pump-1", 210, 220), Incident("b", "pump-1", 240, 250), Incident("c", "pump-2", 150, 160)]
    result = tally(found, [Interval("pump-1", 100, 200)], tail_ms=30)
    assert (["b", "c"], found, []) == ([one.id for one in result.false], result.incidents, result.detected)
