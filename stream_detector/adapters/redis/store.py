"""The calls of the store: what workers load and save, what operators set, people's verdicts on alerts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stream_detector.adapters.redis import scripts
from stream_detector.adapters.redis.connection import Connection
from stream_detector.codec import (
    decode_positions,
    decode_recorded,
    decode_report,
    decode_state,
    decode_version,
    encode_positions,
    encode_recorded,
    encode_report,
    encode_version,
)
from stream_detector.config import RedisConfig
from stream_detector.errors import ConfigError, StoreAccessError, StoreError, StoreFencedError, StoreLostError
from stream_detector.ports import TaskState
from stream_detector.types import (
    AssetReport,
    AssetState,
    Controls,
    Partition,
    Position,
    RecordedVerdict,
    Removal,
    RemovalAction,
    Removed,
    Stay,
)

SCAN_COUNT = 500
VERDICTS_AT_ONCE = 500
STAYS_AT_ONCE = 1_000
_ALL = "*"  # field of the resets of all assets; that of the asset of this name is "", which no asset can have


class RedisStore:
    """State of one stream's tasks in Redis; a `ports.StateStore`. Safe to use from several threads.

    Connects on first use, and again after the server went away. Every method raises StoreError when the server can't
    be reached in `timeout_ms` or refuses.
    """

    def __init__(self, config: RedisConfig, stream: str) -> None:
        """Reads the password; connects to nothing yet. Raises ConfigError when the secret is missing."""
        self._server = Connection(config, stream)
        self._redis = self._server.client
        self._key, self._task = self._server.key, self._server.task
        self._try: Any = self._redis.register_script(scripts.TRY)
        self._acquire: Any = self._redis.register_script(scripts.ACQUIRE)
        self._save: Any = self._redis.register_script(scripts.SAVE)
        self._report: Any = self._redis.register_script(scripts.REPORT)
        self._record: Any = self._redis.register_script(scripts.RECORD)
        self._stays: Any = self._redis.register_script(scripts.STAYS)
        self._pin: Any = self._redis.register_script(scripts.PIN)
        self._unpin: Any = self._redis.register_script(scripts.UNPIN)
        self._reset: Any = self._redis.register_script(scripts.RESET)
        self._mark: Any = self._redis.register_script(scripts.MARK)
        self._remove: Any = self._redis.register_script(scripts.REMOVE)
        self._settle: Any = self._redis.register_script(scripts.SETTLE)
        self._delete: Any = self._redis.register_script(scripts.DELETE_VERDICTS)
        self._known: dict[int, tuple[int, bytes]] = {}  # task -> newest epoch and its positions, as last seen here

    def require_rights(self) -> None:
        """Try what a worker does, under keys of its own (`P:probe…`), which are gone afterwards.

        Raises StoreAccessError when the server doesn't let this user in, or not do it. A server that is away is met
        later, by `on_store_outage`.
        """
        keys = [self._key("probe"), self._key("probe:2")]
        try:
            with self._server.errors():
                if refused := self._try(keys=keys, args=[]):
                    listed = ", ".join(sorted({name.decode().lower() for name in refused}))
                    raise StoreAccessError(self._server.not_allowed(f"run {listed} in scripts"))
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.get(keys[1]).hgetall(keys[0]).hget(keys[0], "a").smembers(keys[0])
                    pipe.execute()
                self._redis.hscan(keys[0], 0, count=1)
        except StoreAccessError:
            raise
        except StoreError:
            return

    def evicts(self) -> str | None:
        """Return a warning when the server's maxmemory-policy may remove states; None when it can't, or doesn't tell.

        Raises nothing: a user without INFO, and a server that is away, are none of this call's business.
        """
        try:
            with self._server.errors():
                memory = self._redis.info("memory")
        except StoreError:
            return None
        policy, limit = memory.get("maxmemory_policy", ""), int(memory.get("maxmemory", 0))
        if not policy.startswith("allkeys-"):
            return None  # the keys never expire, and `volatile-` policies remove only keys that do
        when = f"at {limit / 2**20:.0f} MiB" if limit else "as soon as a maxmemory is set"
        return (
            f"the store at {self._server.name} may remove states and operators' settings {when}: its maxmemory-policy "
            f"is {policy}; set it to noeviction, or use a server of its own"
        )

    def acquire(self, task: int) -> int:
        """Take a new fencing token of the task; writers with an older one are refused from now on."""
        with self._server.errors():
            token = int(self._acquire(keys=[self._task(task), self._key("tasks")], args=[task]))
        self._known.pop(task, None)
        return token

    def load(self, task: int, epoch: int | None = None) -> TaskState:
        """Return of each asset the newest version with epoch <= `epoch` (None: the newest); unknown ones are absent.

        `epoch` and `positions` of the answer are those of the newest save at or before `epoch`. When the server has
        evicted some of it, there are none (`lost`).
        """
        key = self._task(task)
        with self._server.errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(key).hgetall(f"{key}:new").hgetall(f"{key}:old")
            meta, new, old = pipe.execute()
        with self._server.decoding(f"task {task}"):
            newest = int(meta.get(b"epoch", -1))
            evicted = _evicted(meta, new, old)
            assets: dict[str, AssetState] = {}
            removed: dict[str, Removed] = {}
            needed_old = False  # an older version than the newest
            for name, version in new.items():
                for candidate in (version, old.get(name)):
                    if candidate is None:
                        continue
                    tag, _, value = candidate.partition(b":")
                    if epoch is None or int(tag) <= epoch:
                        found_version = decode_version(value)
                        if isinstance(found_version, Removed):
                            removed[name.decode()] = found_version
                        else:
                            assets[name.decode()] = found_version
                        break
                else:
                    needed_old = True
            for prefix in (b"", b"old_"):
                found = int(meta.get(prefix + b"epoch", -1))
                if found >= 0 and (epoch is None or found <= epoch):
                    state = TaskState(assets, found, decode_positions(meta[prefix + b"positions"]), removed)
                    break
            else:
                state = TaskState(assets, 0, {})
        self._known[task] = newest, meta.get(b"positions", b"")
        if b"new" in evicted or (b"old" in evicted and needed_old):
            return TaskState({}, 0, {}, lost=True)  # some without the others would look whole
        return state

    def save(
        self,
        task: int,
        token: int,
        epoch: int,
        states: Mapping[str, AssetState | Removed | None],
        positions: Mapping[Partition, Position],
        *,
        since: int | None = None,
    ) -> int:
        """Write changed assets as version `epoch`, atomically and in one round trip; return the controls' version.

        None instead of a version: all versions of the asset go.
        `since`: epoch of the save that `states` are all the changes to (None: the newest there is; WHOLE: they are all
        there are). Later versions are taken back; so a save of an epoch replaces an earlier save of it whole.
        Raises StoreFencedError when `token` is not the task's newest, StoreLostError when the store has lost what was
        saved before, StoreError when it can't be reached (then the states may have been written or not: save again).
        """
        key = self._task(task)
        place = encode_positions(positions)
        known, known_place = self._known.get(task, (-1, b""))
        args: list[Any] = [token, epoch, place, known, known_place, "" if since is None else since]
        for asset, state in states.items():
            args += (asset, b"" if state is None else encode_version(state, epoch))
        with self._server.errors():
            status, detail = self._save(keys=[key, f"{key}:new", f"{key}:old", self._key("controls")], args=args)
        if status == b"fenced" and int(detail) < token:
            raise StoreLostError(
                f"the store at {self._server.name} has forgotten who took task {task} of {self._server.base} last"
            )
        if status == b"fenced":
            raise StoreFencedError(f"task {task} of {self._server.base} was taken over: token {token} < {int(detail)}")
        if detail == b"evicted":
            raise StoreLostError(
                f"the store at {self._server.name} has evicted states of task {task}: its memory is full, and its "
                "maxmemory-policy doesn't spare them"
            )
        if status == b"lost":
            raise StoreLostError(
                f"the store at {self._server.name} has lost states of task {task}: "
                f"expected epoch {known if known >= 0 else 'any'}, found {detail.decode()}"
                f"{' of another writer' if detail == b'%d' % known else ''}"
            )
        self._known[task] = epoch, place
        return int(detail)

    def report(self, task: int, token: int, reports: Mapping[str, AssetReport | None]) -> None:
        """Keep what the task's worker saw of assets; None: nothing. Nothing is written under an old token."""
        args: list[Any] = [token]
        for asset, report in reports.items():
            args += (asset, b"" if report is None else encode_report(report))
        key = self._task(task)
        with self._server.errors():
            self._report(keys=[key, f"{key}:seen"], args=args)

    def reports(self) -> list[tuple[int, str, AssetReport]]:
        """Return task, asset and what was last reported of it, of all tasks."""
        tasks = self.tasks()
        found: list[tuple[int, str, AssetReport]] = []
        for task in tasks:
            with self._server.errors():
                seen = self._redis.hgetall(f"{self._task(task)}:seen")
            with self._server.decoding(f"what was seen of task {task}"):
                found += [(task, name.decode(), decode_report(value)) for name, value in seen.items()]
        return found

    def note_stays(self, stays: Iterable[tuple[int, str, Stay]]) -> tuple[int, dict[str, dict[int, Stay]]]:
        """Note when tasks have read assets; return the count of shared assets, and the stays of those given.

        One round trip for each STAYS_AT_ONCE of them, and one for none.
        """
        keys = [self._key("stays"), self._key("stays:shared"), self._key("stays:count")]
        listed = list(stays)
        count, found = 0, {}
        for start in range(0, max(1, len(listed)), STAYS_AT_ONCE):
            args: list[Any] = []
            for task, asset, stay in listed[start : start + STAYS_AT_ONCE]:
                args += (task, asset, stay.first_ms, stay.last_ms)
            with self._server.errors():
                total, shared = self._stays(keys=keys, args=args)
            count = int(total)
            found.update(
                {asset.decode(): _stays(value) for asset, value in zip(shared[::2], shared[1::2], strict=True)}
            )
        return count, found

    def shared_assets(self) -> set[str]:
        """Return the assets that several tasks have read."""
        with self._server.errors():
            return {asset.decode() for asset in self._redis.smembers(self._key("stays:shared"))}

    def controls(self) -> Controls:
        """Return what operators have set."""
        with self._server.errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self._key("controls"))
            for name in ("pins", "resets", "accepts", "rollbacks", "removals"):
                pipe.hgetall(self._key(name))
            version, pins, resets, accepts, rollbacks, removals = pipe.execute()
        with self._server.decoding("the rollbacks"):
            points = {
                asset.decode(): (token.decode(), decode_state(point)[1])
                for asset, value in rollbacks.items()
                for token, _, point in [value.partition(b":")]
            }
        return Controls(
            version=int(version or 0),
            pins={asset.decode(): float(level) for asset, level in pins.items()},
            resets={
                asset.decode() or _ALL: token.decode() for asset, token in resets.items() if asset != _ALL.encode()
            },
            reset_all=resets.get(_ALL.encode(), b"").decode(),
            accepts={asset.decode(): token.decode() for asset, token in accepts.items()},
            rollbacks=points,
            removals={
                asset.decode(): Removal(token, "forget" if action == "forget" else "retire")
                for asset, value in removals.items()
                for token, _, action in [value.decode().partition(":")]
            },
        )

    def controls_version(self) -> int:
        """Return the count of changes operators made: cheap, for a poll twice a second."""
        with self._server.errors():
            return int(self._redis.get(self._key("controls")) or 0)

    def pin(self, asset: str, level: float) -> None:
        """Alarm above `level` for this asset until unpinned. Raises ConfigError when it is not finite."""
        if not math.isfinite(level):
            raise ConfigError(f"the pin of {asset} must be a finite number, got {level}")
        with self._server.errors():
            self._pin(keys=[self._key("pins"), self._key("controls")], args=[asset, repr(float(level))])

    def unpin(self, asset: str) -> bool:
        """Go back to the adaptive level; False when it was not pinned."""
        with self._server.errors():
            return bool(self._unpin(keys=[self._key("pins"), self._key("controls")], args=[asset]) == 1)

    def reset(self, asset: str | None) -> None:
        """Forget what was learnt of the asset (None: of all); its threshold starts from the calibration again."""
        with self._server.errors():
            self._reset(keys=[self._key("resets"), self._key("controls")], args=[_reset_field(asset)])

    def accept(self, asset: str) -> None:
        """Accept the asset's open regime change as its new normal; no effect if none was reported."""
        with self._server.errors():
            self._mark(keys=[self._key("accepts"), self._key("controls")], args=[asset, ""])

    def rollback(self, asset: str, point: bytes) -> None:
        """Restore the asset's baseline from an entry of the audit topic. Raises DecodeError."""
        decode_state(point)  # what can't be read must not reach the workers
        with self._server.errors():
            self._mark(keys=[self._key("rollbacks"), self._key("controls")], args=[asset, b":" + point])

    def remove(self, asset: str, action: RemovalAction) -> str:
        """Have the workers remove the asset, and delete its settings and reports; return the removal's token."""
        self._delete_reports(asset)
        keys = [self._key(name) for name in ("removals", "controls", "pins", "resets", "accepts", "rollbacks")]
        with self._server.errors():
            token: bytes = self._remove(keys=keys, args=[action, asset, asset, _reset_field(asset), asset, asset])
        return token.decode()

    def holding(self, asset: str, token: str) -> list[int]:
        """Return the tasks that hold a version of the asset's state from before this removal."""
        tasks = self.tasks()
        with self._server.errors(), self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(f"{self._task(task)}:new", asset).hget(f"{self._task(task)}:old", asset)
            values = pipe.execute()
        found = []
        with self._server.decoding(f"asset {asset}"):
            for task, new, old in zip(tasks, values[::2], values[1::2], strict=True):
                versions = [decode_version(value.partition(b":")[2]) for value in (new, old) if value is not None]
                if any(not isinstance(one, Removed) and one.applied.removed < token for one in versions):
                    found.append(task)
        return found

    def settle(self, asset: str, token: str) -> None:
        """Delete the order to remove the asset, unless there is a later one, and what was reported meanwhile."""
        with self._server.errors():
            settled = self._settle(keys=[self._key("removals"), self._key("controls")], args=[asset, token])
        if settled:
            self._delete_reports(asset)

    def _delete_reports(self, asset: str) -> None:
        tasks = self.tasks()
        with self._server.errors(), self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hdel(f"{self._task(task)}:seen", asset)
            pipe.hdel(self._key("stays"), asset).srem(self._key("stays:shared"), asset)
            pipe.execute()

    def record_verdicts(self, verdicts: Sequence[RecordedVerdict], keep: int) -> None:
        """Keep people's verdicts, of each alert the greatest by `order`, of all the `keep` newest.

        The same again changes nothing.
        """
        for start in range(0, len(verdicts), VERDICTS_AT_ONCE):
            args: list[Any] = [keep]
            for one in verdicts[start : start + VERDICTS_AT_ONCE]:
                args += (one.alert, one.ts_ms, one.partition, one.offset, encode_recorded(one))
            with self._server.errors():
                self._record(keys=[self._key("verdicts"), self._key("verdicts:times")], args=args)

    def verdicts(self) -> list[RecordedVerdict]:
        """Return the verdicts kept, oldest first."""
        with self._server.errors():
            kept = self._redis.hgetall(self._key("verdicts"))
        with self._server.decoding("verdicts"):
            found = [decode_recorded(alert.decode(), value) for alert, value in kept.items()]
        return sorted(found, key=lambda one: (one.ts_ms, one.alert))

    def delete_verdicts(self, alerts: Sequence[str]) -> int:
        """Delete the verdicts on these alerts; return how many there were."""
        deleted = 0
        for start in range(0, len(alerts), VERDICTS_AT_ONCE):
            with self._server.errors():
                deleted += self._delete(
                    keys=[self._key("verdicts"), self._key("verdicts:times")],
                    args=alerts[start : start + VERDICTS_AT_ONCE],
                )
        return deleted

    def tasks(self) -> list[int]:
        """Return the tasks that were ever acquired, in order."""
        with self._server.errors():
            return sorted(int(task) for task in self._redis.smembers(self._key("tasks")))

    def assets(self, task: int | None = None) -> Iterator[tuple[int, str, AssetState]]:
        """Yield task, asset and newest version of every asset (of one task), in parts: never all of them at once.

        The newest version may belong to a commit still on its way. An asset that changes meanwhile comes once or
        twice.
        """
        for each in self.tasks() if task is None else [task]:
            cursor: int | None = None
            while cursor != 0:
                with self._server.errors():
                    cursor, found = self._redis.hscan(f"{self._task(each)}:new", cursor or 0, count=SCAN_COUNT)
                for name, version in found.items():
                    with self._server.decoding(f"asset {name.decode()} of task {each}"):
                        state = decode_version(version.partition(b":")[2])
                    if not isinstance(state, Removed):
                        yield each, name.decode(), state

    def find(self, asset: str) -> tuple[int, AssetState] | None:
        """Return the asset's task and its newest version; of several tasks, of the one that judged it last."""
        tasks = self.tasks()
        with self._server.errors(), self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(f"{self._task(task)}:new", asset)
            versions = pipe.execute()
        with self._server.decoding(f"asset {asset}"):
            found = [
                (task, state)
                for task, version in zip(tasks, versions, strict=True)
                if version is not None and not isinstance(state := decode_version(version.partition(b":")[2]), Removed)
            ]
        return max(found, key=lambda item: item[1].judged_ms, default=None)

    def close(self) -> None:
        """Let go of connections."""
        self._server.close()


def _reset_field(asset: str | None) -> str:
    """Return where the token of a reset lies: of one asset, or of all (None)."""
    if asset is None:
        return _ALL
    return "" if asset == _ALL else asset


def _stays(value: bytes) -> dict[int, Stay]:
    """Return what the key `stays` holds of an asset, by task."""
    parts = (one.split(":") for one in value.decode().split(","))
    return {int(task): Stay(int(first), int(last)) for task, first, last in parts}


def _evicted(meta: Mapping[bytes, bytes], new: Mapping[bytes, bytes], old: Mapping[bytes, bytes]) -> set[bytes]:
    """Return which of a task's hashes holds less than the last save left in it."""
    epoch, _, sizes = meta.get(b"sizes", b"").partition(b":")
    if not sizes or epoch != meta.get(b"epoch"):  # nothing saved, or by an older version
        return set()
    assets, _, olds = sizes.partition(b":")
    lacks = ((b"new", len(new) < int(assets)), (b"old", len(old) < int(olds)))
    return {name for name, less in lacks if less}
