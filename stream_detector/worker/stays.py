"""Between which event times the assets of one task were read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stream_detector.types import ReadingBatch, Stay


class Stays:
    """When each asset of a task was read, and what of it the store knows."""

    def __init__(self, max_ahead_ms: float, judged: Iterable[tuple[str, int]] = ()) -> None:
        """`max_ahead_ms`: readings further ahead of the broker's clock don't count. `judged`: assets that have a state,
        and the end of the last window judged of each.
        """
        self._max_ahead_ms = max_ahead_ms
        self.of: dict[str, Stay] = {asset: Stay(end_ms, end_ms) for asset, end_ms in judged}
        """By asset."""
        self.new: set[str] = set(self.of)
        """Assets that nobody has asked for yet; whoever does empties it."""
        self.unnoted: set[str] = set(self.of)
        """Assets of which the store was told nothing."""
        self.noted: dict[str, int] = {}
        """Asset -> the `last_ms` that the store was told."""

    def push(self, batch: ReadingBatch) -> None:
        """Take readings."""
        ts = batch.ts_ms
        if batch.reading is not None:
            ts = ts[np.searchsorted(batch.reading, np.arange(len(batch.assets)))]
        assets = batch.assets
        ahead = (batch.ingest_ms >= 0) & (ts > batch.ingest_ms + self._max_ahead_ms)
        if ahead.any():
            assets = [assets[place] for place in np.flatnonzero(~ahead).tolist()]
            ts = ts[~ahead]
        times = np.floor(ts).astype(np.int64).tolist()
        firsts: dict[str, int] | None = None
        for asset, last_ms in dict(zip(assets, times, strict=True)).items():
            known = self.of.get(asset)
            if known is not None:
                if last_ms > known.last_ms:
                    self.of[asset] = Stay(known.first_ms, last_ms)
                continue
            if firsts is None:
                firsts = dict(zip(reversed(assets), reversed(times), strict=True))
            self.of[asset] = Stay(min(firsts[asset], last_ms), last_ms)
            self.new.add(asset)
            self.unnoted.add(asset)

    def note(self, asset: str, stay: Stay) -> None:
        """Record that the store was told of a stay."""
        self.noted[asset] = stay.last_ms
        self.unnoted.discard(asset)

    def forget(self, asset: str) -> None:
        """Know nothing of an asset, until it is read again."""
        self.of.pop(asset, None)
        self.noted.pop(asset, None)
        self.new.discard(asset)
        self.unnoted.discard(asset)

    def note_again(self) -> None:
        """Tell the store of all assets again: it has lost its data."""
        self.unnoted.update(self.of)
