"""Exactly-once delivery on Apache Kafka and Redis: workers are killed and held, `tests.chaos.verify` judges."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.chaos import verify
from tests.integration.plant import FINE
from tests.integration.site import until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)]


def test_an_undisturbed_run_is_as_the_backtest(make_plant):
    """Two workers, nobody disturbs them: alerts and states are those of the backtest."""
    plant = make_plant()
    workers = [plant.start(), plant.start()]
    assert FINE == plant.finish(*workers)
    assert 0 == sum(worker.metric("aborts_total") for worker in workers)


@pytest.mark.parametrize("moment", ["flushed", "saved", "committed"])
def test_killed_in_a_commit(make_plant, moment):
    """Killed between the steps of a commit, three times over: nothing is missing, nothing repeated."""
    plant = make_plant()
    for _ in range(3):
        worker = plant.start(f"{moment}:1:SIGKILL")
        assert -signal.SIGKILL == worker.process.wait(60), worker.said()
    assert FINE == plant.finish(plant.start())


def test_a_static_member_goes_on_where_it_was(make_plant):
    """Killed and started again under its instance_id, a worker has its partitions long before the session is over."""
    plant = make_plant()
    static = {"KAFKA__INSTANCE_ID": "one", "KAFKA__SESSION_TIMEOUT_MS": "120000"}
    assert -signal.SIGKILL == plant.start("saved:2:SIGKILL", **static).process.wait(60)
    again = plant.start(**static)
    started = time.monotonic()
    assert FINE == plant.finish(again)
    assert time.monotonic() - started < 90


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random(make_plant, material, seed):
    """kill -9 at random moments of a replay, five times: nothing is missing, nothing repeated."""
    chance = random.Random(seed)
    plant = make_plant(fill=False)
    replay = plant.replay(material.files, 60)
    workers = [plant.start(), plant.start()]
    for _ in range(5):
        until(lambda: plant.progress().read > 0, "something is read", 60)
        time.sleep(chance.uniform(0.5, 4.0))
        victim = chance.randrange(2)
        workers[victim].kill()
        workers[victim] = plant.start()
    assert 0 == replay.process.wait(120), replay.said()
    assert FINE == plant.finish(*workers)


def zombie(plant, broken=""):
    """Hold a worker in the middle of a commit until another has done all its work, then let it go on."""
    held = plant.start("saved:1:SIGSTOP", broken)
    until(lambda: stopped(held), "it is held", 60, held)
    other = plant.start(broken=broken)
    until(lambda: verify.settled(plant.config_path), "the other has done all", 60, other)
    held.process.send_signal(signal.SIGCONT)
    until(lambda: "dropped" in held.said() or held.process.poll() is not None or broken, "it knows", 30)
    time.sleep(2)
    for worker in (held, other):
        worker.stop()
    return plant.verdict(), held


def stopped(program):
    """Whether a process is held."""
    return Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_zombie_changes_nothing(make_plant):
    """A worker held past its session, with alerts flushed and states saved, commits nothing when it goes on."""
    verdict, held = zombie(make_plant())
    assert FINE == verdict, held.said()


def test_the_verifier_finds_broken_fencing(make_plant):
    """Without fencing the zombie's commit counts, and the verifier tells."""
    verdict, held = zombie(make_plant(), "fencing")
    assert verdict["repeated"] or verdict["state_differences"], held.said()


@pytest.mark.parametrize(
    ("broken", "moment", "found"), [("epoch", "saved", "missing"), ("transaction", "flushed", "repeated")]
)
def test_the_verifier_finds(make_plant, broken, moment, found):
    """Without the epoch's choice a crash loses alerts, without the transaction it repeats them; the verifier tells."""
    plant = make_plant()
    for _ in range(3):
        assert -signal.SIGKILL == plant.start(f"{moment}:1:SIGKILL", broken).process.wait(60)
    assert plant.finish(plant.start(broken=broken))[found] > 0
