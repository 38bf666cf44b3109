import socket
import time
from http.client import RemoteDisconnected
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_detector.errors import ConfigError
from stream_detector.telemetry.metrics import HealthServer, Metrics
from stream_detector.types import Partition


class Health:
    """What the checks answer, changeable while the server runs."""

    ready: tuple[bool, str] = (True, "ok")
    alive: tuple[bool, str] = (True, "ok")
    error: Exception | None = None

    def is_ready(self) -> tuple[bool, str]:
        """Answer /readyz."""
        if self.error is not None:
            raise self.error
        return self.ready


@pytest.fixture
def health():
    """The state of a worker."""
    return Health()


@pytest.fixture
def metrics():
    """Metrics of their own registry."""
    return Metrics()


@pytest.fixture
def server(metrics, health):
    """A server on a free port."""
    server = HealthServer("127.0.0.1", 0, metrics, health.is_ready, lambda: health.alive)
    server.start()
    yield server
    server.stop()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the body."""
    try:
        with urlopen(Request(f"http://127.0.0.1:{server.port}{path}", method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_served_in_the_format_of_prometheus(server, metrics):
    """What was counted is what a scrape reads."""
    metrics.messages_total.labels("pump.readings").inc(3)
    metrics.alerts_total.labels("open", "warning").inc()
    metrics.score_seconds.observe(0.02)
    status, text = get(server, "/metrics")
    found = samples(text)
    assert (
        status,
        found["stream_detector_messages_total", "pump.readings"],
        found["stream_detector_alerts_total", "open", "warning"],
        found["stream_detector_score_seconds_count",],
    ) == (200, 3, 1, 1)


def test_every_metric_has_the_prefix_and_a_meaning(metrics):
    """Names are told apart from other programs' by their prefix (process_… is the convention for the process)."""
    families = list(metrics.registry.collect())
    assert {"stream_detector", "process"} == {
        "stream_detector" if family.name.startswith("stream_detector_") else family.name.split("_")[0]
        for family in families
    }
    assert all(family.documentation for family in families)


def test_two_workers_in_a_process_count_apart():
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.windows_total.inc()
    assert tuple(each.registry.get_sample_value("stream_detector_windows_total") for each in (one, other)) == (1, 0)


def test_partitions_no_longer_assigned_vanish(metrics):
    """A lag that stays behind after a rebalance would be counted twice in a sum over workers."""
    metrics.set_lag({Partition("a", 0): 5, Partition("a", 1): 7})
    metrics.set_lag({Partition("a", 1): 6})
    metrics.set_watermark_delay({0: 1.5, 1: 2.5})
    metrics.set_watermark_delay({1: 3.5})

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"stream_detector_{name}", labels)

    assert (
        value("lag", topic="a", partition="0"),
        value("lag", topic="a", partition="1"),
        value("assigned_partitions"),
    ) == (None, 6, 1)
    assert (value("watermark_delay_seconds", task="0"), value("watermark_delay_seconds", task="1")) == (None, 3.5)


@pytest.mark.parametrize(("path", "attribute"), [("/readyz", "ready"), ("/healthz", "alive")])
def test_health_is_200_or_503_with_the_reason(server, health, path, attribute):
    """A supervisor acts on the status; a person reads the reason."""
    assert get(server, path) == (200, "ok\n")
    setattr(health, attribute, (False, "no broker for 12 s"))
    assert get(server, path) == (503, "no broker for 12 s\n")


def test_a_check_that_fails_counts_as_not_ready(server, health):
    """The message of the failure is not shown: it may hold an address with a password."""
    health.error = RuntimeError("redis://:hunter2@host")
    assert get(server, "/readyz") == (503, "the check itself failed: RuntimeError\n")


def test_other_paths_are_not_found(server):
    """The answer names the paths there are."""
    assert get(server, "/") == (404, "expected /metrics, /healthz or /readyz\n")


def test_head_and_queries_are_understood(server):
    """Load balancers ask with HEAD, and some add a query."""
    assert get(server, "/healthz", "HEAD") == (200, "")
    assert get(server, "/readyz?verbose") == (200, "ok\n")


def test_a_taken_port_is_a_clear_error(metrics):
    """The error names the setting and the mend."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HealthServer("127.0.0.1", taken.getsockname()[1], metrics, lambda: (True, ""), lambda: (True, ""))
        with pytest.raises(ConfigError, match=r"metrics: can't listen on host 127\.0\.0\.1, port \d+: "):
            server.start()
    server.stop()


def test_after_stop_nothing_listens(server):
    """The port is free again, and stopping twice does no harm."""
    server.stop()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_a_request_that_fails_is_a_line_of_the_log(server, metrics, capfd, caplog):
    """Not a traceback past the log, which would be neither JSON nor without secrets."""
    metrics.ready.set_function(lambda: 1 / 0)
    with pytest.raises(RemoteDisconnected):
        get(server, "/metrics")
    until = time.monotonic() + 5
    while not caplog.records and time.monotonic() < until:
        time.sleep(0.01)
    assert ["a request for metrics or health failed"] == [record.getMessage() for record in caplog.records]
    assert "" == capfd.readouterr().err
