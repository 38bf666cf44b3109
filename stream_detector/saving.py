"""Saving tasks' states: what to do when the store is away, has forgotten, or has a newer writer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

from stream_detector.errors import StoreError, StoreFencedError, StoreLostError
from stream_detector.ports import StateStore
from stream_detector.task import Task

log = logging.getLogger(__name__)


class Saved(Enum):
    """What became of a save."""

    DONE = "done"
    MISSED = "missed"  # the store is away; the states stay changed
    FENCED = "fenced"  # the task isn't ours any more


class Saver:
    """Writes tasks' states to the store, and knows for how long it has missed some."""

    def __init__(self, store: StateStore, clock_ms: Callable[[], float]) -> None:
        """Nothing is missed yet."""
        self._store = store
        self._clock = clock_ms
        self._behind_since: float | None = None
        self._away = False
        self.controls_version = 0
        """Of the operators' settings, as the last save found it."""

    @property
    def behind_ms(self) -> float | None:
        """For how long the store has missed commits; None when it is up to date."""
        return None if self._behind_since is None else self._clock() - self._behind_since

    def save(self, task: Task) -> Saved:
        """Save a task's changed states as its next epoch."""
        try:
            self.controls_version = self._store.save(
                task.index, task.token, task.epoch + 1, task.changed_states(), task.positions()
            )
        except StoreLostError as error:  # what it lost is all in memory
            log.warning("task %d: %s; all its states are written anew", task.index, error)
            return self._save_anew(task)
        except StoreFencedError as error:
            log.error("task %d: %s", task.index, error)
            return Saved.FENCED
        except StoreError as error:
            self._missed(error)
            return Saved.MISSED
        return Saved.DONE

    def _save_anew(self, task: Task) -> Saved:
        """Give a store that came back without its data all states of a task."""
        try:
            task.token = self._store.acquire(task.index)
            self._store.save(task.index, task.token, task.epoch + 1, task.states, task.positions())
        except StoreError as error:
            self._missed(error)
            return Saved.MISSED
        self.controls_version = -1  # whatever it was
        return Saved.DONE

    def _missed(self, error: StoreError) -> None:
        self.note(error)
        if self._behind_since is None:
            self._behind_since = self._clock()
            log.warning("state is not saved, alerts go on with the thresholds in memory")

    def note(self, error: StoreError | None) -> None:
        """Say once when the store goes, and once when it is back."""
        if error is not None and not self._away:
            log.warning("the store can't be used; trying on: %s", error)
        elif error is None and self._away:
            log.info("the store is back")
        self._away = error is not None

    def caught_up(self) -> None:
        """Note that it holds everything committed."""
        self._behind_since = None
