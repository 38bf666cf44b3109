"""Where assets live: which are read in several tasks at once, and which have left a task.

A task holds an asset's windows and its state, so all readings of an asset have to come on one partition. Messages
without a key spread an asset over all partitions: it is reported, once, with the partitions. When partitions are added
to a topic, keys move to other partitions, once: the task that an asset has left closes the incidents that it has open.

Workers see only their own tasks, so each notes in the store when its tasks have read an asset: when it is new to the
task, and while several tasks have read it, again and again. That costs no call for any other asset, and a worker's own
tasks are compared without one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from stream_detector.config import Config
from stream_detector.decision.engine import MOVED
from stream_detector.errors import StoreError
from stream_detector.ports import StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import LivenessEvent, Partition, Stay
from stream_detector.worker.saving import Saver
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)

LOOK_EVERY_MS = 2_000.0  # interval of looking for assets that other workers have read
NEW_EVERY_MS = 250.0  # … while there are assets that were not noted yet
_NOTED_AT_ONCE = 5_000  # most assets noted in one look
_STEPS = 4  # a shared asset is noted again when it has gone on by this part of the time in which it falls silent
_RECENT_MS = 600_000  # for at least so long after its last message on a second partition an asset counts as split
TOLD = 20  # assets on several partitions that are logged individually


class Homes:
    """What one worker knows of where its assets are read."""

    def __init__(
        self,
        config: Config,
        store: StateStore,
        *,
        saver: Saver,
        metrics: Metrics,
        clock_ms: Callable[[], float],
        away_ms: int,
        tasks: Mapping[int, Task],
        lag: Callable[[], Mapping[Partition, int]],
    ) -> None:
        """`away_ms`: an asset that was read elsewhere for so long has left. `tasks`: those loaded, by number.

        `lag`: of each partition, the number of messages not read yet.
        """
        self._store, self._saver, self._metrics = store, saver, metrics
        self._clock = clock_ms
        self._away_ms = away_ms
        self._overlap_ms = max(config.window.lateness_ms, config.window.cell_ms)  # two stays may share by chance
        self._recent_ms = max(2 * self._away_ms, _RECENT_MS)
        self._tasks = tasks
        self._lag = lag
        self._asked_ms = self._asked_all_ms = -math.inf
        self._count = 0  # of shared assets, as the store said last
        self._homes: dict[str, set[int]] = {}  # the own tasks that have read an asset
        self._stored: dict[str, dict[int, Stay]] = {}  # shared assets of the own tasks, as the store knew them last
        self._shared: set[str] = set()  # those that several tasks have read, of the own tasks
        self._split: dict[str, list[int]] = {}  # assets on several partitions at once, and these
        self._told: set[str] = set()
        self._told_more = 0

    def look(self) -> list[tuple[Task, LivenessEvent]]:
        """Compare tasks, and ask the store when it is time to; return that assets have left tasks for others."""
        new = any(task.stays.new or task.stays.unnoted for task in self._tasks.values())
        if self._clock() - self._asked_ms < (NEW_EVERY_MS if new else LOOK_EVERY_MS):
            return []
        self._ask()
        self._find_split()
        return self._gone()

    def left(self, task: Task, found: LivenessEvent) -> bool:
        """Whether an asset that has fallen silent in a task was read in another one since."""
        self._compare()
        if self._is_elsewhere(task, found):
            return True
        if self._clock() - self._asked_all_ms >= NEW_EVERY_MS:
            self._ask(of_all=True)
            if found.asset in task.stays.unnoted:  # others have read it, too, as came out only now
                self._ask()
        return self._is_elsewhere(task, found)

    @property
    def trouble(self) -> str | None:
        """Which assets come on several partitions, and the fix; None when none does."""
        if not self._split:
            return None
        asset, tasks = next(iter(self._split.items()))
        count = len(self._split)
        more = "" if count == 1 else f" ({count} assets in all)"
        return f"asset {asset} comes on partitions {_listed(tasks)}{more}: give messages the asset as their key"

    def _is_elsewhere(self, task: Task, found: LivenessEvent) -> bool:
        stays = self._stays(found.asset)
        return any(stay.last_ms > found.since_ms for index, stay in stays.items() if index != task.index)

    # What is known --------------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        """Take note of assets that are new to the own tasks."""
        for index, task in self._tasks.items():
            for asset in task.stays.new:
                homes = self._homes.setdefault(asset, set())
                homes.add(index)
                if len(homes) > 1:
                    self._shared.add(asset)
            task.stays.new.clear()

    def _stays(self, asset: str) -> dict[int, Stay]:
        """Return when tasks have read an asset, as far as it is known here."""
        stays = dict(self._stored.get(asset, {}))
        for index, stay in self._own(asset):
            stays[index] = stays[index].merged(stay) if index in stays else stay
        return stays

    def _own(self, asset: str) -> Iterator[tuple[int, Stay]]:
        for index in self._homes.get(asset, ()):
            task = self._tasks.get(index)
            stay = None if task is None else task.stays.of.get(asset)
            if stay is not None:
                yield index, stay

    def _ask(self, of_all: bool = False) -> None:
        """Note in the store what it should know, and learn from it what others have noted (`of_all` shared assets)."""
        self._compare()
        self._asked_ms = self._clock()
        if of_all:
            self._asked_all_ms = self._asked_ms
        if self._saver.rests or not self._tasks:
            return
        listed = list(self._to_note(of_all))
        try:
            with self._saver.asking(writes=bool(listed)):
                count, found = self._store.note_stays(listed)
                shared = self._store.shared_assets() if count != self._count else None
        except StoreError:
            return
        for index, asset, stay in listed:
            self._tasks[index].stays.note(asset, stay)
        self._stored.update(found)
        self._shared |= found.keys()
        if shared is not None:
            self._meet(shared, lost=count < self._count)
            self._count = count

    def _meet(self, shared: set[str], lost: bool) -> None:
        """Ask soon for assets that others have come to share."""
        for task in self._tasks.values():
            if lost:
                task.stays.note_again()
            task.stays.unnoted |= (shared & task.stays.of.keys()) - self._stored.keys()

    def _to_note(self, of_all: bool) -> Iterator[tuple[int, str, Stay]]:
        left = _NOTED_AT_ONCE
        for index, task in self._tasks.items():
            some = list(islice(task.stays.unnoted, left))
            left -= len(some)
            yield from ((index, asset, task.stays.of[asset]) for asset in some)
        step_ms = self._away_ms // _STEPS
        for asset in self._shared:
            for index, stay in self._own(asset):
                task = self._tasks[index]
                went_on = stay.last_ms - task.stays.noted.get(asset, stay.last_ms)
                if of_all or went_on >= step_ms or _is_open(task, asset):  # the answer says where it is now
                    yield index, asset, stay

    # What follows from it ---------------------------------------------------------------------------------------------

    def _find_split(self) -> None:
        """Report assets that come on several partitions; each counts at the worker of the lowest of them."""
        split: dict[str, list[int]] = {}
        self._shared -= {asset for asset in self._shared if next(self._own(asset), None) is None}
        for asset in self._shared:
            tasks = self._together(self._stays(asset))
            if tasks and tasks[0] in self._tasks:
                split[asset] = tasks
        before, self._split = self._split, split
        self._metrics.assets_in_several_tasks.set(len(split))
        for asset in [asset for asset in split if asset in before and asset not in self._told]:  # by now with all tasks
            self._told.add(asset)
            if len(self._told) <= TOLD:
                log.warning(
                    "asset %s comes on partitions %s: each has windows, a threshold and incidents of its own for it; "
                    "give messages the asset as their key",
                    asset,
                    _listed(split[asset]),
                    extra=event("asset-in-several-tasks", asset=asset, tasks=split[asset]),
                )
        if len(self._told) > max(TOLD, 2 * self._told_more):
            self._told_more = len(self._told)
            log.warning(
                "%d assets come on several partitions: give messages the asset as their key",
                self._told_more,
                extra=event("assets-in-several-tasks", assets=self._told_more),
            )

    def _together(self, stays: Mapping[int, Stay]) -> list[int]:
        """Return the tasks between which an asset goes to and fro, in order; none when it has but moved, once."""
        home, newest = max(stays.items(), key=lambda one: one[1].last_ms)
        found = [
            index
            for index, stay in stays.items()
            if index != home
            and stay.last_ms >= newest.last_ms - self._recent_ms
            and min(stay.last_ms, newest.last_ms) - max(stay.first_ms, newest.first_ms) > self._overlap_ms
        ]
        return sorted([home, *found]) if found else []

    def _gone(self) -> list[tuple[Task, LivenessEvent]]:
        """Return that assets have left own tasks in which they have an open incident.

        Of tasks whose log is read to its end only: what is still to be read might be of the asset.
        """
        found = []
        for asset in self._shared:
            stays = self._stays(asset)
            newest = max(stay.last_ms for stay in stays.values())
            for index, _ in self._own(asset):
                task, last_ms = self._tasks[index], stays[index].last_ms
                if newest >= last_ms + self._away_ms and _is_open(task, asset):
                    seconds = self._away_ms / 1_000
                    at_ms = last_ms + self._away_ms
                    found.append((task, LivenessEvent(0, asset, "", MOVED, True, at_ms, last_ms, seconds, seconds)))
        if not found:
            return []
        lag = self._lag()
        return [
            (task, one)
            for task, one in found
            if not task.replayed_messages and all(lag.get(partition) == 0 for partition in task.partitions)
        ]


def _is_open(task: Task, asset: str) -> bool:
    """Whether a task has an open incident of an asset."""
    table = task.states
    slot = table.slots.get(asset)
    if slot is None or (table.columns is not None and table.columns.held[slot]):  # held: nothing is open
        return False
    state = table.objects[slot]
    if state is None:
        return False
    return state.incident.opened_ms is not None or any(fault.incident for fault in state.sensors.faults)


def _listed(tasks: list[int]) -> str:
    """Name partitions, the first ones of many."""
    return ", ".join(map(str, tasks[:8])) + (", …" if len(tasks) > 8 else "")
