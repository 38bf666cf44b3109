"""Replay of recordings into a topic: in parallel, at recorded speed, at another speed, or as fast as possible.

All recordings start at the same moment, regardless of their dates: readings are sent in order of the time since the
start of their own recording. Each loop continues the previous one: event times increase by the length of the longest
recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from math import ceil
from typing import Literal, Protocol

from stream_detector.datasets.recording import MessageFormat, Outgoing, Recording
from stream_detector.errors import DataError

#: keep: event times as recorded. now: the first reading's event time is now. until-now: the last reading's is now.
Times = Literal["keep", "now", "until-now"]

_LOOK_EVERY = 512  # messages between two reads of the clock while none has to wait
_REPORT_EVERY_S = 0.2
_LONGEST_SLEEP_S = 0.5  # keeps the progress bar and the stop check alive while nothing is due
_FLUSH_EVERY_S = 10.0  # only a flush reports a lost broker, and a replay may run indefinitely
_INSTANT_S = 1e-6  # shorter waits are skipped: the clock's resolution may be coarser


class Writer(Protocol):
    """Destination of messages; `stream_detector.adapters.kafka.MessageWriter` is one."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        headers: list[tuple[str, bytes]],
        *,
        timestamp_ms: int | None = None,
    ) -> None:
        """Buffer a message for sending."""

    def flush(self) -> None:
        """Wait until all sent messages are acknowledged."""

    def close(self) -> None:
        """Close the connection."""


class Clock(Protocol):
    """Source of time, so that tests can control it."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never decreases."""

    def now_ms(self) -> float:
        """The time of day, UNIX ms."""

    def sleep(self, seconds: float) -> None:
        """Wait; may return earlier."""


class SystemClock:
    """The computer's clock."""

    def __init__(self, wait: Callable[[float], object] = time.sleep) -> None:
        """`wait`: the function that sleeps; pass an event's `wait` so that a signal can end the sleep."""
        self._wait = wait

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment."""
        return time.monotonic()

    def now_ms(self) -> float:
        """UNIX ms."""
        return time.time() * 1_000.0

    def sleep(self, seconds: float) -> None:
        """Sleep until the time has passed or `wait` returns early."""
        self._wait(seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send and how fast."""

    topic: str
    speed: float | None = 1.0  # recorded seconds per second; None: as fast as possible
    times: Times = "keep"
    loops: int | None = 1  # None: endless
    format: MessageFormat = "json"
    fields: Mapping[str, str] = field(default_factory=dict)  # as in `kafka.inputs[].fields`

    def __post_init__(self) -> None:
        """Raise DataError on invalid settings."""
        if self.speed is not None and not 0 < self.speed < float("inf"):
            raise DataError(f"speed must be more than 0, got {self.speed}")
        if self.loops is not None and self.loops < 1:
            raise DataError(f"loops must be at least 1, got {self.loops}")
        if self.loops is None and self.times == "until-now":
            raise DataError("an endless replay has no last reading, so its times must be keep or now")


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a replay."""

    sent: int  # messages
    elapsed_s: float  # wall-clock time since the start
    lag_s: float  # delay behind the schedule; 0 at full speed
    event_ms: float | None  # event time of the last message sent, UNIX ms
    done: bool = False  # False in a summary: stopped before the end

    @property
    def rate(self) -> float:
        """Messages per second since the start."""
        return self.sent / self.elapsed_s if self.elapsed_s > 0 else 0.0


def period_ms(recordings: Sequence[Recording]) -> float:
    """Return the length of one loop in whole ms: the longest recording's, including the step after its last row."""
    return float(ceil(max((each.end_ms - each.start_ms for each in recordings if len(each)), default=0.0)))


def schedule(recordings: Sequence[Recording], plan: Plan, now_ms: float) -> Iterator[tuple[float, Outgoing]]:
    """Yield (ms since the start of the replay, message) in time order, loop after loop.

    Rows of one recording keep their order even if their times decrease. Raises DataError when there is nothing to send.
    """
    filled = [recording for recording in recordings if len(recording)]
    if not filled:
        raise DataError("there is nothing to replay: the recordings hold no rows")
    period = period_ms(filled)
    if plan.times == "until-now":
        now_ms -= ((plan.loops or 1) - 1) * period + max(float(r.ts_ms.max()) - r.start_ms for r in filled)
    loop = 0
    while plan.loops is None or loop < plan.loops:
        streams = [_timed(recording, place, plan, now_ms, loop * period) for place, recording in enumerate(filled)]
        sent = False
        for due_ms, _, message in merge(*streams) if len(streams) > 1 else streams[0]:
            sent = True
            yield due_ms, message
        if not sent:
            raise DataError("there is nothing to replay: no row of the recordings holds a value")
        loop += 1


def _timed(
    recording: Recording, place: int, plan: Plan, now_ms: float, after_ms: float
) -> Iterator[tuple[float, int, Outgoing]]:
    """Yield (due, place, message); `place` breaks ties between equal due times, so messages are never compared."""
    start = recording.start_ms
    shift = 0.0 if plan.times == "keep" else float(round(now_ms - start))  # whole ms: integers stay integers
    origin = start + shift
    for message in recording.messages(plan.fields, plan.format, shift + after_ms):
        yield message.sent_ms - origin, place, message


def replay(
    recordings: Sequence[Recording],
    plan: Plan,
    writer: Writer,
    *,
    clock: Clock,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Send all planned messages, flush, and return the summary; stop early, with a flush, once `stopped()` is true.

    A replay that is behind its schedule catches up: messages already due are sent at once, in order. `report` is
    called a few times per second at most. Raises BrokerError when the writer does.
    """
    began = clock.monotonic()
    pace = None if plan.speed is None else 1e-3 / plan.speed
    elapsed = due = last_report = last_flush = 0.0
    sent = 0
    event_ms: float | None = None
    done = True

    def look() -> None:
        """Read the clock; call `report` if it is time to."""
        nonlocal elapsed, last_report
        elapsed = clock.monotonic() - began
        if elapsed - last_report >= _REPORT_EVERY_S:
            last_report = elapsed
            report(Progress(sent, elapsed, max(0.0, elapsed - due) if pace else 0.0, event_ms))

    for due_ms, message in schedule(recordings, plan, clock.now_ms()):
        if pace is not None:
            due = due_ms * pace
            while due - elapsed > _INSTANT_S and not stopped():
                look()
                if due - elapsed > _INSTANT_S:
                    clock.sleep(min(due - elapsed, _LONGEST_SLEEP_S))
        if stopped():
            done = False
            break
        writer.send(plan.topic, message.key, message.value, message.headers)
        sent += 1
        event_ms = message.event_ms
        if sent % _LOOK_EVERY == 0:
            look()
        if elapsed - last_flush >= _FLUSH_EVERY_S:
            last_flush = elapsed
            writer.flush()
    elapsed = clock.monotonic() - began
    lag_s = 0.0 if pace is None else max(0.0, elapsed - due)
    writer.flush()
    final = Progress(sent, clock.monotonic() - began, lag_s, event_ms, done)
    report(final)
    return final


def messages_in(recordings: Sequence[Recording], loops: int | None) -> int | None:
    """Return the maximum number of messages that a replay sends, for a progress bar; None if it is endless."""
    return None if loops is None else loops * sum(map(len, recordings))
