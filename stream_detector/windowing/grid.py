"""Rings of grid cells for many assets: where readings wait until the windows over them are complete.

Every asset holds the cells `base .. base + R - 1`, cell `c` in slot `c mod R`. `base` is the first cell of the next
window. What lies before it is remembered as a carry: the last value of each column and the cell it came from, so that
a gap at a window's start is filled like one in its middle.

    cells   base                 base+L                          base+R
    ────────┬────────────────────┬───────────────────────────────┬───
    carry ◀ │ next window        │ open cells, room for a batch  │
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import ChannelConfig, WindowConfig
from stream_detector.windowing.waveform import waveform_features

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).min // 4  # a cell before all others; a quarter, so that differences can't overflow
NO_OFFSET = np.iinfo(np.int64).max
_ONE = np.uint32(1)  # of the counts' type: `ufunc.at` is fifty times slower where it must convert


def cells_of(ts_ms: Floats, cell_ms: float) -> Ints:
    """Return the cell each time lies in, counted since 1970."""
    # A fractional cell width meets times that float64 holds to 2.4e-4 ms: samples on the grid must not fall off it.
    slack = 0.0 if float(cell_ms).is_integer() else min(0.25, 5e-4 / cell_ms + 1e-9)
    return np.floor(ts_ms / cell_ms + slack).astype(np.int64)


class Grid:
    """Cells of all assets of one task. Rows of its arrays are handed out by `add` and given back by `remove`."""

    def __init__(self, window: WindowConfig, channels: Mapping[str, ChannelConfig], topics: int) -> None:
        """Lay out the columns; `topics` is how many input topics bring readings (their offsets are kept apart)."""
        self.length = window.length
        self.cell_ms = window.cell_ms
        self.topics = topics
        self._lay_out(window, channels)

        gap_ms = [channel.max_gap_ms for channel in channels.values() for _ in channel.columns("")]
        gaps = [window.max_gap_ms if gap is None else gap for gap in gap_ms]
        self.max_gap: Ints = np.array([int(gap // window.cell_ms) for gap in gaps], np.int64)  # (K,) cells
        late = int(np.ceil(window.lateness_ms / window.cell_ms))
        skew = int(self.max_gap.max()) if topics > 1 else 0
        need = window.length + window.stride + late + skew + 2
        self.ring = 1 << (need + max(32, need // 4) - 1).bit_length()
        self._mask = self.ring - 1

        self._free: list[int] = []
        self.capacity = 0
        self.base: Ints = np.empty(0, np.int64)  # (A,)
        self.last: Ints = np.empty(0, np.int64)  # (A,) newest cell with a reading
        self.carry: Floats = np.empty((0, self.width))  # (A, K)
        self.carry_cell: Ints = np.empty((0, self.width), np.int64)
        self._acc: Floats = np.empty((0, self.ring, self.width))  # (A, R, K) sum, minimum, maximum or last
        self._count: NDArray[np.uint32] = np.empty((0, self.ring, self.width), np.uint32)
        self._newest: Floats = np.empty((0, self.ring, self.width if self._last.size else 0))  # time of a `last` value
        self._first_offset: Ints = np.empty((topics, 0, self.ring), np.int64)
        self._carry_offset: Ints = np.empty((topics, 0, self.width), np.int64)
        self._samples: dict[int, dict[int, dict[int, list[Floats]]]] = {}  # asset row -> cell -> channel -> samples

    def _lay_out(self, window: WindowConfig, channels: Mapping[str, ChannelConfig]) -> None:
        columns: dict[str, list[tuple[int, int]]] = {"mean": [], "min": [], "max": [], "last": []}
        self._waves: list[tuple[int, int, Sequence[str], int]] = []  # channel, first column, features, bands
        column = 0
        start: list[float] = []
        self.channel_of_column: list[int] = []
        for index, channel in enumerate(channels.values()):
            width = len(channel.columns(""))
            if channel.cell == "waveform":
                self._waves.append((index, column, channel.features, channel.bands))
            else:
                columns[channel.cell].append((index, column))
            start += [{"min": np.inf, "max": -np.inf}.get(channel.cell, 0.0)] * width
            self.channel_of_column += [index] * width
            column += width
        self.width = column
        self._start = np.array(start)  # (K,) what an empty cell holds
        pick = {kind: np.array(pairs, np.int64).reshape(-1, 2) for kind, pairs in columns.items()}
        self._mean, self._min, self._max, self._last = pick["mean"], pick["min"], pick["max"], pick["last"]

    def cell_of(self, ts_ms: Floats) -> Ints:
        """Return the cell each time lies in, counted since 1970."""
        return cells_of(ts_ms, self.cell_ms)

    def add(self, base: int) -> int:
        """Hand out a row for a new asset whose first cell held is `base`."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        self.restart(row, base)
        return row

    def restart(self, row: int, base: int) -> None:
        """Empty an asset's cells and start again at `base`."""
        self.base[row] = base
        self.last[row] = NEVER
        self.carry_cell[row] = NEVER
        self._carry_offset[:, row] = NO_OFFSET
        self._empty(np.array([row]), slice(None))
        self._samples.pop(row, None)

    def remove(self, row: int) -> None:
        """Take an asset's row back."""
        self.restart(row, 0)
        self._free.append(row)

    def _grow(self) -> None:
        old, new = self.capacity, max(64, self.capacity * 2)

        def wider(array: NDArray[np.generic], axis: int = 0) -> NDArray[np.generic]:
            shape = list(array.shape)
            shape[axis] = new - old
            return np.concatenate([array, np.zeros(shape, array.dtype)], axis)

        for name in ("base", "last", "carry", "carry_cell", "_acc", "_count", "_newest"):
            setattr(self, name, wider(getattr(self, name)))
        self._first_offset = wider(self._first_offset, 1)  # type: ignore[assignment]  # same dtype in, same out
        self._carry_offset = wider(self._carry_offset, 1)  # type: ignore[assignment]
        self._first_offset[:, old:] = NO_OFFSET
        self._free = list(range(new - 1, old - 1, -1))
        self.capacity = new

    def _empty(self, rows: Ints, slots: slice | Ints) -> None:
        where = (rows, slots) if isinstance(slots, slice) else (rows[:, None], slots)
        self._acc[where] = self._start
        self._count[where] = 0
        if self._newest.size:
            self._newest[where] = -np.inf
        for topic in range(self.topics):
            self._first_offset[topic][where] = NO_OFFSET

    def insert(self, topic: int, rows: Ints, cells: Ints, *, ts_ms: Floats, values: Floats, offsets: Ints) -> None:
        """Put samples (n,) with values (n, C) into their cells; all cells are held: base <= cell < base + R.

        Sums are built in the order given, one by one, so that a stream cut into other batches gives the same bits.
        """
        slot = rows * self.ring + (cells & self._mask)
        np.minimum.at(self._first_offset[topic].reshape(-1), slot, offsets)
        np.maximum.at(self.last, rows, cells)
        acc, count = self._acc.reshape(-1), self._count.reshape(-1)
        where = slot * self.width
        for pairs, reduce in ((self._mean, np.add), (self._min, np.minimum), (self._max, np.maximum)):
            if pairs.size:
                index, value, _ = _present(where, values, pairs)
                reduce.at(acc, index, value)
                np.add.at(count, index, _ONE)
        if self._last.size:
            index, value, sample = _present(where, values, self._last)
            newest = self._newest.reshape(-1)
            np.maximum.at(newest, index, ts_ms[sample])
            wins = ts_ms[sample] == newest[index]  # of equal times the later message: numpy keeps the last assigned
            acc[index[wins]] = value[wins]
            np.add.at(count, index, _ONE)
        for channel, *_ in self._waves:
            self._keep_samples(channel, rows, cells, values[:, channel])

    def _keep_samples(self, channel: int, rows: Ints, cells: Ints, values: Floats) -> None:
        there = np.flatnonzero(~np.isnan(values))
        if not there.size:
            return
        rows, cells, values = rows[there], cells[there], values[there]
        cuts = np.flatnonzero((np.diff(rows) != 0) | (np.diff(cells) != 0)) + 1
        for part in np.split(np.arange(len(rows)), cuts):
            row, cell = int(rows[part[0]]), int(cells[part[0]])
            self._samples.setdefault(row, {}).setdefault(cell, {}).setdefault(channel, []).append(values[part])

    def _settle_waveforms(self, row: int, end: int) -> None:
        """Turn the samples of cells before `end`, which are final, into their features."""
        held = self._samples.get(row)
        if not held:
            return
        for cell in [cell for cell in held if cell < end]:
            samples = held.pop(cell)
            for channel, column, features, bands in self._waves:
                if channel in samples:
                    found = waveform_features(np.concatenate(samples[channel]), features, bands)
                    self._acc[row, cell & self._mask, column : column + len(found)] = found
                    self._count[row, cell & self._mask, column : column + len(found)] = 1

    def take(self, rows: Ints, windows: int, stride: int) -> tuple[NDArray[np.float32], Bools, Bools]:
        """Cut the next `windows` windows of each of S assets and move their bases on by `windows * stride` cells.

        Returns values (S, windows, L, K), gaps filled with the last value known; filled (same shape); valid
        (S, windows): False where some cell has no value younger than its column's longest gap.
        """
        span, ahead = self.length + (windows - 1) * stride, windows * stride
        cells = self.base[rows][:, None] + np.arange(span)  # (S, span)
        if self._waves:
            for row, end in zip(rows.tolist(), (self.base[rows] + span).tolist(), strict=True):
                self._settle_waveforms(row, end)
        slots = cells & self._mask
        count = self._count[rows[:, None], slots]  # (S, span, K)
        values = self._acc[rows[:, None], slots]
        if len(self._mean) == self.width:
            values /= np.maximum(count, _ONE)
        elif self._mean.size:
            mean = self._mean[:, 1]
            values[..., mean] /= np.maximum(count[..., mean], _ONE)
        seen = count > 0
        valid = np.ones((len(rows), windows), bool)
        if complete := bool(seen.all()):
            source = np.broadcast_to(cells[:, :, None], values.shape)  # the cell each value comes from
        else:
            source = np.where(seen, cells[:, :, None], NEVER)
            source[:, 0] = np.where(seen[:, 0], source[:, 0], self.carry_cell[rows])
            np.maximum.accumulate(source, axis=1, out=source)
            first = cells[:, :1, None]
            at = np.clip(source - first, 0, span - 1)
            values = np.where(source < first, self.carry[rows][:, None, :], np.take_along_axis(values, at, axis=1))
            young = np.asarray(((cells[:, :, None] - source) <= self.max_gap).all(axis=2))  # (S, span)
            valid = np.asarray(_windowed(young, self.length, stride).all(axis=2))
        single = values.astype(np.float32)  # once, before each value goes into several windows
        result = _windowed(single, self.length, stride).swapaxes(2, 3).copy()
        if complete:
            filled = np.zeros(result.shape, bool)
        else:
            filled = np.ascontiguousarray(_windowed(~seen, self.length, stride).swapaxes(2, 3))
        self._move_on(rows, ahead, values[:, ahead - 1], source[:, ahead - 1])
        return result, filled, valid

    def _move_on(self, rows: Ints, ahead: int, carry: Floats, carry_cell: Ints) -> None:
        fresh = carry_cell >= self.base[rows][:, None]  # (S, K) the carry comes from a cell now let go
        slot = carry_cell & self._mask
        for topic in range(self.topics):
            offset = self._first_offset[topic][rows[:, None], slot]
            self._carry_offset[topic][rows] = np.where(fresh, offset, self._carry_offset[topic][rows])
        self.carry[rows] = carry
        self.carry_cell[rows] = carry_cell
        self._empty(rows, (self.base[rows][:, None] + np.arange(ahead)) & self._mask)
        self.base[rows] += ahead

    def newest_cells(self, row: int) -> Ints:
        """Return the newest cell (K,) of an asset in which each column has a value; NEVER where none has."""
        cells = self.base[row] + np.arange(self.ring)
        there = self._count[row, cells & self._mask] > 0
        for cell, samples in self._samples.get(row, {}).items():
            for channel in samples:
                there[cell - self.base[row], np.array(self.channel_of_column) == channel] = True
        newest: Ints = np.maximum(np.where(there, cells[:, None], NEVER).max(axis=0), self.carry_cell[row])
        return newest

    def oldest_offsets(self, rows: Ints) -> list[int | None]:
        """Return, of each topic, the oldest offset that a window of these assets still needs; None when none does."""
        if not rows.size:
            return [None] * self.topics
        useful = (self.base[rows][:, None] - self.carry_cell[rows]) <= self.max_gap
        oldest: list[int | None] = []
        for topic in range(self.topics):
            held = int(self._first_offset[topic][rows].min())
            carried = int(np.where(useful, self._carry_offset[topic][rows], NO_OFFSET).min())
            least = min(held, carried)
            oldest.append(None if least == NO_OFFSET else least)
        return oldest


def _present(where: Ints, values: Floats, pairs: Ints) -> tuple[Ints, Floats, Ints]:
    """Return flat indices, values and sample numbers of those channels' values that are there, sample by sample."""
    picked = values[:, pairs[:, 0]]
    index = where[:, None] + pairs[:, 1]
    sample = np.broadcast_to(np.arange(len(values))[:, None], picked.shape)
    missing = np.isnan(picked)
    if missing.any():
        there = ~missing
        return index[there], picked[there], sample[there]
    return index.reshape(-1), picked.reshape(-1), sample.reshape(-1)


def _windowed(array: NDArray[Any], length: int, stride: int) -> NDArray[Any]:
    """(S, span, ...) -> (S, windows, ..., length), a view."""
    return np.lib.stride_tricks.sliding_window_view(array, length, axis=1)[:, ::stride]
