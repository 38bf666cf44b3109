"""A worker that tests can break: `stream-detector run` with one promise switched off, or an end at a chosen moment.

STREAM_DETECTOR_TEST_BREAK=fencing|epoch|transaction
    fencing      neither Kafka nor the store is asked whether a task is still its worker's
    epoch        the newest states of the store count, whatever Kafka has committed
    transaction  alerts become readable when flushed, not with the offsets
STREAM_DETECTOR_TEST_AT=saved:3:SIGKILL
    send itself the signal in the third commit with alerts, at one of MOMENTS
STREAM_DETECTOR_TEST_TRAP=PATH
    as soon as there is such a file, with `saved:SIGKILL` in it, do so in the next commit with alerts
STREAM_DETECTOR_TEST_PACE=0.1
    wait so many seconds before each poll: a log that is written already is read as slowly as one that grows
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka.consumer.group import ConsumerGroupMetadata
from kafka.producer.transaction_manager import TransactionManager

from stream_detector.__main__ import main
from stream_detector.adapters.kafka import KafkaSource, TransactionalSink, client_patches, transactional
from stream_detector.adapters.redis import RedisStore
from stream_detector.worker.delivery import ExactlyOnce

#: Alerts acknowledged and nothing saved; the first task's states saved and others not; all states saved; the offsets
#: sent in the transaction; its end asked for, and the answer not there; all done.
MOMENTS = ("flushed", "saving", "saved", "offsets", "ending", "committed")


def no_fencing() -> None:
    """Send offsets without a membership, and states with whatever token the store wants."""
    KafkaSource.membership = lambda self, _: ConsumerGroupMetadata(self._config.group)  # type: ignore[method-assign]
    transactional.end_leftovers = lambda *_: []
    save = RedisStore.save

    def with_the_newest_token(self: Any, index: int, token: int, *rest: Any, **options: Any) -> int:
        return save(self, index, int(self._redis.hget(self._task(index), "token") or token), *rest, **options)

    RedisStore.save = with_the_newest_token  # type: ignore[method-assign]


def no_epoch() -> None:
    """Let the newest states count."""

    def newest(self: ExactlyOnce, store: Any, index: int, committed: Any) -> Any:
        return store.load(index), False

    ExactlyOnce.counting_state = newest  # type: ignore[method-assign]


def no_transaction() -> None:
    """End a transaction after the flush; the offsets go in one of their own."""
    flush = TransactionalSink.flush

    def readable(self: Any) -> None:
        flush(self)
        if self._begun:
            client_patches.end_transaction(self._producer, commit=True, timeout_ms=self._timeout_ms)
            self._begun = False
            self._sent.clear()

    TransactionalSink.flush = readable  # type: ignore[method-assign]


def at_moments(reached: Callable[[str], None]) -> None:
    """Call it at each of MOMENTS of every commit with alerts, and with `alerts` before the first."""
    full = [False]
    flush, commit, save = TransactionalSink.flush, TransactionalSink.commit, RedisStore.save
    end, wait = TransactionManager.begin_commit, client_patches.wait_for
    asked = [False]

    def tell(moment: str) -> None:
        if full[0]:
            reached(moment)

    def flushing(self: Any) -> None:
        sent = [one for one, _ in self._sent]
        full[0] = any(one.topic == self._config.alert_topic for one in [*self._waiting, *sent])
        tell("alerts")
        flush(self)
        tell("flushed")

    def saving(self: Any, *args: Any, **options: Any) -> int:
        version = save(self, *args, **options)
        tell("saving")
        return version

    def committing(self: Any, positions: Any) -> None:
        tell("saved")
        commit(self, positions)
        tell("committed")
        full[0] = False

    def ending(self: Any) -> Any:
        tell("offsets")
        asked[0] = True
        return end(self)

    def waiting(producer: Any, *rest: Any) -> None:
        if asked[0]:
            asked[0] = False
            producer._sender.wakeup()
            time.sleep(0.003)  # some of it reaches the broker
            tell("ending")
        wait(producer, *rest)

    TransactionalSink.flush, TransactionalSink.commit = flushing, committing  # type: ignore[method-assign]
    RedisStore.save = saving  # type: ignore[method-assign]
    TransactionManager.begin_commit, client_patches.wait_for = ending, waiting


def strike_at(moment: str, count: int, number: int) -> Callable[[str], None]:
    """Return what sends this process a signal in the `count`-th commit with alerts."""
    seen = [0]

    def reached(now: str) -> None:
        seen[0] += now == "alerts"
        if now == moment and seen[0] == count:
            os.kill(os.getpid(), number)

    return reached


def spring(trap: Path) -> Callable[[str], None]:
    """Return what does as the trap says, once it is there."""

    def reached(now: str) -> None:
        if trap.exists():
            moment, name = trap.read_text().split(":")
            if now == moment:
                trap.unlink()
                os.kill(os.getpid(), signal.Signals[name])

    return reached


def paced(seconds: float) -> None:
    """Wait before each poll."""
    poll = KafkaSource.poll

    def poll_later(self: Any, timeout_ms: int, max_messages: int) -> Any:
        time.sleep(seconds)
        return poll(self, timeout_ms, max_messages)

    KafkaSource.poll = poll_later  # type: ignore[method-assign]


if __name__ == "__main__":
    broken = os.environ.pop("STREAM_DETECTOR_TEST_BREAK", "")
    if broken:
        {"fencing": no_fencing, "epoch": no_epoch, "transaction": no_transaction}[broken]()
    if at := os.environ.pop("STREAM_DETECTOR_TEST_AT", ""):
        when, nth, name = at.split(":")
        at_moments(strike_at(when, int(nth), signal.Signals[name]))
    if set_trap := os.environ.pop("STREAM_DETECTOR_TEST_TRAP", ""):
        at_moments(spring(Path(set_trap)))
    if pace := os.environ.pop("STREAM_DETECTOR_TEST_PACE", ""):
        paced(float(pace))
    sys.exit(main())
