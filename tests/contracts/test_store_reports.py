"""What workers report of assets, as every StateStore keeps it: on memory, Valkey and Redis."""

from __future__ import annotations

from stream_detector.types import AssetReport
from tests.contracts.states import at, backend, state, store
from tests.stores import Backend, Store

__all__ = ["backend", "store"]  # fixtures

FULL = AssetReport(1_583_748_873_000, 1 / 3, -4.02, "gaps", 'longer than "max_gap_ms" é\n')


def test_reports_come_back(backend: Backend, store: Store):
    """All fields, names in any script, of all tasks; the newest counts, and None removes."""
    other = backend.connect()
    first, second = store.acquire(0), store.acquire(1)
    store.report(0, first, {"Насос №2 {x}:ö": FULL, "pump-1": AssetReport(), "pump-2": AssetReport(5)})
    store.report(1, second, {"pump-1": AssetReport(7, score=0.0)})
    store.report(0, first, {"pump-2": None, "pump-3": None})
    assert sorted(other.reports()) == sorted(
        [(0, "Насос №2 {x}:ö", FULL), (0, "pump-1", AssetReport()), (1, "pump-1", AssetReport(7, score=0.0))]
    )


def test_a_worker_that_lost_the_task_reports_nothing(store: Store):
    """Its report would overwrite its successor's; that is no error."""
    old = store.acquire(0)
    store.acquire(0)
    store.report(0, old, {"pump-1": FULL})
    store.report(9, 12, {"pump-1": FULL})  # never acquired
    assert store.reports() == []


def test_reports_are_no_part_of_what_is_versioned(store: Store):
    """They neither appear among the states nor as a change of operators' settings."""
    token = store.acquire(0)
    store.save(0, token, 1, {"pump-1": state()}, at(1, 1))
    store.report(0, token, {"pump-2": FULL})
    assert (set(store.load(0).assets), store.controls_version()) == ({"pump-1"}, 0)
    assert [asset for _, asset, _ in store.assets()] == ["pump-1"]
