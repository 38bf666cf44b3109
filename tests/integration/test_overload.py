"""The soak's short form: two workers, one of each delivery, get much more than they can do for some seconds."""

from __future__ import annotations

import json

import pytest

from tests.integration.site import call

pytestmark = pytest.mark.slow


def test_memory_stays_where_it_is_under_overload(kafka_server, redis_server):
    """Neither grows by more than a fifth, loses its partitions or a message's account, or leaves its broker waiting."""
    options = ("--seconds", 14, "--after", 7, "--slow-ms", 60, "--overload", 10, "--least", 0, "--json")
    found = json.loads(call("tests.benchmarks.overload", *options))
    for delivery in ("at_least_once", "exactly_once"):
        one = found[delivery]
        assert (True, 0, 0, 12) == (one["alive"], one["stopped"], one["lost"], one["restores"])
        assert one["ratio"] < 1.2
        assert one["overload"] > 1.5  # more than it reads, on whatever machine
        assert one["waiting_windows"] < 300
        assert one["commits"] > 2
