"""Whether a run kept the promise: what lies on Kafka and in Redis against what `backtest` says should lie there.

    python -m tests.chaos.verify CONFIG FILE…

Prints one JSON object: `missing`, `repeated` and `unexpected` alerts (as a `read_committed` consumer sees them),
`state_differences` (assets whose state in Redis is not the one after an undisturbed run), `undecided` (partitions whose
end a transaction still holds back). Exits with 1 when one of them isn't 0.

It shares no code with the worker: it talks to the servers through their clients and starts `stream-detector backtest`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped] # it ships no types
import redis
import yaml
from kafka import KafkaConsumer, TopicPartition

ROOT = Path(__file__).parents[2]


def expected(config: Path, files: Iterable[Path]) -> tuple[list[bytes], dict[str, Any]]:
    """Return the alerts and the states by asset of an undisturbed run over the files."""
    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder) / "states"
        command = [
            sys.executable, "-m", "stream_detector", "backtest", str(config), "--json", "--quiet",
            "--states", str(states), "--data", *map(str, files),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=600)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        lines = map(json.loads, states.read_text().splitlines())
        return done.stdout.splitlines(), {line["asset"]: fields_of(bytes.fromhex(line["state"])) for line in lines}


def consumer(bootstrap: list[str], **settings: Any) -> Any:
    """Return a consumer without a group."""
    return KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100, **settings)


def read_all(bootstrap: list[str], topic: str, patience_s: float = 60.0) -> tuple[list[bytes], int]:
    """Return the values a `read_committed` consumer sees, and how many partitions are held back for all that time."""
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
        values: list[bytes] = []
        quiet = 0
        while quiet < 5:  # the last offsets are the transactions' marks, which are never delivered
            found = committed.poll(timeout_ms=300)
            values += [record.value for records in found.values() for record in records]
            behind = any(committed.position(partition) < stable[partition] for partition in partitions)
            quiet = 0 if found else 5 if not behind else quiet + 1
        return values, undecided
    finally:
        plain.close()
        committed.close()


def progress(bootstrap: list[str], group: str, topic: str) -> tuple[int, int]:
    """Return how many messages of a topic the group has committed as read, and how many there are."""
    asking = consumer(bootstrap, group_id=group, isolation_level="read_committed")
    try:
        partitions = [TopicPartition(topic, index) for index in sorted(asking.partitions_for_topic(topic) or [])]
        read = 0
        for partition in partitions:
            found = asking.committed(partition, metadata=True, timeout_ms=60_000)
            read += int(found.metadata.split(":")[1]) if found is not None else 0
        return read, sum(asking.end_offsets(partitions).values())
    finally:
        asking.close(autocommit=False)


def states(url: str, prefix: str, stream: str) -> dict[str, Any]:
    """Return by asset the fields of the newest state in Redis."""
    client = redis.Redis.from_url(url)
    base = f"{prefix}:{{{stream}}}"
    found = {}
    for task in client.smembers(f"{base}:tasks"):
        for asset, version in client.hgetall(f"{base}:task:{task.decode()}:new").items():
            assert asset.decode() not in found, f"two tasks hold {asset.decode()}"
            found[asset.decode()] = fields_of(version.partition(b":")[2])
    client.close()
    return found


def fields_of(state: bytes) -> list[Any]:
    """Return a state's fields less its epoch, which counts commits: they differ from run to run."""
    schema, _, *fields = msgpack.unpackb(state)
    return [schema, *fields]


def compare(
    wanted: tuple[list[bytes], dict[str, Any]], alerts: list[bytes], kept: dict[str, Any], undecided: int = 0
) -> dict[str, int]:
    """Return what differs, counted."""
    should, has = Counter(wanted[0]), Counter(alerts)
    known = set(wanted[1]) | set(kept)
    return {
        "missing": sum(1 for value in should if value not in has),
        "repeated": sum(count - 1 for count in has.values()),
        "unexpected": sum(1 for value in has if value not in should),
        "state_differences": sum(wanted[1].get(asset) != kept.get(asset) for asset in known),
        "undecided": undecided,
    }


def verify(config: Path, wanted: tuple[list[bytes], dict[str, Any]]) -> dict[str, int]:
    """Compare what the servers of a set-up hold with what should be there."""
    settings = yaml.safe_load(config.read_text())
    kafka, store, stream = settings["kafka"], settings["redis"], settings["stream"]
    alerts, undecided = read_all(kafka["bootstrap_servers"], kafka.get("alert_topic", f"{stream}.alerts"))
    return compare(wanted, alerts, states(store["url"], store.get("prefix", "stream-detector"), stream), undecided)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args()
    found = verify(args.config, expected(args.config, args.files))
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
