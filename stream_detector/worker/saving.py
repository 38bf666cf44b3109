"""Saving tasks' states, also when the store is unavailable, has lost its data, or has a newer writer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum

from stream_detector.errors import StoreError, StoreFencedError, StoreLostError
from stream_detector.ports import WHOLE, StateStore
from stream_detector.telemetry.logs import event
from stream_detector.worker.task import Task

log = logging.getLogger(__name__)

#: After a failed call the store is left alone for this multiple of the time that the call took. A store that hangs
#: costs at most 1 / (1 + REST) of the time, a fifth; one that refuses immediately is retried immediately.
REST = 4.0
#: Longest such pause, ms, and so the longest time until a recovered store is noticed.
LONGEST_REST_MS = 10_000.0


class Saved(Enum):
    """Outcome of a save."""

    DONE = "done"
    MISSED = "missed"  # the store is unavailable; the states stay marked as changed
    FENCED = "fenced"  # another worker owns the task now


class _Away(Enum):
    """What failed since the store was last used."""

    READING = "reading"
    WRITING = "writing"  # a replica answers reads, so only a write shows that the store is back


class Saver:
    """Writes tasks' states to the store, and measures for how long the store has missed commits."""

    def __init__(
        self, store: StateStore, clock_ms: Callable[[], float], on_controls: Callable[[int], None] = lambda _: None
    ) -> None:
        """Start up to date. `on_controls`: called after each `save` with the newest known version of the controls."""
        self._store = store
        self._clock = clock_ms
        self._on_controls = on_controls
        self._behind_since: float | None = None
        self._away: _Away | None = None
        self._rests_until: float = -math.inf
        self._controls_version = 0  # of the operators' settings, as returned by the last save

    @property
    def behind_ms(self) -> float | None:
        """For how long the store has missed commits; None when it is up to date."""
        return None if self._behind_since is None else self._clock() - self._behind_since

    @property
    def rests(self) -> bool:
        """Whether the store is left alone for now, because its last failure took long."""
        return self._clock() < self._rests_until

    @contextmanager
    def asking(self, *, writes: bool = False) -> Iterator[None]:
        """Use the store: record the errors it raises, and raise them. A slow failure is followed by a pause.

        `writes`: this call writes. After a failed one the store counts as away until a later one succeeds.
        """
        started = self._clock()
        try:
            yield
        except (StoreFencedError, StoreLostError):  # it answered
            self._note_answer(writes)
            raise
        except StoreError as error:
            now = self._clock()
            self._rests_until = now + min(REST * (now - started), LONGEST_REST_MS)
            self._note_failure(error, writes)
            raise
        else:
            self._note_answer(writes)

    def save(self, tasks: Iterable[Task]) -> dict[int, Saved]:
        """Save the changed states of each task as its next epoch; return the outcome by task.

        After the first failure the remaining tasks are MISSED without a call, so a store that hangs costs a commit
        one time-out, not one per task.
        """
        saved: dict[int, Saved] = {}
        failed = self.rests
        for task in tasks:
            saved[task.index] = Saved.MISSED if failed else self._save(task)
            failed = failed or saved[task.index] is Saved.MISSED
        if failed and self._behind_since is None:
            self._behind_since = self._clock()
            log.warning("state is not saved, alerts go on with the thresholds in memory", extra=event("store-behind"))
        self._on_controls(self._controls_version)
        return saved

    def _save(self, task: Task) -> Saved:
        try:
            with self.asking(writes=True):
                self._controls_version = self._store.save(
                    task.index,
                    task.token,
                    task.epoch + 1,
                    task.changed_states(),
                    task.saved_positions(),
                    since=task.saved_epoch,
                )
        except StoreLostError as error:  # everything it lost is still in memory
            log.warning(
                "task %d: %s; all its states are written again",
                task.index,
                error,
                extra=event("store-empty", task=task.index),
            )
            return self._save_all(task)
        except StoreFencedError as error:
            log.error("task %d: %s", task.index, error, extra=event("task-fenced", task=task.index))
            return Saved.FENCED
        except StoreError:
            return Saved.MISSED
        return Saved.DONE

    def _save_all(self, task: Task) -> Saved:
        """Write all states of a task to a store that came back without its data."""
        try:
            with self.asking(writes=True):
                task.token = self._store.acquire(task.index)
                self._store.save(
                    task.index, task.token, task.epoch + 1, task.all_states(), task.saved_positions(), since=WHOLE
                )
        except StoreError:
            return Saved.MISSED
        self._controls_version = -1  # unknown: forces the controls to be read again
        return Saved.DONE

    def _note_failure(self, error: StoreError, writes: bool) -> None:
        """Log once when the store becomes unavailable."""
        if self._away is None:
            log.warning("the store can't be used; retrying: %s", error, extra=event("store-away"))
        if writes or self._away is None:
            self._away = _Away.WRITING if writes else _Away.READING

    def _note_answer(self, writes: bool) -> None:
        """Log once when the store is back."""
        if self._away is not None and (writes or self._away is _Away.READING):
            log.info("the store is back", extra=event("store-back"))
            self._away = None

    def caught_up(self) -> None:
        """Record that the store holds everything committed."""
        self._behind_since = None
        if self._away is _Away.WRITING:  # nothing is left to write: the next answer will do
            self._away = _Away.READING
