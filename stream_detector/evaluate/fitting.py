"""Training for an evaluation: one detector a recording, or one for all, from training rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from stream_detector.artifact import Artifact
from stream_detector.config import Config
from stream_detector.evaluate.data import Case, Recording, encoded
from stream_detector.labels import from_rows
from stream_detector.model_set import ModelSet
from stream_detector.offline import windows
from stream_detector.records import WindowBatch
from stream_detector.train import train, train_many


def seeded(config: Config, seed: int) -> Config:
    """Return the set-up with another `train.seed`."""
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def history(config: Config, recordings: Iterable[Recording]) -> Iterator[WindowBatch]:
    """Yield the windows of training rows, cut as `stream-detector train` cuts them."""
    for recording in recordings:
        yield from windows(config, encoded(recording))


def fit_each(config: Config, cases: Sequence[Case]) -> ModelSet:
    """Train one detector a case, as `train --per-asset` does."""
    rows = [case.train for case in cases]
    return ModelSet(by_asset=train_many(config, history(config, rows), labels=from_rows(rows, config)))


def fit_all(config: Config, recordings: Iterable[Recording]) -> Artifact:
    """Train one detector on all recordings, as `train` does."""
    rows = list(recordings)
    return train(config, history(config, rows), labels=from_rows(rows, config))
