"""Delivery guarantees, one commit strategy for each.

strategy       the contract, and the numbered steps of a commit
at_least_once  alerts are readable at once, and may be repeated after a crash
exactly_once   alerts are readable with the commit; a failed commit is aborted
"""

from __future__ import annotations

from collections.abc import Callable

from stream_detector.config import Config
from stream_detector.ports import Sink
from stream_detector.telemetry.metrics import Metrics
from stream_detector.worker.assignment import Assignment
from stream_detector.worker.delivery.at_least_once import AtLeastOnce
from stream_detector.worker.delivery.exactly_once import ExactlyOnce
from stream_detector.worker.delivery.strategy import CommitStrategy
from stream_detector.worker.saving import Saver

__all__ = ["AtLeastOnce", "CommitStrategy", "ExactlyOnce", "make_strategy"]

_STRATEGIES: dict[str, type[CommitStrategy]] = {"at_least_once": AtLeastOnce, "exactly_once": ExactlyOnce}


def make_strategy(
    config: Config,
    assignment: Assignment,
    sink: Sink,
    *,
    saver: Saver,
    metrics: Metrics,
    clock_ms: Callable[[], float],
) -> CommitStrategy:
    """Return the strategy of the configured `delivery`; `sink` must be one of the same delivery."""
    strategy = _STRATEGIES[config.delivery]
    return strategy(config, assignment, sink, saver=saver, metrics=metrics, clock_ms=clock_ms)
