"""Which reading completed each window, so that what else the log tells has its place among windows. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stream_detector.windowing.grid import Ints


class Completion:
    """The readings that complete windows in one cut. Nothing is computed before a window asks."""

    def __init__(
        self, rows: Ints, readings: Ints, ingest_ms: Ints, find: Callable[[Ints, Ints], Ints] | None = None
    ) -> None:
        """`rows` (A,) of the assets, ascending; `ingest_ms` of all readings of the batch.

        `find`: returns, for windows of the n-th asset ending at some cells, the place in `readings`; without it the
        n-th reading completes all windows of the n-th asset.
        """
        self._rows, self._readings, self._find = rows, readings, find
        self.ingest_ms = ingest_ms

    def readings_of(self, owner: Ints, ends: Ints) -> Ints:
        """Return the reading that completed each window (W,), given its asset's row and the cell it ends at."""
        asset = np.searchsorted(self._rows, owner)
        return self._readings[asset if self._find is None else self._find(asset, ends)]


def by_clock(
    rows: Ints, owner: Ints, readings: Ints, *, ingest_ms: Ints, first: Ints, closed: Callable[[], Ints]
) -> Completion:
    """Return the completion by assets' clocks, from samples (S,) sorted by asset, each asset's in their order.

    `owner`, `readings` (S,): each sample's row and reading; `first` (A,): where the next window of each asset ends;
    `closed()` (S,): the first cell that is open by each sample's time.
    """
    open_cell: list[Ints] = []  # (S,) once it was asked for: by the newest time up to each sample, counted from `first`

    def find(asset: Ints, ends: Ints) -> Ints:
        group = np.searchsorted(rows, owner)
        if not open_cell:
            open_cell.append(closed() - first[group])
        due = ends - first[asset] + 1
        span = int(due.max()) + 1  # keys of one asset's samples: they grow from sample to sample and asset to asset
        keys = np.maximum.accumulate(np.clip(open_cell[0] + 1, 0, span - 1) + group * span)
        return np.searchsorted(keys, asset * span + due)

    return Completion(rows, readings, ingest_ms, find)
