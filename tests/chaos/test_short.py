"""The short form of `make chaos`: every kind of fault once at least, on three brokers and three workers."""

from __future__ import annotations

import random
from contextlib import ExitStack
from itertools import islice

import pytest

from tests.chaos.__main__ import WRONG, parse, run
from tests.chaos.faults import FAULTS
from tests.chaos.schedule import deal
from tests.conftest import missing
from tests.servers import UnavailableError


@pytest.mark.slow
def test_alerts_and_states_are_as_if_nothing_had_happened(tmp_path):
    """20 faults of sixteen kinds while readings come: nothing is missing, repeated, unexpected or different."""
    with ExitStack() as closing:
        try:
            found = run(parse(["--short", "--seed", "1"]), tmp_path, closing)
        except UnavailableError as reason:
            missing(str(reason))
    assert dict.fromkeys(WRONG, 0) == {name: found[name] for name in WRONG}
    assert found["faults_injected"] >= 20
    assert {fault.__name__ for fault in FAULTS} == set(found["by_kind"])
    assert found["alerts"] > 1_000


def test_a_schedule_holds_every_kind_and_is_its_seeds():
    """Each kind comes once before any comes again, then as often as it should; the same seed deals the same."""
    kinds = {"a": 3, "b": 1, "c": 2}
    dealt = list(islice(deal(kinds, random.Random(1)), 3 + 6 + 6))
    assert ["a", "b", "c"] == sorted(dealt[:3])
    assert ["a", "a", "a", "b", "c", "c"] == sorted(dealt[3:9]) == sorted(dealt[9:])
    assert dealt == list(islice(deal(kinds, random.Random(1)), 15))
    assert dealt != list(islice(deal(kinds, random.Random(2)), 15))
