"""Waiting for Kafka when a worker starts: after a power failure machines come back in any order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from stream_detector.errors import BrokerError, BrokerLoginError, BrokerRightsError
from stream_detector.telemetry.logs import event
from stream_detector.worker.health import Health

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_S = 1.0


class Start:
    """The time limit for reaching the brokers, counted from construction."""

    def __init__(self, limit_ms: float, health: Health, stop: Event) -> None:
        """`stop`: set when the worker is asked to end, which ends the wait."""
        self._limit_s = limit_ms / 1_000
        self._deadline = time.monotonic() + self._limit_s
        self._health, self._stop = health, stop
        self._told = False

    def reach(self, connect: Callable[[], T]) -> T:
        """Return what `connect` returns, retrying while no broker can be reached.

        Raises what it raises: errors of a login, a permission or a setting immediately, BrokerError after the limit.
        """
        while True:
            self._health.turning()
            try:
                found = connect()
            except (BrokerLoginError, BrokerRightsError):
                raise
            except BrokerError as error:
                if self._stop.is_set() or time.monotonic() >= self._deadline:
                    raise
                self._health.kafka(error)
                if not self._told:
                    self._told = True
                    log.warning(
                        "Kafka can't be reached yet, retrying for %.0f s (kafka.start_timeout_ms): %s",
                        self._limit_s,
                        error,
                        extra=event("broker-awaited", seconds=self._limit_s),
                    )
                self._stop.wait(_RETRY_S)
            else:
                self._health.kafka(None)
                return found
