"""The product from outside: processes on a broker and a store, judged by what lies on the topics.

What is compared between runs is the alerts' values, byte for byte; their headers carry wall-clock times and differ.
The order of alerts is each asset's own: partitions are processed side by side.
"""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from stream_detector.adapters.kafka import AlertReader, KafkaSource, MessageWriter
from stream_detector.types import DEAD_LETTER_CODES, Partition
from tests.broken import EITHER, broken
from tests.contracts.logs import Listener
from tests.integration.site import DETECTOR, call, repeats, until

pytestmark = pytest.mark.slow


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
    assert len(material.alerts) > 10
    assert by_asset(material.alerts) == by_asset(site.alerts())
    assert 0 == worker.stop(), worker.said()


def test_kill_9_in_the_middle_loses_no_alert(make_site, material):
    """Killed twice in a replay: every alert of the undisturbed run is there; repeats have the same bytes."""
    site = make_site(commit_interval_ms=50, max_poll_records=50)  # small steps, so that the kills come between them
    worker = site.worker()
    replay = site.replay(material.files, 120)
    for share in (0.25, 0.6):
        until(lambda share=share: site.share_read(material.messages) > share, f"{share:.0%} is read", alive=worker)
        worker.kill()
        assert site.share_read(material.messages) < 1, "all was done before the kill"
        worker = site.worker()
    site.finish(replay, worker)
    found = set(site.alerts())
    assert set() == set(material.alerts) - found
    assert set() == found - set(material.alerts)


def test_a_clean_stop_hands_the_work_over_without_repeats(make_site, material):
    """Two workers share the partitions; SIGTERM ends one with 0 and all committed, the other does the rest.

    No alert is missing, and none comes twice: a clean hand-over repeats nothing even with at-least-once delivery.
    """
    site = make_site()
    first, second = site.worker(), site.worker()
    until(lambda: shared(first, second), "each has two partitions")
    replay = site.replay(material.files, 180)
    until(lambda: site.share_read(material.messages) > 0.4, "40% is read", alive=first)
    assert 0 == first.stop(), first.said()
    site.finish(replay, second)
    assert 0 == second.stop(), second.said()
    found = site.alerts()
    assert by_asset(material.alerts) == by_asset(found)
    assert {} == repeats(found)
    for index, end in site.ends().items():
        position = committed(site)[index]
        assert 0 < position.offset <= end == site.read_up_to()[index]
        assert position.read == (end if site.keeps_metadata else position.offset)
    assert "worker stopped" in first.said()


def shared(first, second):
    """Whether two workers have two partitions each."""
    return 2 == first.metric("assigned_partitions") == second.metric("assigned_partitions")


def committed(site):
    """What the broker holds of the group, by partition."""
    with closing(KafkaSource(site.config)) as source:
        source.open(Listener(source))  # joins the group with the first poll only
        positions = source.committed([Partition(site.topic, index) for index in site.ends()])
    return {partition.index: position for partition, position in positions.items()}


def test_10_000_messages_half_of_them_broken(make_site):
    """Every message is a reading or a dead letter with a documented reason, and no good one is lost."""
    site = make_site(partitions=1)
    cases = broken(10_000, seed=3, max_bytes=100_000)
    worker = site.worker()
    with MessageWriter(site.config.kafka) as writer:
        for case in cases:
            sent = case.message
            writer.send(site.topic, sent.key, sent.value, sent.headers, timestamp_ms=sent.timestamp, partition=0)
    until(site.processed, "all is processed", alive=worker)
    letters = {}
    for letter in site.dead_letters():
        headers = dict(letter.headers)
        offset, code = int(headers["offset"]), headers["error"].decode()
        assert (site.topic.encode(), b"0") == (headers["topic"], headers["partition"])
        assert offset not in letters
        assert cases[offset].message.value in (letter.value, None)
        letters[offset] = code
    assert set() == set(letters.values()) - set(DEAD_LETTER_CODES)
    for offset, case in enumerate(cases):
        if case.code != EITHER:
            assert (offset, case.kind, case.code or case.later) == (offset, case.kind, letters.get(offset))
    assert 10_000 - len(letters) == worker.metric("readings_total")
    assert len(letters) == worker.metric("dead_letters_total")
    assert 0 == worker.stop(), worker.said()


def test_a_pin_takes_effect_within_a_second(make_site, material):
    """Pinned low while the worker runs, a healthy machine alarms; unpinned, it calms down. `monitor` shows both."""
    site = make_site(partitions=1)
    worker = site.worker()
    site.replay(material.files[3:4], 60, "--loop", "forever")
    until(site.read_up_to, "an asset is judged", alive=worker)
    asset = site.thresholds("list")[0]["asset"]
    with AlertReader(site.config, from_beginning=False) as reader:
        assert {"action": "pin", "asset": asset, "level": 1e-9} == site.thresholds("pin", asset, 1e-9)
        pinned_ms = time.time() * 1_000
        opened = until(lambda: reader.read(100), "the pin alarms", 10, worker)[0]
        assert "pinned" == json.loads(opened.value)["state"]["method"]
        # two of three windows open an incident; at 60 times the pace they are 83 ms apart
        assert int(opened.headers["scored-ms"]) < pinned_ms + 1_000 + 2 * 83
        assert {"action": "unpin", "asset": asset, "was_pinned": True} == site.thresholds("unpin", asset)
        closed = until(lambda: [one for one in reader.read(100) if b'"close"' in one.value], "it closes", 10, worker)
    assert json.loads(opened.value)["incident"] == json.loads(closed[0].value)["incident"]
    told = site.thresholds("history", asset)
    assert ["calibrate", "pin", "unpin"] == [one["cause"] for one in told if one["cause"] not in ("level", "refit")]
    assert told[0]["id"] == site.thresholds("rollback", asset, "--to", told[0]["id"][:8])["to"]
    until(lambda: "rollback" in [one["cause"] for one in site.thresholds("history", asset)], "it is back", 10, worker)
    shown = call(DETECTOR, "monitor", site.config_path, "--from-beginning", "--json", "--limit", 1, "--asset", asset)
    assert opened.value.decode() + "\n" == shown
