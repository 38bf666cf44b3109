"""Whether a worker can use Kafka: logged once when it can't, and once when it can again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stream_detector.errors import BatchError, BrokerError, BrokerLoginError, BrokerRightsError
from stream_detector.telemetry.logs import event

log = logging.getLogger(__name__)

#: Time without an error, ms, after which Kafka is back. Longer than it takes until an operation that fails is tried
#: again: in between, everything else succeeds.
CALM_MS = 5_000.0
#: Time in which no messages can arrive, ms, after which that is an outage even where nothing has failed.
TROUBLE_MS = 15_000.0
_LASTING = (BrokerRightsError, BrokerLoginError, BatchError)  # the rest of the worker's operations go on meanwhile


class Outage:
    """What keeps a worker from using Kafka, if anything does."""

    def __init__(self, clock_ms: Callable[[], float], commit_interval_ms: float = 0.0) -> None:
        """`commit_interval_ms`: how long it may take until an operation that fails is tried again."""
        self._clock = clock_ms
        self._calm_ms = max(CALM_MS, 2 * commit_interval_ms)
        self._failed_ms = 0.0
        self._trouble_since: float | None = None
        self._commits = 0
        self._told: set[str] = set()
        self.error: BrokerError | None = None
        """The last error of the outage; None when there is none."""

    def failed(self, error: BrokerError, commits: int) -> None:
        """Note an error. `commits`: how many commits have succeeded so far."""
        self._failed_ms, self._commits = self._clock(), commits
        self.error = error
        cause = str(error) if isinstance(error, _LASTING) else "unreachable"
        if cause in self._told:
            return
        self._told.add(cause)
        if isinstance(error, _LASTING):
            log.warning("Kafka can't be used as it should, trying on: %s", error, extra=event("broker-away"))
        else:
            log.warning("Kafka can't be reached, trying on: %s", error, extra=event("broker-away"))

    def passed(self, trouble: str | None, commits: int) -> None:
        """Note a turn without an error, which alone shows little: a poll without messages asks nobody.

        `trouble`: why no messages can arrive (`Source.trouble`); when that lasts, it is an outage: a worker that has
        nothing to commit meets no error. Kafka is back when there is no trouble, and either nothing has failed for a
        while or, after an outage of the whole of it, a commit has succeeded since the last error.
        """
        if trouble is not None:
            self._trouble_since = self._clock() if self._trouble_since is None else self._trouble_since
            if self.error is None and self._clock() - self._trouble_since >= TROUBLE_MS:
                self.failed(BrokerError(trouble), commits)
            return
        self._trouble_since = None
        if self.error is None:
            return
        committed = commits > self._commits and not isinstance(self.error, _LASTING)
        if committed or self._clock() - self._failed_ms >= self._calm_ms:
            self.error = None
            self._told.clear()
            log.info("Kafka is back", extra=event("broker-back"))
