"""Alerts, dead letters and offsets out in one Kafka transaction: exactly once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import begin_transaction, end_transaction, send_offsets
from stream_detector.adapters.kafka.leftovers import end_leftovers
from stream_detector.adapters.kafka.outgoing import TOO_LARGE, Outgoing, not_written, outgoing, send
from stream_detector.adapters.kafka.settings import REQUEST_TIMEOUT_MS, connect_producer, translated
from stream_detector.adapters.kafka.source import KafkaSource
from stream_detector.codec import encode_metadata
from stream_detector.config import Config
from stream_detector.errors import BrokerError
from stream_detector.telemetry.logs import event
from stream_detector.types import Alert, Audit, DeadLetter, Partition, Position

log = logging.getLogger(__name__)

#: Longest time a transaction may stay open before the broker aborts it. Ours last some 20 ms, longer only while the
#: store or a broker is slow.
TRANSACTION_TIMEOUT_MS = 30_000
#: So many messages are sent at once; fewer wait for the commit, so that a transaction is open (and readers of the
#: alert topic wait for its end) for no longer than the commit takes. All wait where commits are far between.
EARLY = 1_000
_LOOK_S = 0.1  # how often a flush looks whether something failed
# After a transaction the broker writes markers, and refuses the next one meanwhile: the client's 100 ms are long.
_RETRY_BACKOFF_MS = 5


class TransactionalSource(KafkaSource):
    """The source of exactly-once delivery: who takes partitions over ends transactions that dead workers left open."""

    def _prepare_takeover(self) -> None:
        end_leftovers(self._kafka, self._config.group, self.transactional_id)


class TransactionalSink:
    """`ports.Sink` on Kafka, exactly once: messages since the last commit become readable with the positions.

    Consumers must read with `isolation.level=read_committed`. The transaction carries the membership of the source's
    last assignment: the broker refuses it once the group has gone on without this worker.
    """

    def __init__(self, config: Config, source: KafkaSource, timeout_ms: int = REQUEST_TIMEOUT_MS) -> None:
        """Connect, and end what an earlier worker of this transactional id left open.

        `timeout_ms`: longest wait for each step of a commit. Raises BrokerError.
        """
        self._config = config
        self._source = source
        self._timeout_ms = timeout_ms
        # Else a transaction opened early would time out before its commit, again and again.
        self._commits_soon = config.commit_interval_ms <= TRANSACTION_TIMEOUT_MS / 3
        self._waiting: list[Outgoing] = []
        self._sent: list[tuple[Outgoing, Any]] = []
        self._size = 0  # bytes of both
        self._producer: Any = None
        self._begun = False
        self._connect()

    def write(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter], audits: Sequence[Audit] = ()) -> None:
        """Buffer for the next commit. Blocks only while much waits and the client's buffer is full.

        A broker that is away is `flush`'s to report.
        """
        written = outgoing(self._config, alerts, dead_letters, audits)
        self._size += sum(one.size for one in written)
        self._waiting += written
        if len(self._waiting) >= EARLY and self._commits_soon:
            with suppress(BrokerError):
                self._send()

    def waiting_bytes(self) -> int:
        """Return the size of what was written since the last commit."""
        return self._size

    def flush(self) -> None:
        """Return once all that was written is acknowledged, unreadable yet.

        Raises BrokerError when it can't be; then `abort`. A dead letter that its topic finds too large goes without
        its value (header `dropped-bytes`).
        """
        while self._waiting or self._sent:
            if self._waiting:
                self._send()
            failed = self._wait_for_answers()
            if not failed:
                return
            # All that is not acknowledged fails with the error of one message: it must be the largest.
            refused = [i for i in failed if isinstance(self._sent[i][1].exception, TOO_LARGE)]
            large = [i for i in refused if self._sent[i][0].can_shrink]
            if not large:
                raise not_written(self._config, *self._sent[failed[0]])
            largest = max(large, key=lambda i: self._sent[i][0].content)
            # A transaction with a refused message can only be aborted. All of it is sent again, by a new producer
            # (which ends it): this one has counted the messages the broker has not taken.
            again = [each for each, _ in self._sent]
            again[largest] = again[largest].shrunk()
            self._disconnect()
            self.abort()
            self._waiting = again
            self._size = sum(one.size for one in again)

    def _wait_for_answers(self) -> list[int]:
        """Wait until all sent messages are acknowledged or one failed; return those not acknowledged.

        The transaction is lost with its first message; the others would only time out.
        """
        deadline = time.monotonic() + 2 * self._timeout_ms / 1000
        while True:
            with suppress(kafka_errors.KafkaTimeoutError):  # the messages say it themselves
                self._producer.flush(timeout=_LOOK_S)
            missing = [i for i, (_, future) in enumerate(self._sent) if not future.succeeded()]
            failed = any(self._sent[i][1].exception is not None for i in missing)
            if not missing or failed or time.monotonic() > deadline:
                return missing

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Make the positions, and all that was flushed since the last commit, durable and readable, or none of it.

        Raises FencedError when another worker owns the partitions, BrokerError when the broker can't be asked; then
        it is in doubt whether the commit came to be until `abort` has returned.
        """
        offsets = {
            TopicPartition(*partition): OffsetAndMetadata(position.offset, encode_metadata(position), -1)
            for partition, position in positions.items()
        }
        membership = self._source.membership(positions)
        with self._asking("committing"):
            self._begin()
            send_offsets(self._producer, offsets, membership, self._timeout_ms)
            end_transaction(self._producer, commit=True, timeout_ms=self._timeout_ms)
        self._begun = False
        self._sent.clear()
        self._size = 0

    def abort(self) -> None:
        """Take back all that was written since the last commit; after it no transaction of ours is open or in doubt.

        Raises BrokerError while that can't be made sure of; call again.
        """
        self._waiting.clear()
        self._sent.clear()
        self._size = 0
        if self._producer is not None and self._begun:
            try:
                with self._asking("aborting"):
                    end_transaction(self._producer, commit=False, timeout_ms=self._timeout_ms)
                self._begun = False
            except BrokerError as error:
                log.info("a transaction is ended by a new producer: %s", error, extra=event("producer-renewed"))
                self._disconnect()
        if self._producer is None:
            self._connect()

    def close(self) -> None:
        """Abort the open transaction and close the producer."""
        if self._begun:
            with suppress(BrokerError):
                self.abort()
        self._disconnect()

    # The transaction ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Take a new producer, which ends the transaction that the last one of this id may have left."""
        self._producer = connect_producer(
            self._config.kafka,
            transactional_id=self._source.transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            linger_ms=0,  # a commit flushes anyway
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            delivery_timeout_ms=self._timeout_ms,
            request_timeout_ms=min(REQUEST_TIMEOUT_MS, self._timeout_ms),
            max_block_ms=self._timeout_ms,
        )
        self._begun = False
        try:
            with self._asking("opening transactions"):
                self._producer.init_transactions()
        except BrokerError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        self._begun = False
        if producer is not None:
            with suppress(kafka_errors.KafkaError):
                producer.close(timeout=0)

    def _begin(self) -> None:
        if self._producer is None:
            self._connect()
        if not self._begun:
            begin_transaction(self._producer)
            self._begun = True

    def _send(self) -> None:
        """Hand everything that waits to the client, in order."""
        with self._asking("writing"):
            self._begin()
        for done, one in enumerate(self._waiting):
            try:
                future = send(self._config, self._producer, one)
            except BrokerError:
                del self._waiting[:done]
                raise
            self._sent.append((one, future))
        self._waiting.clear()

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        with translated(self._config.kafka, doing):
            try:
                yield
            except AttributeError as error:  # a broker that lacks a request makes the client trip over itself
                raise kafka_errors.KafkaError(f"the broker doesn't answer as Apache Kafka does: {error}") from error
