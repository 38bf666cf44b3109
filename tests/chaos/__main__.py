"""Workers under a seeded schedule of faults, judged by `verify`: `make chaos ARGS='--seed 1 --minutes 2'`.

Apache Kafka and Redis are started, recordings simulated, a detector trained. The recordings are replayed to a topic
while workers read it and a schedule of faults goes on; when all is written and processed, the verifier compares. Prints
one JSON object and exits with 1 when something is missing, repeated, unexpected or different.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.output import write
from producers.simulate import simulate
from stream_detector.embedded import free_port
from tests.chaos import verify
from tests.chaos.cluster import start_brokers
from tests.chaos.faults import FAULTS, Target
from tests.integration.site import DETECTOR, Program, Site, call, write_config
from tests.servers import RedisServer, kafka_jars

SESSION_MS = 4_000
#: Many alerts: hardly a moment at which a fault could strike without one being on its way.
_TALKATIVE: dict[str, Any] = {
    "threshold": {"method": "spot", "risk": 1e-2},
    "incident": {"open_after": 1, "open_of": 1, "close_after": 1},
}
_FAULTS_OF_FIVE = ("bearing-outer", "overheating", "sensor-stuck/current", "bearing-inner", "sensor-offset/temperature")


@dataclass
class ChaosSite(Site):
    """A site whose workers can be broken (tests/chaos/worker.py)."""

    broken: str = ""

    def worker(self, at: str = "") -> Program:
        """Start a worker, which may kill itself at some moment."""
        port = free_port()
        env = {"STREAM_DETECTOR__METRICS__PORT": str(port), "STREAM_DETECTOR_TEST_BREAK": self.broken}
        env["STREAM_DETECTOR_TEST_AT"] = at
        words = ("--log-level", "info", "run", self.config_path)
        return self._start("worker", env, "tests.chaos.worker", *words, port=port)


def recorded(folder: Path, assets: int, minutes: float, seed: int) -> list[Path]:
    """Return files of simulated machines, one reading a second; three of four have a fault in their later half."""
    chance = random.Random(seed)
    faults = []
    for index in range(1, assets + 1):
        if index % 4:
            kind, at = chance.choice(_FAULTS_OF_FIVE), int(chance.uniform(0.45, 0.8) * minutes)
            faults.append(f"machine-{index}={kind}@{at}m+{max(3, int(minutes / 6))}m:0.9")
    recordings = simulate(assets, minutes / 60, seed=seed, faults=", ".join(faults))
    files = [path for path in write(recordings, folder / "recordings") if path.suffix == ".csv"]
    for path in files:
        _shake(path, chance)
    return files


def _shake(path: Path, chance: random.Random) -> None:
    """Add knocks of some seconds to the last three fifths of a recording: an alert or two each."""
    header, *lines = path.read_text().splitlines()
    column = header.split(",").index("vibration")
    row = int(0.4 * len(lines))
    while (row := row + int(chance.uniform(15, 60))) < len(lines) - 10:
        for index in range(row, row + chance.randrange(4, 9)):
            cells = lines[index].split(",")
            cells[column] = repr(float(cells[column]) * 8 + 1)
            lines[index] = ",".join(cells)
    path.write_text("\n".join([header, *lines, ""]))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule and the recordings (default: 1)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults (default: 2)")
    parser.add_argument("--faults", type=int, help="stop after so many faults, however long they take")
    parser.add_argument("--workers", type=int, default=3, help="default: 3")
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3], help="default: 1")
    parser.add_argument("--partitions", type=int, default=12, help="of the input topic (default: 12)")
    parser.add_argument("--assets", type=int, default=24, help="default: 24")
    parser.add_argument("--recorded-minutes", type=float, default=60.0, help="of every asset (default: 60)")
    parser.add_argument("--break", dest="broken", choices=["fencing", "epoch", "transaction"], default="",
                        help="switch a promise off: the verifier has to find it")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave everything there")
    args = parser.parse_args()
    started = time.monotonic()
    with ExitStack() as closing:
        folder = args.keep or Path(closing.enter_context(tempfile.TemporaryDirectory()))
        result = run(args, folder, closing)
    result["seconds"] = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps(result) + "\n")
    return int(any(result[name] for name in ("missing", "repeated", "unexpected", "state_differences", "undecided")))


def run(args: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, Any]:
    """Set everything up, let the faults loose, and return what the verifier says."""
    brokers = start_brokers(folder, kafka_jars(), args.brokers, closing)
    redis = RedisServer(folder / "redis", {"appendonly": "yes", "appendfsync": "everysec"})
    redis.start()
    closing.callback(redis.kill)
    files = recorded(folder, args.assets, args.recorded_minutes, args.seed)
    artifact = folder / "machine.safetensors"
    train = write_config(folder / "train.yaml", "training", artifact, {}, "redis://127.0.0.1:1/0", **_TALKATIVE)
    call(DETECTOR, "train", train, "--data", *files, "--rows", int(args.recorded_minutes * 24), "--quiet")
    wanted = verify.expected(train, files)
    say(f"{len(files)} machines, {len(wanted[0])} alerts wanted")

    kafka = {
        "bootstrap_servers": [f"127.0.0.1:{broker.port}" for broker in brokers],
        "session_timeout_ms": SESSION_MS,
        "max_poll_records": 200,
    }
    path = write_config(
        folder / "site.yaml", "chaos", artifact, kafka, redis.url, delivery="exactly_once", commit_interval_ms=200,
        **_TALKATIVE,
    )  # fmt: skip
    site = ChaosSite(path, folder, args.partitions, True, broken=args.broken)
    closing.callback(site.close)
    target = Target(brokers, redis, site.config.group, site.topic, SESSION_MS / 1_000, site.worker)
    target.workers = [site.worker() for _ in range(args.workers)]
    speed = args.recorded_minutes / max(args.minutes, 0.1)
    replay = site.replay(files, f"{speed:g}")
    counts = loose(target, random.Random(args.seed), args.minutes * 60, args.faults)
    say("no more faults; waiting for the rest")
    died = settle(target, site, replay)
    found = verify.verify(path, wanted)
    return {
        "faults_injected": sum(counts.values()), "by_kind": dict(sorted(counts.items())), **found,
        "alerts": len(wanted[0]), "readings": site_size(site), "workers_died": died, "seed": args.seed,
        "break": args.broken or None,
    }  # fmt: skip


def loose(target: Target, chance: random.Random, seconds: float, most: int | None) -> Counter[str]:
    """Inject faults one after the other; return how many of each kind."""
    counts: Counter[str] = Counter()
    kinds, weights = list(FAULTS), list(FAULTS.values())
    until = time.monotonic() + seconds
    time.sleep(6)  # workers start
    while (sum(counts.values()) < most) if most is not None else (time.monotonic() < until):
        target.revive()
        fault = chance.choices(kinds, weights)[0]
        say(fault.__name__)
        fault(target, chance)
        counts[fault.__name__] += 1
        time.sleep(chance.uniform(0.2, 2.5))
    return counts


def settle(target: Target, site: Site, replay: Program) -> int:
    """Wait until all is written and processed, stop the workers; return how many had ended on their own."""
    deadline = time.monotonic() + 600
    died = 0
    read = (-1, 0)
    while replay.process.poll() is None or read[0] != read[1]:
        if time.monotonic() > deadline:
            say(f"not finished: {read[0]} of {read[1]} messages are committed; the workers said:")
            for worker in target.workers:
                say(worker.said()[-3_000:])
            break
        died += target.revive()
        time.sleep(1)
        read = verify.progress(target.bootstrap, target.group, target.topic)
    if replay.process.returncode != 0:
        say(f"the replay ended with {replay.process.returncode}: {replay.said()[-1_000:]}")
    for worker in target.workers:
        worker.stop()
    return died


def site_size(site: Site) -> int:
    """Return how many messages lie on the input topic."""
    return sum(site.ends().values())


def say(text: str) -> None:
    """Tell on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
