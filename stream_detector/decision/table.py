"""The states of a task's assets: a mapping for whoever looks at one, columns for whoever looks at many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import AssetState

_FIRST = 64  # slots to begin with


class Columns(Protocol):
    """States held as columns, so that many can be looked at in one comparison (quiet.py)."""

    held: NDArray[np.bool_]
    """(slots,) of which assets the state lies in the columns, and not in the table's objects."""

    def states(self, slots: NDArray[np.intp]) -> list[AssetState]:
        """Return the states of assets that are held."""

    def grow(self, slots: int) -> None:
        """Allocate rows for this number of assets."""


class StateTable(MutableMapping[str, AssetState]):
    """Asset -> state. Each asset has a slot, its place in every column, which it keeps."""

    def __init__(self, states: Mapping[str, AssetState] | None = None) -> None:
        """Take over stored states; none of them counts as changed."""
        self.slots: dict[str, int] = {}
        self.names: list[str] = []
        self.objects: list[AssetState | None] = []
        self.columns: Columns | None = None
        self.judged = np.full(_FIRST, -(2**62), np.int64)
        """(slots,) end of the last window judged, UNIX ms."""
        self.serial = np.zeros(_FIRST, np.int64)
        """(slots,) serial of the asset's shift; 0 for none."""
        self.score = np.full(_FIRST, np.nan)
        """(slots,) score of the last window judged since the states were loaded; NaN for none."""
        self.level = np.full(_FIRST, np.nan)
        """(slots,) the adaptive level before that window; NaN for none."""
        self.dirty = np.zeros(_FIRST, np.bool_)
        """(slots,) whether the state has changed since `forget_changes`."""
        self._asked: Sequence[str] = []
        self._answer = np.zeros(0, np.intp)
        for asset, state in (states or {}).items():
            self.put(self.slot(asset), state)
        self.dirty[:] = False

    def slot(self, asset: str) -> int:
        """Return the slot of an asset; one without a state gets one, too."""
        slot = self.slots.get(asset)
        if slot is None:
            slot = self.slots[asset] = len(self.names)
            self.names.append(asset)
            self.objects.append(None)
            if slot == len(self.judged):
                self.judged = np.concatenate([self.judged, np.full(slot, -(2**62), np.int64)])
                self.serial = np.concatenate([self.serial, np.zeros(slot, np.int64)])
                self.dirty = np.concatenate([self.dirty, np.zeros(slot, np.bool_)])
                self.score = np.concatenate([self.score, np.full(slot, np.nan)])
                self.level = np.concatenate([self.level, np.full(slot, np.nan)])
                if self.columns is not None:
                    self.columns.grow(2 * slot)
        return slot

    def slots_of(self, assets: Sequence[str]) -> NDArray[np.intp]:
        """Return the slots of assets, (n,)."""
        if assets != self._asked:  # machines that report in step come in the same order again
            try:
                found = np.fromiter(map(self.slots.__getitem__, assets), np.intp, len(assets))
            except KeyError:
                found = np.fromiter(map(self.slot, assets), np.intp, len(assets))
            found.flags.writeable = False
            self._asked, self._answer = list(assets), found
        return self._answer

    def state(self, slot: int) -> AssetState | None:
        """Return the state in a slot, None while nothing is known of its asset."""
        if self.columns is not None and self.columns.held[slot]:
            return self.columns.states(np.array([slot]))[0]
        return self.objects[slot]

    def shift(self, slot: int) -> NDArray[np.float32]:
        """Return the shift (N,) of an asset that something is known of."""
        state = self.objects[slot]
        assert state is not None
        return state.adaptation.shift  # quiet windows leave it as it is, so the columns have no other

    def release(self, slot: int) -> None:
        """Take a state out of the columns, into the table's objects."""
        self.release_all(np.array([slot]))

    def release_all(self, slots: NDArray[np.intp]) -> None:
        """Take the states in some slots out of the columns."""
        if self.columns is not None:
            held = slots[self.columns.held[slots]]
            if not len(held):
                return
            held = np.unique(held)
            for slot, state in zip(held.tolist(), self.columns.states(held), strict=True):
                self.objects[slot] = state
            self.columns.held[held] = False

    def put(self, slot: int, state: AssetState) -> None:
        """Replace the state in a slot."""
        self.objects[slot] = state
        self.judged[slot] = state.judged_ms
        self.serial[slot] = state.adaptation.serial
        self.dirty[slot] = True
        if self.columns is not None:
            self.columns.held[slot] = False

    def __getitem__(self, asset: str) -> AssetState:
        """Return an asset's state. Raises KeyError while nothing is known of it."""
        state = self.state(self.slots[asset])
        if state is None:
            raise KeyError(asset)
        return state

    def __setitem__(self, asset: str, state: AssetState) -> None:
        """Replace an asset's state."""
        self.put(self.slot(asset), state)

    def __delitem__(self, asset: str) -> None:
        """Delete an asset's state."""
        slot = self.slots[asset]
        self.objects[slot] = None
        self.judged[slot] = -(2**62)
        self.serial[slot] = 0
        self.dirty[slot] = False
        self.score[slot] = self.level[slot] = np.nan
        if self.columns is not None:
            self.columns.held[slot] = False

    def remove(self, asset: str) -> None:
        """Delete an asset's state, but not up to when it was judged: windows up to then are not judged again."""
        slot = self.slots[asset]
        judged_ms = self.judged[slot]
        del self[asset]
        self.judged[slot] = judged_ms

    def __iter__(self) -> Iterator[str]:
        """Yield the assets something is known of."""
        for slot, asset in enumerate(self.names):
            if self.objects[slot] is not None:
                yield asset

    def __len__(self) -> int:
        """Number of assets something is known of."""
        return sum(state is not None for state in self.objects)

    @property
    def changed(self) -> bool:
        """Whether any state has changed since `forget_changes`."""
        return bool(self.dirty.any())

    def changes(self) -> dict[str, AssetState]:
        """Return the states changed since `forget_changes`."""
        slots = np.flatnonzero(self.dirty)
        states: dict[int, AssetState] = {}
        if self.columns is not None:
            held = slots[self.columns.held[slots]]
            states = dict(zip(held.tolist(), self.columns.states(held), strict=True))
        return {
            self.names[slot]: state
            for slot in slots.tolist()
            if (state := states.get(slot, self.objects[slot])) is not None
        }

    def forget_changes(self) -> None:
        """Count all states as unchanged: they are saved."""
        self.dirty[:] = False
