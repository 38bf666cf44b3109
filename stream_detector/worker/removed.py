"""The assets of a task that operators removed, and what a commit has to write of them.

A removed asset has no state. In the place of its versions the store holds until when it was judged and read: a
restarted worker reads the log again from before the removal, and must not take up there an asset that is gone.

    save e+1   the mark takes the newest version's place; the state before stays the older one, until e+1 is committed
    save e+2   the mark takes the older one's place, too: nothing of the state is left
    later      the mark goes, once the committed offsets lie behind all that was read before the removal

An asset that begins again has a state, which is written as any other.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from stream_detector.types import Partition, Position, Removed

_SAVES = 2  # as many as the store keeps versions


class RemovedAssets:
    """Those of one task."""

    def __init__(self, stored: Mapping[str, Removed], read: Mapping[Partition, int]) -> None:
        """Take over what is stored. `read`: up to where the log was read when it was."""
        self.known = dict(stored)
        self.read_ms = {asset: one.read_ms for asset, one in stored.items()}
        """Of all assets that were ever removed here, the event time of the newest reading before that."""
        self._until = dict.fromkeys(stored, read)
        self._saves = dict.fromkeys(stored, 1)  # it may be the newest version only
        self._gone: set[str] = set()

    def add(self, asset: str, removed: Removed, read: Mapping[Partition, int]) -> None:
        """Note that an asset is removed when the log was read up to `read`."""
        self.known[asset], self.read_ms[asset] = removed, removed.read_ms
        self._until[asset], self._saves[asset] = dict(read), _SAVES
        self._gone.discard(asset)

    @property
    def changed(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._saves or self._gone)

    @property
    def unsaved(self) -> bool:
        """Whether a removal was never saved."""
        return _SAVES in self._saves.values()

    def changes(self, states: Container[str]) -> dict[str, Removed | None]:
        """Return what the next save writes of assets that have no state; None: no version is needed any more."""
        found: dict[str, Removed | None] = {asset: self.known[asset] for asset in self._saves if asset not in states}
        return found | dict.fromkeys(asset for asset in self._gone if asset not in states)

    def committed(self, positions: Mapping[Partition, Position], states: Container[str], *, saved: bool) -> None:
        """Note a commit of these positions; `saved`: the store has it."""
        if saved:
            for asset in self._gone:
                self._forget(asset)
            self._gone.clear()
            self._saves = {asset: left - 1 for asset, left in self._saves.items() if left > 1}
        for asset in [asset for asset in self.known if asset not in self._saves]:
            if asset in states:  # it began again
                self._forget(asset)
            elif all(one.offset >= self._until[asset].get(partition, 0) for partition, one in positions.items()):
                self._gone.add(asset)

    def _forget(self, asset: str) -> None:
        self.known.pop(asset, None)
        self._until.pop(asset, None)
