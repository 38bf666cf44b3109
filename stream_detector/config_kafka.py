"""The settings of the connection to Kafka, and where secrets are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stream_detector.config_base import Section
from stream_detector.errors import ConfigError


class Secret(Section):
    """Where a secret is kept: exactly one of `env` and `file`."""

    env: str | None = None
    """Name of the environment variable that holds it."""
    file: Path | None = None
    """Path of the file that holds it; a trailing newline is dropped."""

    @model_validator(mode="before")
    @classmethod
    def _no_literals(cls, value: object) -> object:
        if isinstance(value, str):  # the value may be the secret itself: never repeat it
            raise ValueError("a secret can't stand in the configuration; write {env: NAME} or {file: PATH}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env and file")
        return self

    def reveal(self) -> str:
        """Return the secret. Raises ConfigError when its place is empty or can't be read."""
        if self.env is not None:
            if not (value := os.environ.get(self.env)):
                raise ConfigError(f"the environment variable {self.env} is not set, but the configuration names it")
            return value
        assert self.file is not None
        try:
            return self.file.read_text().rstrip("\n")
        except OSError as error:
            raise ConfigError(f"the secret's file {self.file} can't be read: {error.strerror}") from error


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


class KafkaSecurity(Section):
    """How to talk to the brokers."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Transport and authentication."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """SASL mechanism."""
    username: str | None = None
    """SASL user."""
    password: Secret | None = None
    """SASL password."""
    ca_file: Path | None = None
    """Certificate authority the brokers' certificates are checked against; the system's when left out."""
    cert_file: Path | None = None
    """Client certificate for mutual TLS."""
    key_file: Path | None = None
    """Private key of the client certificate."""

    @model_validator(mode="after")
    def _complete(self) -> KafkaSecurity:
        if self.protocol.startswith("SASL") and (
            self.mechanism is None or self.username is None or self.password is None
        ):
            raise ValueError(f"protocol {self.protocol} needs mechanism, username and password")
        return self


class KafkaConfig(Section):
    """Brokers, topics and the consumer group."""

    bootstrap_servers: list[str] = Field(default=["127.0.0.1:9092"], min_length=1)
    """Brokers to start from, `host:port`."""
    group: str | None = None
    """Consumer group of the workers; `<stream>-detector` when left out."""
    inputs: list[InputConfig] = Field(default=[], validate_default=True)
    """Input topics; `<stream>.readings` when left out. Topics that are joined have equally many partitions."""
    alert_topic: str | None = None
    """Where alerts go; `<stream>.alerts` when left out."""
    dead_letter_topic: str | None = None
    """Where unusable messages go; `<stream>.dead-letter` when left out."""
    start_from: Literal["earliest", "latest"] = "earliest"
    """Where a group without committed offsets starts."""
    instance_id: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9._-]{1,100}$")
    """Static membership: a name of this worker's own (its pod's, say) that it keeps from start to start. Back within
    the session timeout it finds its partitions as it left them, and nobody else's work is interrupted."""
    session_timeout_ms: int = Field(default=10_000, ge=1_000)
    """A worker silent for so long loses its partitions."""
    max_poll_records: int = Field(default=4_000, ge=1)
    """Most messages taken in one poll."""
    security: KafkaSecurity = KafkaSecurity()
    """Transport, authentication and certificates."""
