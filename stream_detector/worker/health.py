"""Whether a worker lives and does its job: what /healthz and /readyz answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

STUCK_S = 60.0  # a loop that hasn't turned for so long is reported not alive


class Ready(Protocol):
    """What is asked of the loop (pipeline.Pipeline)."""

    def ready(self) -> tuple[bool, str]:
        """Whether it does its job, and if not, why."""


class Health:
    """Looked at from the thread that answers requests, told by the one that turns the loop."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Nothing turns yet."""
        self._clock = clock_s
        self._turned = clock_s()
        self._loop: Ready | None = None
        self._away = ""

    def watch(self, loop: Ready) -> None:
        """Ask this loop from now on."""
        self._loop = loop

    def turning(self) -> None:
        """Note that the loop begins a turn."""
        self._turned = self._clock()

    def kafka(self, error: Exception | None) -> None:
        """Note how the turn ended: whether Kafka could be reached."""
        self._away = "" if error is None else str(error)

    def alive(self) -> tuple[bool, str]:
        """Whether the loop turns; restart the worker when it doesn't."""
        since = self._clock() - self._turned
        return since < STUCK_S, f"the loop turned {since:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether the worker does its job: Kafka answers, it has its share, and is done with catching up."""
        if self._away:
            return False, self._away
        if self._loop is None:
            return False, "it is starting"
        return self._loop.ready()
