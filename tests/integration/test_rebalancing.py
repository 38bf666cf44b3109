"""Workers come and go while readings of two joined topics arrive: what stays with its worker goes on untouched."""

from __future__ import annotations

import re
import threading

import pytest
import yaml

from stream_detector.adapters.kafka import MessageWriter
from tests.chaos import verify
from tests.integration.plant import FINE
from tests.integration.site import until
from tests.integration.test_joined_topics import add_topic, rows

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]

PARTITIONS = 6


class Feed(threading.Thread):
    """Writes the recordings to both topics in some 20 s."""

    def __init__(self, plant, topics, files):
        super().__init__(daemon=True)
        self.plant, self.rows, self.ended = plant, list(rows(topics, files)), threading.Event()

    def run(self):
        """Write."""
        with MessageWriter(self.plant.config.kafka) as writer:
            for count, (topic, asset, value) in enumerate(self.rows):
                writer.send(topic, asset, value)
                if count % 60 == 0:
                    self.ended.wait(0.05)
        self.ended.set()


def moves(worker, seen=0):
    """Return the tasks a worker took over, and those it let go or dropped, since so much of its log."""
    said = worker.said()[seen:]
    return (
        {int(task) for task in re.findall(r"task (\d+): \d+ assets", said)},
        {int(task) for task in re.findall(r"task (\d+)(?:: let go| is dropped)", said)},
    )


def give_time(path, material):
    """Let the set-up wait longer for readings, since 90 s of them come in one; return what is wanted of it then.

    Live, which of two topics is read first is chance, and decides what is late and which sensor seems to be silent.
    """
    for each in (path, trained := path.with_name("trained.yaml")):
        settings = yaml.safe_load((material.artifact.parent / "train.yaml" if each == trained else path).read_text())
        settings["window"]["lateness_ms"] = 120_000
        settings["sensors"] = {"check": False}
        each.write_text(yaml.safe_dump(settings, sort_keys=False))
    return verify.expected(trained, material.files)


def shares(*workers):
    """Return how many tasks each worker has."""
    return sorted(worker.metric("assigned_partitions") / 2 for worker in workers)


def test_a_worker_that_joins_or_dies_stops_nobody_else(make_plant, material):
    """A third worker takes two of six tasks, another is killed: the others' tasks are never let go; alerts are all."""
    plant = make_plant(partitions=PARTITIONS, poll=500, fill=False)
    plant.wanted = give_time(plant.config_path, material)
    topics = add_topic(plant)
    feed = Feed(plant, topics, material.files)
    workers = [plant.start(), plant.start()]
    until(lambda: [3, 3] == shares(*workers), "both share", 60, workers[0])
    feed.start()
    until(lambda: plant.progress().read > 0, "something is read", 60, workers[0])
    owned = [taken - gone for taken, gone in map(moves, workers)]
    seen = [len(worker.said()) for worker in workers]
    third = plant.start()
    until(lambda: [2, 2, 2] == shares(*workers, third), "all share", 60, third)
    for worker, mine, before in zip(workers, owned, seen, strict=True):
        taken, gone = moves(worker, before)
        assert (set(), 1) == (taken, len(gone))
        assert gone < mine
    assert 2 == len(moves(third)[0])
    seen = len(third.said())
    restores = workers[1].metric("restores_total")
    workers[0].kill()
    until(lambda: [3, 3] == shares(workers[1], third), "all is served again", 60, third)
    assert (1, set()) == (len(moves(third, seen)[0]), moves(third, seen)[1])
    assert restores + 1 == workers[1].metric("restores_total")
    assert feed.ended.wait(60)
    assert FINE == plant.finish(workers[1], third)
    assert 0 == sum(worker.metric("aborts_total") for worker in (workers[1], third))
