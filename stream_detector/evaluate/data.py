"""The input of an evaluation: labelled recordings, and which of their rows are for training and which are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stream_detector.config import Config
from stream_detector.evaluate.offline import Encoded


class Message(Protocol):
    """A reading as a message."""

    @property
    def key(self) -> bytes:
        """The asset."""

    @property
    def value(self) -> bytes:
        """The reading."""

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Its format."""


class Recording(Protocol):
    """Readings of one asset in source order, with their ground truth as far as it is known; N rows.

    `stream_detector.datasets.recording.Recording` implements it. Messages never contain labels.
    """

    asset: str
    ts_ms: NDArray[np.float64]  # (N,) event time, UNIX ms
    values: dict[str, NDArray[Any]]  # channel -> (N,)
    blocks: dict[str, list[NDArray[np.float64] | None]]  # channel -> (N) waveforms
    labels: NDArray[np.int8] | None  # (N,) 1 where anomalous
    marks: dict[str, NDArray[np.int8]]  # further flags, (N,): `training` if the data set defines its training rows
    details: dict[str, NDArray[Any]]  # further ground truth by name, (N,): an attack's name, a part of the test set
    interval_ms: float | None  # time between samples of waveforms
    source: str

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""

    def __len__(self) -> int:
        """Number of rows."""

    def rows(self, start: int, stop: int | None = None) -> Self:
        """Return rows start..stop."""

    def take(self, places: NDArray[np.int64]) -> Self:
        """Return the rows at these positions, in the given order."""

    def carrying(self, channels: Iterable[str]) -> Self:
        """Return the rows with a value of at least one of the channels."""

    def decimated(self, factor: int, low_pass: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Self:
        """Return the recording with every `factor`-th sample of its waveforms, after a low-pass filter."""

    def messages(self) -> Iterator[Message]:
        """Yield one message per row that has a value."""


class Read(Protocol):
    """Reads files of one public format, as `stream_detector.datasets.read` does; raises DataError."""

    def __call__(self, paths: Path | Sequence[Path], format: str, **options: Any) -> Sequence[Recording]:
        """Return the recordings of files and folders."""


Fit = Callable[[Config], Config]


@dataclass(frozen=True, slots=True)
class Case:
    """One recording to be judged, and the rows on which its detector is trained.

    Training and test rows are disjoint: nothing of `test`, including its labels, is used for training.
    """

    name: str  # of the file, for reports: valve1/0.csv
    train: Recording
    test: Recording
    config: Config  # the configuration under which it is judged
    first_row: int = 0  # the file's row at which `test` begins
    fit: Fit | None = None  # adapts a configuration to the file, for example the grid to the file's sampling interval

    @classmethod
    def of(
        cls, name: str, train: Recording, test: Recording, config: Config, *, first_row: int = 0, fit: Fit | None = None
    ) -> Case:
        """Return a case with the configuration adapted to it by `fit`."""
        return cls(name, train, test, fit(config) if fit else config, first_row, fit)

    def under(self, config: Config) -> Case:
        """Return the same case with another configuration, adapted by `fit`."""
        return replace(self, config=self.fit(config) if self.fit else config)

    @property
    def asset(self) -> str:
        """The recording's asset."""
        return self.test.asset

    @property
    def labels(self) -> NDArray[np.int8]:
        """Labels of the test rows, (N,); all 0 if there are no labels."""
        return np.zeros(len(self.test), np.int8) if self.test.labels is None else self.test.labels


#: Receives the progress of a long evaluation: description, steps done, total steps.
Tell = Callable[[str, int, int], None]


def encoded(recording: Recording) -> Iterator[Encoded]:
    """Yield a recording's readings as messages."""
    for message in recording.messages():
        yield Encoded(message.key, message.value, message.headers)


def silent(what: str, done: int, of: int) -> None:
    """Ignore the progress."""


def mean_of(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a figure over the rows that have it; None if none has."""
    known = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(known)) if known else None
