"""A worker's metrics for Prometheus, and the HTTP server for them and for the health checks.

Metrics are updated once per batch (`inc(n)`), never once per message. Each `Metrics` has its own registry, so several
workers in one process, as in tests, count separately.
"""

from __future__ import annotations

import logging
import socketserver
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from threading import Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from stream_detector.errors import ConfigError
from stream_detector.telemetry.logs import event
from stream_detector.telemetry.printable import printable_lines
from stream_detector.telemetry.redaction import redacted
from stream_detector.types import Partition

log = logging.getLogger(__name__)

PREFIX = "stream_detector"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """Every metric of a worker; attributes are named like the metric, without the prefix `stream_detector_`."""

    def __init__(self) -> None:
        """Create all metrics in a new registry."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        self.messages_total = self._counter("messages_total", "Messages taken from input topics.", "topic")
        self.readings_total = self._counter("readings_total", "Readings that reached the windows.")
        self.dead_letters_total = self._counter("dead_letters_total", "Messages sent to the dead-letter topic.", "code")
        self.verdicts_total = self._counter("verdicts_total", "Verdicts by people that were accepted.", "verdict")
        self.windows_total = self._counter("windows_total", "Windows completed.")
        self.scores_total = self._counter("scores_total", "Windows scored.")
        self.windows_unscored_total = self._counter(
            "windows_unscored_total", "Windows that could not be scored.", "reason"
        )
        self.anomalies_total = self._counter("anomalies_total", "Scores judged anomalous.")
        self.alerts_total = self._counter("alerts_total", "Alerts published.", "event", "severity")
        self.batches_total = self._counter("batches_total", "Batches scored.")
        self.batch_size = self._histogram("batch_size", "Windows in a scored batch.", _SIZES)
        self.score_seconds = self._histogram("score_seconds", "Time to score a batch, transfers included.", _SECONDS)
        self.window_to_alert_seconds = self._histogram(
            "window_to_alert_seconds", "Time from the completion of a window until its alert is written.", _SECONDS
        )
        self.commits_total = self._counter("commits_total", "Commits of alerts, state and offsets.")
        self.commit_seconds = self._histogram("commit_seconds", "Time a commit took.", _SECONDS)
        self.lag = self._gauge("lag", "Unread messages of an assigned partition.", "topic", "partition")
        self.watermark_delay_seconds = self._gauge(
            "watermark_delay_seconds", "Wall-clock time minus the newest event time of an assigned task.", "task"
        )
        self.store_behind_seconds = self._gauge(
            "store_behind_seconds",
            "Time for which commits have been missing in the state store; 0 when it is up to date.",
        )
        self.fencings_total = self._counter("fencings_total", "Tasks dropped because another worker owned them.")
        self.aborts_total = self._counter(
            "aborts_total", "Transactions aborted (exactly_once), after which their tasks were loaded again."
        )
        self.states_lost_total = self._counter(
            "states_lost_total", "Tasks that were taken over and whose committed state the store has lost."
        )
        self.assets_in_several_tasks = self._gauge(
            "assets_in_several_tasks", "Assets whose messages come on several partitions at once."
        )
        self.restores_total = self._counter("restores_total", "Tasks whose state was loaded on assignment.")
        self.assigned_partitions = self._gauge("assigned_partitions", "Partitions this worker reads.")
        self.catching_up_messages = self._gauge(
            "catching_up_messages",
            "Messages still to be replayed without publishing, after a restart or a loss of the store.",
        )
        self.waiting_windows = self._gauge("waiting_windows", "Windows waiting to be scored.")
        self.unsent_bytes = self._gauge("unsent_bytes", "Alerts and dead letters waiting for their commit.")
        self.paused_partitions = self._gauge(
            "paused_partitions", "Partitions paused because the scorer, the store or another topic is behind."
        )
        self.budget_promised_total = self._counter(
            "budget_promised_total", "Incidents that threshold.budget allowed for the event time passed."
        )
        self.budget_opened_total = self._counter("budget_opened_total", "Incidents opened under threshold.budget.")
        self.assets_not_judged = self._gauge(
            "assets_not_judged", "Assets whose readings come and give no window that is judged.", "reason"
        )
        self.silence_seconds = self._gauge(
            "silence_seconds",
            "Time since this worker last read a message of a topic, or since its start before the first.",
            "topic",
        )
        self.messages_skipped_total = self._counter(
            "messages_skipped_total",
            "Messages never processed: deleted before they were read, or skipped by an offset set forward.",
            "topic",
        )
        self.ready = self._gauge("ready", "1 if the worker is ready (/readyz), else 0.")

    def set_lag(self, lag: Mapping[Partition, int]) -> None:
        """Set the lag of every assigned partition; partitions not named are removed."""
        self._replace(self.lag, {(partition.topic, str(partition.index)): each for partition, each in lag.items()})
        self.assigned_partitions.set(len(lag))

    def set_watermark_delay(self, seconds: Mapping[int, float]) -> None:
        """Set the watermark's delay of every assigned task; tasks not named are removed."""
        self._replace(self.watermark_delay_seconds, {(str(task),): each for task, each in seconds.items()})

    @staticmethod
    def _replace(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        gone = {tuple(sample.labels.values()) for family in gauge.collect() for sample in family.samples} - set(values)
        for labels in gone:
            gauge.remove(*labels)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, namespace=PREFIX, registry=self.registry, buckets=buckets)


Check = Callable[[], tuple[bool, str]]  # the result, and the reason (plain text, no secrets)


class HealthServer:
    """Serves /metrics (Prometheus), /healthz (503: restart the worker) and /readyz (503: not ready)."""

    def __init__(self, host: str, port: int, metrics: Metrics, ready: Check, alive: Check) -> None:
        """`start` begins to listen. Port 0 chooses a free port."""
        self.host = host
        self.port = port
        self._pages = {"/healthz": alive, "/readyz": ready}
        self._metrics = metrics
        self._server: _Server | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Listen and answer from a thread; `port` is then the actual port. Raises ConfigError when it can't listen."""
        handler = type("Handler", (_Handler,), {"pages": self._pages, "metrics": self._metrics})
        self._server = _listening(self.host, self.port, handler)
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening. No effect when it never started."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None


def require_port(host: str, port: int) -> None:
    """Raise ConfigError when nobody could listen there now: said before anything slow begins."""
    _listening(host, port, _Handler).server_close()


def _listening(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    try:
        return (_Server6 if ":" in host else _Server)((host, port), handler)
    except OSError as error:
        raise ConfigError(
            f"metrics: can't listen on host {host}, port {port}: {error.strerror}; "
            "expected an address of this machine and a free port (or port: 0)"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's method resolves the host's full name, which can hang for seconds in a container.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log the error; the base class prints a traceback, which is neither JSON nor redacted."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR  # OSError: the client is gone
        log.log(level, "a request for metrics or health failed", exc_info=True, extra=event("request-failed"))


class _Server6(_Server):
    address_family = AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Check]
    metrics: Metrics
    server_version, sys_version = "stream-detector", ""
    timeout = 5.0  # seconds a client may take for its request, so a stalled one does not keep a thread

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encoder, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encoder(self.metrics.registry), content_type)
        elif path in self.pages:
            try:
                good, reason = self.pages[path]()
                reason = printable_lines(redacted(reason))  # people look with curl
            except Exception as error:  # a check that raises counts as failed
                good, reason = False, f"the check itself failed: {type(error).__name__}"
            self._answer(200 if good else 503, f"{reason}\n".encode())
        else:
            self._answer(404, b"expected /metrics, /healthz or /readyz\n")

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a line per scrape would bury the worker's log."""
