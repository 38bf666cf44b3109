"""The product from outside: processes on a broker and a store, judged by what lies on the topics.

What is compared between runs is the alerts' values, byte for byte; their headers carry wall-clock times and differ.
The order of alerts is each asset's own: partitions are processed side by side.
"""

from __future__ import annotations

import json
import signal
import time

import pytest

from stream_detector.kafka_io import AlertReader, MessageWriter, end_offsets
from stream_detector.records import DEAD_LETTER_CODES
from tests.broken import EITHER, broken
from tests.integration.site import DETECTOR, Site, call, repeats, until

pytestmark = pytest.mark.slow


def backtest(site: Site, files) -> list[bytes]:
    """Alerts that `stream-detector backtest` prints for these files under the site's set-up."""
    printed = call(DETECTOR, "backtest", site.config_path, "--data", *files, "--json", "--quiet")
    return [line.encode() for line in printed.splitlines()]


def by_asset(values):
    """Alerts of each asset in their order."""
    found = {}
    for value in values:
        found.setdefault(json.loads(value)["asset"], []).append(value)
    return found


def test_live_equals_backtest(make_site, material):
    """What a worker publishes for a replay is what `backtest` prints for the files, byte for byte, in order."""
    site = make_site()
    worker = site.worker()
    site.finish(site.replay(material.files, "max"), worker)
    expected = backtest(site, material.files)
    assert len(expected) > 10
    assert by_asset(expected) == by_asset(site.alerts())
    assert 0 == worker.stop(), worker.said()


def test_kill_9_in_the_middle_loses_no_alert(make_site, material):
    """Killed twice while the replay goes on: every alert of the undisturbed run is there; repeats are the same bytes."""
    site = make_site()
    worker = site.worker()
    replay = site.replay(material.files, 120)
    for share in (0.25, 0.6):
        until(lambda share=share: site.share_read(material.messages) > share, f"{share:.0%} is read", alive=worker)
        worker.kill()
        worker = site.worker()
    site.finish(replay, worker)
    expected, found = backtest(site, material.files), site.alerts()
    assert set() == set(expected) - set(found)
    assert set() == set(found) - set(expected)
