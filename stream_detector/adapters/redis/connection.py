"""How the store is reached: addresses, logins, certificates, and the translation of its errors."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from stream_detector.config import RedisConfig, Secret
from stream_detector.config.redis import Sentinels, parse_sentinels
from stream_detector.errors import ConfigError, DecodeError, StoreAccessError, StoreError

#: Answers of a server that can't do it now, while another one behind the same address may: a master that became a
#: replica, a node of a cluster without these keys, one that loads its data. Inside scripts they are part of a text.
_WRONG_SERVER = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterError,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
)
_WRONG_SERVER_TEXT = re.compile(r"\b(READONLY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|LOADING|NOREPLICAS) ")


class _Login(redis.CredentialProvider):
    """Who we are, asked for at each connection: a password that is replaced is used at the next one."""

    def __init__(self, username: str | None, password: Secret) -> None:
        """Raises ConfigError when the password can't be read."""
        self._username, self._password = username, password
        password.reveal()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, behind the user if there is one."""
        password = _now(self._password)
        return (password,) if self._username is None else (self._username, password)


def _now(secret: Secret) -> str:
    """Return a secret that could be read at the start; one that can't now may be on its way."""
    try:
        return secret.reveal()
    except ConfigError as error:
        raise redis.ConnectionError(str(error)) from error


class Connection:
    """The client of one stream's store, its keys, and its errors translated. Connects on first use."""

    def __init__(self, config: RedisConfig, stream: str) -> None:
        """Reads the password; connects to nothing yet. Raises ConfigError when it, or a certificate, is missing."""
        self.name = config.url
        self.base = f"{config.prefix}:{{{stream}}}"
        options = _options(config)
        self._sentinels: Any = None
        if "+sentinel://" in config.url:
            place = parse_sentinels(config.url)
            self._sentinels = _sentinels(config, place, options)
            # Asks the sentinels for the master whenever it connects. Any: its types are unions with coroutines.
            self.client: Any = self._sentinels.master_for(place.service)
        else:
            if config.url.startswith("unix://"):
                del options["socket_connect_timeout"]
            self.client = redis.Redis.from_url(config.url, **options)

    def key(self, name: str) -> str:
        """Return a key of the stream, all but those of tasks."""
        return f"{self.base}:{name}"

    def task(self, task: int) -> str:
        """Return the key of a task's hash, which those of its versions begin with."""
        return f"{self.base}:task:{task}"

    def not_allowed(self, what: str) -> str:
        """Say which right is missing, and what prints those to grant."""
        return (
            f"the store at {self.name} doesn't allow its user to {what}; grant it. "
            "`stream-detector check CONFIG --rights` prints the user's ACL"
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the client's exceptions into a StoreError that names the server and what to look at."""
        try:
            yield
        except redis.exceptions.NoPermissionError as error:
            raise StoreAccessError(self.not_allowed(f"do it: {error}")) from error
        except redis.AuthenticationError as error:
            raise StoreAccessError(
                f"the store at {self.name} refused the login: {error}; look at redis.username and redis.password"
            ) from error
        except redis.TimeoutError as error:
            self._look_again()
            raise StoreError(f"the store at {self.name} did not answer within redis.timeout_ms") from error
        except MasterNotFoundError as error:  # its own text shows the client's inside
            refused = "; one refused the login, look at redis.sentinel_password"
            raise StoreError(
                f"the store at {self.name}: no sentinel that answers names a master of that service"
                f"{refused if 'AuthenticationError' in str(error) else ''}"
            ) from error
        except (redis.ConnectionError, OSError) as error:
            self._look_again()
            if (refusal := _certificate(error)) is not None:
                raise StoreAccessError(f"the store at {self.name}: {refusal}") from error
            ended = self.name.startswith("rediss") and "EOF" in str(error)
            hint = "; if it asks clients for certificates, look at redis.cert_file" if ended else ""
            raise StoreError(f"the store at {self.name} can't be reached: {error}{hint}") from error
        except redis.RedisError as error:
            if isinstance(error, redis.exceptions.MovedError):
                self._look_again()
                raise StoreError(
                    f"the store at {self.name} is a node of a Redis Cluster, and this stream's keys are on "
                    f"{error.host}:{error.port} now; redis.url must lead there, or to a server without cluster mode"
                ) from error
            if _from_wrong_server(error):
                self._look_again()
                raise StoreError(
                    f"the store at {self.name} is not in charge now: {error}; its address is looked up again"
                ) from error
            # Inside a script it is no NOPERM, but a text, and another one in Redis 7.0 than before and after.
            what = "run multi" if "without MULTI" in str(error) else f"do it: {error}"
            if any(words in str(error) for words in ("permission", "user executing the script", "without MULTI")):
                raise StoreAccessError(self.not_allowed(what)) from error
            raise StoreError(f"the store at {self.name} refused: {error}") from error

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()
        for one in self._sentinels.sentinels if self._sentinels is not None else ():
            one.close()

    def _look_again(self) -> None:
        """Close the idle connections, so that the next calls look the address up and connect again.

        After a failover a kept connection leads to the old server for as long as that one lives. Connections that
        other threads use stay: they meet the same answer.
        """
        self.client.connection_pool.disconnect(inuse_connections=False)

    @contextmanager
    def decoding(self, what: str) -> Iterator[None]:
        """Turn what reading stored bytes raises into a StoreError that says where they are."""
        try:
            yield
        except (DecodeError, ValueError, KeyError) as error:
            raise StoreError(
                f"what the store at {self.name} holds for {what} under {self.base} can't be read: {error}"
            ) from error


def _options(config: RedisConfig) -> dict[str, Any]:
    """Return the client's options for any server. Raises ConfigError when a file or a secret can't be read."""
    options: dict[str, Any] = {
        "credential_provider": None if config.password is None else _Login(config.username, config.password),
        "socket_timeout": config.timeout_ms / 1_000,
        "socket_connect_timeout": config.timeout_ms / 1_000,
        # A pooled connection that the server closed meanwhile is found out by using it: try once more, at once.
        # All our calls may be repeated. A timeout is not tried again: the caller was promised `timeout_ms`.
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }
    # No CLIENT SETINFO: one command more that the user would need, which Redis knows from 7.2 on only.
    new = hasattr(redis.connection, "DriverInfo")
    options |= {"driver_info": None} if new else {"lib_name": None, "lib_version": None}
    return options | (_tls(config) if config.tls else {})


def _sentinels(config: RedisConfig, place: Sentinels, options: dict[str, Any]) -> Any:
    """Return the client of the sentinels; `options`: of the clients of the servers that they name."""
    if config.tls:
        options = options | {"ssl": True}
    password = config.sentinel_password
    asking = options | {
        "credential_provider": None if password is None else _Login(config.sentinel_username, password),
        # They are asked one after the other, and those that are away must leave time for one that answers.
        "socket_timeout": config.timeout_ms / 1_000 / len(place.servers),
        "socket_connect_timeout": config.timeout_ms / 1_000 / len(place.servers),
    }
    make: Any = Sentinel  # the client types it in part
    return make(place.servers, sentinel_kwargs=asking, **options, db=place.database)


def _tls(config: RedisConfig) -> dict[str, Any]:
    """Return the client's TLS options. Raises ConfigError when a file or a secret can't be read."""
    options: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": config.verify_hostname}
    for key, path in (("ca_file", config.ca_file), ("cert_file", config.cert_file), ("key_file", config.key_file)):
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise ConfigError(f"redis.{key} ({path}) can't be read: {error.strerror}") from error
    if config.ca_file is not None:
        options["ssl_ca_certs"] = str(config.ca_file)
    if config.cert_file is not None:
        options |= {"ssl_certfile": str(config.cert_file), "ssl_keyfile": str(config.key_file or config.cert_file)}
        # Without one an encrypted key is an error, not a question on the terminal.
        options["ssl_password"] = ""
        if (secret := config.key_password) is not None:
            secret.reveal()
            options["ssl_password"] = partial(_now, secret)  # called at each connection, which reads the files again
    return options


def _from_wrong_server(error: redis.RedisError) -> bool:
    """Whether this answer means that another server has to be asked."""
    return isinstance(error, _WRONG_SERVER) or _WRONG_SERVER_TEXT.search(str(error)) is not None


def _certificate(error: BaseException | None) -> str | None:
    """Say which certificate was refused, by whom; None when that is not what went wrong."""
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    for each in found:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {each.verify_message}; look at redis.ca_file"
    text = " ".join(map(str, found)).upper()
    if "CERTIFICATE" in text or "UNKNOWN_CA" in text:
        return f"it refused this client's certificate, or lacks one ({found[-1]}); look at redis.cert_file"
    return None
