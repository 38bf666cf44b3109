"""The settings of verdicts, metrics and health checks."""

from __future__ import annotations

from pydantic import Field

from stream_detector.config.base import Section


class VerdictConfig(Section):
    """Which of people's verdicts on alerts are accepted."""

    enabled: bool = True
    """Whether workers read the verdict topic, if it exists."""
    per_sender: int = Field(default=60, ge=1)
    """Most verdicts of one sender (`by`) in a minute of message time; further ones are dead letters (`rate-limited`).
    Raise it for tools that send many."""
    in_all: int = Field(default=600, ge=1)
    """Most verdicts of a partition in a minute of message time; further ones are dead letters (`rate-limited`)."""
    keep: int = Field(default=10_000, ge=1, le=1_000_000)
    """Number of verdicts kept in Redis, the newest ones."""


class MetricsConfig(Section):
    """Prometheus metrics and health checks."""

    port: int | None = Field(default=None, ge=0, le=65_535)
    """Port that serves /metrics, /healthz and /readyz; default: none is served. 0 takes a free port, which the log
    names."""
    host: str = "127.0.0.1"
    """Address to listen on. Set it to `0.0.0.0` if Prometheus runs on another machine."""
