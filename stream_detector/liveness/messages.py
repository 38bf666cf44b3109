"""The messages of one batch as liveness sees them: readings and dead letters in the log's order, one row each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from stream_detector.types import DeadLetter, ReadingBatch
from stream_detector.windowing.grid import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Messages:
    """M messages of one partition, in its order."""

    offsets: Ints  # (M,)
    rows: Ints  # (M,) of their assets
    ts_ms: Floats  # (M,) newest event time in each; -inf where it does not count: refused, or too far ahead
    present: Bools  # (M, C) channels it carries
    places: Ints  # (M,) before which reading's windows it belongs: of a reading its own place in the batch
    refused: Mapping[int, DeadLetter]  # those that could not be used, by their place here

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self.rows)

    def of_reading(self, reading: int) -> int:
        """Return the place here of a reading of the batch."""
        return int(np.searchsorted(self.places, reading, side="right")) - 1  # letters before it have its place, too


class Rows:
    """Numbers assets, so that what is known of them lies in arrays."""

    def __init__(self) -> None:
        """No asset is known."""
        self.names: list[str] = []
        self._rows: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of assets."""
        return len(self.names)

    def of(self, asset: str) -> int:
        """Return the row of an asset, a new one if need be."""
        row = self._rows.get(asset)
        if row is None:
            row = self._rows[asset] = len(self.names)
            self.names.append(asset)
        return row

    def of_all(self, assets: Sequence[str]) -> Ints:
        """Return the row of each asset (M,)."""
        rows = np.fromiter(map(self._rows.get, assets, repeat(-1)), np.int64, len(assets))
        for place in np.flatnonzero(rows < 0).tolist():
            rows[place] = self.of(assets[place])
        return rows


def messages_of(
    batch: ReadingBatch | None,
    letters: Sequence[DeadLetter],
    refused: Sequence[DeadLetter],
    rows_of: Callable[[Sequence[str]], Ints],
    *,
    channels: int,
    max_ahead_ms: float,
) -> Messages:
    """Return readings, and the dead letters between them whose asset is known.

    `letters`: of messages that are no readings; `refused`: of readings of the batch that the windower did not use.
    """
    named = [letter for letter in letters if letter.asset]
    if batch is None:
        offsets = np.array([letter.message.offset for letter in named], np.int64)
        found = _letters_only(named, offsets, np.zeros(len(named), np.int64), rows_of, channels)
        return _in_order(found, named, [])
    ts, present = _newest(batch)
    ahead = (batch.ingest_ms >= 0) & (ts > batch.ingest_ms + max_ahead_ms)
    if ahead.any():
        ts = np.where(ahead, -np.inf, ts)
    places = np.arange(len(batch.assets))
    readings = Messages(batch.offsets, rows_of(batch.assets), ts, present, places, {})
    if not named:
        return _in_order(readings, [], refused)
    offsets = np.array([letter.message.offset for letter in named], np.int64)
    others = _letters_only(named, offsets, np.searchsorted(batch.offsets, offsets), rows_of, channels)
    order = np.argsort(np.concatenate([readings.offsets, offsets]), kind="stable")
    both = Messages(
        np.concatenate([readings.offsets, others.offsets])[order],
        np.concatenate([readings.rows, others.rows])[order],
        np.concatenate([readings.ts_ms, others.ts_ms])[order],
        np.concatenate([readings.present, others.present])[order],
        np.concatenate([readings.places, others.places])[order],
        {},
    )
    return _in_order(both, named, refused)


def _newest(batch: ReadingBatch) -> tuple[Floats, Bools]:
    """Return the newest event time (M,) of each reading, and the channels (M, C) that it carries."""
    present = ~np.isnan(batch.values)
    if batch.reading is None:
        return batch.ts_ms, present
    starts = np.searchsorted(batch.reading, np.arange(len(batch.assets)))
    return np.maximum.reduceat(batch.ts_ms, starts), np.logical_or.reduceat(present, starts, axis=0)


def _letters_only(
    letters: Sequence[DeadLetter], offsets: Ints, places: Ints, rows_of: Callable[[Sequence[str]], Ints], channels: int
) -> Messages:
    rows = rows_of([letter.asset for letter in letters])
    nothing = np.zeros((len(letters), channels), np.bool_)
    return Messages(offsets, rows, np.full(len(letters), -np.inf), nothing, places, {})


def _in_order(found: Messages, letters: Sequence[DeadLetter], refused: Sequence[DeadLetter]) -> Messages:
    """Return the messages with those that could not be used."""
    if not letters and not refused:
        return found
    by_offset = {letter.message.offset: letter for letter in (*refused, *letters)}
    places = np.searchsorted(found.offsets, np.fromiter(by_offset, np.int64, len(by_offset)))
    by_place = dict(zip(places.tolist(), by_offset.values(), strict=True))
    return Messages(found.offsets, found.rows, found.ts_ms, found.present, found.places, by_place)
