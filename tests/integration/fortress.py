"""Secured servers and streams on them, for the tests of security: import the fixtures by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS
from stream_detector.config.loading import load
from stream_detector.permissions import kafka_permissions, redis_rules
from tests.conftest import missing
from tests.integration.site import Site, write_config
from tests.secured import Authority, Identity, SecuredKafka, SecuredRedis, TokenEndpoint
from tests.servers import UnavailableError, kafka_jars

PASSWORD, SECRET, STORE_PASSWORD = "sentinel-kafka-4711", "sentinel-oauth-4712", "sentinel-redis-4713"
SECRETS = (PASSWORD, SECRET, STORE_PASSWORD)


@dataclass
class Fortress:
    """The servers, and who they trust."""

    folder: Path
    authority: Authority
    endpoint: TokenEndpoint
    kafka: SecuredKafka
    redis: SecuredRedis
    users: dict[str, Identity] = field(default_factory=dict)

    def user(self, name: str) -> None:
        """Make a user known in every way."""
        self.kafka.add_user(name, PASSWORD)
        self.endpoint.clients[name] = SECRET
        self.users[name] = self.authority.issue(name)

    def kafka_settings(self, name: str, way: str = "SCRAM-SHA-512", **changes: Any) -> dict[str, Any]:
        """Return what a user writes under `kafka` to come this way."""
        security: dict[str, Any] = {"protocol": "SASL_SSL", "mechanism": way, "ca_file": str(self.authority.file)}
        port = self.kafka.sasl_port
        if way == "mTLS":
            identity = self.users[name]
            security |= {"protocol": "SSL", "cert_file": str(identity.cert), "key_file": str(identity.key)}
            del security["mechanism"]
            port = self.kafka.tls_port
        elif way == "OAUTHBEARER":
            security["oauth"] = {"token_url": self.endpoint.url, "client_id": name, "client_secret": {"env": "SECRET"}}
        else:
            security |= {"username": name, "password": {"env": "PASSWORD"}}
        return {
            "bootstrap_servers": [f"127.0.0.1:{port}"],
            "session_timeout_ms": SESSION_TIMEOUT_MS,
            "security": security | changes,
        }

    def redis_settings(self, user: str, prefix: str, **changes: Any) -> dict[str, Any]:
        """Return what a user writes under `redis`."""
        return {
            "url": self.redis.url,
            "username": user,
            "password": {"env": "STORE_PASSWORD"},
            "ca_file": str(self.authority.file),
            "prefix": prefix,
        } | changes


@pytest.fixture(scope="session")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    """One of each server for all tests here."""
    folder = tmp_path_factory.mktemp("fortress")
    authority, endpoint = Authority(folder / "ca"), TokenEndpoint({})
    try:
        kafka = SecuredKafka(folder / "kafka", kafka_jars(), authority, endpoint)
        redis = SecuredRedis(folder / "redis", authority, client_auth=False)
    except UnavailableError as reason:
        missing(str(reason))
    kafka.start()
    redis.start()
    yield Fortress(folder, authority, endpoint, kafka, redis)
    kafka.stop()
    redis.stop()
    endpoint.close()


@pytest.fixture
def revealed(monkeypatch: pytest.MonkeyPatch, fortress: Fortress) -> None:
    """Put the secrets where the set-ups say they are."""
    for name, value in (
        ("PASSWORD", PASSWORD),
        ("SECRET", SECRET),
        ("STORE_PASSWORD", STORE_PASSWORD),
        ("ADMIN_PASSWORD", fortress.redis.password),
        ("WRONG", "sentinel-wrong-4714"),
    ):
        monkeypatch.setenv(name, value)


class SecuredSite(Site):
    """A site whose programs have the least rights; the tests look at it with all."""

    def __post_init__(self) -> None:
        own = self.config_path
        self.config_path = own.with_name("administrator.yaml")
        super().__post_init__()
        self.config_path = own

    def ran(self) -> str:
        """Return all that its programs wrote."""
        return "".join(program.said() for program in self.programs)


@pytest.fixture
def make_secured(revealed: None, fortress: Fortress, unique, tmp_path, material) -> Iterator[Any]:
    """Make a stream; `way`: how its user comes to Kafka; `without`: a right of Kafka's that the user lacks."""
    sites: list[SecuredSite] = []

    def make(way: str = "SCRAM-SHA-512", without: int | None = None, **sections: Any) -> SecuredSite:
        name = unique("secured")
        fortress.user(name)
        sections = {"delivery": "exactly_once", "commit_interval_ms": 100, **sections}
        admin = {"bootstrap_servers": fortress.kafka.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
        path = tmp_path / "site.yaml"
        redis = fortress.redis_settings("administrator", name, password={"env": "ADMIN_PASSWORD"})
        for file, kafka, store in (
            (path.with_name("administrator.yaml"), admin, redis),
            (path, fortress.kafka_settings(name, way), fortress.redis_settings(name, name)),
        ):
            write_config(file, name, material.artifact, kafka, fortress.redis.url, **sections)
            file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"redis": store}))
        site = SecuredSite(path, tmp_path, 2, True)
        sites.append(site)
        config = load(path, env={})
        fortress.kafka.grant(name, [right for at, right in enumerate(kafka_permissions(config)) if at != without])
        rules = redis_rules(config)
        assert "OK" == fortress.redis.call("ACL", "SETUSER", name, "reset", "on", f">{STORE_PASSWORD}", *rules)
        return site

    yield make
    for site in sites:
        site.close()
