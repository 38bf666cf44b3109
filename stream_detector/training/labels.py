"""Which training windows are labelled faulty: from labelled rows, or from intervals of event time.

    faulty      a cell that the detector sees (`features.keep`, else the whole window) contains a faulty reading
    left out    only an earlier cell does: the fault still has an effect through smoothing, so the window is neither
    normal      all other windows, including those of assets without labels

In a stream of records (`window.mode: records`) each window is one record and takes the label of its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.datasets.ground_truth import Interval
from stream_detector.errors import DataError
from stream_detector.types import WindowBatch

NORMAL, FAULTY, LEFT_OUT = 0, 1, -1


class Rows(Protocol):
    """The parts of a recording with N rows that labels need; `datasets.recording.Recording` implements it."""

    asset: str
    ts_ms: NDArray[np.float64]  # (N,) event time, UNIX ms
    values: dict[str, NDArray[Any]]  # channel -> (N,)
    blocks: dict[str, list[NDArray[np.float64] | None]]  # channel -> (N) waveforms
    labels: NDArray[np.int8] | None  # (N,) 1 where anomalous; None without labels
    interval_ms: float | None  # between samples of waveforms
    source: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled faults of a history, by asset."""

    stretches: Mapping[str, NDArray[np.float64]]  # (n, 2) start and end of faulty intervals, event time, UNIX ms
    records: Mapping[str, NDArray[np.bool_]]  # (N,) True if faulty, for complete records in order; replaces stretches

    @property
    def faults(self) -> int:
        """Number of faulty records and intervals."""
        return sum(map(len, self.stretches.values())) + sum(int(flags.sum()) for flags in self.records.values())


def from_rows(recordings: Iterable[Rows], config: Config) -> Labels | None:
    """Return the labels of the recordings; None when none of them has any."""
    stretches: dict[str, list[NDArray[np.float64]]] = {}
    records: dict[str, list[NDArray[np.bool_]]] = {}
    known = False
    for one in recordings:
        known |= one.labels is not None
        faulty = np.zeros(len(one.ts_ms), np.bool_) if one.labels is None else one.labels > 0
        if config.window.mode == "records":
            records.setdefault(one.asset, []).append(faulty[_complete(one, config)])
        else:
            stretches.setdefault(one.asset, []).append(_stretches(one, faulty))
    return (
        Labels(
            {asset: np.concatenate(parts) for asset, parts in stretches.items()},
            {asset: np.concatenate(parts) for asset, parts in records.items()},
        )
        if known
        else None
    )


def from_intervals(intervals: Sequence[Interval], assets: Iterable[str]) -> Labels:
    """Return the labels of these assets from a list of faults. Raises DataError when it has none of the assets."""
    stretches: dict[str, list[tuple[float, float]]] = {asset: [] for asset in assets}
    for one in intervals:
        if one.asset in stretches:
            stretches[one.asset].append((one.start_ms, one.end_ms))
    if not any(stretches.values()):
        raise DataError(
            f"the list of faults names {sorted({one.asset for one in intervals})}, none of which is in the data: "
            f"{sorted(stretches)}; name the assets as the recordings do"
        )
    return Labels({asset: np.array(found, np.float64).reshape(-1, 2) for asset, found in stretches.items()}, {})


def only_normal(batches: Iterable[WindowBatch], labels: Labels, config: Config) -> Iterator[WindowBatch]:
    """Yield the windows that are neither faulty nor left out, in order. Raises DataError as `Marker.check` does."""
    marker = Marker(labels, config)
    for batch in batches:
        normal = np.zeros(len(batch), np.bool_)
        places: dict[str, list[int]] = {}
        for place, asset in enumerate(batch.assets):
            places.setdefault(asset, []).append(place)
        for asset, mine in places.items():
            normal[mine] = marker.mark(asset, batch.end_ms[mine]) == NORMAL
        if normal.any():
            yield WindowBatch(
                batch.task,
                [asset for asset, kept in zip(batch.assets, normal.tolist(), strict=True) if kept],
                batch.end_ms[normal],
                batch.values[normal],
                batch.filled[normal],
                batch.ingest_ms[normal],
            )
    marker.check()


class Marker:
    """Marks windows as faulty, normal or left out, for each asset in the order they arrive."""

    def __init__(self, labels: Labels, config: Config) -> None:
        """`config`: its window and feature settings decide which readings a window contains."""
        window, features = config.window, config.features
        self._labels = labels
        self._records = window.mode == "records"
        seen = window.length if features.keep is None else min(features.keep + features.difference, window.length)
        self._seen_ms, self._span_ms = seen * window.cell_ms, window.length * window.cell_ms
        self._edges = {
            asset: (np.sort(stretches[:, 0]), np.sort(stretches[:, 1])) for asset, stretches in labels.stretches.items()
        }
        self._taken: dict[str, int] = {}

    def mark(self, asset: str, end_ms: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return FAULTY, NORMAL or LEFT_OUT for an asset's next windows, which end at `end_ms` (W,)."""
        if (flags := self._labels.records.get(asset)) is not None:
            start = self._taken.get(asset, 0)
            self._taken[asset] = start + len(end_ms)
            mine = flags[start : start + len(end_ms)]
            return np.pad(mine, (0, len(end_ms) - len(mine))).astype(np.int8)  # `check` reports missing labels
        if self._records:
            return self._touched(asset, end_ms, end_ms + 1).astype(np.int8)
        found = np.where(self._touched(asset, end_ms - self._span_ms, end_ms), LEFT_OUT, NORMAL)
        return np.where(self._touched(asset, end_ms - self._seen_ms, end_ms), FAULTY, found).astype(np.int8)

    def check(self) -> None:
        """Raise DataError when the numbers of records and labels differ: they can't be matched then."""
        for asset, flags in self._labels.records.items():
            if (taken := self._taken.get(asset, len(flags))) != len(flags):
                raise DataError(
                    f"asset {asset!r}: {len(flags)} labelled records gave {taken} windows, so labels can't be matched "
                    "to windows; remove the records that can't be used (the log has the reasons)"
                )

    def _touched(self, asset: str, low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
        """Return whether a faulty interval overlaps [low, high), (W,) each."""
        starts, stops = self._edges.get(asset, (np.empty(0), np.empty(0)))
        return np.searchsorted(starts, high, side="left") > np.searchsorted(stops, low, side="left")


def _stretches(one: Rows, faulty: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the start and end (n, 2) of each faulty row, UNIX ms; a waveform's row extends to its last sample."""
    places = np.flatnonzero(faulty)
    starts = one.ts_ms[places]
    stops = starts.copy()
    for blocks in one.blocks.values():
        samples = [0 if (block := blocks[place]) is None else max(len(block) - 1, 0) for place in places.tolist()]
        stops = np.maximum(stops, starts + np.array(samples, np.float64) * (one.interval_ms or 0.0))
    return np.stack([starts, stops], axis=1)


def _complete(one: Rows, config: Config) -> NDArray[np.bool_]:
    """Return which records have all channels (N,); the others become dead letters and give no window."""
    whole = np.ones(len(one.ts_ms), np.bool_)
    for name in config.channels:
        column = one.values.get(name)
        if column is None:
            return np.zeros(len(whole), np.bool_)
        whole &= np.array([value is not None for value in column]) if column.dtype == object else np.isfinite(column)
    return whole
