"""Certificates and passwords as they are now: files that change are used at the next connection."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kafka import errors as kafka_errors

from stream_detector.config import KafkaSecurity, Secret
from stream_detector.errors import BrokerLoginError, ConfigError
from stream_detector.telemetry.logs import event

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a file was when it was read: its time, size and inode; None while there is none.
Stamp = tuple[int, int, int] | None


class RenewedContext:
    """A TLS context that is built again when a file it comes from has changed.

    Files that can't be used, as one half written, leave the last context in use. Safe to use from several threads.
    """

    def __init__(self, security: KafkaSecurity) -> None:
        """Read the files. Raises ConfigError when one can't be used."""
        self._security = security
        self._lock = threading.Lock()
        self._stamps = _stamps(_certificates(security))
        self._context = _context(security)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """As `ssl.SSLContext.wrap_socket`, with the certificates of now."""
        return self._current().wrap_socket(*args, **options)

    @property
    def check_hostname(self) -> bool:
        """Whether a server's certificate has to name the host."""
        return self._current().check_hostname

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            found = _stamps(_certificates(self._security))
            if found != self._stamps:
                self._stamps = found
                try:
                    self._context = _context(self._security)
                except ConfigError as error:
                    log.warning(
                        "changed certificates can't be used, the ones before stay in use: %s",
                        error,
                        extra=event("certificates-unusable"),
                    )
                else:
                    log.info("certificates have changed and are used now", extra=event("certificates-renewed"))
            return self._context


@cache
def tls_context(security: KafkaSecurity) -> RenewedContext:
    """Return the one context of these settings in this process."""
    return RenewedContext(security)


class Password:
    """A password to be asked for at each login. The first reading is the start's: later a failure may pass."""

    def __init__(self, secret: Secret) -> None:
        """Read it. Raises ConfigError when it can't be read, BrokerLoginError when it could be read before."""
        self._secret = secret
        try:
            secret.reveal()
        except ConfigError as error:
            if secret in _read:
                raise BrokerLoginError(str(error)) from error
            raise
        _read.add(secret)

    def __call__(self) -> str:
        """Return it as it is now. Raises KafkaConnectionError, after which the client tries again."""
        try:
            return self._secret.reveal()
        except ConfigError as error:
            raise kafka_errors.KafkaConnectionError(str(error)) from error

    def __repr__(self) -> str:
        """Say where it is; the client logs its settings."""
        return f"Password({self._secret!r})"


_read: set[Secret] = set()


def renewable(security: KafkaSecurity) -> bool:
    """Whether a login that is refused now can succeed later in this process: something of it is in a file."""
    return bool(_files(security))


def stamps(security: KafkaSecurity) -> dict[str, Stamp]:
    """Return what the files of these settings are now."""
    return _stamps(_files(security))


def _stamps(paths: list[Path]) -> dict[str, Stamp]:
    return {str(path): _stamp(path) for path in paths}


def _certificates(security: KafkaSecurity) -> list[Path]:
    """Return the files that make the TLS context."""
    password = security.key_password
    paths = [security.ca_file, security.cert_file, security.key_file, password.file if password is not None else None]
    return [path for path in paths if path is not None]


def _files(security: KafkaSecurity) -> list[Path]:
    paths = [security.password.file if security.password is not None else None]
    if (oauth := security.oauth) is not None:
        paths += [oauth.ca_file, oauth.client_secret.file]
    return [*_certificates(security), *(path for path in paths if path is not None)]


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(security: KafkaSecurity) -> ssl.SSLContext:
    """Build it here, not in the client, so that an unreadable file is an error at start and not an endless retry."""
    context = _load("ca_file", security.ca_file, lambda: ssl.create_default_context(cafile=security.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = security.verify_hostname
    if security.cert_file is not None:
        cert, key = security.cert_file, security.key_file
        # Without one an encrypted key is an error, not a question on the terminal.
        password = security.key_password.reveal() if security.key_password is not None else ""
        _load("cert_file", cert, lambda: context.load_cert_chain(cert, key, password))
    return context


def _load(name: str, path: Path | None, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"kafka.security.{name} ({path}) can't be used: {error}") from error
