"""The settings of what people and their tools ask of a worker: verdicts, metrics, health."""

from __future__ import annotations

from pydantic import Field

from stream_detector.config.base import Section


class VerdictConfig(Section):
    """What is taken of people's verdicts on alerts."""

    enabled: bool = True
    """Whether workers read the verdict topic, where there is one."""
    per_sender: int = Field(default=60, ge=1)
    """Most verdicts of one sender (`by`) in a minute of message time; more are dead letters (`rate-limited`)."""
    in_all: int = Field(default=600, ge=1)
    """Most verdicts in a minute of message time, of a partition."""
    keep: int = Field(default=10_000, ge=1, le=1_000_000)
    """Verdicts kept in Redis, the newest ones."""


class MetricsConfig(Section):
    """Prometheus metrics and health."""

    port: int | None = Field(default=None, ge=0, le=65_535)
    """Serve /metrics, /healthz and /readyz here; not at all when left out. 0 takes a free port (named in the log)."""
    host: str = "127.0.0.1"
    """Address to listen on."""
