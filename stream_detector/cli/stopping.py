"""SIGTERM and Ctrl-C end a program: in its own way (a worker commits), or by force when it can't come to that."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from stream_detector.telemetry.logs import event

log = logging.getLogger(__name__)

#: Longest time, seconds, from the signal to the end of the process: less than what supervisors wait (30 s).
GRACE_S = 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(grace_s: float = GRACE_S) -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set; call it from the main thread.

    A thread reads the signals, since Python's own handlers run only when the main thread comes back from whatever it
    is doing: a call that never returns would keep the process from ending. After `grace_s` it ends the process with
    status 1. Work that was not committed is repeated.
    """
    stop = Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    Thread(target=_watch, args=(reader, stop, grace_s), name="stream-detector-stopping", daemon=True).start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(reader: socket.socket, stop: Event, grace_s: float) -> None:
    with reader:
        while received := reader.recv(64):
            if not set(received).isdisjoint(_SIGNALS):
                break
        else:
            return  # the program has ended without a signal
        stop.set()
        Event().wait(grace_s)  # the socket stays open: a second signal writes to it, too
    # The log may be what the main thread hangs in: it gets a while, no more.
    writing = Thread(target=_say, args=(grace_s,), daemon=True)
    writing.start()
    writing.join(timeout=1.0)
    os._exit(1)


def _say(grace_s: float) -> None:
    log.error(
        "it did not stop within %.0f s and is ended: what a worker has not committed is repeated by the next one",
        grace_s,
        extra=event("stop-forced", seconds=grace_s),
    )
