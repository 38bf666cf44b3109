"""`stream-detector run`: the worker."""

from __future__ import annotations

import argparse
import logging
import signal
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from stream_detector.cli.starting import Start
from stream_detector.cli.verdict_worker import VerdictWorker
from stream_detector.config import Config
from stream_detector.config import loading as settings
from stream_detector.errors import BrokerError, BrokerLoginError, BrokerRightsError, FencedError
from stream_detector.telemetry.logs import Output, event
from stream_detector.worker.gc_settings import tune_gc
from stream_detector.worker.health import Health

if TYPE_CHECKING:
    from stream_detector.adapters.kafka import KafkaSink, TransactionalSink
    from stream_detector.worker.pipeline import Pipeline

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger(__name__)

_RETRY_S = 1.0  # between tries while Kafka is away


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a worker: read, score, judge, alert",
        description="Run a worker: a member of the set-up's consumer group. Start up to one per partition; "
        "workers share the partitions. On SIGTERM or Ctrl-C the worker commits and ends.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the set-up")
    parser.add_argument(
        "--model", type=Path, metavar="ARTIFACT", help="trained detector, a file or folder (default: the set-up's)"
    )
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
    output: Output = args.output
    output.bind(stream=config.stream)
    with ExitStack() as closing:
        health = Health()
        start = Start(config.kafka.start_timeout_ms, health, stop)
        pipeline = _assemble(config, args.create_topics, closing, health, start)
        tune_gc()
        start.reach(pipeline.open)
        topics = ", ".join(entry.topic for entry in config.inputs)
        output.say(log, f"{config.stream}: worker started, reading {topics}", "worker-started", topics=topics)
        try:
            _loop(pipeline, stop, health)
        finally:
            pipeline.close()
    done = {"windows": pipeline.windows, "alerts": pipeline.alerts}
    text = f"{config.stream}: worker stopped, {pipeline.windows} windows, {pipeline.alerts} alerts"
    output.say(log, text, "worker-stopped", **done)
    return 0


def _loop(pipeline: Pipeline, stop: Event, health: Health) -> None:
    away = worked = False
    while not stop.is_set():
        health.turning()
        try:
            pipeline.step()
        except BrokerLoginError:
            raise  # a secret that was replaced is read at the start only
        except FencedError as error:  # the pipeline has let its tasks go, and takes them over anew
            log.warning("another worker has taken over: %s", error, extra=event("fenced"))
        except BrokerError as error:
            if isinstance(error, BrokerRightsError) and not worked:
                raise
            if not away:
                log.warning("Kafka can't be reached, trying on: %s", error, extra=event("broker-away"))
            away = True
            health.kafka(error)
            stop.wait(_RETRY_S)
        else:
            if away:
                log.info("Kafka is back", extra=event("broker-back"))
            away = False
            worked = worked or pipeline.task_count > 0
            health.kafka(None)


def _assemble(
    config: Config, partitions: int | None, closing: ExitStack, health: Health, start: Start | None = None
) -> Pipeline:
    """Wire the stages; torch and the clients are imported here, once the settings are known to be right."""
    from stream_detector.adapters.kafka import ensure_topics, make_sink, make_source, require_all_topics, require_rights
    from stream_detector.adapters.redis import RedisStore
    from stream_detector.artifacts.model_set import ModelSet
    from stream_detector.scoring.scorer import Scorer
    from stream_detector.telemetry.metrics import HealthServer, Metrics
    from stream_detector.worker.pipeline import Pipeline

    models = ModelSet.load(config)
    scorer = Scorer(models, config.scorer)
    scorer.warm_up()
    store = RedisStore(config.redis, config.stream)
    closing.callback(store.close)
    metrics = Metrics()
    metrics.ready.set_function(lambda: float(health.ready()[0]))
    if config.metrics.port is not None:
        server = HealthServer(config.metrics.host, config.metrics.port, metrics, health.ready, health.alive)
        server.start()
        closing.callback(server.stop)
        where = {"host": server.host, "port": server.port}
        log.info("metrics and health on http://%s:%d", *where.values(), extra=event("metrics-served", **where))
    source = make_source(config)

    def connect() -> KafkaSink | TransactionalSink:
        if partitions is not None:
            ensure_topics(config.kafka, _topics(config, partitions))
            if config.verdicts.enabled:  # limits are per minute of message time: the broker's, not the sender's
                ensure_topics(config.kafka, {config.verdict_topic: 1}, message_timestamp_type="LogAppendTime")
        require_rights(config)
        require_all_topics(config)
        store.require_rights()
        return make_sink(config, source)

    sink = connect() if start is None else start.reach(connect)
    pipeline = Pipeline(
        config,
        source,
        sink,
        store,
        scorer,
        [one.calibration for one in models.artifacts],
        metrics,
        profiles=[one.profile for one in models.artifacts],
        model_of=models.ref_of,
    )
    verdicts = VerdictWorker(config, store, metrics)
    verdicts.start()
    closing.callback(verdicts.stop)
    health.watch(pipeline)
    return pipeline


def _topics(config: Config, partitions: int) -> dict[str, int]:
    """Return the partitions of a worker's topics, by name: as many of what is read and of what follows it.

    Not the one of verdicts, which has settings of its own.
    """
    topics = dict.fromkeys((*(entry.topic for entry in config.inputs), config.alert_topic), partitions)
    topics[config.dead_letter_topic] = 1
    if config.audit:
        topics[config.audit_topic] = partitions
    return topics
