"""A state store in memory: for backtests, tests, and users who try their set-ups. Keeps what `redis_store` keeps."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stream_detector.codec import decode_state
from stream_detector.errors import ConfigError, StoreError, StoreFencedError, StoreLostError
from stream_detector.feedback.verdicts import newest
from stream_detector.ports import WHOLE, TaskState
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

Version = tuple[int, AssetState | Removed]
_Save = tuple[int, dict[Partition, Position]]
_NONE: _Save = (-1, {})


@dataclass
class _Task:
    token: int = 0
    saves: list[_Save] = field(default_factory=list)  # newest first, at most two
    new: dict[str, Version] = field(default_factory=dict)
    old: dict[str, Version] = field(default_factory=dict)
    seen: dict[str, AssetReport] = field(default_factory=dict)


class MemoryServer:
    """What a server would keep; several MemoryStores on one see each other's writes, as workers do."""

    def __init__(self) -> None:
        """Start empty."""
        self.lock = threading.Lock()
        self.available = True
        """False: the store is away, and every call raises StoreError."""
        self.clock = 0  # of tokens: survives `clear`, as the time does
        self.clear()

    def clear(self) -> None:
        """Lose everything, as a server that came back without its data."""
        self.tasks: dict[int, _Task] = {}
        self.stays: dict[str, dict[int, Stay]] = {}
        self.shared: set[str] = set()
        self.shared_count = 0  # goes on when a removed asset is shared again
        self.pins: dict[str, float] = {}
        self.resets: dict[str, str] = {}
        self.reset_all = ""
        self.accepts: dict[str, str] = {}
        self.rollbacks: dict[str, tuple[str, AssetState]] = {}
        self.removals: dict[str, Removal] = {}
        self.version = 0
        self.verdicts: dict[str, RecordedVerdict] = {}


class MemoryStore:
    """State of one stream's tasks in memory; a `ports.StateStore` with the guarantees `redis_store` states."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        """Share `server` with other stores, or have one of its own."""
        self.server = server if server is not None else MemoryServer()
        self._known: dict[int, _Save] = {}  # task -> newest save, as last seen here

    def acquire(self, task: int) -> int:
        """Take a new fencing token of the task; writers with an older one are refused from now on."""
        with self._server() as server:
            server.clock += 1
            server.tasks.setdefault(task, _Task()).token = server.clock
            self._known.pop(task, None)
            return server.clock

    def load(self, task: int, epoch: int | None = None) -> TaskState:
        """Return of each asset the newest version with epoch <= `epoch` (None: the newest); unknown ones are absent.

        `epoch` and `positions` of the answer are those of the newest save at or before `epoch`.
        """
        limit = math.inf if epoch is None else epoch
        with self._server() as server:
            kept = server.tasks.get(task, _Task())
            self._known[task] = kept.saves[0] if kept.saves else _NONE
            assets: dict[str, AssetState] = {}
            removed: dict[str, Removed] = {}
            for asset, version in kept.new.items():
                for candidate in (version, kept.old.get(asset)):
                    if candidate is not None and candidate[0] <= limit:
                        if isinstance(candidate[1], Removed):
                            removed[asset] = candidate[1]
                        else:
                            assets[asset] = candidate[1]
                        break
            found, positions = next((save for save in kept.saves if save[0] <= limit), (0, {}))
            return TaskState(assets, found, dict(positions), removed)

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
        """Write changed assets as version `epoch`, atomically; return the controls' version.

        None instead of a version: all versions of the asset go.
        `since`: epoch of the save that `states` are all the changes to (None: the newest there is; WHOLE: they are all
        there are). Later versions are taken back; so a save of an epoch replaces an earlier save of it whole.
        Raises StoreFencedError when `token` is not the task's newest, StoreLostError when the store has lost what was
        saved before, StoreError when it is away.
        """
        with self._server() as server:
            kept = server.tasks.get(task)
            if kept is not None and kept.token < token:
                raise StoreLostError(f"the store has forgotten who took task {task} last")
            if kept is not None and kept.token > token:
                raise StoreFencedError(f"task {task} was taken over: token {token} < {kept.token}")
            newest_save = kept.saves[0] if kept is not None and kept.saves else _NONE
            known = self._known.get(task, _NONE)
            if kept is None or newest_save[0] < known[0] or (newest_save[0] == known[0] and newest_save != known):
                raise StoreLostError(f"the store has lost states of task {task}")
            first = epoch if since is None or since == WHOLE else min(epoch, since + 1)
            if newest_save[0] >= first:
                _take_back(kept, first)
            for asset, state in states.items():
                if state is None:
                    kept.new.pop(asset, None)
                    kept.old.pop(asset, None)
                    continue
                if asset in kept.new:
                    kept.old[asset] = kept.new[asset]
                kept.new[asset] = (epoch, state)
            if since == WHOLE:
                for asset in kept.new.keys() - states.keys():
                    del kept.new[asset]
                    kept.old.pop(asset, None)
            earlier = [save for save in kept.saves if save[0] < first]
            kept.saves = [(epoch, dict(positions)), *earlier][:2]
            self._known[task] = kept.saves[0]
            return server.version

    def report(self, task: int, token: int, reports: Mapping[str, AssetReport | None]) -> None:
        """Keep what the task's worker saw of assets; None: nothing. Nothing is written under an old token."""
        with self._server() as server:
            kept = server.tasks.get(task)
            if kept is None or kept.token != token:
                return
            for asset, report in reports.items():
                if report is None:
                    kept.seen.pop(asset, None)
                else:
                    kept.seen[asset] = report

    def reports(self) -> list[tuple[int, str, AssetReport]]:
        """Return task, asset and what was last reported of it, of all tasks."""
        with self._server() as server:
            return [(task, *item) for task in sorted(server.tasks) for item in server.tasks[task].seen.items()]

    def note_stays(self, stays: Iterable[tuple[int, str, Stay]]) -> tuple[int, dict[str, dict[int, Stay]]]:
        """Note when tasks have read assets; return the count of shared assets, and the stays of those given."""
        found: dict[str, dict[int, Stay]] = {}
        with self._server() as server:
            for task, asset, stay in stays:
                kept = server.stays.setdefault(asset, {})
                kept[task] = kept[task].merged(stay) if task in kept else stay
                if len(kept) > 1:
                    server.shared_count += asset not in server.shared
                    server.shared.add(asset)
                    found[asset] = dict(kept)
            return server.shared_count, found

    def shared_assets(self) -> set[str]:
        """Return the assets that several tasks have read."""
        with self._server() as server:
            return set(server.shared)

    def controls(self) -> Controls:
        """Return what operators have set."""
        with self._server() as server:
            return Controls(
                server.version,
                dict(server.pins),
                dict(server.resets),
                dict(server.accepts),
                dict(server.rollbacks),
                server.reset_all,
                dict(server.removals),
            )

    def controls_version(self) -> int:
        """Return the count of changes operators made."""
        with self._server() as server:
            return server.version

    def pin(self, asset: str, level: float) -> None:
        """Alarm above `level` for this asset until unpinned. Raises ConfigError when it is not finite."""
        if not math.isfinite(level):
            raise ConfigError(f"the pin of {asset} must be a finite number, got {level}")
        with self._server() as server:
            server.pins[asset] = float(level)
            server.version += 1

    def unpin(self, asset: str) -> bool:
        """Go back to the adaptive level; False when it was not pinned."""
        with self._server() as server:
            if server.pins.pop(asset, None) is None:
                return False
            server.version += 1
            return True

    def reset(self, asset: str | None) -> None:
        """Forget what was learnt of the asset (None: of all); its threshold starts from the calibration again."""
        with self._server() as server:
            server.clock += 1
            token = f"{server.clock:016d}"
            if asset is None:
                server.resets.clear()
                server.reset_all = token
            else:
                server.resets[asset] = token
            server.version += 1

    def accept(self, asset: str) -> None:
        """Accept the asset's open regime change as its new normal; no effect if none was reported."""
        with self._server() as server:
            server.clock += 1
            server.accepts[asset] = f"{server.clock:016d}"
            server.version += 1

    def rollback(self, asset: str, point: bytes) -> None:
        """Restore the asset's baseline from an entry of the audit topic. Raises DecodeError."""
        state = decode_state(point)[1]
        with self._server() as server:
            server.clock += 1
            server.rollbacks[asset] = (f"{server.clock:016d}", state)
            server.version += 1

    def remove(self, asset: str, action: RemovalAction) -> str:
        """Have the workers remove the asset, and delete its settings and reports; return the removal's token."""
        with self._server() as server:
            server.clock += 1
            token = f"{server.clock:016d}"
            server.removals[asset] = Removal(token, action)
            for settings in (server.pins, server.resets, server.accepts, server.rollbacks):
                settings.pop(asset, None)
            for kept in server.tasks.values():
                kept.seen.pop(asset, None)
            server.stays.pop(asset, None)
            server.shared.discard(asset)
            server.version += 1
            return token

    def holding(self, asset: str, token: str) -> list[int]:
        """Return the tasks that hold a version of the asset's state from before this removal."""
        with self._server() as server:
            return [
                task
                for task, kept in sorted(server.tasks.items())
                for version in [[one[1] for one in (kept.new.get(asset), kept.old.get(asset)) if one is not None]]
                if any(not isinstance(one, Removed) and one.applied.removed < token for one in version)
            ]

    def settle(self, asset: str, token: str) -> None:
        """Delete the order to remove the asset, unless there is a later one, and what was reported meanwhile."""
        with self._server() as server:
            if asset in server.removals and server.removals[asset].token == token:
                del server.removals[asset]
                for kept in server.tasks.values():
                    kept.seen.pop(asset, None)
                server.version += 1

    def record_verdicts(self, verdicts: Sequence[RecordedVerdict], keep: int) -> None:
        """Keep people's verdicts, of each alert the greatest by `order`, of all the `keep` newest."""
        with self._server() as server:
            known = newest([*server.verdicts.values(), *verdicts])
            kept = sorted(known.values(), key=lambda one: (one.ts_ms, one.alert))
            server.verdicts = {one.alert: one for one in kept[-keep:]}

    def verdicts(self) -> list[RecordedVerdict]:
        """Return the verdicts kept, oldest first."""
        with self._server() as server:
            return list(server.verdicts.values())

    def delete_verdicts(self, alerts: Sequence[str]) -> int:
        """Delete the verdicts on these alerts; return how many there were."""
        with self._server() as server:
            return sum(server.verdicts.pop(alert, None) is not None for alert in alerts)

    def tasks(self) -> list[int]:
        """Return the tasks that were ever acquired, in order."""
        with self._server() as server:
            return sorted(server.tasks)

    def assets(self, task: int | None = None) -> Iterator[tuple[int, str, AssetState]]:
        """Yield task, asset and newest version of every asset (of one task)."""
        for each in self.tasks() if task is None else [task]:
            with self._server() as server:
                found = list(server.tasks[each].new.items()) if each in server.tasks else []
            for asset, (_, state) in found:
                if not isinstance(state, Removed):
                    yield each, asset, state

    def find(self, asset: str) -> tuple[int, AssetState] | None:
        """Return the asset's task and its newest version; of several tasks, of the one that judged it last."""
        found = [(task, state) for task, name, state in self.assets() if name == asset]
        return max(found, key=lambda item: item[1].judged_ms, default=None)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _server(self) -> _Locked:
        return _Locked(self.server)


class _Locked:
    """The server under its lock, for a `with`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server

    def __enter__(self) -> MemoryServer:
        self._server.lock.acquire()
        if not self._server.available:
            self._server.lock.release()
            raise StoreError("the store in memory is away")
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.lock.release()


def _take_back(kept: _Task, epoch: int) -> None:
    """Undo what saves of `epoch` and beyond wrote."""
    for asset in [asset for asset, version in kept.new.items() if version[0] >= epoch]:
        before = kept.old.get(asset)
        if before is not None and before[0] < epoch:
            kept.new[asset] = before
        else:
            del kept.new[asset]
            kept.old.pop(asset, None)
