"""`stream-detector run`: the worker."""

from __future__ import annotations

import argparse
import logging
from threading import Event
from typing import TYPE_CHECKING

from stream_detector.cli.options import add_artifact, add_config
from stream_detector.telemetry.logs import Output

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger(__name__)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a worker: read, score, judge, alert",
        description="Run a worker: a member of the set-up's consumer group. Start up to one per partition; "
        "workers share the partitions. On SIGTERM or Ctrl-C the worker commits and ends.",
    )
    add_config(parser)
    add_artifact(parser)
    parser.add_argument(
        "--create-topics", type=int, metavar="N", help="create missing topics, inputs with N partitions each"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    from stream_detector.cli.stopping import stopping

    with stopping() as stop:
        return _run(args, stop)


def _run(args: argparse.Namespace, stop: Event) -> int:
    from stream_detector.config import loading as settings
    from stream_detector.telemetry.metrics import require_port
    from stream_detector.worker.gc_settings import tune_gc

    overrides = {"artifact": args.artifact.resolve()} if args.artifact else None
    config = settings.load(args.config, overrides=overrides)
    if config.metrics.port is not None:
        require_port(config.metrics.host, config.metrics.port)
    from stream_detector.api.worker import Worker  # torch comes with it: only once the settings are right

    output: Output = args.output
    output.bind(stream=config.stream)
    with Worker.from_config(config, create_topics=args.create_topics, stop=stop) as worker:
        tune_gc()
        worker.open()
        topics = ", ".join(entry.topic for entry in config.inputs)
        output.say(log, f"{config.stream}: worker started, reading {topics}", "worker-started", topics=topics)
        worker.run(stop)
    done = {"windows": worker.windows, "alerts": worker.alerts}
    text = f"{config.stream}: worker stopped, {worker.windows} windows, {worker.alerts} alerts"
    output.say(log, text, "worker-stopped", **done)
    return 0
