"""The settings of Redis, which keeps states and thresholds."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from stream_detector.config.base import Section
from stream_detector.config.secret import Secret


class RedisConfig(Section):
    """The server that keeps states and thresholds."""

    url: str = "redis://127.0.0.1:6379/0"
    """Address of the server: redis://, rediss:// (TLS) or unix://, without a password."""
    username: str | None = None
    """ACL user."""
    password: Secret | None = None
    """Password of the ACL user or the server."""
    ca_file: Path | None = None
    """Certificate authority of a TLS server; default: the system's."""
    cert_file: Path | None = None
    """Client certificate (PEM), for a TLS server that asks for one; the file may also contain its key."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM), if it is in another file."""
    key_password: Secret | None = None
    """Password of an encrypted private key."""
    verify_hostname: bool = True
    """Whether a TLS server's certificate must name the host it was reached under. Set it to false only where
    certificates name other hosts."""
    prefix: str = "stream-detector"
    """All keys start with this prefix and the stream's name. Change it if other programs use it on the same server."""
    timeout_ms: float = Field(default=2_000.0, gt=0)
    """Longest wait, ms, for an answer. Raise it if the server is far away."""

    @field_validator("url")
    @classmethod
    def _no_password(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        if "@" in value or "password=" in value:
            raise ValueError("must not contain credentials; use redis.username and redis.password: {env: NAME}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RedisConfig:
        files = [key for key in ("ca_file", "cert_file", "key_file", "key_password") if getattr(self, key) is not None]
        if files and not self.url.startswith("rediss://"):
            raise ValueError(f"{files[0]} needs a url that begins with rediss://")
        if self.cert_file is None and (self.key_file is not None or self.key_password is not None):
            raise ValueError("key_file and key_password need cert_file")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password: {env: NAME} or {file: PATH}")
        return self
