"""Fuzzed messages and verdicts past a worker on a real broker: none ends it, each has one fate."""

from __future__ import annotations

import subprocess
import time

import pytest

from stream_detector.adapters.kafka import MessageWriter, ensure_topics
from stream_detector.types import DEAD_LETTER_CODES, PlainMessage
from tests.fuzz import START_MS, fuzzed_readings, fuzzed_verdicts, untouched
from tests.integration.site import until

pytestmark = pytest.mark.slow

READINGS, VERDICTS = 6_000, 2_000  # and three that our client doesn't write


class NotText(str):
    """A header's name that is written as Latin-1."""

    def encode(self, *_):
        """Return bytes that are no UTF-8."""
        return super().encode("latin-1")


def write_null_header(server, topic):
    """Write a message with a header whose value is null, as Java's clients can."""
    options = ["--bootstrap-server", f"127.0.0.1:{server.port}", "--topic", topic]
    for option in ("parse.key=true", "parse.headers=true", "null.marker=NULL"):
        options += ["--reader-property", option]
    line = "n:NULL\tk\t?\n"
    done = subprocess.run(
        server._java("org.apache.kafka.tools.ConsoleProducer", *options),
        input=line,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize("servers", ["kafka+redis"], indirect=True)
def test_fuzzed_messages_and_verdicts(make_site, kafka_server):
    """Readings + verdicts + dead letters = messages; dead letters are the messages, byte for byte, headers included."""
    site = make_site(partitions=1, delivery="exactly_once")
    topic, verdicts = site.topic, site.config.verdict_topic
    ensure_topics(site.config.kafka, {verdicts: 1})
    sent = {topic: fuzzed_readings(READINGS, seed=21), verdicts: fuzzed_verdicts(VERDICTS, seed=22)}
    later = int(time.time() * 1_000) - START_MS  # the broker deletes what is years old
    with MessageWriter(site.config.kafka) as writer:
        for name, messages in sent.items():
            for one in messages:
                # the client sends nothing with neither key nor value
                value = b"" if one.key is None and one.value is None else one.value
                headers = [(header, content or b"") for header, content in one.headers]
                writer.send(name, one.key, value, headers, timestamp_ms=one.timestamp + later, partition=0)
        for name in sent:  # what no client of ours would write, and Kafka takes
            writer.send(name, b"k", b"?", [(NotText("not utf-8 \xff"), b"x")], partition=0)
            sent[name].append(PlainMessage(len(sent[name]), START_MS, b"k", b"?", [("not utf-8 \\xff", b"x")]))
    write_null_header(kafka_server, topic)
    sent[topic].append(PlainMessage(len(sent[topic]), START_MS, b"k", b"?", [("n", b"")]))
    worker = site.worker()
    until(site.processed, "readings are processed", alive=worker)
    until(lambda: worker.metric("messages_total", topic=verdicts) == VERDICTS + 1, "verdicts are read", alive=worker)
    letters = site.dead_letters()
    fates = set()
    for letter in letters:
        headers = dict(list(letter.headers)[-5:])
        name, offset = headers["topic"].decode(), int(headers["offset"])
        assert (name, offset) not in fates
        fates.add((name, offset))
        original = sent[name][offset]
        if original.key is None and original.value is None:
            original = original._replace(value=b"")
        original = original._replace(headers=[(key, value or b"") for key, value in original.headers])
        assert [] == untouched(letter, original)
        assert headers["error"].decode() in DEAD_LETTER_CODES
    used = worker.metric("readings_total") + worker.metric("verdicts_total")
    assert READINGS + VERDICTS + 3 == used + len(letters)
    assert len(letters) == worker.metric("dead_letters_total")
    assert 0 == worker.stop(), worker.said()
