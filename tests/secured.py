"""Servers that ask who you are: Apache Kafka and Redis with certificates, passwords, tokens and ACLs.

Certificates are made for the test and live a day. Kafka has four listeners: SASL_SSL (SCRAM, OAUTHBEARER), SSL with
client certificates, and a plain one for the tests' own administration, whose anonymous user may do everything.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
import time
import urllib.parse
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from stream_detector.adapters.embedded.servers import free_port
from stream_detector.permissions import KafkaPermission
from tests.servers import KafkaServer, RedisServer, Server

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path
    both: Path
    """Key and certificate in one file, as Kafka's keystores want them."""


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        """Write its certificate to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key(), DAY)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._cert = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.file = folder / "ca.pem"
        """The certificate to trust."""
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, public: Any, lifetime: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        start = now - 2 * DAY  # a negative lifetime: it has ended already
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(start).not_valid_after(now + lifetime)

    def issue(self, name: str, *hosts: str, lifetime: timedelta = DAY) -> Identity:
        """Return a certificate for a user, or a server under these addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), lifetime)
        if hosts:
            names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        both_ways = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        cert = builder.add_extension(both_ways, critical=False).sign(self._key, hashes.SHA256())
        plain = serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        cert_pem = cert.public_bytes(pem)
        stem = self._folder / f"{name}-{secrets.token_hex(3)}"
        identity = Identity(stem.with_suffix(".crt"), stem.with_suffix(".key"), stem.with_suffix(".pem"))
        identity.cert.write_bytes(cert_pem)
        identity.key.write_bytes(key_pem)
        identity.both.write_bytes(key_pem + cert_pem)
        return identity


class TokenEndpoint:
    """An OAuth 2 token endpoint (client credentials) and the keys a broker checks its tokens with.

    Clients are `{client id: secret}`; the token's subject is the client id.
    """

    def __init__(self, clients: dict[str, str], lifetime_s: float = 3_600.0) -> None:
        """Serve on a free port of 127.0.0.1 until closed."""
        self.clients = clients
        self.lifetime_s = lifetime_s
        self.asked: list[dict[str, str]] = []
        """The forms posted, in order."""
        self.broken: tuple[int, bytes] | None = None
        """Answer with this status and body instead."""
        self.given: list[str] = []
        """The tokens handed out."""
        self._key = rsa.generate_private_key(65_537, 2_048)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps(endpoint._keys()).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._answer(*endpoint._grant(self.headers.get("Authorization", ""), body))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def url(self) -> str:
        """Where tokens are."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def keys_url(self) -> str:
        """Where the keys are (JWKS)."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/keys"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def token(self, subject: str) -> str:
        """Return a signed token (RS256) for a subject."""
        now = int(time.time())
        claims = {"sub": subject, "iss": "test", "aud": "kafka", "iat": now, "exp": now + int(self.lifetime_s)}
        head = {"alg": "RS256", "typ": "JWT", "kid": "test"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{_encoded(self._key.sign(signed.encode(), PKCS1v15(), hashes.SHA256()))}"

    def _keys(self) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        n, e = (_encoded(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e))
        return {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "test", "n": n, "e": e}]}

    def _grant(self, authorization: str, body: str) -> tuple[int, bytes]:
        form = dict(urllib.parse.parse_qsl(body))
        self.asked.append(form)
        if self.broken is not None:
            return self.broken
        client, _, secret = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        client, secret = urllib.parse.unquote_plus(client), urllib.parse.unquote_plus(secret)
        if form.get("grant_type") != "client_credentials":
            return 400, b'{"error": "unsupported_grant_type"}'
        if self.clients.get(client) != secret:
            return 401, b'{"error": "invalid_client", "error_description": "no such client or secret"}'
        self.given.append(self.token(client))
        granted = {"access_token": self.given[-1], "token_type": "Bearer", "expires_in": int(self.lifetime_s)}
        return 200, json.dumps(granted).encode()


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class SecuredKafka(KafkaServer):
    """One Apache Kafka broker that authenticates and authorises (StandardAuthorizer, KRaft)."""

    def __init__(
        self,
        folder: Path,
        jars: Path,
        authority: Authority,
        endpoint: TokenEndpoint,
        identity: Identity | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`identity`: the broker's certificate; one for 127.0.0.1 when left out."""
        super().__init__(folder, jars, settings)
        self._authority, self._endpoint = authority, endpoint
        self._identity = identity or authority.issue("broker", "127.0.0.1")
        self.sasl_port, self.tls_port = free_port(), free_port()
        self._admin: Any = None

    def _java(self, *arguments: str) -> list[str]:
        urls = f"{self._endpoint.url},{self._endpoint.keys_url}"
        java, *rest = super()._java(*arguments)
        return [java, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={urls}", *rest]

    def _properties(self) -> dict[str, str]:
        plain = super()._properties()
        jwt = "org.apache.kafka.common.security.oauthbearer"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        oauth = "listener.name.sasl_ssl.oauthbearer"
        return plain | {
            "listeners": f"{plain['listeners']},SASL_SSL://127.0.0.1:{self.sasl_port},SSL://127.0.0.1:{self.tls_port}",
            "advertised.listeners": f"{plain['advertised.listeners']},SASL_SSL://127.0.0.1:{self.sasl_port},"
            f"SSL://127.0.0.1:{self.tls_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._identity.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._authority.file),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{scram} required;",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": f"{jwt}.OAuthBearerLoginModule required;",
            f"{oauth}.sasl.server.callback.handler.class": f"{jwt}.OAuthBearerValidatorCallbackHandler",
            "listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self._endpoint.keys_url,
            "listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audience": "kafka",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    @property
    def admin(self) -> Any:
        """A client that may do everything."""
        if self._admin is None:
            self._admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.port}")
        return self._admin

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it, and the administration's connection."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        super().stop(timeout_s)

    def add_user(self, name: str, password: str) -> None:
        """Let a user in with a password, by either SCRAM mechanism."""
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # the broker takes one at a time
            answer = self.admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(name, mechanism, password, iterations=4_096)]
            )
            assert not any(answer.values()), answer

    def grant(self, user: str, rights: Iterable[KafkaPermission]) -> None:
        """Give a user these rights and no other."""
        answer = self.admin.create_acls(_acls(user, rights))
        assert not answer["failed"], answer

    def revoke(self, user: str, rights: Iterable[KafkaPermission]) -> None:
        """Take these rights back."""
        for _, found, error in self.admin.delete_acls(_acls(user, rights)):
            assert error is kafka_errors.NoError, error
            assert found, "no such right"


def _acls(user: str, rights: Iterable[KafkaPermission]) -> list[ACL]:
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactional-id": ResourceType.TRANSACTIONAL_ID,
    }
    patterns = {"literal": ACLResourcePatternType.LITERAL, "prefixed": ACLResourcePatternType.PREFIXED}
    return [
        ACL(
            f"User:{user}",
            "*",
            ACLOperation[operation],
            ACLPermissionType.ALLOW,
            ResourcePattern(kinds[right.resource], right.name, patterns[right.pattern]),
        )
        for right in rights
        for operation in right.operations
    ]


class SecuredRedis(RedisServer):
    """Redis over TLS only, with ACL users; `client_auth` asks clients for certificates too."""

    def __init__(self, folder: Path, authority: Authority, client_auth: bool = False) -> None:
        """The default user is off; `administrator` may do everything. Raises UnavailableError."""
        self._identity = authority.issue("redis", "127.0.0.1")
        self._authority = authority
        self.password = secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)
        users = folder / "users.acl"
        users.write_text(f"user default off\nuser administrator on >{self.password} ~* &* +@all\n")
        super().__init__(
            folder,
            {
                "tls-cert-file": str(self._identity.cert),
                "tls-key-file": str(self._identity.key),
                "tls-ca-cert-file": str(authority.file),
                "tls-auth-clients": "yes" if client_auth else "no",
                "aclfile": str(users),
            },
        )
        self._client_auth = client_auth

    @property
    def url(self) -> str:
        """URL of its first database."""
        return f"rediss://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command line: the port speaks TLS only."""
        command = super().command()
        place = command.index("--port")
        return [*command[:place], "--port", "0", "--tls-port", *command[place + 1 :]]

    def ready(self) -> bool:
        """Tell whether it answers."""
        try:
            return self.call("PING") == "PONG"
        except OSError:
            return False

    def call(self, *words: str) -> str:
        """Run a command as administrator and return what redis-cli prints. Raises OSError when it can't be reached."""
        identity = self._identity
        done = subprocess.run(
            [
                "redis-cli",
                "-p",
                str(self.port),
                "--tls",
                "--cacert",
                str(self._authority.file),
                "--cert",
                str(identity.cert),
                "--key",
                str(identity.key),
                "--user",
                "administrator",
                "--no-auth-warning",
                *words,
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={"REDISCLI_AUTH": self.password, "PATH": "/usr/bin:/bin:/usr/local/bin"},
        )
        if done.returncode != 0 or "Could not connect" in done.stderr:
            raise OSError(done.stderr)
        return done.stdout.strip()


__all__ = ["Authority", "Identity", "SecuredKafka", "SecuredRedis", "Server", "TokenEndpoint"]
