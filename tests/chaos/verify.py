"""Whether a run kept the promise: what lies on Kafka and in Redis against what `backtest` says should lie there.

    python -m tests.chaos.verify CONFIG FILE…

Prints one JSON object: `missing`, `repeated` and `unexpected` alerts (as a `read_committed` consumer sees them), the
same of the audit topic's entries (`audits_missing`, …), `state_differences` (assets whose state in Redis is not the one
after an undisturbed run), `undecided` (partitions whose end a transaction still holds back). Exits with 1 when one of
them isn't 0. FILEs are recordings, or, with --messages, the values of the input topic's messages, a partition a file.

It shares no code with the worker: it talks to the servers through their clients and starts `stream-detector backtest`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped] # it ships no types
import redis
import yaml
from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

ROOT = Path(__file__).parents[2]


class Wanted(NamedTuple):
    """What an undisturbed run leaves."""

    alerts: list[bytes]
    audits: list[bytes]
    dead_letters: list[tuple[str, str]]
    """Reason and value, what is no text in it replaced."""
    states: dict[str, Any]
    """By asset."""


def expected(config: Path, files: Iterable[Path], messages: bool = False) -> Wanted:
    """Return what an undisturbed run over recordings leaves; `messages`: over messages' values, a partition a file."""
    with tempfile.TemporaryDirectory() as folder:
        states, audit, dead = (Path(folder) / name for name in ("states", "audit", "dead"))
        command = [
            sys.executable,
            "-m",
            "stream_detector",
            "backtest",
            str(config),
            "--json",
            "--quiet",
            "--states",
            str(states),
            "--audit",
            str(audit),
            "--dead-letters",
            str(dead),
            "--messages" if messages else "--data",
            *map(str, files),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=1_800)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        kept = map(json.loads, states.read_text().splitlines())
        letters = map(json.loads, dead.read_text().splitlines())
        return Wanted(
            done.stdout.splitlines(),
            audit.read_bytes().splitlines(),
            [(letter["error"], letter["value"]) for letter in letters],
            {line["asset"]: fields_of(bytes.fromhex(line["state"])) for line in kept},
        )


def consumer(bootstrap: list[str], **settings: Any) -> Any:
    """Return a consumer without a group."""
    return KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100, **settings)


def read_all(bootstrap: list[str], topic: str, patience_s: float = 60.0) -> tuple[list[Any], int]:
    """Return the messages a `read_committed` consumer sees, and how many partitions are held back for all that time."""
    plain, committed = consumer(bootstrap), consumer(bootstrap, isolation_level="read_committed")
    try:
        partitions = [TopicPartition(topic, index) for index in sorted(committed.partitions_for_topic(topic) or [])]
        deadline = time.monotonic() + patience_s
        while True:
            ends, stable = plain.end_offsets(partitions), committed.end_offsets(partitions)
            undecided = sum(ends[partition] != stable[partition] for partition in partitions)
            if not undecided or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        committed.assign(partitions)
        committed.seek_to_beginning(*partitions)
        seen: list[Any] = []
        quiet = 0
        while quiet < 5:  # the last offsets are the transactions' marks, which are never delivered
            found = committed.poll(timeout_ms=300)
            seen += [record for records in found.values() for record in records]
            behind = any(committed.position(partition) < stable[partition] for partition in partitions)
            quiet = 0 if found else 5 if not behind else quiet + 1
        return seen, undecided
    finally:
        plain.close()
        committed.close()


class Progress(NamedTuple):
    """How far a group is, in messages of its input topic."""

    read: int
    """Committed as read to Kafka."""
    saved: int
    """Judged by the states in Redis: fewer than `read` while a worker catches up in silence."""
    written: int


def progress(config: Path) -> Progress:
    """Return how far the workers of a set-up are."""
    settings = yaml.safe_load(config.read_text())
    topics = [entry["topic"] for entry in settings["kafka"]["inputs"]]
    asking = consumer(
        settings["kafka"]["bootstrap_servers"], group_id=settings["kafka"]["group"], isolation_level="read_committed"
    )
    try:
        partitions = [
            TopicPartition(topic, index)
            for topic in topics
            for index in sorted(asking.partitions_for_topic(topic) or [])
        ]
        read = 0
        for partition in partitions:
            found = asking.committed(partition, metadata=True, timeout_ms=60_000)
            read += int(found.metadata.split(":")[1]) if found is not None else 0
        written = sum(asking.end_offsets(partitions).values())
    finally:
        asking.close(autocommit=False)
    client = redis.Redis.from_url(settings["redis"]["url"])
    base = f"{settings['redis']['prefix']}:{{{settings['stream']}}}"
    saved = 0
    for task in client.smembers(f"{base}:tasks"):
        positions = client.hget(f"{base}:task:{task.decode()}", "positions")
        saved += sum(entry[3] for entry in msgpack.unpackb(positions)[1]) if positions else 0
    client.close()
    return Progress(read, saved, written)


def settled(config: Path) -> bool:
    """Whether all that is written is committed and its states saved; False while the servers can't be asked."""
    try:
        read, saved, written = progress(config)
    except (kafka_errors.KafkaError, redis.RedisError):
        return False
    return read == saved == written > 0


def dead_letter_differences(config: Path, wanted: list[tuple[str, str]]) -> int:
    """Return how many dead letters are missing, and how many are there that should not be or not so often.

    Reason and value count; the detail names offsets and times, which are those of the topic.
    """
    settings = yaml.safe_load(config.read_text())["kafka"]
    letters, undecided = read_all(settings["bootstrap_servers"], settings["dead_letter_topic"])
    should = Counter(wanted)
    has = Counter(
        (dict(letter.headers)["error"].decode(), letter.value.decode("utf-8", "replace")) for letter in letters
    )
    return (should - has).total() + (has - should).total() + undecided


def input_differences(config: Path, wanted: dict[tuple[str, int], str]) -> int:
    """Return how many partitions of the input topics don't hold what was sent.

    `wanted`: by topic and partition, the SHA-256 of the values in their order.
    """
    settings = yaml.safe_load(config.read_text())
    reading = consumer(settings["kafka"]["bootstrap_servers"])
    try:
        partitions = [TopicPartition(topic, index) for topic, index in wanted]
        ends = reading.end_offsets(partitions)
        reading.assign(partitions)
        reading.seek_to_beginning(*partitions)
        digests = {partition: hashlib.sha256() for partition in partitions}
        while any(reading.position(partition) < ends[partition] for partition in partitions):
            for partition, records in reading.poll(timeout_ms=1_000, max_records=10_000).items():
                for record in records:
                    digests[partition].update(record.value)
        return sum(digests[partition].hexdigest() != wanted[partition] for partition in partitions)
    finally:
        reading.close()


def states(url: str, prefix: str, stream: str) -> dict[str, Any]:
    """Return by asset the fields of the newest state in Redis."""
    client = redis.Redis.from_url(url)
    base = f"{prefix}:{{{stream}}}"
    found = {}
    for task in client.smembers(f"{base}:tasks"):
        for asset, version in client.hgetall(f"{base}:task:{task.decode()}:new").items():
            fields = fields_of(version.partition(b":")[2])
            name = asset.decode()
            found[name] = fields if name not in found else ["two tasks hold it", found[name], fields]
    client.close()
    return found


def fields_of(state: bytes) -> list[Any]:
    """Return a state's fields less its epoch, which counts commits: they differ from run to run."""
    schema, _, *fields = msgpack.unpackb(state)
    return [schema, *fields]


def compare(
    wanted: Wanted, alerts: list[bytes], audits: list[bytes], kept: dict[str, Any], undecided: int = 0
) -> dict[str, int]:
    """Return what differs, counted. Alerts and entries are compared byte by byte, for none has a wall clock's time."""
    known = set(wanted.states) | set(kept)
    return {
        **_counted(wanted.alerts, alerts),
        **{f"audits_{name}": count for name, count in _counted(wanted.audits, audits).items()},
        "state_differences": sum(wanted.states.get(asset) != kept.get(asset) for asset in known),
        "undecided": undecided,
    }


def _counted(wanted: list[bytes], found: list[bytes]) -> dict[str, int]:
    should, has = Counter(wanted), Counter(found)
    return {
        "missing": (should - has).total(),
        "repeated": sum(max(count - should[value], 0) for value, count in has.items() if value in should),
        "unexpected": sum(count for value, count in has.items() if value not in should),
    }


def verify(config: Path, wanted: Wanted) -> dict[str, int]:
    """Compare what the servers of a set-up hold with what should be there."""
    settings = yaml.safe_load(config.read_text())
    kafka, store, stream = settings["kafka"], settings["redis"], settings["stream"]
    alerts, undecided = read_all(kafka["bootstrap_servers"], kafka.get("alert_topic", f"{stream}.alerts"))
    audits, more = read_all(kafka["bootstrap_servers"], kafka.get("audit_topic", f"{stream}.audit"))
    return compare(
        wanted,
        [one.value for one in alerts],
        [one.value for one in audits],
        states(store["url"], store.get("prefix", "stream-detector"), stream),
        undecided + more,
    )


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--messages", action="store_true", help="the files hold the values of messages")
    args = parser.parse_args()
    found = verify(args.config, expected(args.config, args.files, args.messages))
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
