"""Everything that talks to Kafka; the only package that imports the client.

    settings  connection settings of every client, and its errors in our words
    topics    partition counts, creation, end offsets
    source    the input topics as a group member (ports.Source)
    sink      alerts, dead letters, commits (ports.Sink)
    reader    follow a topic without a group: monitor, demo, verification
    writer    send messages to a topic: producers
"""

from stream_detector.kafka_io.reader import AlertReader, AlertRecord, TopicReader
from stream_detector.kafka_io.settings import client_settings
from stream_detector.kafka_io.sink import KafkaSink
from stream_detector.kafka_io.source import KafkaSource
from stream_detector.kafka_io.topics import end_offsets, ensure_topics, partition_counts
from stream_detector.kafka_io.writer import MessageWriter

__all__ = [
    "AlertReader",
    "AlertRecord",
    "KafkaSink",
    "KafkaSource",
    "MessageWriter",
    "TopicReader",
    "client_settings",
    "end_offsets",
    "ensure_topics",
    "partition_counts",
]
