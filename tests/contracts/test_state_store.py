"""What every StateStore keeps, on memory, Valkey and Redis."""

from __future__ import annotations

import threading

import pytest
import redis

from stream_detector.errors import StoreError, StoreFencedError, StoreLostError
from stream_detector.ports import WHOLE
from tests.contracts.states import at, backend, judged, same, state, store
from tests.stores import Backend, RedisBackend, Store

__all__ = ["backend", "store"]  # fixtures


def test_an_unknown_asset_has_no_state(store: Store):
    """A task never saved has no assets, no positions and epoch 0."""
    loaded = store.load(3)
    assert (loaded.assets, loaded.epoch, loaded.positions) == ({}, 0, {})


def test_a_state_comes_back_to_the_last_bit(store: Store):
    """Floats, the sample and names in any script survive, and so do the commit's positions."""
    states = {"pump-1": state(), "Насос №2 {x}:ö": state(level=None, size=0), "a:b*?[c]": state(judged_ms=-1)}
    store.save(3, store.acquire(3), 1, states, at(100, 1))
    loaded = store.load(3)
    assert set(loaded.assets) == set(states)
    assert all(same(loaded.assets[asset], states[asset]) for asset in states)
    assert (loaded.epoch, loaded.positions) == (1, at(100, 1))


def test_another_connection_sees_what_was_saved(backend: Backend, store: Store):
    """Workers share the store."""
    store.save(3, store.acquire(3), 1, {"a": state(judged_ms=1)}, at(10, 1))
    assert judged(backend.connect().load(3).assets) == {"a": 1}
    assert judged(backend.connect().load(4).assets) == {}


def test_the_committed_epoch_decides_which_version_counts(store: Store):
    """Version e+1, saved before a commit that never came, is passed over for the one before."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1), "b": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"a": state(judged_ms=2), "new": state(judged_ms=2)}, at(20, 2))
    crashed = store.load(3, 1)
    assert judged(crashed.assets) == {"a": 1, "b": 1}
    assert (crashed.epoch, crashed.positions) == (1, at(10, 1))
    committed = store.load(3, 2)
    assert judged(committed.assets) == {"a": 2, "b": 1, "new": 2}
    assert (committed.epoch, committed.positions) == (2, at(20, 2))


def test_a_store_behind_the_broker_tells_its_own_epoch(store: Store):
    """After an outage the broker's epoch is ahead; load says from which commit on to catch up."""
    store.save(3, store.acquire(3), 5, {"a": state(judged_ms=5)}, at(50, 5))
    loaded = store.load(3, 9)
    assert (judged(loaded.assets), loaded.epoch, loaded.positions) == ({"a": 5}, 5, at(50, 5))


def test_positions_and_states_before_the_two_kept_are_gone(store: Store):
    """Two versions are kept; asked for an older epoch, the store knows nothing rather than something wrong."""
    token = store.acquire(3)
    for epoch in (1, 2, 3):
        store.save(3, token, epoch, {"a": state(judged_ms=epoch)}, at(10 * epoch, epoch))
    oldest = store.load(3, 1)
    assert (judged(oldest.assets), oldest.epoch, oldest.positions) == ({}, 0, {})


def test_a_crashed_epoch_is_written_anew(store: Store):
    """The next owner's e+1 replaces the crashed one, and the committed version e stays beside it."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"a": state(judged_ms=20)}, at(20, 2))  # crashes before its commit
    token = store.acquire(3)
    assert judged(store.load(3, 1).assets) == {"a": 1}
    store.save(3, token, 2, {"a": state(judged_ms=21)}, at(15, 2))
    assert judged(store.load(3, 1).assets) == {"a": 1}
    again = store.load(3, 2)
    assert (judged(again.assets), again.positions) == ({"a": 21}, at(15, 2))


def test_a_crashed_epoch_leaves_nothing_behind(store: Store):
    """Assets that only the crashed commit had changed go back to the version before, or to none."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1), "b": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"b": state(judged_ms=20), "new": state(judged_ms=20)}, at(20, 2))  # crashes
    token = store.acquire(3)
    store.load(3, 1)
    store.save(3, token, 2, {"a": state(judged_ms=2)}, at(12, 2))
    assert judged(store.load(3, 2).assets) == {"a": 2, "b": 1}
    assert judged(store.load(3, 1).assets) == {"a": 1, "b": 1}


def test_a_crashed_epoch_is_no_part_of_a_later_one(store: Store):
    """Commits that missed the store came in its place: what was saved since then is not of their history."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1), "b": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {"a": state(judged_ms=90), "b": state(judged_ms=90)}, at(90, 2))  # crashes
    token = store.acquire(3)
    assert store.load(3, 1).epoch == 1
    store.save(3, token, 4, {"a": state(judged_ms=40)}, at(40, 4), since=1)  # 2 and 3 missed the store
    assert judged(store.load(3, 4).assets) == {"a": 40, "b": 1}
    before = store.load(3, 3)
    assert (judged(before.assets), before.epoch, before.positions) == ({"a": 1, "b": 1}, 1, at(10, 1))


def test_a_repeated_save_changes_nothing(store: Store):
    """An answer lost on the way makes the worker save again: both versions stay as they were."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    for _ in range(3):
        store.save(3, token, 2, {"a": state(judged_ms=2), "new": state(judged_ms=2)}, at(20, 2))
    assert judged(store.load(3, 1).assets) == {"a": 1}
    assert judged(store.load(3, 2).assets) == {"a": 2, "new": 2}


def test_epochs_that_start_again_drop_what_was(store: Store):
    """A consumer group made anew counts from 1: states of its former life don't come back later."""
    token = store.acquire(3)
    store.save(3, token, 500, {"a": state(judged_ms=1)}, at(10, 500))
    store.save(3, token, 501, {"a": state(judged_ms=2), "b": state(judged_ms=2)}, at(20, 501))
    token = store.acquire(3)
    assert judged(store.load(3, 0).assets) == {}
    store.save(3, token, 1, {"b": state(judged_ms=3)}, at(5, 1))
    loaded = store.load(3)
    assert (judged(loaded.assets), loaded.epoch, loaded.positions) == ({"b": 3}, 1, at(5, 1))
    assert store.load(3, 0).epoch == 0


def test_a_commit_without_changes_still_counts(store: Store):
    """Positions move on when no asset changed."""
    token = store.acquire(3)
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    store.save(3, token, 2, {}, at(20, 2))
    loaded = store.load(3, 2)
    assert (judged(loaded.assets), loaded.epoch, loaded.positions) == ({"a": 1}, 2, at(20, 2))


def test_an_older_token_is_refused_and_nothing_written(backend: Backend, store: Store):
    """A worker that lost the task can't overwrite its new owner's state."""
    old = store.acquire(3)
    store.save(3, old, 1, {"a": state(judged_ms=1)}, at(10, 1))
    owner = backend.connect()
    new = owner.acquire(3)
    assert new > old
    with pytest.raises(StoreFencedError, match="task 3"):
        store.save(3, old, 2, {"a": state(judged_ms=2), "b": state(judged_ms=2)}, at(20, 2))
    loaded = store.load(3)
    assert (judged(loaded.assets), loaded.epoch, loaded.positions) == ({"a": 1}, 1, at(10, 1))
    owner.save(3, new, 2, {"a": state(judged_ms=3)}, at(30, 2))


def test_tasks_have_tokens_of_their_own(store: Store):
    """Taking one task over does not disturb another's owner."""
    token = store.acquire(3)
    store.acquire(4)
    store.save(3, token, 1, {"a": state(judged_ms=1)}, at(10, 1))
    assert judged(store.load(3).assets) == {"a": 1}


def test_tokens_taken_at_once_differ(backend: Backend):
    """Of many workers that take a task at the same time, one has the newest token."""
    tokens: list[int] = []

    def take() -> None:
        own = backend.connect()
        tokens.extend(own.acquire(3) for _ in range(20))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 80
    store = backend.connect()
    store.save(3, max(tokens), 1, {}, at(1, 1))
    with pytest.raises(StoreFencedError):
        store.save(3, sorted(tokens)[-2], 2, {}, at(2, 2))


def test_an_emptied_store_is_noticed_and_written_anew(backend: Backend, store: Store):
    """Saving changes alone would leave a mixture: the worker is told, takes a new token and saves everything."""
    token = store.acquire(3)
    states = {"a": state(judged_ms=1), "b": state(judged_ms=1)}
    store.save(3, token, 1, states, at(10, 1))
    backend.clear()
    with pytest.raises(StoreLostError, match="task 3"):
        store.save(3, token, 2, {"a": state(judged_ms=2)}, at(20, 2))
    assert store.load(3).assets == {}
    renewed = store.acquire(3)
    assert renewed > token
    store.save(3, renewed, 2, states | {"a": state(judged_ms=2)}, at(20, 2))
    assert judged(store.load(3).assets) == {"a": 2, "b": 1}


def test_a_former_owner_cant_write_to_an_emptied_store(backend: Backend, store: Store):
    """Tokens are new even when the store forgot the old ones."""
    zombie = store.acquire(3)
    backend.clear()
    owner = backend.connect()
    token = owner.acquire(3)
    assert token > zombie
    with pytest.raises(StoreFencedError):
        store.save(3, zombie, 2, {"a": state()}, at(20, 2))
    owner.save(3, token, 1, {"a": state(judged_ms=7)}, at(10, 1))
    assert judged(owner.load(3).assets) == {"a": 7}


def test_a_store_without_its_last_seconds_is_noticed(backend: Backend, store: Store):
    """A server that came back with an older epoch than was saved has lost states that a save of changes won't bring."""
    token = store.acquire(3)
    for epoch in (1, 2, 3):
        store.save(3, token, epoch, {f"a{epoch}": state(judged_ms=epoch)}, at(epoch, epoch))
    rolled_back = backend.connect()  # a save of an older epoch is what a snapshot from back then looks like
    rolled_back.save(3, token, 1, {"a1": state(judged_ms=1)}, at(1, 1))
    with pytest.raises(StoreLostError):
        store.save(3, token, 4, {"a4": state(judged_ms=4)}, at(4, 4))
    assert judged(store.load(3).assets) == {"a1": 1}


def test_a_store_that_forgot_its_newest_owner_is_noticed(backend: Backend, store: Store):
    """A server back without its last seconds knows an older token: its owner writes all anew, and isn't put out."""
    former = store.acquire(3)
    store.save(3, former, 1, {"a": state(judged_ms=1)}, at(10, 1))
    owner = backend.connect()
    token = owner.acquire(3)
    loaded = owner.load(3)
    backend.forget(3, former)
    with pytest.raises(StoreLostError, match="task 3"):
        owner.save(3, token, 2, {"b": state(judged_ms=2)}, at(20, 2))
    renewed = owner.acquire(3)
    owner.save(3, renewed, 2, loaded.assets | {"b": state(judged_ms=2)}, at(20, 2))
    with pytest.raises(StoreFencedError):
        store.save(3, former, 2, {"a": state(judged_ms=3)}, at(30, 2))
    assert judged(owner.load(3).assets) == {"a": 1, "b": 2}


def test_a_store_that_forgot_the_newest_save_is_noticed(backend: Backend, store: Store):
    """What stands at the same epoch is the save of a worker that crashed in it, brought back; nothing of it stays."""
    former = store.acquire(3)
    store.save(3, former, 1, {"a": state(judged_ms=1)}, at(10, 1))
    owner = backend.connect()
    token = owner.acquire(3)
    loaded = owner.load(3, 1).assets
    owner.save(3, token, 2, {"a": state(judged_ms=20)}, at(20, 2), since=1)
    backend.connect().save(3, token, 2, {"a": state(judged_ms=90), "new": state(judged_ms=90)}, at(90, 2))
    with pytest.raises(StoreLostError, match="task 3"):
        owner.save(3, token, 3, {}, at(30, 3), since=2)
    renewed = owner.acquire(3)
    owner.save(3, renewed, 3, loaded | {"a": state(judged_ms=20)}, at(30, 3), since=WHOLE)
    assert judged(owner.load(3).assets) == {"a": 20}


def test_operators_find_assets_of_all_tasks(store: Store):
    """Assets are listed over all tasks, or one; one is found without knowing its task, by its last judgement."""
    for task, ms in ((0, 5), (7, 9)):
        store.save(task, store.acquire(task), 1, {f"own-{task}": state(judged_ms=ms), "moved": state(judged_ms=ms)}, {})
    listed = sorted((task, asset, found.judged_ms) for task, asset, found in store.assets())
    assert listed == [(0, "moved", 5), (0, "own-0", 5), (7, "moved", 9), (7, "own-7", 9)]
    assert sorted(asset for _, asset, _ in store.assets(7)) == ["moved", "own-7"]
    assert list(store.assets(8)) == []
    found = store.find("moved")
    assert found is not None
    assert (found[0], found[1].judged_ms) == (7, 9)
    assert store.find("nowhere") is None


def test_a_big_task_is_one_save(store: Store):
    """2,000 assets with full samples are written and read whole."""
    states = {f"asset-{i}": state(judged_ms=i) for i in range(2_000)}
    token = store.acquire(3)
    store.save(3, token, 1, states, at(1, 1))
    store.save(3, token, 2, {asset: state(judged_ms=-i - 1) for i, asset in enumerate(states)}, at(2, 2))
    assert judged(store.load(3, 1).assets) == {f"asset-{i}": i for i in range(2_000)}
    assert judged(store.load(3, 2).assets) == {f"asset-{i}": -i - 1 for i in range(2_000)}
    assert len(list(store.assets(3))) == 2_000


def test_two_workers_save_their_tasks_at_once(backend: Backend):
    """Threads with connections of their own don't disturb each other."""
    failures: list[BaseException] = []

    def work(task: int) -> None:
        try:
            own = backend.connect()
            token = own.acquire(task)
            for epoch in range(1, 21):
                own.save(task, token, epoch, {f"a{task}": state(judged_ms=epoch)}, at(epoch, epoch))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = backend.connect()
    assert [judged(store.load(task, 20).assets) for task in range(4)] == [{f"a{task}": 20} for task in range(4)]


@pytest.mark.parametrize("backend", ["valkey", "redis"], indirect=True)
def test_one_connection_serves_several_threads(store: Store):
    """A health check may ask while the worker saves."""
    token = store.acquire(3)
    wrong: list[object] = []

    def ask() -> None:
        wrong.extend(found for _ in range(100) if (found := store.controls_version()) != 0)

    thread = threading.Thread(target=ask)
    thread.start()
    for epoch in range(1, 51):
        store.save(3, token, epoch, {"a": state(judged_ms=epoch)}, at(epoch, epoch))
    thread.join()
    assert wrong == []
    assert store.load(3).epoch == 50


@pytest.mark.parametrize("backend", ["valkey", "redis"], indirect=True)
def test_a_state_that_cant_be_read_is_named(backend: RedisBackend, store: Store):
    """Somebody else's bytes under our keys are told with the place, not as a crash deep inside."""
    store.save(3, store.acquire(3), 1, {"a": state()}, at(1, 1))
    with redis.Redis.from_url(backend.config.url) as client:
        client.hset(f"contract:{{{backend.stream}}}:task:3:new", "a", b"1:rubbish")
    with pytest.raises(StoreError, match=f"task 3 under contract:.{backend.stream}"):
        store.load(3)


@pytest.mark.parametrize("backend", ["valkey", "redis"], indirect=True)
def test_all_keys_of_a_stream_share_a_cluster_slot(backend: RedisBackend, store: Store):
    """Every key carries the stream as its hash tag, so scripts may touch them together."""
    store.save(3, store.acquire(3), 1, {"a": state()}, at(1, 1))
    store.pin("a", 1.0)
    store.reset("a")
    with redis.Redis.from_url(backend.config.url) as client:
        keys = list(client.scan_iter(f"contract:*{backend.stream}*"))
    assert all(key.decode().startswith(f"contract:{{{backend.stream}}}:") for key in keys)
    assert len(keys) == 6
