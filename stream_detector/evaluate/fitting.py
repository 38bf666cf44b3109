"""Training for an evaluation: one detector per recording, or one for all, from training rows only."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.errors import DataError
from stream_detector.evaluate.data import Case, Recording, encoded
from stream_detector.evaluate.offline import windows
from stream_detector.training.history import gather
from stream_detector.training.labels import from_rows
from stream_detector.training.train import enough, of_each, train
from stream_detector.types import WindowBatch

log = logging.getLogger(__name__)


def seeded(config: Config, seed: int) -> Config:
    """Return the configuration with another `train.seed`."""
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def history(config: Config, recordings: Iterable[Recording]) -> Iterator[WindowBatch]:
    """Yield the windows of training rows, as `stream-detector train` does. Raises DataError with the source's name."""
    for recording in recordings:
        for name in config.channels:
            if name not in recording.channels:
                raise DataError(
                    f"{recording.source}: no column {name!r}, which is configured in channels; the columns are: "
                    f"{', '.join(recording.channels)}"
                )
            if not len(recording.carrying([name])):
                raise DataError(f"{recording.source}: column {name!r} has no value in the training rows")
        try:
            yield from windows(config, encoded(recording))
        except DataError as error:
            raise DataError(f"{recording.source}: {error}") from error


def fit_each(config: Config, cases: Sequence[Case], refuse: bool = True) -> ModelSet:
    """Train one detector per case, as `train --per-asset` does.

    With `refuse`, raises DataError for a case whose training rows give too few windows. Otherwise such a case gets no
    detector, which is logged: its rows are judged without ever raising an alarm.
    """
    rows = [case.train for case in cases]
    histories = gather(config, history(config, rows), None, from_rows(rows, config))
    for case in cases:
        place = f"{case.train.source}: too few training rows: "
        try:
            if (own := histories.get(case.asset)) is None:
                raise DataError(f"{place}{len(case.train)} rows give no window of {config.window.length} cells")
            enough(config, [own], place)
        except DataError as error:
            if refuse:
                raise
            log.warning("%s; the file has no detector, and all its faults count as missed", error)
            histories.pop(case.asset, None)
    return ModelSet(by_asset=of_each(config, histories))


def fit_all(config: Config, recordings: Iterable[Recording]) -> Artifact:
    """Train one detector on all recordings, as `train` does."""
    rows = list(recordings)
    return train(config, history(config, rows), labels=from_rows(rows, config))
