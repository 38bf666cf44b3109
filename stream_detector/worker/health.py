"""Liveness and readiness of a worker, as /healthz and /readyz report them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

STUCK_S = 60.0  # a loop without a turn for this long is reported as not alive


class Ready(Protocol):
    """What this module needs of the loop (pipeline.Pipeline)."""

    def ready(self) -> tuple[bool, str]:
        """Whether it is ready, and if not, why."""


class Health:
    """Written by the loop's thread, read by the thread that answers requests."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Start without a loop."""
        self._clock = clock_s
        self._turned = clock_s()
        self._loop: Ready | None = None
        self._away = ""

    def watch(self, loop: Ready) -> None:
        """Report the readiness of this loop from now on."""
        self._loop = loop

    def turning(self) -> None:
        """Record that the loop begins a turn."""
        self._turned = self._clock()

    def kafka(self, error: Exception | None) -> None:
        """Record whether the turn reached Kafka; `error` if not."""
        self._away = "" if error is None else str(error)

    def alive(self) -> tuple[bool, str]:
        """Whether the loop makes progress; restart the worker when it doesn't."""
        since = self._clock() - self._turned
        return since < STUCK_S, f"the loop turned {since:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether the worker is ready: Kafka answers, its tasks are loaded, and catching up is finished."""
        if self._away:
            return False, self._away
        if self._loop is None:
            return False, "it is starting"
        return self._loop.ready()
