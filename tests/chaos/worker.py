"""A worker that tests can break: `stream-detector run` with one promise switched off, or an end at a chosen moment.

    STREAM_DETECTOR_TEST_BREAK=fencing|epoch|transaction
        fencing      neither Kafka nor the store is asked whether a task is still its worker's
        epoch        the newest states of the store count, whatever Kafka has committed
        transaction  alerts become readable when flushed, not with the offsets
    STREAM_DETECTOR_TEST_AT=saved:3:SIGKILL
        send itself the signal in the third commit with alerts; moments are
        flushed (alerts sent, nothing saved), saved (states in the store, offsets not sent), committed
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from kafka.consumer.group import ConsumerGroupMetadata

from stream_detector import pipeline, task
from stream_detector.__main__ import main
from stream_detector.kafka_io import KafkaSource, TransactionalSink, source
from stream_detector.redis_store import RedisStore


def no_fencing() -> None:
    """Send offsets without a membership, and states with whatever token the store wants."""
    KafkaSource.membership = lambda self, _: ConsumerGroupMetadata(self._config.group)  # type: ignore[method-assign]
    source.end_leftovers = lambda *_: []
    save = RedisStore.save

    def with_the_newest_token(self: Any, index: int, token: int, *rest: Any) -> int:
        return save(self, index, int(self._redis.hget(self._task(index), "token") or token), *rest)

    RedisStore.save = with_the_newest_token  # type: ignore[method-assign]


def no_epoch() -> None:
    """Let the newest states count."""

    def newest(config: Any, store: Any, index: int, committed: Any) -> Any:
        return store.load(index), False

    pipeline.counting_state = task.counting_state = newest


def no_transaction() -> None:
    """End a transaction after the flush; the offsets go in one of their own."""
    flush = TransactionalSink.flush

    def readable(self: Any) -> None:
        flush(self)
        if self._begun:
            self._wait(self._producer._transaction_manager.begin_commit())
            self._begun = False
            self._sent.clear()

    TransactionalSink.flush = readable  # type: ignore[method-assign]


def strike_at(moment: str, count: int, number: int) -> None:
    """Send this process a signal in the `count`-th commit with alerts."""
    seen = [0]
    full = [False]
    flush, commit = TransactionalSink.flush, TransactionalSink.commit

    def strike(now: str) -> None:
        if now == moment and full[0] and seen[0] == count:
            os.kill(os.getpid(), number)

    def flushing(self: Any) -> None:
        full[0] = bool(self._waiting or self._sent)
        seen[0] += full[0]
        flush(self)
        strike("flushed")

    def committing(self: Any, positions: Any) -> None:
        strike("saved")
        commit(self, positions)
        strike("committed")

    TransactionalSink.flush, TransactionalSink.commit = flushing, committing  # type: ignore[method-assign]


if __name__ == "__main__":
    broken = os.environ.pop("STREAM_DETECTOR_TEST_BREAK", "")
    if broken:
        {"fencing": no_fencing, "epoch": no_epoch, "transaction": no_transaction}[broken]()
    if at := os.environ.pop("STREAM_DETECTOR_TEST_AT", ""):
        when, nth, name = at.split(":")
        strike_at(when, int(nth), signal.Signals[name])
    sys.exit(main())
