"""The short form of `make chaos`: every kind of fault once at least, on three brokers and three workers."""

from __future__ import annotations

import random
from contextlib import ExitStack
from itertools import islice

import pytest

from tests.chaos import verify
from tests.chaos.__main__ import WRONG, parse, run
from tests.chaos.faults import FAULTS
from tests.chaos.schedule import deal
from tests.conftest import missing
from tests.integration.plant import FINE
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
    assert {"open", "update", "regime-change", "close"} == set(found["alerts_by_event"])
    assert {"clock", "dropout", "out-of-range", "saturated", "silent", "stuck"} == set(found["sensor_faults"])
    assert {"calibrate", "refit", "regime-change", "risk"} <= set(found["audits_by_cause"])
    assert {"not-json", "out-of-range", "too-late"} == set(found["dead_letters_by_reason"])


def test_the_verifier_counts_what_differs():
    """Alerts and entries of the audit topic each by themselves: missing, there twice, never made; and states."""
    wanted = verify.Wanted([b"a", b"b", b"b"], [b"x", b"y", b"z"], [], {"one": [1], "two": [2]})
    assert dict.fromkeys(FINE, 0) == verify.compare(wanted, [b"b", b"a", b"b"], [b"z", b"y", b"x"], wanted.states)
    found = verify.compare(wanted, [b"a", b"a", b"b", b"c"], [b"x", b"z", b"z", b"z", b"w", b"v"], {"one": [1]}, 3)
    assert {
        "missing": 1,
        "repeated": 1,
        "unexpected": 1,
        "audits_missing": 1,
        "audits_repeated": 2,
        "audits_unexpected": 2,
        "state_differences": 1,
        "undecided": 3,
    } == found


def test_a_schedule_holds_every_kind_and_is_its_seeds():
    """Each kind comes once before any comes again, then as often as it should; the same seed deals the same."""
    kinds = {"a": 3, "b": 1, "c": 2}
    dealt = list(islice(deal(kinds, random.Random(1)), 3 + 6 + 6))
    assert ["a", "b", "c"] == sorted(dealt[:3])
    assert ["a", "a", "a", "b", "c", "c"] == sorted(dealt[3:9]) == sorted(dealt[9:])
    assert dealt == list(islice(deal(kinds, random.Random(1)), 15))
    assert dealt != list(islice(deal(kinds, random.Random(2)), 15))
