"""Records that flow between the stages, columnar where it saves a loop; units and shapes are given per field.

MessageBatch ─ codec ─▶ ReadingBatch ─ window ─▶ WindowBatch ─ scorer ─▶ ScoreBatch ─ threshold, incident ─▶ Alert
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Severity = Literal["info", "warning", "critical"]
VerdictKind = Literal["true-alarm", "false-alarm", "maintenance"]
AlertEvent = Literal["open", "update", "regime-change", "close"]
AlertKind = Literal["point", "contextual", "collective", "sensor-fault"]

#: Reason codes of dead letters, with their meaning.
DEAD_LETTER_CODES: Mapping[str, str] = {
    "empty": "the message has no value (a tombstone) or one of zero bytes",
    "not-json": "the value is not JSON",
    "not-msgpack": "the value is not MessagePack",
    "unknown-content-type": "the content-type header names a format this detector doesn't read",
    "not-an-object": "the value is JSON or MessagePack, but not an object",
    "no-asset": "neither the value nor the key names the asset",
    "bad-asset": "the asset is not a string of 1 to 256 characters",
    "no-timestamp": "the reading carries no timestamp",
    "bad-timestamp": "the timestamp is neither UNIX milliseconds nor ISO 8601 with an offset",
    "no-values": "the reading carries none of the configured channels",
    "not-a-number": "a value is not a finite number (or a string, for a category)",
    "out-of-range": "a value lies outside the channel's configured `valid` range or what float32 holds",
    "incomplete": "a record lacks a configured channel (window.mode is records)",
    "bad-block": "a block of samples is empty, unevenly typed, of odd byte length or without interval_ms",
    "too-large": "the value or a block in it is larger than the configured limit",
    "too-late": "the reading's grid cell was closed before it came (see window.lateness_ms)",
    "bad-verdict": "the message on the verdict topic is no verdict",
    "rate-limited": "more verdicts in a minute than are taken of one sender, or in all",
    "too-far-ahead": "the reading's time is more than window.max_ahead_ms ahead of the broker's, or alone ahead of all",
}


class Partition(NamedTuple):
    """One partition of one input topic. `index` is also the id of the task it belongs to."""

    topic: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which has no use here


class Message(Protocol):
    """The fields used of one Kafka record; kafka-python's ConsumerRecord conforms unchanged."""

    @property
    def offset(self) -> int:
        """Position in the partition."""

    @property
    def timestamp(self) -> int:
        """The broker's or producer's time of the record, UNIX ms; -1 when unknown."""

    @property
    def key(self) -> bytes | None:
        """The asset's id, UTF-8, or None."""

    @property
    def value(self) -> bytes | None:
        """The reading's bytes."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Record headers, in order."""


class PlainMessage(NamedTuple):
    """A `Message` as the memory source, producers and tests make it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of one asset's sensors at one time, or a block of samples that starts at that time."""

    asset: str
    ts_ms: float  # event time, UNIX ms; of a block: its first sample's
    values: Mapping[str, float | str | Sequence[float] | NDArray[np.floating]]
    """By channel: a number, a category, or a block of samples `interval_ms` apart."""
    interval_ms: float | None = None


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """Messages of one partition in offset order."""

    partition: Partition
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that can't be used, with the reason. `code` is a key of DEAD_LETTER_CODES."""

    partition: Partition
    message: Message
    code: str
    detail: str
    asset: str = ""  # the reading's asset, where known
    channel: str = ""  # the channel at fault, where there is one


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Readings of one partition, columnar, in offset order: M readings (messages), N rows (samples).

    A single reading is one row; a block of k samples is k rows. C is the number of configured channels.
    """

    partition: Partition
    messages: Sequence[Message]  # (M) source of each reading, for dead letters of later stages
    assets: list[str]  # (M)
    offsets: NDArray[np.int64]  # (M,)
    ingest_ms: NDArray[np.int64]  # (M,) the record's own time, UNIX ms; -1 when unknown
    reading: NDArray[np.int64] | None  # (N,) row -> reading, ascending; None when every reading is one row (N == M)
    ts_ms: NDArray[np.float64]  # (N,) event time, UNIX ms
    values: NDArray[np.float64]  # (N, C) NaN where the row doesn't carry the channel; categories as codes
    interval_ms: NDArray[np.float64] | None = None  # (M,) sample interval of blocks, NaN for single readings


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """W windows of one task, each `T` grid cells of `C` columns of one asset, in the order they were completed."""

    task: int
    assets: list[str]  # (W)
    end_ms: NDArray[np.int64]  # (W,) event time of the last cell's end, UNIX ms (rounded)
    values: NDArray[np.float32]  # (W, T, C) unscaled, gaps filled by the last value known
    filled: NDArray[np.bool_]  # (W, T, C) True where the cell had no reading of its own
    ingest_ms: NDArray[np.int64]  # (W,) broker time of the reading that completed the window; -1 when unknown
    completed_by: NDArray[np.int64] | None = None  # (W,) that reading's place in its batch; None where it is not known

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.assets)


def windows_between(windows: WindowBatch, start: int, stop: int) -> WindowBatch:
    """Return the windows `start` to `stop` (exclusive) of a batch."""
    return WindowBatch(
        windows.task,
        windows.assets[start:stop],
        windows.end_ms[start:stop],
        windows.values[start:stop],
        windows.filled[start:stop],
        windows.ingest_ms[start:stop],
        None if windows.completed_by is None else windows.completed_by[start:stop],
    )


def windows_at(windows: WindowBatch, places: NDArray[np.intp]) -> WindowBatch:
    """Return the windows at these indices of a batch."""
    return WindowBatch(
        windows.task,
        [windows.assets[place] for place in places.tolist()],
        windows.end_ms[places],
        windows.values[places],
        windows.filled[places],
        windows.ingest_ms[places],
        None if windows.completed_by is None else windows.completed_by[places],
    )


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Scores of W windows; higher is more anomalous. Scores keep 20 bits of mantissa so that replays agree."""

    score: NDArray[np.float64]  # (W,)
    channels: NDArray[np.float32]  # (W, C) each column's contribution to the score, >= 0
    observed: NDArray[np.float32]  # (W, C) measured values, in the channel's unit
    expected: NDArray[np.float32]  # (W, C) values the model expects there, in the channel's unit
    model: NDArray[np.int32]  # (W,) index into `models`
    models: tuple[ModelRef, ...]  # the detectors used
    offset: NDArray[np.float32] | None = None
    """(W, N) of each numeric column, in training spreads: the shift under which the model would have expected the last
    cell, that is the scaled value less the expectation. None where the scorer doesn't tell: nothing can follow then."""


@dataclass(frozen=True, slots=True)
class Shifts:
    """The shift of each window's asset, subtracted before scoring (see adaptation.py)."""

    values: NDArray[np.float64]  # (W, N) training spreads, subtracted from the scaled numeric columns
    serials: list[int]  # (W) of the asset's adaptation; 0 for none


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Reference to a trained detector in an alert."""

    kind: str  # "ae", "vae", ...
    version: str  # end date of its training data and a hash of its content


@dataclass(frozen=True, slots=True)
class ChannelShare:
    """One channel's share of an alert's score; the shares of one alert sum to 1."""

    name: str
    share: float
    observed: float
    expected: float


class SensorRef(NamedTuple):
    """The sensor fault that an alert reports."""

    fault: str  # "stuck", "dropout", "out-of-range", "saturated", "clock", "silent"
    channel: str | None  # None: the whole asset


@dataclass(frozen=True, slots=True)
class Alert:
    """One event of an incident, as published (docs/wire-format.md). Nothing in it depends on wall-clock time."""

    id: str
    incident: str
    event: AlertEvent
    stream: str
    asset: str
    start_ms: int  # event time at the end of the incident's first anomalous window
    end_ms: int  # event time at the end of this event's window
    score: float  # the score at this event
    threshold: float
    severity: Severity
    kind: AlertKind
    channels: tuple[ChannelShare, ...]  # by share, largest first
    model: ModelRef
    method: str  # of the threshold: "spot", "quantile", "mad", "pinned"
    risk: float
    seen: int  # normal scores the threshold has learnt from
    ingest_ms: int = -1  # header only: broker time of the reading that completed the window
    scored_ms: int = -1  # header only: wall-clock time of scoring
    sensor: SensorRef | None = None  # kind sensor-fault only
    reason: str | None = None  # why a close came without a window: "moved", "retired", "forgotten"


class Stay(NamedTuple):
    """Between which event times, UNIX ms, a task has read an asset."""

    first_ms: int
    last_ms: int

    def merged(self, other: Stay) -> Stay:
        """Return the stay that comprises both."""
        return Stay(min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a task has processed one partition."""

    offset: int  # where a restarted worker must read from: the oldest message an open window still needs
    read: int  # one past the last message processed; messages below it are judged or dead-lettered
    epoch: int = 0  # count of the task's commits


class NotJudged(NamedTuple):
    """An asset whose readings come, and give no window that is judged."""

    asset: str
    readings: int  # since its last window, or its first reading
    reason: str  # a code of `NOT_JUDGED_REASONS`
    detail: str  # for people: the cause, with its figures, and the fix


#: Reason codes of assets that are not judged, with their meaning.
NOT_JUDGED_REASONS: Mapping[str, str] = {
    "refused": "all its readings are dead letters: see their codes",
    "event-times": "its event times are decades away from the records' own, or before 1973: another unit?",
    "channel-missing": "a channel of the set-up was never in its readings",
    "coarse-step": "its readings are further apart than the longest gap that is filled (max_gap_ms)",
    "gaps": "gaps in its readings are longer than max_gap_ms, too often for a whole window",
    "too-short": "its readings span less than a window and the stride; reported of a recording, at its end",
    "already-judged": "its windows end before the time up to which it was judged: an older recording, or a new topic",
    "no-detector": "no detector of the artifact is for it",
}
