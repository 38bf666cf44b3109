"""What an evaluation is given: labelled recordings, and which of their rows train and which are judged."""

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
    """A reading as it is sent."""

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
    """Readings of one asset in the order of their source and their ground truth as far as known; N rows.

    `stream_detector.datasets.recording.Recording` is one. Labels never enter a message.
    """

    asset: str
    ts_ms: NDArray[np.float64]  # (N,) event time, UNIX ms
    values: dict[str, NDArray[Any]]  # channel -> (N,)
    blocks: dict[str, list[NDArray[np.float64] | None]]  # channel -> (N) waveforms
    labels: NDArray[np.int8] | None  # (N,) 1 where anomalous
    marks: dict[str, NDArray[np.int8]]  # further flags, (N,): `training` where the data set says which rows train
    details: dict[str, NDArray[Any]]  # further truth by name, (N,): an attack's name, a test's part
    interval_ms: float | None  # from sample to sample of waveforms
    source: str

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""

    def __len__(self) -> int:
        """Number of rows."""

    def rows(self, start: int, stop: int | None = None) -> Self:
        """Return rows start..stop."""

    def take(self, places: NDArray[np.int64]) -> Self:
        """Return the rows at these places, in their order."""

    def carrying(self, channels: Iterable[str]) -> Self:
        """Return the rows that carry any of some channels."""

    def decimated(self, factor: int, low_pass: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Self:
        """Return waveforms of every `factor`-th sample after a low-pass filter."""

    def messages(self) -> Iterator[Message]:
        """Yield one message a row that has any value."""


class Read(Protocol):
    """Reads files of one public format, as `stream_detector.datasets.read` does; raises DataError."""

    def __call__(self, paths: Path | Sequence[Path], format: str, **options: Any) -> Sequence[Recording]:
        """Return the recordings of files and folders."""


Fit = Callable[[Config], Config]


@dataclass(frozen=True, slots=True)
class Case:
    """One recording to be judged, and the rows before or beside it that train its detector.

    Training and test are different rows: nothing of `test`, labels included, reaches the training.
    """

    name: str  # of the file, for people: valve1/0.csv
    train: Recording
    test: Recording
    config: Config  # the set-up it is judged under
    first_row: int = 0  # row of the file that `test` begins with
    fit: Fit | None = None  # how a set-up is fitted to the file, such as its grid to the file's step

    @classmethod
    def of(
        cls, name: str, train: Recording, test: Recording, config: Config, *, first_row: int = 0, fit: Fit | None = None
    ) -> Case:
        """Return a case under the set-up fitted to it."""
        return cls(name, train, test, fit(config) if fit else config, first_row, fit)

    def under(self, config: Config) -> Case:
        """Return the same case under another set-up."""
        return replace(self, config=self.fit(config) if self.fit else config)

    @property
    def asset(self) -> str:
        """The recording's asset."""
        return self.test.asset

    @property
    def labels(self) -> NDArray[np.int8]:
        """Truth of the test rows, (N,); all 0 where nobody labelled them."""
        return np.zeros(len(self.test), np.int8) if self.test.labels is None else self.test.labels


#: Receives the progress of a long evaluation: description, steps done, total steps.
Tell = Callable[[str, int, int], None]


def encoded(recording: Recording) -> Iterator[Encoded]:
    """Yield a recording's readings as messages."""
    for message in recording.messages():
        yield Encoded(message.key, message.value, message.headers)


def silent(what: str, done: int, of: int) -> None:
    """Tell nobody."""


def mean_of(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a figure over those that have it; None when none has."""
    known = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(known)) if known else None
