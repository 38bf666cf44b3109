"""`stream-detector demo`: simulate or take a recording, train, replay through a broker, alert, sum up."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.cli import data, processes
from stream_detector.cli.options import add_json, add_renamed, at_least_1
from stream_detector.cli.printing import print_json
from stream_detector.errors import ConfigError, DetectorError

if TYPE_CHECKING:
    from rich.console import Console

    from stream_detector.adapters.kafka import AlertReader
    from stream_detector.config import Config
    from stream_detector.datasets.ground_truth import Interval
    from stream_detector.datasets.recording import Recording
    from stream_detector.types import Alert

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PARTITIONS = 4
TRAINED = 0.4  # share of a simulated recording that is trained on: the simulator's faults come later


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="run everything on this machine: data, training, replay, alerts, a summary",
        description="Simulate machines with faults (or take a recording), train a detector on the healthy beginning, "
        "replay everything through a broker to a worker, and show alerts as they arrive. Starts its own broker and "
        "Redis-compatible server, unless --bootstrap-servers and --redis name yours.",
    )
    parser.add_argument(
        "--bootstrap-servers",
        metavar="HOST:PORT,…",
        help="use these brokers (topics demo-….readings and others)",
    )
    add_renamed(parser, "--kafka", "--bootstrap-servers")
    parser.add_argument("--redis", metavar="URL", help="use this Redis")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a recording instead of simulated machines")
    parser.add_argument("--format", metavar="FORMAT", help="format of --data, as for train")
    parser.add_argument(
        "--config", type=Path, metavar="CONFIG",
        help="set-up (default: configs/machine.yaml; with --data configs/FORMAT.yaml, if it exists)",
    )  # fmt: skip
    parser.add_argument(
        "--train-rows", type=at_least_1, default=400, metavar="N", help="rows of each file to train on (default: 400)"
    )
    parser.add_argument("--machines", type=at_least_1, default=4, help="number of simulated machines (default: 4)")
    parser.add_argument("--hours", type=float, default=2.0, help="number of simulated hours (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default: 0)")
    parser.add_argument("--speed", type=_speed, default="max", help="60 is one minute per second (default: max)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="save the recording and the model in DIR")
    parser.add_argument("--headless", action="store_true", help="plain lines, no colours")
    add_json(parser, "print the summary as one JSON object, as the last line")
    parser.set_defaults(run=run)


def _speed(text: str) -> str:
    """Check it here, before anything starts, and leave it to the replay as it is."""
    try:
        right = text == "max" or 0 < float(text) < float("inf")
    except ValueError:
        right = False
    if not right:
        raise argparse.ArgumentTypeError(f"expected a number above 0 or max, got {text!r}")
    return text


@dataclass(frozen=True)
class _Plan:
    """The replayed recordings, the training data and the ground truth."""

    config_path: Path
    files: list[Path]
    format: str
    recordings: list[Recording]
    history: list[Recording]
    truth: list[Interval]
    out: Path


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status: 0 when the replay was processed to its end."""
    from rich.console import Console

    from stream_detector.adapters.embedded.servers import free_port
    from stream_detector.config import loading as settings

    started = time.monotonic()
    # Ended from outside, servers and processes started here must end too: SystemExit unwinds, the signal would not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(force_terminal=False if args.headless else None, no_color=args.headless or None, highlight=False)
    with ExitStack() as exits:
        plan = _plan(args, exits)
        rows = sum(map(len, plan.recordings))
        console.print(f"1/4  {len(plan.recordings)} recordings, {rows} readings", style="bold")
        environment = processes.servers(args.bootstrap_servers, args.redis, exits)
        environment["STREAM_DETECTOR__STREAM"] = f"demo-{os.getpid()}-{int(time.time())}"
        environment["STREAM_DETECTOR__ARTIFACT"] = str(plan.out / "model")
        environment["STREAM_DETECTOR__METRICS__PORT"] = str(free_port())
        config = settings.load(plan.config_path, env={**os.environ, **environment})
        processes.create(config, PARTITIONS)
        _train(plan, config, console)
        alerts, counts = _replay(args, plan, config, environment=environment, exits=exits, console=console)
        summary = _summary(plan, config, alerts, counts)
    summary["seconds"] = round(time.monotonic() - started, 1)
    _print(summary, plan, console, as_json=args.json)
    return 0


def _plan(args: argparse.Namespace, exits: ExitStack) -> _Plan:
    from stream_detector.datasets import format_names, read
    from stream_detector.datasets.ground_truth import Interval, runs
    from stream_detector.datasets.output import write
    from stream_detector.simulation.simulate import simulate

    if args.data is not None and args.format is None:
        raise ConfigError(f"--data needs --format; expected one of {', '.join(format_names())}")
    out = args.out or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="stream-detector-demo-")))
    out = out.resolve()
    default = CONFIGS / ("machine.yaml" if args.data is None else f"{args.format}.yaml")
    config_path = args.config or default
    if not config_path.exists():
        raise ConfigError(f"there is no {config_path}; give --config")
    if args.data is not None:
        recordings = read([args.data], args.format)
        history = [recording.head(args.train_rows) for recording in recordings]
        truth = [
            interval
            for recording in recordings
            if recording.labels is not None
            for interval in runs(recording.asset, recording.ts_ms, recording.labels)
        ]
        return _Plan(config_path, [args.data], args.format, recordings, history, truth, out)
    recordings = simulate(args.machines, args.hours, args.seed)
    files = [path for path in write(recordings, out / "recording") if path.suffix == ".csv"]
    history = [recording.head(int(len(recording) * TRAINED)) for recording in recordings]
    truth = [
        Interval(recording.asset, fault.start_ms, fault.end_ms, fault.name)
        for recording in recordings
        for fault in recording.faults
    ]
    return _Plan(config_path, files, "csv", recordings, history, truth, out)


def _train(plan: _Plan, config: Config, console: Console) -> None:
    from stream_detector.artifacts.model_set import save_all
    from stream_detector.evaluate.offline import windows
    from stream_detector.training.train import train_many

    rows = sum(map(len, plan.history))
    trained = train_many(config, windows(config, data.encoded(plan.history)))
    save_all(trained, plan.out / "model")
    console.print(f"2/4  {len(trained)} detectors trained, one an asset, on the first {rows} readings", style="bold")


def _replay(
    args: argparse.Namespace,
    plan: _Plan,
    config: Config,
    *,
    environment: dict[str, str],
    exits: ExitStack,
    console: Console,
) -> tuple[list[Alert], dict[str, int]]:
    """Start a worker and a replay as processes of their own; show alerts until all is processed.

    Returns the alerts, and what the worker itself counted.
    """
    from stream_detector.adapters.kafka import AlertReader

    env = {**os.environ, **environment}
    path = str(plan.config_path)
    producer = ["producers", "replay", *map(str, plan.files), "--format", plan.format, "--config", path]
    sent = processes.Child([*producer, "--speed", args.speed, "--quiet"], env, exits)
    worker = processes.Child(["stream_detector", "--log-level", "warning", "run", path], env, exits)
    console.print("3/4  replaying; alerts as they come:", style="bold")
    alerts: list[Alert] = []
    reader = exits.enter_context(AlertReader(config, from_beginning=True))
    sent_to: dict[int, int] | None = None
    while True:
        _show(reader, alerts, console)
        if worker.ended():
            raise DetectorError(f"the worker ended early with status {worker.process.returncode}")
        if sent_to is None and sent.ended():
            if sent.process.returncode:
                raise DetectorError(f"the replay ended with status {sent.process.returncode}")
            sent_to = processes.ends(config)
        if sent_to is not None and processes.processed(config, sent_to):
            break
    counts = _counts(config)
    worker.stop()
    for _ in range(3):  # the last alerts may still be on their way
        _show(reader, alerts, console)
    return alerts, counts


def _counts(config: Config) -> dict[str, int]:
    """Return the sums of the worker's counters by name."""
    from urllib.request import urlopen

    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(f"http://{config.metrics.host}:{config.metrics.port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples if sample.name.endswith("_total")}
    return {name: int(sum(sample.value for sample in samples if sample.name == name)) for name in names}


def _show(reader: AlertReader, alerts: list[Alert], console: Console) -> None:
    from stream_detector.cli.show import alert_line
    from stream_detector.codec import decode_alert

    for record in reader.read(timeout_ms=200):
        alerts.append(decode_alert(record.value))
        style = {"info": "", "warning": "yellow", "critical": "red"}[alerts[-1].severity]
        console.print(alert_line(record.value), style=style, markup=False, soft_wrap=True)


def _summary(plan: _Plan, config: Config, alerts: list[Alert], counts: dict[str, int]) -> dict[str, float | int]:
    from stream_detector.adapters.kafka import end_offsets
    from stream_detector.datasets.ground_truth import incidents, tally

    last = {recording.asset: float(recording.ts_ms.max()) for recording in plan.recordings}
    # a recording that has ended is no silent machine
    alerts = [alert for alert in alerts if alert.sensor is None or alert.start_ms < last.get(alert.asset, math.inf)]
    found = tally(incidents(alerts), plan.truth, config.window.length * config.window.cell_ms)
    dead = sum(end_offsets(config.kafka, [config.dead_letter_topic]).values())
    days = sum(recording.end_ms - recording.start_ms for recording in plan.recordings) / 86_400_000
    return {
        "readings": counts["stream_detector_readings_total"],
        "windows": counts["stream_detector_windows_total"],
        "alerts": len(alerts),
        "incidents": len(found.incidents),
        "faults": len(found.faults),
        "faults_detected": len(found.detected),
        "false_incidents": len(found.false),
        "assets": len(plan.recordings),
        "machine_days": round(days, 3),
        "dead_letters": dead,
    }


def _print(summary: dict[str, float | int], plan: _Plan, console: Console, as_json: bool) -> None:
    caught = f"{summary['faults_detected']} of {summary['faults']} faults detected"
    console.print(f"4/4  {caught}, {summary['false_incidents']} false incidents", style="bold")
    console.print(
        f"      {summary['readings']} readings of {summary['assets']} assets, {summary['windows']} windows, "
        f"{summary['alerts']} alerts, {summary['dead_letters']} dead letters, {summary['seconds']} s",
        soft_wrap=True,
    )
    if as_json:
        print_json(summary, indent=None)
