"""The settings of Redis, which keeps states and thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from stream_detector.config.base import Section
from stream_detector.config.secret import Secret

_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")


class RedisConfig(Section):
    """The server that keeps states and thresholds."""

    url: str = "redis://127.0.0.1:6379/0"
    """Address of the server: redis://, rediss:// (TLS) or unix://, without a password. With Sentinel:
    redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE, or rediss+sentinel:// (TLS); the sentinels say which server
    is the master."""
    username: str | None = None
    """ACL user."""
    password: Secret | None = None
    """Password of the ACL user or the server."""
    sentinel_username: str | None = None
    """ACL user of the sentinels, if they ask for one."""
    sentinel_password: Secret | None = None
    """Password of the sentinels, if they ask for one."""
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
        if not value.startswith(_SCHEMES):
            raise ValueError(f"must start with {', '.join(_SCHEMES[:-1])} or {_SCHEMES[-1]}")
        if "@" in value or "password=" in value:
            raise ValueError("must not contain credentials; use redis.username and redis.password: {env: NAME}")
        if "+sentinel://" in value:
            parse_sentinels(value)
        return value

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.url.startswith("rediss")

    @model_validator(mode="after")
    def _consistent(self) -> RedisConfig:
        files = [key for key in ("ca_file", "cert_file", "key_file", "key_password") if getattr(self, key) is not None]
        if files and not self.tls:
            raise ValueError(f"{files[0]} needs a url that begins with rediss:// or rediss+sentinel://")
        if self.cert_file is None and (self.key_file is not None or self.key_password is not None):
            raise ValueError("key_file and key_password need cert_file")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password: {env: NAME} or {file: PATH}")
        if self.sentinel_username is not None and self.sentinel_password is None:
            raise ValueError("sentinel_username needs sentinel_password: {env: NAME} or {file: PATH}")
        if self.sentinel_password is not None and "+sentinel://" not in self.url:
            raise ValueError("sentinel_password needs a url that begins with redis+sentinel:// or rediss+sentinel://")
        return self


@dataclass(frozen=True)
class Sentinels:
    """What a url with +sentinel:// says."""

    servers: tuple[tuple[str, int], ...]
    service: str
    database: int


def parse_sentinels(url: str) -> Sentinels:
    """Return the parts of a url with +sentinel://. Raises ValueError."""
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    servers = []
    for one in parts.netloc.split(","):
        host, _, port = one.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise ValueError(f"expected sentinels as HOST:PORT,HOST:PORT, got {one!r}")
        servers.append((host.strip("[]"), int(port)))
    if not service or parts.query or parts.fragment or not (database or "0").isdigit():
        raise ValueError("expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or …/SERVICE/DATABASE")
    return Sentinels(tuple(servers), service, int(database or 0))
