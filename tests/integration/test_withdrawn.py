"""Permissions that are withdrawn while a worker runs, and given back."""

from __future__ import annotations

import json
import time

import pytest

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.config.loading import load
from stream_detector.permissions import kafka_permissions
from tests.integration.site import DETECTOR, Program, until
from tests.integration.test_live import by_asset
from tests.integration.test_operations import ready

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("revealed")]
LONG_S = 12.0  # several times as long as it takes until an operation that fails is tried again


def broker_events(worker: Program) -> list[dict[str, str]]:
    """What it said of Kafka, in order."""
    lines = [json.loads(line) for line in worker.said().splitlines()]
    return [line for line in lines if line["event"].startswith("broker-")]


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("output", ["readings", "alerts"])
def test_a_permission_that_is_withdrawn_is_told_once(make_secured, material, fortress, delivery, output):
    """With the topic's name, in the log and in /readyz, as long as it lasts; after it nothing is missing."""
    site = make_secured(delivery=delivery)
    (withdrawn,) = [
        right for right in kafka_permissions(site.config) if right.resource == "topic" and right.name.endswith(output)
    ]
    user = load(site.config_path, env={}).kafka.security.username
    port = free_port()
    env = {"STREAM_DETECTOR__METRICS__PORT": str(port)}
    worker = site._start("worker", env, DETECTOR, "--log-format", "json", "run", site.config_path, port=port)
    until(lambda: ready(port) == (200, "2 tasks"), "it is ready", 60, worker)
    fortress.kafka.revoke(user, [withdrawn])
    own, site.config_path = site.config_path, site.config_path.with_name("administrator.yaml")
    replay = site.replay(material.files, "max")
    site.config_path = own
    assert 0 == replay.process.wait(timeout=90), replay.said()
    until(lambda: broker_events(worker), "it says so", 30, worker)
    answers = set()
    for _ in range(int(LONG_S * 2)):
        answers.add(ready(port))
        time.sleep(0.5)
    fortress.kafka.grant(user, [withdrawn])
    site.finish(replay, worker)
    until(lambda: ready(port) == (200, "2 tasks"), "it is ready again", 60, worker)
    assert 0 == worker.stop(), worker.said()
    told = broker_events(worker)
    assert ["broker-away", "broker-back"] == [one["event"] for one in told], told
    assert repr(withdrawn.name) in told[0]["message"]
    assert {503} == {status for status, _ in answers}, answers
    assert all(withdrawn.name in why for _, why in answers), answers
    dropped = [json.loads(line) for line in worker.said().splitlines() if '"task-dropped"' in line]
    assert len(dropped) <= 2, "once per task"
    alerts = site.alerts()
    if delivery == "exactly_once":
        assert by_asset(material.alerts) == by_asset(alerts)
    else:  # of the messages on their way when the permission goes, the broker may refuse some and take later ones
        assert set(material.alerts) == set(alerts)
