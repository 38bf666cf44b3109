"""The short form of `make backlog`: a worker with some hours' backlog, alone and beside live readings."""

from __future__ import annotations

import json

import pytest

from tests.integration.site import call

pytestmark = pytest.mark.slow


def test_a_backlog_starves_no_live_partition(kafka_server, redis_server):
    """Live partitions' alerts come while the others catch up, and the worker keeps all its partitions throughout."""
    options = ("--hours", 3, "--deliveries", "exactly_once", "--least", 0.2, "--latest-s", 60, "--json")
    found = json.loads(call("tests.benchmarks.backlog", *options))["exactly_once"]
    for run in (found["alone"], found["beside_live"]):
        assert (0, 16) == (run["lost"], run["taken_over"])
    assert found["beside_live"]["live_alerts"] > 0
