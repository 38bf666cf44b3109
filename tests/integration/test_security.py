"""Apache Kafka and Redis that ask who comes, and allow the least: workers as a user starts them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_detector.__main__ import main
from stream_detector.adapters.kafka import ensure_topics
from stream_detector.adapters.kafka.oauth import TokenProvider
from stream_detector.adapters.redis import RedisStore
from stream_detector.config import Config
from stream_detector.config.loading import effective, load
from stream_detector.errors import BrokerError, BrokerLoginError, BrokerRightsError, StoreAccessError, StoreError
from stream_detector.permissions import kafka_permissions, redis_rules
from tests.integration.fortress import STORE_PASSWORD, Fortress, SecuredSite
from tests.integration.test_live import by_asset
from tests.secured import DAY, Authority, SecuredRedis

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("revealed")]
WAYS = ("SCRAM-SHA-512", "OAUTHBEARER", "mTLS")


def run_to_the_end(site: SecuredSite, material) -> None:
    """Let the producer and a worker run; alerts must be the backtest's."""
    worker = site.worker()
    # the recordings are sent by the administrator: what producers need is another test's
    own, site.config_path = site.config_path, site.config_path.with_name("administrator.yaml")
    replay = site.replay(material.files, "max")
    site.config_path = own
    site.finish(replay, worker)
    assert by_asset(material.alerts) == by_asset(site.alerts())
    assert 0 == worker.stop(), worker.said()
    assert "WARNING" not in worker.said(), worker.said()


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_with_the_least_rights(make_secured, material, fortress, way):
    """Exactly once over TLS, logged in either way, with the documented rights only, the alerts are the backtest's.

    Redis refused nothing: its list is whole as well.
    """
    fortress.redis.call("ACL", "LOG", "RESET")
    site = make_secured(way)
    run_to_the_end(site, material)
    assert "" == fortress.redis.call("ACL", "LOG")


def start(site: SecuredSite, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Start a worker here, which must end by itself; return its status and what it said."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    capfd.readouterr()
    status = main(["--log-level", "error", "run", str(site.config_path)])
    return status, capfd.readouterr().err


def all_rights() -> list[Any]:
    """The rights of a worker that delivers exactly once; the topic of verdicts is one it can do without."""
    config = Config.model_validate({"stream": "x", "channels": {"a": {}}, "delivery": "exactly_once"})
    return [number for number, right in enumerate(kafka_permissions(config)) if right.name != config.verdict_topic]


@pytest.mark.parametrize("number", all_rights())
def test_a_worker_without_a_right_says_which(make_secured, monkeypatch, capfd, number):
    """A worker that lacks any right on Kafka ends at once, with status 2, naming the resource and how to grant it."""
    site = make_secured(without=number)
    status, said = start(site, monkeypatch, capfd)
    assert 2 == status, said
    assert kafka_permissions(load(site.config_path, env={}))[number].name in said
    assert "check CONFIG --rights" in said
    assert "Traceback" not in said


@contextmanager
def closing_server(server: SecuredRedis) -> Iterator[SecuredRedis]:
    """Start a server, and end it after."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def kafka_config(fortress: Fortress, name: str, way: str = "SCRAM-SHA-512", **changes: Any) -> Config:
    """Return a set-up that comes to Kafka as this user."""
    return Config.model_validate(
        {"stream": "x", "channels": {"a": {}}, "kafka": fortress.kafka_settings(name, way, **changes)}
    )


def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], config: Config, *command: str) -> str:
    """Run a command that must be refused with status 2; return the one line it says."""
    path = tmp_path / "refused.yaml"
    path.write_text(yaml.safe_dump(effective(config)))
    capfd.readouterr()
    assert 2 == main(["--log-level", "error", *command, str(path), *(["--json"] if command[0] == "monitor" else [])])
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_logins_that_kafka_refuses(fortress, tmp_path, capfd, monkeypatch):
    """A wrong password, secret, mechanism or certificate is one line that says what to look at, at once, status 2."""
    fortress.user("visitor")
    strangers = Authority(tmp_path / "strangers")
    expired, foreign = fortress.authority.issue("visitor", lifetime=-DAY), strangers.issue("visitor")
    wrong = {"env": "WRONG"}
    oauth = {"token_url": fortress.endpoint.url, "client_id": "visitor", "client_secret": wrong}

    def said(way: str, **changes: Any) -> str:
        return refused(tmp_path, capfd, kafka_config(fortress, "visitor", way, **changes), "monitor")

    assert "refused the login of user 'visitor' by SCRAM-SHA-256" in said("SCRAM-SHA-256", password=wrong)
    assert "it doesn't offer PLAIN, but SCRAM" in said("PLAIN")
    assert "401 invalid_client: no such client or secret; look at" in said("OAUTHBEARER", oauth=oauth)
    for identity in (expired, foreign):
        line = said("mTLS", cert_file=str(identity.cert), key_file=str(identity.key))
        assert "refused this client's certificate" in line
        assert str(identity.cert) in line
    assert "(none was shown)" in said("mTLS", cert_file=None, key_file=None)
    for way in ("SCRAM-SHA-512", "mTLS"):
        line = said(way, ca_file=str(strangers.file))
        assert "has a certificate that is not trusted" in line
        assert f"look at kafka.security.ca_file ({strangers.file})" in line
    monkeypatch.delenv("PASSWORD")
    assert "the environment variable PASSWORD is not set" in said("SCRAM-SHA-512")


def test_a_broker_under_another_name_is_refused(fortress, tmp_path, capfd):
    """A certificate of the right authority for another host is refused, unless verify_hostname is off."""
    fortress.user("visitor")
    settings = fortress.kafka_settings("visitor")
    elsewhere = settings | {"bootstrap_servers": [f"localhost:{fortress.kafka.sasl_port}"]}
    config = Config.model_validate({"stream": "x", "channels": {"a": {}}, "kafka": elsewhere})
    assert "Hostname mismatch" in refused(tmp_path, capfd, config, "monitor")
    off = elsewhere | {"security": settings["security"] | {"verify_hostname": False}}
    config = Config.model_validate({"stream": "x", "channels": {"a": {}}, "kafka": off})
    with pytest.raises(BrokerRightsError, match="may not see the topic"):  # it was let in, and has no rights
        ensure_topics(config.kafka, {"somebody-elses": 1})


def test_a_token_is_replaced_before_it_ends(fortress):
    """A token is asked for once, and again when four fifths of its life are over; while the endpoint is away the last
    one serves to its end; a refusal is an error."""
    fortress.user("visitor")
    oauth = kafka_config(fortress, "visitor", "OAUTHBEARER").kafka.security.oauth
    now = [0.0]
    provider = TokenProvider(oauth.model_copy(update={"scope": "kafka"}), clock_s=lambda: now[0])
    fortress.endpoint.asked.clear()
    first = provider.token()
    now[0] = 0.79 * fortress.endpoint.lifetime_s
    assert first == provider.token()
    assert [{"grant_type": "client_credentials", "scope": "kafka"}] == fortress.endpoint.asked
    now[0] = 0.81 * fortress.endpoint.lifetime_s
    fortress.endpoint.broken = (503, b"busy")
    try:
        assert first == provider.fetch()
        now[0] = 1.01 * fortress.endpoint.lifetime_s
        with pytest.raises(BrokerError, match="can't answer now: 503"):
            provider.fetch()
        for body in (b"[]", b"x" * 100, b'{"access_token": "a b"}', b'{"access_token": "abc", "expires_in": 0}'):
            fortress.endpoint.broken = (200, body)
            with pytest.raises(BrokerLoginError, match="token"):
                provider.fetch()
    finally:
        fortress.endpoint.broken = None
    assert provider.fetch()


def store_config(fortress: Fortress, user: str, **changes: Any) -> Config:
    """Return a set-up that comes to Redis as this user."""
    redis = fortress.redis_settings(user, "prefix", **changes)
    return Config.model_validate({"stream": "x", "channels": {"a": {}}, "redis": redis})


def test_every_right_on_redis_is_needed_and_named(fortress):
    """A user that lacks any one command of the documented list is told so at the start, by name; with all it may."""
    rules = redis_rules(store_config(fortress, "thrifty"))
    prepared = ["reset", "on", f">{STORE_PASSWORD}"]

    def tried(*allowed: str) -> None:
        fortress.redis.call("ACL", "SETUSER", "thrifty", *prepared, *allowed)
        config = store_config(fortress, "thrifty")
        with closing(RedisStore(config.redis, config.stream)) as store:
            fortress.redis.call("SCRIPT", "FLUSH")  # or one who may not load it could run it all the same
            store.require_rights()

    tried(*rules)
    for rule in rules:
        if rule.startswith("+") and rule not in SPARE:
            name = rule[1:].partition("|")[0]
            with pytest.raises(StoreAccessError, match=rf"(?is)\b{name}\b.*check CONFIG --rights"):
                tried(*(each for each in rules if each != rule))
    with pytest.raises(StoreAccessError, match="key"):
        tried(*("~elsewhere:*" if rule.startswith("~") else rule for rule in rules))


#: Rights that the client uses only for other databases than the first, on older servers, after an error, or to warn.
SPARE = {"+select", "+eval", "+discard", "+info"}


def test_logins_that_redis_refuses(fortress, tmp_path, capfd):
    """A wrong password or an authority not trusted is one line, status 2, from any command that needs Redis."""
    rules = redis_rules(store_config(fortress, "visitor"))
    fortress.redis.call("ACL", "SETUSER", "visitor", "reset", "on", f">{STORE_PASSWORD}", *rules)

    def said(**changes: Any) -> str:
        return refused(tmp_path, capfd, store_config(fortress, "visitor", **changes), "thresholds", "list")

    assert "refused the login" in said(password={"env": "WRONG"})
    strangers = Authority(tmp_path / "strangers")
    assert "its certificate is not trusted" in said(ca_file=str(strangers.file))
    assert f"redis.cert_file ({tmp_path / 'none.pem'}) can't be read" in said(cert_file=str(tmp_path / "none.pem"))
    localhost = fortress.redis.url.replace("127.0.0.1", "localhost")
    assert "Hostname mismatch" in said(url=localhost)
    config = store_config(fortress, "visitor", url=localhost, verify_hostname=False)
    with closing(RedisStore(config.redis, config.stream)) as store:
        assert 0 == store.controls_version()


def test_redis_with_client_certificates(fortress, tmp_path):
    """A Redis that asks for a certificate gets the configured one; without one the error names the key."""
    with closing_server(SecuredRedis(tmp_path / "redis", fortress.authority, client_auth=True)) as server:
        identity = fortress.authority.issue("worker")
        changes = {"url": server.url, "username": "administrator", "password": {"env": "MUTUAL"}}
        config = store_config(fortress, "x", **changes, cert_file=str(identity.cert), key_file=str(identity.key))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MUTUAL", server.password)
            with closing(RedisStore(config.redis, "x")) as store:
                assert 0 == store.controls_version()
            config = store_config(fortress, "x", **changes)
            with closing(RedisStore(config.redis, "x")) as store, pytest.raises(StoreError, match="cert_file"):
                store.controls_version()
