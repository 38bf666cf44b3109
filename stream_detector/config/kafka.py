"""The settings of the connection to Kafka."""

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
    """Format of the values. `auto`: the `content-type` header decides, JSON without one."""
    fields: dict[str, str] = Field(default={})
    """Names in this topic: `asset`, `ts`, `interval_ms`, `values` or a channel -> the field's name there."""
    max_message_bytes: int = Field(default=1_048_576, ge=64)
    """A larger value goes to the dead-letter topic as `too-large`."""


class OAuthConfig(Section):
    """Tokens for mechanism OAUTHBEARER, by the client credentials grant (RFC 6749, section 4.4)."""

    token_url: str
    """Token endpoint, https:// (http:// only on this machine)."""
    client_id: str = Field(min_length=1)
    """Who asks."""
    client_secret: Secret
    """The client's secret."""
    scope: str | None = None
    """Scopes to ask for, separated by spaces; the endpoint's default when left out."""
    ca_file: Path | None = None
    """Certificate authority of the endpoint; the system's when left out."""
    timeout_ms: float = Field(default=5_000.0, gt=0)
    """Longest wait for the endpoint's answer."""

    @field_validator("token_url")
    @classmethod
    def _safe(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or "secret=" in value or "password=" in value:  # never repeat it
            raise ValueError("must hold no credentials; use client_id and client_secret: {env: NAME}")
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
            raise ValueError("must begin with https:// (http:// only for 127.0.0.1, ::1 or localhost)")
        return value


class KafkaSecurity(Section):
    """How to talk to the brokers."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Transport and authentication."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism."""
    username: str | None = None
    """SASL user; not for OAUTHBEARER."""
    password: Secret | None = None
    """SASL password; not for OAUTHBEARER."""
    oauth: OAuthConfig | None = None
    """Where OAUTHBEARER has its tokens from."""
    ca_file: Path | None = None
    """Certificate authority the brokers' certificates are checked against; the system's when left out."""
    cert_file: Path | None = None
    """Client certificate (PEM) for mutual TLS; may hold its key too."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM)."""
    key_password: Secret | None = None
    """Password of an encrypted private key."""
    verify_hostname: bool = True
    """Whether a broker's certificate must name the host it was reached under. The authority is checked in any case."""

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
        # What is not used is said, not passed over: who sets a password believes that it is asked for.
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
    """Brokers to start from, `host:port`."""
    group: str | None = None
    """Consumer group of the workers; `<stream>-detector` when left out."""
    inputs: list[InputConfig] = Field(default=[], validate_default=True)
    """Input topics; `<stream>.readings` when left out. Topics that are joined have equally many partitions."""
    alert_topic: str | None = None
    """Where alerts go; `<stream>.alerts` when left out."""
    dead_letter_topic: str | None = None
    """Where unusable messages go; `<stream>.dead-letter` when left out."""
    verdict_topic: str | None = None
    """Where people's verdicts on alerts come from; `<stream>.verdicts` when left out. Not read while it isn't there."""
    audit_topic: str | None = None
    """Where changes of thresholds go; `<stream>.audit` when left out."""
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group without committed offsets starts."""
    instance_id: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9._-]{1,100}$")
    """Static membership: a name of this worker's own (its pod's, say) that it keeps from start to start. Back within
    the session timeout it finds its partitions as it left them, and nobody else's work is interrupted."""
    rebalance: Literal["cooperative", "eager"] = "cooperative"
    """What becomes of partitions when a worker comes or goes. `cooperative`: those that move are taken from one and
    given to the other, all others are read on. `eager`: every worker gives up all it has; also the step between, when
    workers of an older version are replaced one by one (docs/delivery.md)."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000)
    """A worker silent for so long loses its partitions."""
    start_timeout_ms: float = Field(default=300_000.0, ge=0)
    """A worker that starts while no broker answers tries on for so long, then ends with exit status 1; 0: it ends at
    once."""
    max_poll_interval_ms: int = Field(default=300_000, ge=10_000)
    """A worker whose loop hasn't turned for so long leaves the group. Work between two polls is cut to about a second,
    whatever the detector costs, so this is for a machine that stands still."""
    max_poll_records: int = Field(default=4_000, ge=1)
    """Most messages taken in one poll."""
    max_fetch_mb: float = Field(default=16.0, gt=0)
    """Most that is fetched ahead from each broker, MiB."""
    max_unsent_mb: float = Field(default=16.0, gt=0)
    """Alerts and dead letters that may wait for their commit, MiB; when they are more, it is done at once."""
    security: KafkaSecurity = KafkaSecurity()
    """Transport, authentication and certificates."""
