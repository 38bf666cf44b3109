"""Where a secret is kept, and how it is read when a connection is made."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import model_validator

from stream_detector.config.base import Section
from stream_detector.errors import ConfigError
from stream_detector.telemetry.redaction import hide


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
            raise ValueError("a secret must not be in the configuration; write {env: NAME} or {file: PATH}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env and file")
        return self

    def reveal(self) -> str:
        """Return the secret; from now on the logs show `[hidden]` instead of it (`redaction`).

        Raises ConfigError if the variable or file is empty or can't be read.
        """
        if self.env is not None:
            if not (value := os.environ.get(self.env)):
                raise ConfigError(f"the environment variable {self.env} is not set, but the configuration refers to it")
            return hide(value)
        assert self.file is not None
        try:
            value = self.file.read_text().rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"the secret's file {self.file} can't be read: {error.strerror}") from error
        except UnicodeDecodeError:  # its message would show a part of the secret
            raise ConfigError(f"the secret's file {self.file} is not UTF-8 text") from None
        if not value:
            raise ConfigError(f"the secret's file {self.file} is empty")
        return hide(value)
