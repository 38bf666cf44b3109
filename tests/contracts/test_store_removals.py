"""Assets that are removed, as every StateStore keeps it: on memory, Valkey and Redis."""

from __future__ import annotations

from stream_detector.ports import WHOLE
from stream_detector.types import AppliedControls, AssetReport, RecordedVerdict, Removal, Removed, replace
from tests.contracts.states import at, backend, judged, state, store
from tests.stores import Backend, Store

__all__ = ["backend", "store"]  # fixtures

MARK = Removed(judged_ms=7, read_ms=9, token="0000000000000005")


def test_a_removed_asset_is_loaded_as_such(backend: Backend, store: Store):
    """The committed epoch decides, as for states; lists and searches pass it over."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1), "b": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"a": MARK}, at(20, 2))
    other = backend.connect()
    before, after = other.load(3, 1), other.load(3, 2)
    assert (judged(before.assets), before.removed) == ({"a": 1, "b": 1}, {})
    assert (judged(after.assets), after.removed) == ({"b": 1}, {"a": MARK})
    assert ([asset for _, asset, _ in other.assets()], other.find("a")) == (["b"], None)


def test_a_removal_that_was_not_committed_is_undone(store: Store):
    """A save of the same epoch replaces the one before it."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"a": MARK}, at(20, 2))
    store.save(3, token, 2, {}, at(20, 2))
    assert (judged(store.load(3, 2).assets), store.load(3, 2).removed) == ({"a": 1}, {})


def test_the_mark_takes_both_places_and_goes(store: Store):
    """Nothing of the state is left after two saves, and nothing at all when all versions go; none of it is a loss."""
    token = store.acquire(3)
    order = store.remove("a", "forget")
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    assert store.holding("a", order) == [3]
    store.save(3, token, 2, {"a": MARK}, at(20, 2))
    assert store.holding("a", order) == [3]
    store.save(3, token, 3, {"a": MARK}, at(30, 3))
    assert store.holding("a", order) == []
    store.save(3, token, 4, {"a": None, "unknown": None}, at(40, 4))
    loaded = store.load(3)
    assert (loaded.assets, loaded.removed, loaded.lost, loaded.epoch) == ({}, {}, False, 4)
    store.save(3, token, 5, {"b": state(judged_ms=5)}, at(50, 5))
    store.save(3, token, 6, {"b": state(judged_ms=6)}, at(60, 6))
    assert judged(store.load(3).assets) == {"b": 6}
    assert not store.load(3).lost


def test_a_state_that_began_after_the_removal_is_not_held_back(store: Store):
    """Its token says so."""
    token = store.acquire(3)
    order = store.remove("a", "retire")
    began = replace(state(), applied=AppliedControls(removed=order))
    store.save(3, token, 1, {"a": began}, at(10, 1))
    assert store.holding("a", order) == []
    assert store.holding("a", store.remove("a", "retire")) == [3]
    assert store.load(3).assets["a"].applied.removed == order


def test_a_whole_save_keeps_marks(store: Store):
    """After a loss, all that a worker knows is written."""
    store.save(3, store.acquire(3), 4, {"a": MARK, "b": state(judged_ms=1)}, at(40, 4), since=WHOLE)
    assert (store.load(3).removed, judged(store.load(3).assets)) == ({"a": MARK}, {"b": 1})


def test_an_order_to_remove_reaches_workers_and_takes_settings_with_it(backend: Backend, store: Store):
    """Of this asset only; of two orders the later one sorts last, and only the last one can be settled."""
    token = store.acquire(3)
    for asset in ("a", "*"):
        store.pin(asset, 1.0)
        store.reset(asset)
        store.accept(asset)
    store.report(3, token, {"a": AssetReport(1), "*": AssetReport(2)})
    version = store.controls_version()
    first = store.remove("a", "retire")
    last = backend.connect().remove("a", "forget")
    found = store.controls()
    assert first < last
    assert found.removals == {"a": Removal(last, "forget")}
    assert not found.idle
    assert found.version == version + 2 == store.controls_version()
    assert (set(found.pins), set(found.resets), set(found.accepts)) == ({"*"}, {"*"}, {"*"})
    assert store.reports() == [(3, "*", AssetReport(2))]
    store.report(3, token, {"a": AssetReport(1)})
    store.settle("a", first)
    assert store.controls().removals == {"a": Removal(last, "forget")}
    store.settle("a", last)
    store.settle("nobody", last)
    assert (store.controls().removals, store.controls_version()) == ({}, version + 3)
    assert store.reports() == [(3, "*", AssetReport(2))]
    store.remove("*", "forget")
    assert (store.controls().pins, store.controls().resets) == ({}, {})


def test_verdicts_can_be_deleted(store: Store):
    """Those on the alerts given, and their places in the order of time."""
    store.record_verdicts([RecordedVerdict(f"a-{n}", "true-alarm", "", "", n, 0, n) for n in range(1_200)], 2_000)
    assert store.delete_verdicts([f"a-{n}" for n in range(1_199)] + ["nobody's"]) == 1_199
    assert store.delete_verdicts([]) == 0
    assert [one.alert for one in store.verdicts()] == ["a-1199"]
    store.record_verdicts([RecordedVerdict("b", "true-alarm", "", "", 5_000, 0, 0)], 2)
    assert [one.alert for one in store.verdicts()] == ["a-1199", "b"]
