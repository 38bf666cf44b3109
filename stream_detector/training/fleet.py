"""From a fleet's history to one file: one detector per asset, and optionally a shared one for all other assets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.fleet import Fleet
from stream_detector.config import Config
from stream_detector.errors import DataError
from stream_detector.training.history import History, gather
from stream_detector.training.labels import Labels
from stream_detector.training.train import enough, of_each, one_artifact
from stream_detector.types import WindowBatch

log = logging.getLogger(__name__)

#: Maximum number of windows, over all assets, for the training of the shared detector; evenly spaced in each history.
MOST_SHARED = 20_000


def train_fleet(
    config: Config,
    batches: Iterable[WindowBatch],
    *,
    progress: Callable[[str], None] | None = None,
    labels: Labels | None = None,
) -> Fleet:
    """Train one detector per asset. `progress` is called with the name of each asset that is done.

    `train.short_history` decides how an asset with too short a history is treated. Raises DataError with the asset's
    name when that is `refuse` and such an asset is found, when no asset has enough windows, or when a fit diverges.
    """
    histories = gather(config, batches, None, labels)
    short: dict[str, str] = {}
    long: dict[str, History] = {}
    for asset, history in histories.items():
        try:
            enough(config, [history], f"asset {asset!r}: ")
        except DataError as error:
            if config.train.short_history == "refuse":
                raise DataError(f"{error}; or set train.short_history to leave-out or shared") from error
            short[asset] = str(error)
        else:
            long[asset] = history
    if not long:
        reason = next(iter(short.values()), "the history makes no window")
        raise DataError(f"no asset has a history long enough for a detector of its own: {reason}")
    served = config.train.short_history == "shared"
    for asset, why in short.items():
        log.warning("%s; %s", why, "the shared detector is used for it" if served else f"{asset!r} has no detector")
    shared = _shared(config, histories) if served else None
    return Fleet(of_each(config, long, progress), shared, short).named()


def _shared(config: Config, histories: dict[str, History]) -> Artifact:
    """Train one detector on windows of all assets, including those with short histories."""
    step = -(-sum(len(history) for history in histories.values()) // MOST_SHARED)
    return one_artifact(config, [history.thinned(step) for history in histories.values()], None, "shared detector: ")
