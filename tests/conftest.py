"""Servers and names for tests. A server that can't be had skips its tests with the reason, and fails them under CI."""

from __future__ import annotations

import itertools
import logging
import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, Embedded
from stream_detector.config import KafkaConfig
from stream_detector.errors import ConfigError
from tests.servers import KafkaServer, RedisServer, UnavailableError, kafka_jars


def missing(reason: str) -> None:
    """Skip the test, or fail it where everything has to be there (CI is set)."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """Undo what a command does to the process's logging: other tests look at lines that it would drop."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("stream_detector")]:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Embedded]:
    """The embedded broker and store."""
    servers = Embedded()
    try:
        servers.start()
    except ConfigError as error:
        missing(str(error))
    with servers:
        yield servers


@pytest.fixture(scope="session")
def valkey(embedded: Embedded) -> str:
    """URL of the embedded Valkey."""
    assert embedded.redis_url is not None
    return embedded.redis_url


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One Apache Kafka broker for all tests that don't break it."""
    try:
        server = KafkaServer(tmp_path_factory.mktemp("kafka"), kafka_jars())
    except UnavailableError as reason:
        missing(str(reason))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka(kafka_server: KafkaServer) -> KafkaConfig:
    """Settings of a real Apache Kafka."""
    return kafka_server.config.model_copy(update={"session_timeout_ms": SESSION_TIMEOUT_MS})


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real Redis for all tests that don't break it."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except UnavailableError as reason:
        missing(str(reason))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "kafka"])
def broker(request: pytest.FixtureRequest) -> KafkaConfig:
    """Settings of a broker; narrow with `@pytest.mark.parametrize("broker", ["kafka"], indirect=True)`."""
    if request.param == "kafka":
        found: KafkaConfig = request.getfixturevalue("kafka")
        return found
    servers: Embedded = request.getfixturevalue("embedded")
    assert servers.bootstrap_servers is not None
    return KafkaConfig(bootstrap_servers=[servers.bootstrap_servers], session_timeout_ms=SESSION_TIMEOUT_MS)


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """Make names (of streams, topics, groups) that no other test has."""
    run, count = uuid.uuid4().hex[:6], itertools.count()
    return lambda name: f"{name}-{run}-{next(count)}"


@pytest.fixture
def short_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late readings are compared with the message before only, so a restart reads again just what else is needed."""
    monkeypatch.setattr("stream_detector.liveness.repetitions.REACH", 1)
