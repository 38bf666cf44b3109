"""Which tasks have read an asset, and when, as every StateStore keeps it: on memory, Valkey and Redis."""

from __future__ import annotations

import pytest

from stream_detector.errors import StoreError
from stream_detector.types import Stay
from tests.contracts.states import backend, store
from tests.stores import Backend, MemoryBackend, Store

__all__ = ["backend", "store"]  # fixtures

T = 1_583_748_873_000


def test_an_asset_that_two_tasks_have_read_is_known_to_both(backend: Backend, store: Store):
    """Each worker sees its own tasks only; what it notes comes back with what others have noted."""
    assert (0, {}) == store.note_stays([(3, "a", Stay(T, T + 5)), (3, "b", Stay(T, T))])
    other = backend.connect()
    found = {"a": {3: Stay(T, T + 5), 4: Stay(T + 1, T + 2)}}
    assert (1, found) == other.note_stays([(4, "a", Stay(T + 1, T + 2)), (4, "c", Stay(T, T))])
    assert (1, found) == store.note_stays([(3, "a", Stay(T, T + 5))])
    assert {"a"} == store.shared_assets() == other.shared_assets()


def test_the_count_tells_whether_there_is_something_new(backend: Backend, store: Store):
    """It costs one call to learn that no further asset is shared; the same again doesn't count."""
    store.note_stays([(1, "a", Stay(T, T)), (2, "a", Stay(T, T)), (1, "b", Stay(T, T))])
    assert (1, {}) == store.note_stays([])
    store.note_stays([(2, "a", Stay(T, T + 9))])
    assert (1, {}) == store.note_stays([])
    backend.connect().note_stays([(2, "b", Stay(T, T))])
    assert (2, {}) == store.note_stays([])
    assert {"a", "b"} == store.shared_assets()


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ((0, 10), (5, 20), (0, 20)),
        ((5, 20), (0, 10), (0, 20)),  # read again after a restart
        ((0, 10), (99_000, 99_001), (0, 99_001)),
        ((-5, -1), (-5, 3), (-5, 3)),  # before 1970
    ],
)
def test_stays_are_merged(store: Store, before, after, kept):
    """From the oldest to the newest reading, in whatever order they are noted."""
    store.note_stays([(1, "Насос:1,{x}", Stay(T, T)), (2, "Насос:1,{x}", Stay(*before))])
    _, found = store.note_stays([(2, "Насос:1,{x}", Stay(*after))])
    assert {"Насос:1,{x}": {1: Stay(T, T), 2: Stay(*kept)}} == found


def test_many_are_noted_at_once(store: Store):
    """More than one script call takes."""
    store.note_stays([(1, f"pump-{n}", Stay(n, n)) for n in range(2_500)])
    count, found = store.note_stays([(2, f"pump-{n}", Stay(n, n + 1)) for n in range(2_500)])
    assert 2_500 == count == len(found) == len(store.shared_assets())
    assert {1: Stay(2_499, 2_499), 2: Stay(2_499, 2_500)} == found["pump-2499"]


def test_nothing_is_left_of_data_that_was_lost(backend: Backend, store: Store):
    """A store that came back empty begins to count again."""
    store.note_stays([(1, "a", Stay(T, T)), (2, "a", Stay(T, T))])
    backend.clear()
    assert (0, {}) == store.note_stays([])
    assert set() == store.shared_assets()


def test_a_removed_asset_can_be_shared_again(store: Store):
    """Nothing of it is left; when it is back, the count tells of it once more."""
    stays = [(1, "a", Stay(T, T)), (2, "a", Stay(T, T))]
    assert 1 == store.note_stays(stays)[0]
    store.settle("a", store.remove("a", "forget"))
    assert set() == store.shared_assets()
    assert 2 == store.note_stays(stays)[0]
    assert {"a"} == store.shared_assets()


def test_a_store_that_is_away_says_so():
    """As with every other call."""
    away = MemoryBackend()
    away.server.available = False
    with pytest.raises(StoreError):
        away.connect().note_stays([])
    with pytest.raises(StoreError):
        away.connect().shared_assets()
