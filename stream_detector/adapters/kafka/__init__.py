"""Everything that talks to Kafka; the only package that imports the client.

client_patches  all that depends on the client's inside, and on its version
settings        connection settings of every client, and its errors in our words
login           whether brokers let this client in: certificates, passwords, tokens; asked once
renewal         certificates and passwords as their files are now
oauth           tokens for SASL/OAUTHBEARER
access          whether this user has the rights of a worker
topics          partition counts, creation, end offsets
source          the input topics as a group member (ports.Source)
assignor        which worker gets which task: sticky, topics together
turns           partitions far behind take turns with those that are not
sink            alerts, dead letters, commits (ports.Sink): at least once
transactional   source and sink in transactions: exactly once
outgoing        alerts and dead letters as messages: what both sinks write
leftovers       transactions of dead workers, ended
probe           whether a broker keeps what exactly-once needs
reader          follow a topic without a group: monitor, demo, verification
writer          send messages to a topic: producers
"""

from stream_detector.adapters.kafka.access import require_rights
from stream_detector.adapters.kafka.probe import require_transactions
from stream_detector.adapters.kafka.reader import AlertReader, AlertRecord, TopicReader, read_to_end
from stream_detector.adapters.kafka.renewal import renewable
from stream_detector.adapters.kafka.requeue import Requeuer
from stream_detector.adapters.kafka.settings import client_settings
from stream_detector.adapters.kafka.sink import KafkaSink
from stream_detector.adapters.kafka.source import KafkaSource
from stream_detector.adapters.kafka.topics import (
    end_offsets,
    ensure_topics,
    first_offsets,
    partition_counts,
    require_all_topics,
)
from stream_detector.adapters.kafka.transactional import TransactionalSink, TransactionalSource
from stream_detector.adapters.kafka.writer import MessageWriter
from stream_detector.config import Config

__all__ = [
    "AlertReader",
    "AlertRecord",
    "KafkaSink",
    "KafkaSource",
    "MessageWriter",
    "Requeuer",
    "TopicReader",
    "TransactionalSink",
    "TransactionalSource",
    "client_settings",
    "end_offsets",
    "ensure_topics",
    "first_offsets",
    "make_sink",
    "make_source",
    "partition_counts",
    "read_to_end",
    "renewable",
    "require_all_topics",
    "require_rights",
    "require_transactions",
]


def make_source(config: Config) -> KafkaSource:
    """Return the source of the delivery that the set-up asks for; nothing connects before it is opened."""
    return KafkaSource(config) if config.delivery == "at_least_once" else TransactionalSource(config)


def make_sink(config: Config, source: KafkaSource, probe: bool = True) -> KafkaSink | TransactionalSink:
    """Return the sink of the delivery that the set-up asks for.

    Exactly-once: raises ConfigError on a broker that doesn't keep the promise (`probe`: that is tried). Raises
    BrokerError.
    """
    if config.delivery == "at_least_once":
        return KafkaSink(config, source)
    if probe:
        require_transactions(config)
    return TransactionalSink(config, source)
