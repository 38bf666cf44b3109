"""What happens after a worker is killed: who serves its partitions, and how often anybody's work is interrupted."""

from __future__ import annotations

import time

import pytest

from tests.chaos import verify
from tests.integration.plant import FINE, SESSION_MS
from tests.integration.site import until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]

PARTITIONS = 6


def test_after_kill_9_of_one_of_three_all_is_served_again(make_plant, material):
    """Only the partitions of the one that was killed are taken over; the others' are not touched.

    How long that takes is measured by `python -m tests.benchmarks.recovery`: about the session timeout and a second.
    """
    plant = make_plant(partitions=PARTITIONS, fill=False)
    workers = [plant.start(), plant.start(), plant.start()]
    until(lambda: all(2 == worker.metric("assigned_partitions") for worker in workers), "all share", 60)
    replay = plant.replay(material.files, 90)
    until(lambda: plant.progress().read > 0, "something is read", 60, workers[0])
    before = [worker.metric("restores_total") for worker in workers[1:]]
    workers[0].kill()
    until(lambda: 6 == sum(worker.metric("assigned_partitions") for worker in workers[1:]), "all is served again", 60)
    assert 0 == replay.process.wait(120), replay.said()
    until(lambda: verify.settled(plant.config_path), "all is processed", 60, workers[1])
    taken = sum(worker.metric("restores_total") for worker in workers[1:]) - sum(before)
    assert PARTITIONS // 3 == taken
    assert FINE == plant.finish(*workers[1:])


def test_a_store_that_hangs_costs_no_membership(make_plant, material, redis_server):
    """Redis answers nothing for longer than the session: alerts go on, no task is dropped or loaded again."""
    plant = make_plant(fill=False)
    worker = plant.start(REDIS__TIMEOUT_MS="1000")
    replay = plant.replay(material.files, 90)
    until(lambda: plant.progress().read > 0, "something is read", 60, worker)
    restores = worker.metric("restores_total")
    redis_server.pause()
    try:
        time.sleep(1.7 * SESSION_MS / 1_000)
    finally:
        redis_server.resume()
    assert 0 == replay.process.wait(120), replay.said()
    until(lambda: verify.settled(plant.config_path), "all is processed", 60, worker)
    assert (restores, 0) == (worker.metric("restores_total"), worker.metric("aborts_total"))
    assert FINE == plant.finish(worker)
