"""The part of a worker that reads verdicts: a thread of its own, that never stops the rest."""

from __future__ import annotations

import logging
from threading import Event, Thread

from stream_detector.config import Config
from stream_detector.errors import BrokerRightsError, DetectorError
from stream_detector.ports import StateStore
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

#: How often it is looked whether the topic exists, and how long to wait after a failure, seconds.
LOOK_EVERY_S = 30.0
RETRY_S = 2.0


class VerdictWorker:
    """Reads the verdict topic while there is one, in the background, from `start` to `stop`."""

    def __init__(self, config: Config, store: StateStore, metrics: Metrics) -> None:
        """Nothing starts yet."""
        self._config, self._store, self._metrics = config, store, metrics
        self._stop = Event()
        self._said = ""
        self._thread = Thread(target=self._run, name="stream-detector-verdicts", daemon=True)

    def start(self) -> None:
        """Begin. Does nothing when verdicts are switched off."""
        if self._config.verdicts.enabled:
            self._thread.start()

    def stop(self) -> None:
        """End; a step under way is finished first."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            wait = RETRY_S
            try:
                if not self._read():
                    wait = LOOK_EVERY_S
                    self._say(logging.INFO, f"there is no topic {self._config.verdict_topic}: no verdicts are read")
            except BrokerRightsError as error:
                wait = LOOK_EVERY_S
                self._say(logging.WARNING, f"verdicts are not read: {error}")
            except DetectorError as error:
                self._say(logging.WARNING, f"verdicts wait, retrying: {error}")
            except Exception:  # verdicts must not end a worker that detects
                wait = LOOK_EVERY_S
                log.exception("reading verdicts failed; retrying", extra=event("verdicts-failed"))
            self._stop.wait(wait)

    def _read(self) -> bool:
        """Read until stopped; False when there is no topic. Raises DetectorError."""
        from stream_detector.adapters.kafka import make_sink, make_source, partition_counts
        from stream_detector.feedback.stage import VerdictStage, verdict_config

        topic = self._config.verdict_topic
        if topic not in partition_counts(self._config.kafka, [topic]):
            return False
        config = verdict_config(self._config)
        source = make_source(config)
        stage = VerdictStage(config, source, make_sink(config, source, probe=False), self._store, self._metrics)
        try:
            stage.open()
            self._say(logging.INFO, f"verdicts are read from {topic}")
            while not self._stop.is_set():
                stage.step()
        finally:
            stage.close()
        return True

    def _say(self, level: int, text: str) -> None:
        """Log a text once, until another takes its place."""
        if text != self._said:
            self._said = text
            log.log(level, "%s", text, extra=event("verdicts"))
