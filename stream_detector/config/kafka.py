"""The settings of Kafka: brokers, topics, consumer group, security."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from stream_detector.config.base import Section
from stream_detector.config.secret import Secret


class InputConfig(Section):
    """One input topic."""

    topic: str = Field(min_length=1)
    """Name of the topic."""
    format: Literal["auto", "json", "msgpack"] = "auto"
    """Format of the message values. `auto`: the `content-type` header decides, JSON without one; set the format where
    that header is wrong."""
    fields: dict[str, str] = Field(default={})
    """Field names in this topic: a mapping of `asset`, `ts`, `interval_ms`, `values` or a channel to the field's name
    there. Set it to read an existing topic as it is."""
    max_message_bytes: int = Field(default=1_048_576, ge=64)
    """Largest message value, bytes; a larger one goes to the dead-letter topic as `too-large`. Raise it for large
    blocks of samples."""


class OAuthConfig(Section):
    """Tokens for mechanism OAUTHBEARER, by the client credentials grant (RFC 6749, section 4.4)."""

    token_url: str
    """URL of the token endpoint, https:// (http:// only on this machine)."""
    client_id: str = Field(min_length=1)
    """Id of the client that requests tokens."""
    client_secret: Secret
    """Secret of that client."""
    scope: str | None = None
    """Scopes to request, separated by spaces; default: the endpoint's."""
    ca_file: Path | None = None
    """Certificate authority of the endpoint; default: the system's."""
    timeout_ms: float = Field(default=5_000.0, gt=0)
    """Longest wait, ms, for the endpoint's answer."""

    @field_validator("token_url")
    @classmethod
    def _safe(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or "secret=" in value or "password=" in value:  # never repeat it
            raise ValueError("must not contain credentials; use client_id and client_secret: {env: NAME}")
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
            raise ValueError("must begin with https:// (http:// only for 127.0.0.1, ::1 or localhost)")
        return value


class KafkaSecurity(Section):
    """Transport, authentication and certificates of connections to the brokers."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Transport and authentication: `SSL` is encrypted, `SASL_PLAINTEXT` authenticates, `SASL_SSL` does both."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism; required by `SASL_PLAINTEXT` and `SASL_SSL`."""
    username: str | None = None
    """SASL user; not for OAUTHBEARER."""
    password: Secret | None = None
    """SASL password; not for OAUTHBEARER."""
    oauth: OAuthConfig | None = None
    """Where OAUTHBEARER gets its tokens; required by that mechanism."""
    ca_file: Path | None = None
    """Certificate authority that the brokers' certificates are checked against; default: the system's."""
    cert_file: Path | None = None
    """Client certificate (PEM) for mutual TLS; the file may also contain its key."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM), if it is in another file."""
    key_password: Secret | None = None
    """Password of an encrypted private key."""
    verify_hostname: bool = True
    """Whether a broker's certificate must name the host it was reached under; the authority is checked in any case. Set
    it to false only where certificates name other hosts."""

    @model_validator(mode="after")
    def _complete(self) -> KafkaSecurity:
        sasl, tls = self.protocol.startswith("SASL"), self.protocol.endswith("SSL")
        if sasl and self.mechanism is None:
            raise ValueError(f"protocol {self.protocol} needs a mechanism")
        if self.mechanism == "OAUTHBEARER":
            if self.oauth is None or self.username is not None or self.password is not None:
                raise ValueError("mechanism OAUTHBEARER needs oauth, and neither username nor password")
        elif sasl and (self.username is None or self.password is None or self.oauth is not None):
            raise ValueError(f"mechanism {self.mechanism} needs username and password, and no oauth")
        # An unused setting is an error: a user who sets a password expects it to be required.
        if not sasl and (
            unused := [key for key in ("mechanism", "username", "password", "oauth") if getattr(self, key) is not None]
        ):
            raise ValueError(f"{unused[0]} needs protocol SASL_SSL or SASL_PLAINTEXT, got {self.protocol}")
        files = ("ca_file", "cert_file", "key_file", "key_password")
        if not tls and (unused := [key for key in files if getattr(self, key) is not None]):
            raise ValueError(f"{unused[0]} needs protocol SSL or SASL_SSL, got {self.protocol}")
        if self.cert_file is None and (self.key_file is not None or self.key_password is not None):
            raise ValueError("key_file and key_password need cert_file")
        return self


def _address(value: str) -> str:
    if "@" in value:  # credentials, as in a URL: never repeat them
        raise ValueError("expected host:port without credentials; they belong under kafka.security")
    return value


class KafkaConfig(Section):
    """Brokers, topics and the consumer group."""

    bootstrap_servers: list[Annotated[str, AfterValidator(_address)]] = Field(default=["127.0.0.1:9092"], min_length=1)
    """Brokers to contact first, as `host:port`. Name several, because one may be away."""
    group: str | None = None
    """Consumer group of the workers; default: `<stream>-detector`."""
    inputs: list[InputConfig] = Field(default=[], validate_default=True)
    """Input topics; default: `<stream>.readings`. Topics that are joined must have the same number of partitions."""
    alert_topic: str | None = None
    """Topic that alerts are written to; default: `<stream>.alerts`."""
    dead_letter_topic: str | None = None
    """Topic that unusable messages are written to; default: `<stream>.dead-letter`."""
    verdict_topic: str | None = None
    """Topic that people's verdicts on alerts are read from; default: `<stream>.verdicts`. It is not read while it
    doesn't exist."""
    audit_topic: str | None = None
    """Topic that changes of thresholds are written to; default: `<stream>.audit`."""
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group without committed offsets starts: at the oldest message (`earliest`) or after the newest
    (`latest`)."""
    instance_id: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9._-]{1,100}$")
    """Static membership: a name that this worker (for example its pod) keeps from start to start, unique within the
    group. A worker that is back within the session timeout gets its partitions without a rebalance."""
    rebalance: Literal["cooperative", "eager"] = "cooperative"
    """What happens to partitions when a worker joins or leaves. `cooperative`: only those that move are interrupted,
    all others continue. `eager`: every worker gives up all of its partitions; use it while workers of an older version
    are replaced one by one (docs/delivery.md)."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000)
    """Time, ms, without a heartbeat after which a worker loses its partitions. Lower it for faster failover, raise it
    if busy machines lose their partitions."""
    start_timeout_ms: float = Field(default=300_000.0, ge=0)
    """Time, ms, that a worker which starts while no broker answers keeps retrying before it ends with exit status 1. 0:
    it ends at once."""
    max_poll_interval_ms: int = Field(default=300_000, ge=10_000)
    """Time, ms, without a poll after which a worker leaves the group. Work between two polls is limited to about a
    second, whatever the detector costs, so this only covers a machine that stands still."""
    max_poll_records: int = Field(default=4_000, ge=1)
    """Most messages taken in one poll. Lower it for large messages."""
    max_fetch_mb: float = Field(default=16.0, gt=0)
    """Most data fetched ahead from each broker, MiB. Lower it where memory is short."""
    max_unsent_mb: float = Field(default=16.0, gt=0)
    """Alerts and dead letters that may wait for their commit, MiB; above this the worker commits at once."""
    security: KafkaSecurity = KafkaSecurity()
    """Transport, authentication and certificates."""
