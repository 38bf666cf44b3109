"""A slow and obvious windower for one topic, to hold the fast one against."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from stream_detector.config import ChannelConfig, WindowConfig


class OracleAsset:
    """One asset: all its cells for ever, one reading at a time."""

    def __init__(self, window: WindowConfig, channels: dict[str, ChannelConfig]) -> None:
        self.window, self.channels = window, channels
        self.cells: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        self.clock = -math.inf
        self.done = -math.inf  # windows up to this end were considered
        self.windows: dict[int, np.ndarray] = {}

    def push(self, ts: float, values: dict[str, float]) -> bool:
        """Take a reading; False when it is late."""
        window = self.window
        cell = math.floor(ts / window.cell_ms)
        if self.clock > -math.inf and cell < math.floor((self.clock - window.lateness_ms) / window.cell_ms):
            return False
        for name, value in values.items():
            self.cells[cell][name].append((ts, value))
        self.clock = max(self.clock, ts)
        closed = math.floor((self.clock - window.lateness_ms) / window.cell_ms)
        first = min(self.cells)
        begin = first if self.done == -math.inf else int(self.done) + 1
        begin = max(begin, closed - 10_000)
        for end in range(begin, closed + 1):
            if end % window.stride == 0 and (values_of := self._window(end)) is not None:
                self.windows[end] = values_of
        self.done = closed
        return True

    def _window(self, end: int) -> np.ndarray | None:
        out = np.empty((self.window.length, len(self.channels)))
        for column, (name, channel) in enumerate(self.channels.items()):
            gap_ms = self.window.max_gap_ms if channel.max_gap_ms is None else channel.max_gap_ms
            gap = int(gap_ms // self.window.cell_ms)
            for row, cell in enumerate(range(end - self.window.length, end)):
                source = next(
                    (c for c in range(cell, cell - gap - 1, -1) if c in self.cells and self.cells[c].get(name)), None
                )
                if source is None:
                    return None
                out[row, column] = self._reduce(channel.cell, self.cells[source][name])
        return out

    @staticmethod
    def _reduce(kind: str, readings: list[tuple[float, float]]) -> float:
        values = [value for _, value in readings]
        if kind == "mean":
            total = 0.0
            for value in values:
                total += value
            return total / len(values)
        if kind == "last":
            newest = max(ts for ts, _ in readings)
            return [value for ts, value in readings if ts == newest][-1]
        return min(values) if kind == "min" else max(values)
