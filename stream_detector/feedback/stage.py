"""People's verdicts, from their topic to the store: independent of the pipeline.

One step: poll, decode and limit, send refused messages to the dead-letter topic, store accepted verdicts, commit. A
stored verdict's key is its alert and its topic, partition and offset, so storing it again is idempotent; a failed step
is aborted and repeated from the committed position. Accepted + dead letters = messages.
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
        self._undone = False  # a step was not committed and has to be aborted

    def open(self) -> None:
        """Join the group; partitions arrive during steps."""
        self._source.open(self)

    def step(self, timeout_ms: int = 500) -> bool:
        """Process one poll's messages into the store; return whether there were any.

        Raises BrokerError or StoreError when the step could not be committed; the next call aborts and repeats it.
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
        """Leave the group. Messages not committed are processed again by the partition's next owner."""
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
        """Continue from the committed positions."""
        self._take_over(list(partitions))

    def on_revoked(self, partitions: Iterable[Partition]) -> None:
        """Drop the partitions: every step commits, and the next owner repeats a failed one."""
        self.on_lost(partitions)

    def on_lost(self, partitions: Iterable[Partition]) -> None:
        """Drop the partitions; the next step aborts what is not committed."""
        for partition in partitions:
            self._desks.pop(partition, None)
