"""People's verdicts, from their topic to the store: beside the pipeline, never in its way.

One step: poll, decode and limit, send what is refused to the dead-letter topic, keep what is accepted, commit. What is
kept is named by its alert and its place on the topic, so that keeping it again changes nothing; a step that fails is
taken back and made again from the committed position. Accepted + dead letters = messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stream_detector.config import Config, InputConfig
from stream_detector.feedback.verdicts import FeedbackLimiter
from stream_detector.ports import Sink, Source, StateStore
from stream_detector.telemetry.metrics import Metrics
from stream_detector.types import DeadLetter, Partition, RecordedVerdict

_MOST_MESSAGES = 500


def verdict_config(config: Config) -> Config:
    """Return the set-up that reads the verdict topic: a group and transactional ids of its own."""
    kafka = config.kafka.model_copy(
        update={
            "group": f"{config.group}#verdicts",
            "inputs": [InputConfig(topic=config.verdict_topic)],
            "alert_topic": config.alert_topic,
            "dead_letter_topic": config.dead_letter_topic,
            "start_from": "earliest",
            "instance_id": None,
            "rebalance": "eager",  # each step commits, so a commit must be possible whenever something was read
        }
    )
    return config.model_copy(update={"kafka": kafka})


class VerdictStage:
    """Reads verdicts as a member of their group; a `ports.RebalanceListener`. One thread calls everything."""

    def __init__(self, config: Config, source: Source, sink: Sink, store: StateStore, metrics: Metrics) -> None:
        """`source` and `sink`: of `verdict_config(config)`."""
        self._config, self._topic = config.verdicts, config.verdict_topic
        self._source, self._sink, self._store, self._metrics = source, sink, store, metrics
        self._desks: dict[Partition, FeedbackLimiter] = {}
        self._undone = False  # a step was not committed: it has to be taken back

    def open(self) -> None:
        """Join the group; partitions arrive during steps."""
        self._source.open(self)

    def step(self, timeout_ms: int = 500) -> bool:
        """Take one poll from the topic to the store; return whether it brought any message.

        Raises BrokerError or StoreError when it could not be committed: it is taken back, step again.
        """
        if self._undone:
            self._sink.abort()
            self._take_over(list(self._desks))
            self._undone = False
        batches = self._source.poll(timeout_ms, _MOST_MESSAGES)
        accepted: list[RecordedVerdict] = []
        refused: list[DeadLetter] = []
        messages = 0
        for batch in batches:
            if desk := self._desks.get(batch.partition):
                taken, dead = desk.take(batch)
                accepted += taken
                refused += dead
                messages += len(taken) + len(dead)
        if any(desk.moved for desk in self._desks.values()):
            self._undone = True  # until all of it is committed
            self._keep(accepted, refused)
            self._undone = False
            self._count(accepted, refused, messages)
        return bool(batches)

    def close(self) -> None:
        """Leave the group. Everything taken was committed, or is taken again by the next member."""
        try:
            self._source.close()
        finally:
            self._sink.close()

    def _keep(self, accepted: list[RecordedVerdict], refused: list[DeadLetter]) -> None:
        moved = [desk for desk in self._desks.values() if desk.moved]
        if refused:
            self._sink.write((), refused)
        self._sink.flush()
        if accepted:
            self._store.record_verdicts(accepted, self._config.keep)
        self._sink.commit({desk.partition: desk.position() for desk in moved})
        for desk in moved:
            desk.committed()

    def _count(self, accepted: list[RecordedVerdict], refused: list[DeadLetter], messages: int) -> None:
        for kind, count in Counter(one.verdict for one in accepted).items():
            self._metrics.verdicts_total.labels(kind).inc(count)
        for code, count in Counter(letter.code for letter in refused).items():
            self._metrics.dead_letters_total.labels(code).inc(count)
        self._metrics.messages_total.labels(self._topic).inc(messages)

    def _take_over(self, partitions: list[Partition]) -> None:
        committed = self._source.committed(partitions)
        for partition in partitions:
            desk = self._desks[partition] = FeedbackLimiter(self._config, partition, committed.get(partition))
            self._source.seek(partition, desk.start)

    # Partitions come and go -----------------------------------------------------------------------------------------

    def on_assigned(self, partitions: Iterable[Partition]) -> None:
        """Read on from what is committed."""
        self._take_over(list(partitions))

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """Let go: every step commits, and what a failed one left is the next owner's."""
        self.on_lost(partitions)

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """Let go; what is not committed is taken back in the next step."""
        for partition in partitions:
            self._desks.pop(partition, None)
