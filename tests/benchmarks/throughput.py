"""What the whole loop costs beside a bare poll of the same topic: messages per second, from poll to alert.

    python -m tests.benchmarks.throughput --json [--stride 16] [--against COMMIT]

200 assets, 3 channels, one reading per message; windows of 64 cells, one every `--stride` cells (1: a window for each
reading); a dense autoencoder; SPOT; states in the store, alerts and offsets committed every second. Both loops run in
this process, in turn, several pairs; the figures are medians, `ratio` and `ratio_tuned` medians of the pairs' ratios.
`pipeline_per_s` counts from the first message polled to the last commit. The pipeline runs with the garbage collector
tuned as a worker tunes it. The bare loop runs as Python comes (`ratio` is against this one) and with the same
collector settings as the pipeline (`ratio_tuned`).

`--against COMMIT` measures that commit's package too: its tree is checked out into a temporary folder, and a process
of its own runs its loops on the same topic, broker and store, one pair after each pair of this tree. `gain` is the
median over these rounds of `ratio_tuned` divided by `against_ratio_tuned`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, Embedded
from stream_detector.adapters.kafka import KafkaSource, MessageWriter, ensure_topics, make_sink
from stream_detector.adapters.redis import RedisStore
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from stream_detector.worker.gc_settings import tune_gc
from stream_detector.worker.pipeline import Pipeline

ASSETS, PARTITIONS = 200, 4
CHANNELS = ("vibration", "temperature", "current")
HISTORY = 400  # readings of each asset to train on

#: Runs in the tree of another commit, in a process of its own: trains once, then measures a pair for each line read.
#: It uses only what `tests/benchmarks/throughput.py` had before this option; settings override those of `config_for`.
AGAINST = """
import json, sys
from pathlib import Path
from tests.benchmarks import throughput as bench
kafka, redis, artifact, session_ms, topic, count, history, more = json.loads(sys.stdin.readline())
config = bench.config_for(kafka, redis, Path(artifact), session_ms, **more)
bench.train(config, bench.windows(config, bench.readings(bench.ASSETS * history))).save(Path(artifact))
print("ready", flush=True)
for _ in sys.stdin:
    raw = bench.raw_poll(kafka, topic, count, config.kafka.max_poll_records)
    with bench.tuned():
        whole, scored = bench.pipeline(config, topic, count)
        raw_tuned = bench.raw_poll(kafka, topic, count, config.kafka.max_poll_records)
    print(json.dumps([raw, whole, raw_tuned, scored]), flush=True)
"""


class Pair(NamedTuple):
    """Messages per second of the loops, run one after the other, and the windows that the pipeline scored."""

    raw: float
    whole: float
    raw_tuned: float
    windows: int

    @property
    def ratio(self) -> float:
        """Of the pipeline to the bare loop as Python comes."""
        return self.whole / self.raw

    @property
    def ratio_tuned(self) -> float:
        """Of the pipeline to the bare loop with the same collector settings."""
        return self.whole / self.raw_tuned


def readings(count: int, seed: int = 7) -> Iterator[Encoded]:
    """Yield readings of all assets in turn, one a second each."""
    rng = np.random.default_rng(seed)
    names = [f"asset-{index}" for index in range(ASSETS)]
    values = np.round(rng.normal([0.5, 70, 9], [0.05, 1, 0.4], (count, 3)), 4).tolist()
    for index, row in enumerate(values):
        name = names[index % ASSETS]
        ts = 1_700_000_000_000 + index // ASSETS * 1000
        value = orjson.dumps({"asset": name, "ts": ts, "values": dict(zip(CHANNELS, row, strict=True))})
        yield Encoded(name.encode(), value, [])


def config_for(kafka: str, redis: str, artifact: Path, session_ms: int, **more: object) -> Config:
    """Return the set-up measured; a stream of its own each time."""
    return Config.model_validate(
        {
            "stream": f"bench-{uuid.uuid4().hex[:8]}",
            "channels": {name: {} for name in CHANNELS},
            "window": {"cell_ms": 1000, "length": 64, "stride": 16},
            "model": {"kind": "ae", "hidden": [64], "latent": 8},
            "train": {"epochs": 5},
            "artifact": artifact,
            "kafka": {"bootstrap_servers": kafka.split(","), "session_timeout_ms": session_ms},
            "redis": {"url": redis},
            **more,
        }
    )


def raw_poll(bootstrap: str, topic: str, count: int, max_poll_records: int) -> float:
    """Return messages a second of a loop that polls and does nothing else."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=max_poll_records,
    )
    consumer.assign([TopicPartition(topic, index) for index in range(PARTITIONS)])
    consumer.seek_to_beginning()
    seen, started = 0, None
    while seen < count:
        for records in consumer.poll(timeout_ms=1000).values():
            started = started or time.perf_counter()
            seen += len(records)
    elapsed = time.perf_counter() - (started or 0.0)
    consumer.close()
    return count / elapsed


def pipeline(config: Config, topic: str, count: int) -> tuple[float, int]:
    """Return messages a second of the whole loop, and how many windows it scored."""
    entry = config.inputs[0].model_copy(update={"topic": topic})
    kafka = config.kafka.model_copy(update={"inputs": [entry]})
    config = config.model_copy(update={"kafka": kafka, "stream": f"bench-{uuid.uuid4().hex[:8]}"})
    ensure_topics(config.kafka, {config.alert_topic: 1, config.dead_letter_topic: 1, config.audit_topic: 1})
    models = ModelSet.load(config)
    scorer = Scorer(models, config.scorer)
    scorer.warm_up()
    store = RedisStore(config.redis, config.stream)
    source = KafkaSource(config)
    sink = make_sink(config, source)
    loop = Pipeline(
        config,
        source,
        sink,
        store,
        scorer,
        calibrations=[one.calibration for one in models.artifacts],
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
    )
    loop.open()
    while loop.task_count < PARTITIONS:
        loop.step(100)
    started = time.perf_counter()
    seen = loop.messages
    while loop.messages < count:
        loop.step(100)
    loop.commit()
    elapsed = time.perf_counter() - started
    scored = loop.windows
    loop.close()
    store.close()
    return (count - seen) / elapsed, scored


@contextmanager
def tuned() -> Iterator[None]:
    """Tune the collector as a worker does, and put it back after."""
    before = gc.get_threshold()
    tune_gc()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def measured(config: Config, kafka: str, topic: str, count: int) -> Pair:
    """Run the loops once each."""
    raw = raw_poll(kafka, topic, count, config.kafka.max_poll_records)
    with tuned():
        whole, scored = pipeline(config, topic, count)
        raw_tuned = raw_poll(kafka, topic, count, config.kafka.max_poll_records)
    return Pair(raw, whole, raw_tuned, scored)


class Against:
    """The loops of another commit, in a process of its own; idle but for `pair`. A context manager."""

    def __init__(self, commit: str, folder: Path) -> None:
        """Check the commit out into `folder`. Raises CalledProcessError when git doesn't know it."""
        self._tree = folder / "tree"
        self._script = folder / "against.py"
        self._script.write_text(AGAINST)
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(self._tree), commit], check=True)
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(self._script)],
                cwd=self._tree,
                env={**os.environ, "PYTHONPATH": str(self._tree)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except BaseException:
            self._remove()
            raise

    def start(self, *settings: object) -> None:
        """Let it train its own artifact; return once it has."""
        self._ask(json.dumps(settings))

    def pair(self) -> Pair:
        """Run its loops once each."""
        return Pair(*json.loads(self._ask("pair")))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the other commit's process ended with status {self._process.wait()}")
        return answer

    def _remove(self) -> None:
        subprocess.run(["git", "worktree", "remove", "--force", str(self._tree)], check=True)

    def __enter__(self) -> Against:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process and remove its tree."""
        self._process.kill()
        self._process.communicate()
        self._remove()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--messages", type=int, default=200_000, help="on the topic (default: 200000)")
    parser.add_argument("--pairs", type=int, default=5, help="of both loops (default: 5)")
    parser.add_argument("--stride", type=int, default=16, help="cells from window to window, 1 to 64 (default: 16)")
    parser.add_argument("--against", metavar="COMMIT", help="measure this commit's package too, in turn")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker to use instead of the embedded one")
    parser.add_argument("--redis", metavar="URL", help="a store to use instead of the embedded one")
    parser.add_argument(
        "--delivery",
        choices=["at_least_once", "exactly_once"],
        default="at_least_once",
        help="of the pipeline; exactly_once needs --kafka",
    )
    parser.add_argument("--commit-interval-ms", type=float, default=1_000.0, help="of the pipeline (default: 1000)")
    args = parser.parse_args()
    more = {
        "window": {"cell_ms": 1000, "length": 64, "stride": args.stride},
        "delivery": args.delivery,
        "commit_interval_ms": args.commit_interval_ms,
    }
    with ExitStack() as closing:
        kafka, redis, session = args.kafka, args.redis, 10_000
        if kafka is None or redis is None:
            embedded = closing.enter_context(Embedded())
            session = session if kafka else SESSION_TIMEOUT_MS
            kafka, redis = kafka or embedded.bootstrap_servers, redis or embedded.redis_url
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        config = config_for(str(kafka), str(redis), folder / "model.safetensors", session, **more)
        train(config, windows(config, readings(ASSETS * HISTORY))).save(folder / "model.safetensors")
        topic = config.inputs[0].topic
        ensure_topics(config.kafka, {topic: PARTITIONS})
        with MessageWriter(config.kafka) as writer:
            for message in readings(args.messages):
                writer.send(topic, message.key, message.value, message.headers)
        other = None
        if args.against:
            other = closing.enter_context(Against(args.against, folder))
            artifact = str(folder / "against.safetensors")
            other.start(str(kafka), str(redis), artifact, session, topic, args.messages, HISTORY, more)
        pairs, others = [], []
        for _ in range(args.pairs):
            pairs.append(measured(config, str(kafka), topic, args.messages))
            tell("", pairs[-1])
            if other is not None:
                others.append(other.pair())
                tell(f"{args.against}: ", others[-1])
    result: dict[str, object] = {
        "raw_poll_per_s": round(statistics.median(pair.raw for pair in pairs)),
        "pipeline_per_s": round(statistics.median(pair.whole for pair in pairs)),
        "ratio": round(statistics.median(pair.ratio for pair in pairs), 3),
        "raw_tuned_per_s": round(statistics.median(pair.raw_tuned for pair in pairs)),
        "ratio_tuned": round(statistics.median(pair.ratio_tuned for pair in pairs), 3),
        "ratios": [round(pair.ratio, 3) for pair in pairs],
        "ratios_tuned": [round(pair.ratio_tuned, 3) for pair in pairs],
        "stride": args.stride,
        "delivery": args.delivery,
        "messages": args.messages,
        "windows": pairs[-1].windows,
    }
    if others:
        gains = [one.ratio_tuned / two.ratio_tuned for one, two in zip(pairs, others, strict=True)]
        result |= {
            "against": args.against,
            "against_pipeline_per_s": round(statistics.median(pair.whole for pair in others)),
            "against_ratio_tuned": round(statistics.median(pair.ratio_tuned for pair in others), 3),
            "against_ratios_tuned": [round(pair.ratio_tuned, 3) for pair in others],
            "gain": round(statistics.median(gains), 3),
        }
    sys.stdout.write(json.dumps(result) + "\n" if args.json else f"{result}\n")
    return 0


def tell(whose: str, pair: Pair) -> None:
    """Write one pair's figures to stderr, as they come."""
    sys.stderr.write(
        f"{whose}raw {pair.raw:,.0f}/s, tuned {pair.raw_tuned:,.0f}/s, pipeline {pair.whole:,.0f}/s, "
        f"ratio {pair.ratio:.3f}, tuned {pair.ratio_tuned:.3f}, {pair.windows} windows\n"
    )


if __name__ == "__main__":
    sys.exit(main())
