"""The Redis store when the server misbehaves; what every store keeps is in contracts/test_state_store.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from stream_detector.adapters.redis import RedisStore
from stream_detector.config import RedisConfig, Secret
from stream_detector.errors import ConfigError, StoreError, StoreLostError
from stream_detector.types import AssetReport, AssetState, IncidentState, RecordedVerdict, Removed, ThresholdState
from tests.conftest import missing
from tests.servers import RedisServer, UnavailableError

STATE = AssetState(
    threshold=ThresholdState(method="spot", level=4.0, seen=100), incident=IncidentState(), judged_ms=1_000
)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis that the test may break."""
    servers: list[RedisServer] = []

    def start(**settings: str) -> RedisServer:
        try:
            server = RedisServer(tmp_path / str(len(servers)), settings)
        except UnavailableError as reason:
            missing(str(reason))
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def test_a_save_is_one_round_trip(
    redis_server: RedisServer, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    """However many assets: fencing, both versions, positions and the controls' count in one command."""
    store = RedisStore(RedisConfig(url=redis_server.url), unique("trips"))
    token = store.acquire(0)
    store.save(0, token, 1, {}, {})  # sends the script once
    sent: list[object] = []
    send = redis.connection.AbstractConnection.send_command

    def counted(connection: redis.connection.AbstractConnection, *args: object, **options: object) -> None:
        sent.append(args[0])
        send(connection, *args, **options)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_command", counted)
    store.save(0, token, 2, {f"a{i}": STATE for i in range(300)}, {})
    assert sent == ["EVALSHA"]
    store.close()


def test_a_server_that_is_away_is_named_without_delay(own_server: Callable[..., RedisServer]):
    """Every call raises StoreError with the address; none hangs."""
    server = own_server()
    store = RedisStore(RedisConfig(url=server.url), "pump")
    token = store.acquire(0)
    server.kill()
    calls: list[Callable[[], object]] = [
        lambda: store.acquire(0),
        lambda: store.load(0),
        lambda: store.save(0, token, 1, {"a": STATE}, {}),
        store.controls,
        store.controls_version,
        lambda: store.pin("a", 1.0),
        lambda: store.unpin("a"),
        lambda: store.reset("a"),
        lambda: list(store.assets()),
        lambda: store.find("a"),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(StoreError, match=f"127.0.0.1:{server.port}/0 can't be reached"):
            call()
    assert time.monotonic() - began < 2.0


def test_a_restarted_server_is_used_again(own_server: Callable[..., RedisServer]):
    """The next call after a restart works; its scripts, lost with the process, are sent again; the loss is noticed."""
    server = own_server()
    store = RedisStore(RedisConfig(url=server.url), "pump")
    token = store.acquire(0)
    store.save(0, token, 1, {"a": STATE}, {})
    server.kill()
    with pytest.raises(StoreError):
        store.controls_version()
    server.start()
    with pytest.raises(StoreLostError, match=f":{server.port}"):
        store.save(0, token, 2, {"a": STATE}, {})
    assert store.save(0, store.acquire(0), 2, {"a": STATE}, {}) == 0
    assert set(store.load(0, 2).assets) == {"a"}


def test_a_restart_with_data_loses_nothing(own_server: Callable[..., RedisServer]):
    """With an append-only file the worker goes on with its token, without even seeing an error when it didn't ask."""
    server = own_server(appendonly="yes", appendfsync="always")
    store = RedisStore(RedisConfig(url=server.url), "pump")
    token = store.acquire(0)
    store.save(0, token, 1, {"a": STATE}, {})
    server.kill()
    server.start()
    store.save(0, token, 2, {"b": STATE}, {})
    assert set(store.load(0, 2).assets) == {"a", "b"}


def test_a_hanging_server_is_given_up_in_time(own_server: Callable[..., RedisServer]):
    """redis.timeout_ms bounds a call, and the store works again when the server does."""
    server = own_server()
    store = RedisStore(RedisConfig(url=server.url, timeout_ms=300), "pump")
    store.controls_version()
    server.pause()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"did not answer within redis\.timeout_ms"):
        store.controls_version()
    assert time.monotonic() - began < 1.0
    server.resume()
    assert store.controls_version() == 0


def test_a_refused_login_says_where_to_look(own_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch):
    """A wrong password is told as such, and neither it nor the right one stands in the message."""
    server = own_server(requirepass="the-right-one")
    monkeypatch.setenv("STORE_PASSWORD", "the-wrong-one")
    store = RedisStore(RedisConfig(url=server.url, password=Secret(env="STORE_PASSWORD")), "pump")
    with pytest.raises(StoreError, match=r"refused the login.*redis\.password") as caught:
        store.load(0)
    assert "the-" not in str(caught.value)
    with pytest.raises(StoreError, match="refused the login"):
        RedisStore(RedisConfig(url=server.url), "pump").load(0)
    monkeypatch.setenv("STORE_PASSWORD", "the-right-one")
    assert RedisStore(RedisConfig(url=server.url, password=Secret(env="STORE_PASSWORD")), "pump").load(0).assets == {}


def test_a_missing_password_is_told_before_connecting(monkeypatch: pytest.MonkeyPatch):
    """The variable that should hold it is named."""
    monkeypatch.delenv("STORE_PASSWORD", raising=False)
    with pytest.raises(ConfigError, match="STORE_PASSWORD"):
        RedisStore(RedisConfig(password=Secret(env="STORE_PASSWORD")), "pump")


def test_the_rights_in_the_docstring_are_enough(
    own_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
):
    """An ACL user with exactly the commands and keys that the module names can do everything."""
    server = own_server()
    sent = ["evalsha", "eval", "script|load", "hgetall", "hget", "hscan", "smembers", "get", "multi", "exec", "select"]
    in_scripts = ["hset", "hdel", "hmget", "sadd", "srem", "incr", "time", "del", "zadd", "zcard", "zrange", "zrem"]
    rights = ["~stream-detector:{pump}:*", "-@all", *(f"+{command}" for command in sent + in_scripts)]
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "on", ">pass", *rights)
    monkeypatch.setenv("STORE_PASSWORD", "pass")
    config = RedisConfig(url=server.url, username="worker", password=Secret(env="STORE_PASSWORD"))
    store = RedisStore(config, "pump")
    token = store.acquire(0)
    store.save(0, token, 1, {"a": STATE}, {})
    store.save(0, token, 1, {"b": STATE}, {})
    store.pin("a", 1.0)
    assert store.unpin("a")
    store.reset("a")
    store.reset(None)
    assert set(store.load(0).assets) == {"b"}
    assert (store.controls().version, store.controls_version()) == (4, 4)
    assert store.find("b") is not None
    assert [asset for _, asset, _ in store.assets()] == ["b"]
    store.report(0, token, {"b": AssetReport(1)})
    order = store.remove("b", "forget")
    store.save(0, token, 2, {"b": Removed(1, 1, order)}, {})
    assert store.holding("b", order) == [0]
    store.settle("b", order)
    assert store.reports() == []
    store.record_verdicts([RecordedVerdict("v", "true-alarm", "", "", 1, 0, 0)], 10)
    assert store.delete_verdicts(["v"]) == 1


def test_a_unix_socket_works(own_server: Callable[..., RedisServer], tmp_path: Path):
    """unix:// reaches a server without TCP."""
    path = tmp_path / "s"
    own_server(unixsocket=str(path))
    store = RedisStore(RedisConfig(url=f"unix://{path}"), "pump")
    store.pin("a", 2.0)
    assert store.controls().pins == {"a": 2.0}
