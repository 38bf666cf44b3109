"""Dead letters sent again, each noted on the dead-letter topic so that it isn't sent twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import begin_transaction, end_transaction, track_topic
from stream_detector.adapters.kafka.settings import connect_producer, plain, servers, translated
from stream_detector.adapters.kafka.topics import require_topics
from stream_detector.codec.letters import Letter, requeued_header
from stream_detector.config import Config
from stream_detector.errors import BrokerError, FencedError

_TIMEOUT_MS = 30_000


class Requeuer:
    """Sends the messages of dead letters to their topics again.

    With `delivery: exactly_once`, message and note are one transaction: a command that is killed sends nothing twice,
    and of two at the same time the earlier one fails. Connect before the dead letters are read: what an earlier command
    has committed is then there to be read. At least once, the note follows the message: a kill between them lets the
    next command send up to one part (`send`) again.
    """

    def __init__(self, config: Config) -> None:
        """Connect, and end what an earlier command left open. Raises BrokerError, ConfigError."""
        self._config = config
        self._exact = config.delivery == "exactly_once"
        self._topics: set[str] = set()
        self._counts: dict[str, int] = {}
        # Not `<group>#<worker>`: workers end transactions of such ids whose owners have left the group.
        exact: dict[str, Any] = {"transactional_id": f"{config.group}#requeue#0"} if self._exact else {}
        self._producer = connect_producer(
            config.kafka,
            client_id="stream-detector-requeue",
            linger_ms=5,
            delivery_timeout_ms=_TIMEOUT_MS,
            max_block_ms=_TIMEOUT_MS,
            **exact,
        )
        if self._exact:
            try:
                with self._asking("opening transactions"):
                    self._producer.init_transactions()
            except BaseException:
                self._producer.close(timeout=0)
                raise

    def send(self, letters: Iterable[Letter]) -> None:
        """Send some letters' messages, unchanged, to where they came from, and note each.

        To the same partition, or by its key where the topic has no such partition now. Returns once all is durable.
        Raises BrokerError: nothing of it was sent (exactly once), or some of it (at least once).
        """
        letters = list(letters)
        if missing := [letter.source.topic for letter in letters if letter.source.topic not in self._counts]:
            self._counts |= require_topics(self._config.kafka, sorted(set(missing)))
        if self._exact:
            with self._asking("beginning a transaction"):
                begin_transaction(self._producer)
        try:
            self._write([self._again(letter) for letter in letters])
            self._write([self._note(letter) for letter in letters])
        except BrokerError:
            if self._exact:
                with suppress(BrokerError):  # what is not committed never comes to be
                    self._end(commit=False)
            raise
        if self._exact:
            self._end(commit=True)

    def close(self) -> None:
        """Let go of the connection; a transaction that is open never comes to be."""
        self._producer.close(timeout=1)

    def __enter__(self) -> Requeuer:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _again(self, letter: Letter) -> dict[str, Any]:
        source, original = letter.source, letter.original
        partition = source.index if source.index < self._counts[source.topic] else None
        headers = [(name, b"" if value is None else value) for name, value in original.headers]
        return {
            "topic": source.topic, "partition": partition, "key": original.key, "value": original.value,
            "headers": headers,
        }  # fmt: skip

    def _note(self, letter: Letter) -> dict[str, Any]:
        topic = self._config.dead_letter_topic
        headers = [requeued_header(letter)]
        return {"topic": topic, "partition": letter.partition, "key": None, "value": b"", "headers": headers}

    def _write(self, messages: list[dict[str, Any]]) -> None:
        futures = []
        for message in messages:
            topic = message["topic"]
            with self._asking(f"writing to {topic}"):
                if topic not in self._topics:
                    track_topic(self._producer, topic)
                    self._topics.add(topic)
                futures.append((topic, self._producer.send(**message)))
        with self._asking("writing"):
            self._producer.flush(timeout=_TIMEOUT_MS / 1_000)
        for topic, future in futures:
            if not future.succeeded():
                error = future.exception
                with self._asking(f"writing to {topic}"):
                    if isinstance(error, kafka_errors.KafkaError):
                        raise error
                why = plain(error) if error is not None else "no answer in time"
                raise BrokerError(f"Kafka at {servers(self._config.kafka)}: writing to {topic} failed: {why}")

    def _end(self, commit: bool) -> None:
        with self._asking("committing" if commit else "aborting"):
            end_transaction(self._producer, commit=commit, timeout_ms=_TIMEOUT_MS)

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        try:
            with translated(self._config.kafka, doing):
                yield
        except FencedError as error:
            raise BrokerError(f"{doing}: another `dead-letters requeue` of this set-up has begun since") from error
