"""`stream-detector run`: the worker."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from stream_detector import settings
from stream_detector.config import Config
from stream_detector.errors import BrokerError, BrokerLoginError, BrokerRightsError
from stream_detector.tuning import tune_gc

if TYPE_CHECKING:
    from stream_detector.pipeline import Pipeline

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger(__name__)

_RETRY_S = 1.0       # between tries while Kafka is away
_STUCK_S = 60.0      # a loop that hasn't turned for so long is reported not alive


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="the worker: read, score, judge, alert",
        description="Run a worker: a member of the set-up's consumer group. Start as many as the topics have "
        "partitions; they share the work. SIGTERM or Ctrl-C commits and ends it.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the set-up")
    parser.add_argument("--model", type=Path, metavar="ARTIFACT", help="file or folder (default: artifact)")
    parser.add_argument(
        "--create-topics", type=int, metavar="N", help="create missing topics, inputs with N partitions each"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    overrides = {"artifact": args.model.resolve()} if args.model else None
    config = settings.load(args.config, overrides=overrides)
    with ExitStack() as closing:
        turn = [time.monotonic()]
        pipeline = _assemble(config, args.create_topics, closing, turn)
        tune_gc()
        pipeline.open()
        sys.stderr.write(f"{config.stream}: worker started, reading {', '.join(e.topic for e in config.inputs)}\n")
        try:
            _loop(pipeline, stop, turn)
        finally:
            pipeline.close()
    sys.stderr.write(f"{config.stream}: worker stopped, {pipeline.windows} windows, {pipeline.alerts} alerts\n")
    return 0


def _loop(pipeline: Pipeline, stop: Event, turn: list[float]) -> None:
    away = worked = False
    while not stop.is_set():
        turn[0] = time.monotonic()
        try:
            pipeline.step()
        except BrokerLoginError:
            raise  # a secret that was replaced is read at the start only
        except BrokerError as error:
            if isinstance(error, BrokerRightsError) and not worked:
                raise
            if not away:
                log.warning("Kafka can't be reached, trying on: %s", error)
            away = True
            stop.wait(_RETRY_S)
        else:
            if away:
                log.info("Kafka is back")
            away = False
            worked = worked or pipeline.task_count > 0


def _assemble(config: Config, partitions: int | None, closing: ExitStack, turn: list[float]) -> Pipeline:
    """Wire the stages; torch and the clients are imported here, once the settings are known to be right."""
    from stream_detector.kafka_io import KafkaSource, ensure_topics, make_sink, require_rights
    from stream_detector.metrics import HealthServer, Metrics
    from stream_detector.model_set import ModelSet
    from stream_detector.pipeline import Pipeline
    from stream_detector.redis_store import RedisStore
    from stream_detector.scorer import Scorer

    models = ModelSet.load(config)
    scorer = Scorer(models, config.scorer)
    scorer.warm_up()
    store = RedisStore(config.redis, config.stream)
    closing.callback(store.close)
    if partitions is not None:
        inputs = {entry.topic: partitions for entry in config.inputs}
        ensure_topics(config.kafka, {**inputs, config.alert_topic: partitions, config.dead_letter_topic: 1})
    require_rights(config)
    store.require_rights()
    source = KafkaSource(config)
    sink = make_sink(config, source)
    metrics = Metrics()
    pipeline = Pipeline(
        config, source, sink, store, scorer, [one.calibration for one in models.artifacts], metrics,
        norms=[one.norms for one in models.artifacts],
    )  # fmt: skip
    if config.metrics.port is not None:

        def alive() -> tuple[bool, str]:
            since = time.monotonic() - turn[0]
            return since < _STUCK_S, f"the loop turned {since:.1f} s ago"

        health = HealthServer(config.metrics.host, config.metrics.port, metrics, pipeline.ready, alive)
        health.start()
        closing.callback(health.stop)
        log.info("metrics and health on http://%s:%d", health.host, health.port)
    return pipeline
