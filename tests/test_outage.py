"""When a worker says that Kafka is away, and when that it is back."""

import logging

import pytest

from stream_detector.errors import BatchError, BrokerError, BrokerRightsError
from stream_detector.worker.outage import CALM_MS, TROUBLE_MS, Outage
from tests.rig import Clock


@pytest.fixture
def said(caplog):
    """The events so far."""
    caplog.set_level(logging.INFO, logger="stream_detector")
    return lambda: [record.stream_detector_event["event"] for record in caplog.records]


def test_a_broker_that_is_away_is_told_once(said):
    """Turns that ask it nothing succeed in between; a commit shows that it is back, or a while without an error."""
    clock = Clock()
    outage = Outage(clock)
    for again in range(5):
        outage.failed(BrokerError(f"no answer, try {again}"), commits=3)
        clock.now += 1_000
        outage.passed("no broker has answered for 4 s", 3)
        outage.passed(None, 3)
        assert outage.error is not None
    assert ["broker-away"] == said()
    outage.passed(None, 4)
    assert (["broker-away", "broker-back"], None) == (said(), outage.error)
    outage.failed(BrokerError("no answer"), commits=4)
    clock.now += CALM_MS
    outage.passed("its group is being joined", 4)
    assert 3 == len(said())
    outage.passed(None, 4)
    assert 4 == len(said())


@pytest.mark.parametrize("kind", [BrokerRightsError, BatchError])
def test_what_concerns_one_topic_lasts_while_the_others_go_on(said, kind):
    """Commits of the rest succeed all the while; another cause is another line."""
    clock = Clock()
    outage = Outage(clock)
    for commits in range(20):
        outage.failed(kind("of topic 'a'"), commits)
        for _ in range(4):
            clock.now += 1_000
            outage.passed(None, commits + 1)
    assert ["broker-away"] == said()
    outage.failed(kind("of topic 'b'"), 20)
    assert ["broker-away"] * 2 == said()
    clock.now += CALM_MS
    outage.passed(None, 20)
    assert [*["broker-away"] * 2, "broker-back"] == said()


def test_an_error_that_comes_with_commits_only_is_waited_for(said):
    """Where commits are far between, a while is longer."""
    clock = Clock()
    outage = Outage(clock, commit_interval_ms=60_000)
    outage.failed(BrokerRightsError("of topic 'alerts'"), 0)
    clock.now += 100_000
    outage.passed(None, 0)
    assert ["broker-away"] == said()
    clock.now += 20_000
    outage.passed(None, 0)
    assert ["broker-away", "broker-back"] == said()


def test_trouble_that_lasts_is_an_outage(said):
    """A worker that has nothing to commit meets no error; a join, or a broker's restart, is none."""
    clock = Clock()
    outage = Outage(clock)
    for _ in range(5):
        for _ in range(10):
            outage.passed("its group is being joined", 0)
            clock.now += 1_000
        outage.passed(None, 0)
    assert [] == said()
    for _ in range(40):
        outage.passed("no broker has answered for 9 s", 0)
        clock.now += 1_000
    assert ["broker-away"] == said()
    assert str(outage.error) == "no broker has answered for 9 s"
    clock.now += TROUBLE_MS
    outage.passed(None, 0)
    assert ["broker-away", "broker-back"] == said()
