"""Certificates and passwords that are replaced under a running program: the next connection uses them."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import get_sasl_mechanism
from stream_detector.adapters.kafka.oauth import TokenProvider
from stream_detector.adapters.kafka.renewal import Password, RenewedContext, renewable
from stream_detector.adapters.redis import RedisStore
from stream_detector.config import KafkaSecurity, RedisConfig, Secret
from stream_detector.config.kafka import OAuthConfig
from stream_detector.errors import BrokerError, BrokerLoginError, ConfigError, StoreError
from tests.conftest import missing
from tests.secured import DAY, Authority, Identity, SecuredRedis, TokenEndpoint
from tests.servers import RedisServer, UnavailableError


class Greeter:
    """A TLS server that asks for a certificate and answers with its serial number."""

    def __init__(self, identity: Identity, trusted: Path) -> None:
        """Serve on a free port."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trusted)
        self.context.load_cert_chain(identity.cert, identity.key)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain = self._socket.accept()[0]
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as stream:
                    stream.sendall(str(stream.getpeercert()["serialNumber"]).encode())
            except OSError:
                pass

    def asked(self, context: RenewedContext) -> str:
        """Return the serial number of the certificate that it was shown; raises what the client gets."""
        plain = socket.create_connection(self._socket.getsockname(), timeout=5)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as stream:
            return stream.recv(100).decode()

    def close(self) -> None:
        """Stop serving."""
        self._socket.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def greeter(authority: Authority) -> Iterator[Greeter]:
    """A server of that authority."""
    with closing(Greeter(authority.issue("greeter", "127.0.0.1"), authority.file)) as server:
        yield server


def test_a_certificate_that_is_replaced_is_shown_next_time(authority, greeter, tmp_path, caplog):
    """A file half written leaves the one before in use, with a warning."""
    caplog.set_level(logging.INFO, logger="stream_detector")
    files = tmp_path / "now.crt", tmp_path / "now.key"

    def place(identity: Identity) -> None:
        shutil.copy(identity.cert, files[0])
        shutil.copy(identity.key, files[1])

    place(authority.issue("worker"))
    security = KafkaSecurity(protocol="SSL", ca_file=authority.file, cert_file=files[0], key_file=files[1])
    assert renewable(security)
    context = RenewedContext(security)
    first = greeter.asked(context)
    assert first == greeter.asked(context)
    files[0].write_text("-----BEGIN CERTI")
    assert first == greeter.asked(context) == greeter.asked(context)
    place(authority.issue("worker"))
    assert first != greeter.asked(context)
    events = [record.stream_detector_event["event"] for record in caplog.records]
    assert ["certificates-unusable", "certificates-renewed"] == events


def test_an_authority_that_is_replaced_is_trusted_next_time(authority, greeter, tmp_path):
    """And the one before no longer."""
    trusted = tmp_path / "trusted.pem"
    shutil.copy(Authority(tmp_path / "other").file, trusted)
    own = authority.issue("worker")
    context = RenewedContext(KafkaSecurity(protocol="SSL", ca_file=trusted, cert_file=own.both))
    with pytest.raises(ssl.SSLCertVerificationError):
        greeter.asked(context)
    shutil.copy(authority.file, trusted)
    assert greeter.asked(context)
    shutil.copy(Authority(tmp_path / "third").file, trusted)
    with pytest.raises(ssl.SSLCertVerificationError):
        greeter.asked(context)


def test_certificates_that_are_wrong_at_the_start_are_an_error(tmp_path):
    """Nothing was in use before."""
    with pytest.raises(ConfigError, match=r"kafka\.security\.ca_file"):
        RenewedContext(KafkaSecurity(protocol="SSL", ca_file=tmp_path / "none.pem"))


def test_a_password_is_read_at_each_login(tmp_path):
    """While it can't be read, a running client tries again."""
    file = tmp_path / "password"
    with pytest.raises(ConfigError, match="can't be read"):
        Password(Secret(file=file))
    file.write_text("the-first-one")
    password = Password(Secret(file=file))

    def sent() -> bytes:
        return get_sasl_mechanism("PLAIN")(sasl_plain_username="u", sasl_plain_password=password).auth_bytes()

    assert b"u\0u\0the-first-one" == sent()
    file.write_text("the-second-one\n")
    assert b"u\0u\0the-second-one" == sent()
    assert "the-" not in repr(password)
    file.unlink()
    with pytest.raises(kafka_errors.KafkaConnectionError, match="can't be read"):
        sent()
    with pytest.raises(BrokerLoginError, match="can't be read"):  # a new client of this process: retried
        Password(Secret(file=file))


def test_a_token_is_asked_for_with_the_secret_of_now(tmp_path):
    """The provider lives as long as the process."""
    file = tmp_path / "secret"
    file.write_text("the-first-one")
    with closing(TokenEndpoint({"detector": "the-second-one"})) as endpoint:
        provider = TokenProvider(
            OAuthConfig(token_url=endpoint.url, client_id="detector", client_secret=Secret(file=file))
        )
        with pytest.raises(BrokerLoginError, match="401"):
            provider.fetch()
        file.unlink()
        with pytest.raises(BrokerError, match="can't be read"):
            provider.fetch()
        file.write_text("the-second-one")
        assert provider.fetch()


def test_redis_is_asked_with_the_password_of_now(tmp_path):
    """By a store that is open: after its connections were cut, with the new password in the file."""
    file = tmp_path / "password"
    file.write_text("the-first-one")
    try:
        server = RedisServer(tmp_path / "redis", {"requirepass": "the-first-one"})
    except UnavailableError as reason:
        missing(str(reason))
    server.start()
    store = RedisStore(RedisConfig(url=server.url, password=Secret(file=file)), "pump")
    try:
        store.pin("a", 1.0)
        with redis.Redis(port=server.port, password="the-first-one") as admin:
            admin.config_set("requirepass", "the-second-one")
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreError, match="refused the login"):
            store.pin("a", 2.0)
        file.unlink()
        with pytest.raises(StoreError, match="can't be read"):
            store.pin("a", 2.0)
        file.write_text("the-second-one")
        store.pin("a", 2.0)
        assert {"a": 2.0} == store.controls().pins
    finally:
        store.close()
        server.stop()


def test_redis_is_shown_the_certificate_of_now(authority, tmp_path, monkeypatch):
    """By a store that is open."""
    try:
        server = SecuredRedis(tmp_path / "redis", authority, client_auth=True)
    except UnavailableError as reason:
        missing(str(reason))
    server.start()
    monkeypatch.setenv("STORE_PASSWORD", server.password)
    shown = tmp_path / "shown.pem"
    shutil.copy(authority.issue("worker", lifetime=-DAY).both, shown)
    config = RedisConfig(
        url=server.url,
        username="administrator",
        password=Secret(env="STORE_PASSWORD"),
        ca_file=authority.file,
        cert_file=shown,
    )
    store = RedisStore(config, "pump")
    try:
        with pytest.raises(StoreError, match=r"redis\.cert_file"):
            store.controls_version()
        shutil.copy(authority.issue("worker").both, shown)
        assert 0 == store.controls_version()
    finally:
        store.close()
        server.stop()
