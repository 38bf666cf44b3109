"""The same topic read exactly once by any number of workers in batches of any size: the same alerts and states."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
import yaml

from stream_detector.adapters.kafka import ensure_topics
from stream_detector.api.worker import Worker
from stream_detector.config.loading import load
from stream_detector.errors import BrokerError
from tests.chaos import verify
from tests.integration.plant import FINE
from tests.integration.site import until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]

PARTITIONS = 6
WORKERS, BATCHES = (1, 2, 5), (1, 7, 64, 512)


class Thread(threading.Thread):
    """A worker in this process, so that a dozen groups of them take seconds and not minutes."""

    def __init__(self, config, closing):
        super().__init__(daemon=True)
        self.stopping, self.failure = threading.Event(), None
        self.worker = closing.enter_context(Worker.from_config(config))  # as `stream-detector run` wires it

    def run(self):
        """Step until told to stop."""
        try:
            self.worker.open()
            while not self.stopping.is_set():
                try:
                    self.worker.step(50)
                except BrokerError:  # as `stream-detector run` does
                    self.stopping.wait(1)
            self.worker.close()
        except BaseException as error:
            self.failure = error


def group_config(plant, name, batch):
    """Write the set-up of a group of its own on the plant's input topic; return its path."""
    settings = yaml.safe_load(plant.config_path.read_text())
    topics = {f"{kind}_topic": f"{name}.{kind}" for kind in ("alert", "audit", "dead_letter")}
    settings["kafka"] |= {"group": name, **topics}
    settings["kafka"]["max_poll_records"] = max(50, 4 * batch)
    settings["kafka"]["rebalance"] = ("eager", "cooperative")[BATCHES.index(batch) % 2]
    settings["redis"]["prefix"] = name
    settings["scorer"] = {"max_batch": batch}
    settings["metrics"] = {"port": None}
    path = plant.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("workers", WORKERS)
def test_alerts_depend_on_neither_workers_nor_batches(make_plant, unique, workers):
    """1, 2 and 5 workers, batches of 1, 7, 64 and 512 windows, each a group of its own: all as the backtest."""
    plant = make_plant(partitions=PARTITIONS)
    found = {}
    for batch in BATCHES:
        path = group_config(plant, unique("batches"), batch)
        config = load(path, env={})
        outputs = (config.alert_topic, config.dead_letter_topic, config.audit_topic)
        ensure_topics(config.kafka, dict.fromkeys(outputs, PARTITIONS))
        with ExitStack() as closing:
            threads = [Thread(config, closing) for _ in range(workers)]
            for thread in threads:
                thread.start()
            until(lambda path=path: verify.settled(path), f"{workers} workers with batches of {batch} have read all")
            for thread in threads:
                thread.stopping.set()
            for thread in threads:
                thread.join(30)
                assert (None, False) == (thread.failure, thread.is_alive())
        found[batch] = verify.verify(path, plant.wanted)
    assert dict.fromkeys(BATCHES, FINE) == found
