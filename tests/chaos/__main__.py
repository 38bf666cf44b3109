"""Workers under a seeded schedule of faults, judged by `verify`: `make chaos ARGS='--seed 1'`.

Apache Kafka and Redis are started, machines recorded, a detector trained. The recordings go onto a topic while workers
read it and one fault follows another; when all is written and processed, the verifier compares. Prints one JSON object
and exits with 1 when something is missing, repeated, unexpected or different, or when it came to no end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.chaos import verify
from tests.chaos.cluster import start_brokers
from tests.chaos.faults import FAULTS
from tests.chaos.feed import Feed, messages, write_messages
from tests.chaos.material import make_material
from tests.chaos.schedule import deal
from tests.chaos.target import ChaosSite, Target
from tests.integration.site import write_config
from tests.servers import RedisServer, kafka_jars

#: What has to be 0 for a run to be fine.
WRONG = (
    "missing",
    "repeated",
    "unexpected",
    "audits_missing",
    "audits_repeated",
    "audits_unexpected",
    "state_differences",
    "undecided",
    "dead_letter_differences",
    "input_differences",
    "unfinished",
)
_SHORT = {"faults": 20, "assets": 24, "recorded_minutes": 60.0, "session_ms": 4_000}
_LONG = {"faults": 200, "assets": 300, "recorded_minutes": 60.0, "session_ms": 5_000}
_USUAL_S = 5.0  # a fault takes about so long: paces the readings
_TRIES = 3  # of a fault that came to nothing: a worker had no alert to commit, no broker answered
_SETTLE_S = 900.0
_PACE_S = 0.1  # between polls, of topics that are written before


def main() -> int:
    """Run it."""
    args = parse()
    started = time.monotonic()
    with ExitStack() as closing:
        folder = args.keep or Path(closing.enter_context(tempfile.TemporaryDirectory()))
        result = run(args, folder, closing)
    result["seconds"] = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps(result) + "\n")
    return int(any(result[name] for name in WRONG))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the recordings (default: 1)")
    parser.add_argument("--short", action="store_true", help="20 faults on 24 assets, as in CI")
    parser.add_argument("--faults", type=int, help="at least so many (default: 200; with --minutes: 0)")
    parser.add_argument("--minutes", type=float, help="of faults, at least (default: as long as they take)")
    parser.add_argument("--workers", type=int, default=3, help="default: 3")
    parser.add_argument("--brokers", type=int, default=3, choices=[1, 3], help="default: 3")
    parser.add_argument("--partitions", type=int, default=12, help="of the input topic (default: 12)")
    parser.add_argument("--assets", type=int, help="default: 300; each sends a reading a second")
    parser.add_argument("--topics", type=int, default=1, choices=[1, 2], help="joined input topics (default: 1)")
    parser.add_argument("--records", action="store_true", help="every reading is a record, judged for itself")
    parser.add_argument("--recorded-minutes", type=float, help="of every asset (default: 60)")
    parser.add_argument("--session-ms", type=int, help="session timeout of the workers (default: 5000)")
    parser.add_argument(
        "--break",
        dest="broken",
        choices=["fencing", "epoch", "transaction"],
        default="",
        help="switch a promise off: the verifier has to find it",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave everything there")
    args = parser.parse_args(arguments)
    for name, value in (_SHORT if args.short else _LONG).items():
        if getattr(args, name) is None:
            setattr(args, name, 0 if name == "faults" and args.minutes else value)
    args.minutes = args.minutes or 0.0
    return args


def run(args: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, Any]:
    """Set everything up, let the faults loose, and return what the verifier says."""
    brokers = start_brokers(folder, kafka_jars(), args.brokers, closing)
    redis = RedisServer(folder / "redis", {"appendonly": "yes", "appendfsync": "everysec"})
    redis.start()
    closing.callback(redis.kill)
    material = make_material(
        folder, args.assets, args.recorded_minutes, args.seed, args.records, joined=args.topics > 1
    )
    topics = ["chaos.readings", "chaos.slow"][: args.topics]
    if args.topics == 1:
        lines = write_messages(material.recordings, args.partitions, folder / "messages")
        wanted = verify.expected(material.config, lines, messages=True)
    else:  # all channels of a reading together, as the topics are joined
        wanted = verify.expected(material.config, material.files)
        wanted.dead_letters.extend(
            ("not-json", sent.value.decode())
            for sent in messages(material.recordings, topics, args.partitions)
            if sent.value.startswith(b"broken")
        )
    happened = summary(wanted)
    say(f"{len(material.files)} machines; wanted: {json.dumps(happened)}")

    rate = sum(map(len, material.recordings)) / max(args.faults * _USUAL_S, args.minutes * 60)
    kafka = {
        "bootstrap_servers": [f"127.0.0.1:{broker.port}" for broker in brokers],
        "session_timeout_ms": args.session_ms,
        "max_poll_records": 500 if args.topics == 1 else max(10, round(rate * 2 * _PACE_S / args.workers)),
        "inputs": [{"topic": topic, "max_message_bytes": 100_000} for topic in topics],
    }
    path = write_config(
        folder / "site.yaml",
        "chaos",
        material.artifact,
        kafka,
        redis.url,
        delivery="exactly_once",
        commit_interval_ms=200,
        alert_delay_ms=200,
        **material.sections,
    )
    site = ChaosSite(
        path,
        folder,
        args.partitions,
        True,
        broken=args.broken,
        chance=random.Random(args.seed + 1),
        pace=str(_PACE_S) if args.topics > 1 else "",
    )
    closing.callback(site.close)
    target = Target(brokers, redis, site, args.session_ms / 1_000)
    feed = Feed(target.bootstrap, topics, args.partitions, material.recordings, rate)
    closing.callback(feed.close)
    say(f"{feed.total} messages to come, up to {rate:.0f} readings a second")
    if args.topics > 1:  # which of two topics was ahead while it was read live, no log tells
        feed.rate = 1e9
        feed.allow(1.0)
        while not feed.done:
            time.sleep(0.2)
    target.workers = [site.worker(slot) for slot in range(args.workers)]
    began = time.monotonic()
    counts, ended = loose(target, feed, random.Random(args.seed), args)
    faults_s = time.monotonic() - began
    say("no more faults; waiting for the rest")
    unfinished = settle(target, feed, ended)
    found = verify.verify(path, wanted)
    return {
        "faults_injected": sum(counts.values()),
        "by_kind": dict(sorted(counts.items())),
        **found,
        "dead_letter_differences": verify.dead_letter_differences(path, wanted.dead_letters),
        "input_differences": verify.input_differences(
            path, {partition: digest.hexdigest() for partition, digest in feed.digests.items()}
        ),
        "unfinished": unfinished,
        "messages": feed.sent,
        **happened,
        "workers_ended": ended[0],
        "faults_seconds": round(faults_s, 1),
        "workers": args.workers,
        "brokers": args.brokers,
        "partitions": args.partitions,
        "assets": args.assets,
        "session_ms": args.session_ms,
        "seed": args.seed,
        "topics": args.topics,
        "records": args.records,
        "break": args.broken or None,
    }


def summary(wanted: verify.Wanted) -> dict[str, Any]:
    """Return what an undisturbed run tells, counted: that all that should happen does."""
    alerts = [json.loads(alert) for alert in wanted.alerts]
    causes = [json.loads(audit)["cause"] for audit in wanted.audits]
    counted = {
        "alerts_by_event": Counter(alert["event"] for alert in alerts),
        "alerts_by_kind": Counter(alert["kind"] for alert in alerts),
        "sensor_faults": Counter(alert["sensor"]["fault"] for alert in alerts if "sensor" in alert),
        "audits_by_cause": Counter(causes),
        "dead_letters_by_reason": Counter(reason for reason, _ in wanted.dead_letters),
    }
    return {"alerts": len(alerts), "audits": len(causes)} | {
        name: dict(sorted(counts.items())) for name, counts in counted.items()
    }


def loose(
    target: Target, feed: Feed, chance: random.Random, args: argparse.Namespace
) -> tuple[Counter[str], list[int]]:
    """Inject faults one after the other; return how many of each kind struck, and of workers that ended by themselves.

    Readings come in step with them, so that none strikes a site at rest.
    """
    counts: Counter[str] = Counter()
    ended = [0]
    began = time.monotonic()
    feed.allow(0.01)
    await_start(target)
    for fault in deal(FAULTS, chance):
        done, elapsed = sum(counts.values()), time.monotonic() - began
        if done >= args.faults and elapsed >= args.minutes * 60:
            break
        feed.allow(min((done + 1) / max(args.faults, 1), (elapsed + _USUAL_S) / max(args.minutes * 60, 1e-9)))
        revive(target, ended)
        struck = any(fault(target, chance) for _ in range(_TRIES))
        counts[fault.__name__] += struck
        say(f"{done + struck:4} {fault.__name__}{'' if struck else ' came to nothing'}, {feed.sent} messages sent")
        time.sleep(chance.uniform(0.2, 2.0))
    feed.allow(1.0)
    return +counts, ended


def await_start(target: Target, timeout_s: float = 60.0) -> None:
    """Wait until every worker has been seen at work, so that the first fault finds something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if all(worker.metric("assigned_partitions") for worker in target.workers):
            return
        time.sleep(0.2)


def revive(target: Target, ended: list[int]) -> None:
    """Start workers anew that ended by themselves, and tell what they said."""
    for worker in target.revive():
        ended[0] += 1
        say(f"{worker.log.name} ended with {worker.process.returncode}: {worker.said()[-300:]}")


def settle(target: Target, feed: Feed, ended: list[int]) -> int:
    """Wait until all is written, processed and saved, and stop the workers; return 1 when that comes to no end."""
    deadline = time.monotonic() + _SETTLE_S
    unfinished = 0
    while not (feed.done and verify.settled(target.site.config_path)):
        if time.monotonic() > deadline:
            unfinished = 1
            say(f"not finished, {feed.sent} messages sent, {verify.progress(target.site.config_path)}; workers said:")
            for worker in target.workers:
                say(worker.said()[-3_000:])
            break
        revive(target, ended)
        time.sleep(1)
    if feed.failure is not None:
        say(f"the readings could not all be written: {feed.failure}")
    for worker in target.workers:
        worker.stop()
    return unfinished


def say(text: str) -> None:
    """Tell on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
