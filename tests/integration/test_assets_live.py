"""`stream-detector assets` with workers as processes, on a broker and a store."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from stream_detector.adapters.redis import RedisStore
from tests.integration.site import DETECTOR, call, until

pytestmark = pytest.mark.slow


def test_assets_are_listed_and_forgotten(make_site, material, servers, request):
    """One with an open incident, which sends nothing any more: closed once, its data gone, also after a kill -9."""
    exact = request.node.callspec.params["servers"] != "embedded"
    site = make_site(delivery="exactly_once" if exact else "at_least_once", commit_interval_ms=200)
    gone = "machine-1"

    def assets(*words):
        return json.loads(call(DETECTOR, "assets", *words, "--json"))

    def rows():
        return {row["asset"]: row for row in assets(site.config_path)}

    def mine():
        return [alert for alert in map(json.loads, site.alerts()) if alert["asset"] == gone]

    site.thresholds("pin", gone, 1e-9, "--force")  # so that an incident is open at the end
    worker = site.worker()
    site.finish(site.replay(material.files, "max"), worker)
    found = until(lambda: (found := rows()).get(gone, {}).get("score") is not None and found, "it reports", 60, worker)
    assert len(found) == 6
    assert found[gone]["state"] == "alarm"
    assert found[gone]["level"] == 1e-9
    assert all(row["read"] >= row["judged"] and row["reason"] is None for row in found.values())
    assert found["machine-4"]["state"] == "normal"
    before = mine()
    assert before[-1]["event"] != "close"
    call(DETECTOR, "verdict", site.config_path, before[-1]["id"], "maintenance")
    with closing(RedisStore(site.config.redis, site.config.stream)) as store:
        until(store.verdicts, "the verdict is stored", 60, worker)
        done = assets("forget", site.config_path, gone)
        assert done == {"action": "forget", "asset": gone, "done": True, "tasks": [], "verdicts": 1}
        assert store.verdicts() == []
        assert store.find(gone) is None
        controls = store.controls()
        assert (controls.pins, controls.removals) == ({}, {})
        [close] = mine()[len(before) :]
        assert (close["event"], close["incident"]) == ("close", before[-1]["incident"])
        assert [one["cause"] for one in site.thresholds("history", gone)][-1] == "forget"
        assert set(rows()) == set(found) - {gone}
        worker.kill()
        worker = site.worker()
        until(lambda: worker.metric("ready") == 1 and worker.metric("assigned_partitions"), "it is ready", 60, worker)
        until(lambda: worker.metric("commits_total"), "it commits", 60, worker)
        assert store.find(gone) is None
    assert set(rows()) == set(found) - {gone}
    assert len(mine()) == len(before) + 1
    assert worker.stop() == 0, worker.said()
