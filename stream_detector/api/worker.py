"""A worker: the pipeline with its detectors and ports, and the loop that steps it until it is stopped.

The command `stream-detector run` is `Worker.from_config(config).run(stop)`. With a source, sink and store of your own
(ports.py), or those of adapters/memory, the same stages run without Kafka and Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stream_detector.api.verdict_worker import VerdictWorker
from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.errors import BrokerError, BrokerLoginError, BrokerRightsError, FencedError
from stream_detector.ports import Sink, Source, StateStore
from stream_detector.scoring.scorer import Scorer
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import HealthServer, Metrics
from stream_detector.worker.health import Health
from stream_detector.worker.outage import Outage
from stream_detector.worker.pipeline import Pipeline
from stream_detector.worker.starting import Start

if TYPE_CHECKING:
    from stream_detector.adapters.kafka import KafkaSink, KafkaSource, TransactionalSink
    from stream_detector.adapters.redis import RedisStore

log = logging.getLogger(__name__)

_RETRY_S = 1.0  # between tries while Kafka is away


class Worker:
    """One worker of a set-up, a context manager. Single-threaded: call its methods from one thread.

    with Worker.from_config(load_config("machine.yaml")) as worker:
        worker.run(stop)
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        sink: Sink,
        store: StateStore,
        models: ModelSet | Artifact | Scorer,
        *,
        metrics: Metrics | None = None,
        health: Health | None = None,
        clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_ms: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        """Wire the stages between the ports; nothing is read before `open`.

        `models`: which asset has which detector, or one detector for all, or a scorer that holds them. `clock_ms` must
        never go back; `wall_ms` is UNIX time. Raises ArtifactError when a detector was trained for other windows than
        the set-up asks for, ConfigError when the device asked for is absent.
        """
        scorer = models if isinstance(models, Scorer) else _scorer(config, models)
        self.metrics = metrics or Metrics()
        self.health = health or Health()
        self._closing = ExitStack()
        self._start: Start | None = None
        self.pipeline = Pipeline(
            config,
            source,
            sink,
            store,
            scorer,
            calibrations=[one.calibration for one in scorer.models.artifacts],
            metrics=self.metrics,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
            profiles=[one.profile for one in scorer.models.artifacts],
            model_of=scorer.models.ref_of,
        )
        self._renewable = False  # whether a refused login may succeed later
        self._outage = Outage(clock_ms, config.commit_interval_ms)
        self._opened = False
        self.health.watch(self.pipeline)

    @classmethod
    def from_config(
        cls,
        config: Config,
        models: ModelSet | Artifact | None = None,
        *,
        create_topics: int | None = None,
        stop: Event | None = None,
    ) -> Self:
        """Return a worker on the set-up's Kafka and Redis, with the detectors that `config.artifact` names.

        Metrics and health are served on `config.metrics.port`, and verdicts are read beside it. `create_topics`:
        create missing topics, inputs with this many partitions. While no broker can be reached it tries again for
        `kafka.start_timeout_ms`, or until `stop` is set; then it raises BrokerError. Raises ConfigError or
        ArtifactError when a setting, a permission or a detector is wrong.
        """
        from stream_detector.adapters.kafka import make_source, renewable
        from stream_detector.adapters.redis import RedisStore

        scorer = _scorer(config, ModelSet.load(config) if models is None else models)
        with ExitStack() as closing:
            store = RedisStore(config.redis, config.stream)
            closing.callback(store.close)
            metrics, health = Metrics(), Health()
            metrics.ready.set_function(lambda: float(health.ready()[0]))
            if config.metrics.port is not None:
                server = HealthServer(config.metrics.host, config.metrics.port, metrics, health.ready, health.alive)
                server.start()
                closing.callback(server.stop)
                where = {"host": server.host, "port": server.port}
                log.info("metrics and health on http://%s:%d", *where.values(), extra=event("metrics-served", **where))
            source = make_source(config)
            start = Start(config.kafka.start_timeout_ms, health, stop or Event())
            sink = start.reach(lambda: _connected(config, create_topics, source, store))
            worker = cls(config, source, sink, store, scorer, metrics=metrics, health=health)
            worker._start = start
            worker._renewable = renewable(config.kafka.security)
            verdicts = VerdictWorker(config, store, metrics)
            verdicts.start()
            closing.callback(verdicts.stop)
            worker._closing = closing.pop_all()
        return worker

    @property
    def windows(self) -> int:
        """Windows completed so far."""
        return self.pipeline.windows

    @property
    def alerts(self) -> int:
        """Alerts written so far."""
        return self.pipeline.alerts

    def ready(self) -> tuple[bool, str]:
        """Whether the worker does its job, and if not, why."""
        return self.health.ready()

    def open(self) -> None:
        """Join the group; partitions arrive during steps. Raises BrokerError when Kafka can't be reached in time."""
        if self._start is None:
            self.pipeline.open()
        else:
            self._start.reach(self.pipeline.open)
        self._opened = True

    def step(self, timeout_ms: float = 200.0) -> bool:
        """Take one poll through all stages; see `Pipeline.step`. Return whether it brought anything."""
        self.health.turning()
        return self.pipeline.step(timeout_ms)

    def commit(self) -> None:
        """Make everything processed so far durable. Raises BrokerError when Kafka can't be reached."""
        self.pipeline.commit()

    def run(self, stop: Event | None = None) -> None:
        """Open, then step until `stop` is set (None: for good), then commit and close.

        While Kafka is away it tries on. Raises BrokerLoginError when Kafka no longer lets this user in and nothing of
        its login is in a file, which could be replaced; and what a first step raises when a permission is missing.
        """
        if not self._opened:
            self.open()
        try:
            self._loop(stop or Event())
        finally:
            self.close()

    def close(self) -> None:
        """Commit what there is, leave the group and let go of all connections. Once closed, it does nothing."""
        opened, self._opened = self._opened, False
        with self._closing:
            if opened:
                self.pipeline.close()

    def __enter__(self) -> Self:
        """Return the worker, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _loop(self, stop: Event) -> None:
        worked = False
        while not stop.is_set():
            try:
                self.step()
            except BrokerLoginError as error:
                if not self._renewable:
                    raise  # an environment variable can't be replaced while the process runs
                self._fail(error, stop)
            except FencedError as error:  # the pipeline has dropped its tasks and takes them over again
                log.warning("another worker has taken over: %s", error, extra=event("fenced"))
            except BrokerError as error:
                if isinstance(error, BrokerRightsError) and not worked:
                    raise
                self._fail(error, stop)
            else:
                self._outage.passed(self.pipeline.trouble, self.pipeline.commits)
                worked = worked or self.pipeline.task_count > 0
                self.health.kafka(self._outage.error)

    def _fail(self, error: BrokerError, stop: Event) -> None:
        """Report an error that may pass, and wait before the next try."""
        self._outage.failed(error, self.pipeline.commits)
        self.health.kafka(error)
        stop.wait(_RETRY_S)


def _scorer(config: Config, models: ModelSet | Artifact) -> Scorer:
    """Return the detectors on their device, warmed up. Raises ArtifactError or ConfigError."""
    models = ModelSet(models) if isinstance(models, Artifact) else models
    for one in models.artifacts:
        one.check_compatible(config)
    scorer = Scorer(models, config.scorer)
    scorer.warm_up()
    return scorer


def _connected(
    config: Config, create_topics: int | None, source: KafkaSource, store: RedisStore
) -> KafkaSink | TransactionalSink:
    """Return the sink once topics and permissions are as they must be."""
    from stream_detector.adapters.kafka import ensure_topics, make_sink, require_all_topics, require_rights

    if create_topics is not None:
        ensure_topics(config.kafka, _topics(config, create_topics))
        if config.verdicts.enabled:  # limits are per minute of message time: the broker's, not the sender's
            ensure_topics(config.kafka, {config.verdict_topic: 1}, message_timestamp_type="LogAppendTime")
    require_rights(config)
    require_all_topics(config)
    store.require_rights()
    if (warning := store.evicts()) is not None:
        log.warning("%s", warning, extra=event("store-evicts"))
    return make_sink(config, source)


def _topics(config: Config, partitions: int) -> dict[str, int]:
    """Return the partitions of a worker's topics, by name: as many of what is read and of what follows it.

    Not the one of verdicts, which has settings of its own.
    """
    topics = dict.fromkeys((*(entry.topic for entry in config.inputs), config.alert_topic), partitions)
    topics[config.dead_letter_topic] = 1
    if config.audit:
        topics[config.audit_topic] = partitions
    return topics
