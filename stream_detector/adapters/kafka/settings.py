"""Connection settings of every Kafka client here, and the translation of the client's errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka import client_patches, login
from stream_detector.adapters.kafka.oauth import provider
from stream_detector.adapters.kafka.renewal import Password, tls_context
from stream_detector.config import KafkaConfig
from stream_detector.errors import (
    BatchError,
    BrokerError,
    BrokerLoginError,
    BrokerRightsError,
    FencedError,
)

client_patches.read_any_header_name()
client_patches.let_go_of_undecodable()
client_patches.ask_for_passwords()

#: Longest wait for the first answer of any broker when a client starts.
BOOTSTRAP_TIMEOUT_MS = 10_000
#: Longest wait for the answer to one request, ms. A stopped broker costs so much before the request is tried again.
REQUEST_TIMEOUT_MS = 10_000
#: Largest message the client takes, bytes. What a topic takes is for its broker to say.
MAX_REQUEST_BYTES = 16 * 1024 * 1024

#: The packages that the client decodes with, by codec; gzip comes with Python.
_PACKAGES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}

_FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
)


_RIGHTS = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)


def client_settings(kafka: KafkaConfig) -> dict[str, Any]:
    """Return the keyword arguments every client takes: brokers, transport, authentication, patience.

    Secrets are fetched from where the configuration says they are, at each login, and appear nowhere else.
    Raises ConfigError when a secret or a certificate can't be read, BrokerLoginError when a certificate or a token is
    refused, BrokerError when the token endpoint can't be reached.
    """
    security = kafka.security
    settings: dict[str, Any] = {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "security_protocol": security.protocol,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        # The client's default backs off to 30 s: a broker back after a minute would be noticed half a minute late.
        "reconnect_backoff_max_ms": 1_000,
    }
    if security.protocol in ("SSL", "SASL_SSL"):
        settings["ssl_context"] = tls_context(security)
    if security.protocol.startswith("SASL"):
        settings["sasl_mechanism"] = security.mechanism
        if security.oauth is not None:
            settings["sasl_oauth_token_provider"] = tokens = provider(security.oauth)
            tokens.fetch()  # here, where a refusal is the user's to see; the client would only try again
        else:
            assert security.password is not None  # KafkaSecurity checks it
            settings["sasl_plain_username"] = security.username
            settings["sasl_plain_password"] = Password(security.password)
    login.require_login(kafka, settings)
    return settings


def connect_consumer(kafka: KafkaConfig, **settings: Any) -> Any:
    """Return a connected consumer that commits nothing by itself and sees committed messages only.

    Raises BrokerError when no broker answers within BOOTSTRAP_TIMEOUT_MS, ConfigError like `client_settings`.
    """
    common = {"enable_auto_commit": False, "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    merged = {**client_settings(kafka), **common, **settings}
    with translated(kafka, "connecting"):
        return KafkaConsumer(**merged)  # type: ignore[no-untyped-call]  # the client ships no types


def connect_producer(kafka: KafkaConfig, **settings: Any) -> Any:
    """Return a connected idempotent producer. Raises like `connect_consumer`."""
    common = {
        "acks": "all",
        "enable_idempotence": True,
        "max_request_size": MAX_REQUEST_BYTES,
    }
    merged = {**client_settings(kafka), **common, **settings}
    with translated(kafka, "connecting"):
        return KafkaProducer(**merged)  # type: ignore[no-untyped-call]  # the client ships no types


def servers(kafka: KafkaConfig) -> str:
    """Name the brokers in a message."""
    return ", ".join(kafka.bootstrap_servers)


@contextmanager
def translated(kafka: KafkaConfig, doing: str) -> Iterator[None]:
    """Turn the client's errors into BrokerError or FencedError that name the brokers and what was being done."""
    try:
        yield
    except _FENCED as error:
        raise FencedError(f"{doing}: another worker owns these partitions now ({plain(error)})") from error
    except (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError) as error:
        raise BrokerLoginError(
            f"Kafka at {servers(kafka)} refused the login ({login.name(kafka)}): {plain(error)}; look at kafka.security"
        ) from error
    except _RIGHTS as error:
        raise _no_right(kafka, doing, error) from error
    except client_patches.UndecodableError as error:
        raise _undecodable(kafka, error) from error
    except kafka_errors.InconsistentGroupProtocolError as error:
        raise BrokerError(
            f"Kafka at {servers(kafka)}: the group's other workers hand partitions out another way, as older "
            "versions do. Stop them all, or start this one with kafka.rebalance: eager (docs/delivery.md, Members)"
        ) from error
    except (kafka_errors.KafkaError, OSError) as error:
        text = plain(error)
        if text.startswith("Unable to bootstrap"):
            text = f"no answer; are they up, and ports for kafka.security.protocol {kafka.security.protocol}?"
        raise BrokerError(f"Kafka at {servers(kafka)}: {doing} failed: {text}") from error


@contextmanager
def rights_translated(kafka: KafkaConfig, doing: str, what: str = "") -> Iterator[None]:
    """Turn only the broker's saying that this user may not do it into a BrokerRightsError.

    `what`: names the resource where the broker's answer doesn't.
    """
    try:
        yield
    except _RIGHTS as error:
        raise _no_right(kafka, doing, error, what) from error


def _undecodable(kafka: KafkaConfig, found: client_patches.UndecodableError) -> BatchError:
    cause = plain(found.error)
    codec = re.search(r"Libraries for (\w+) compression codec not found", cause)
    package = _PACKAGES.get(codec[1]) if codec is not None else None
    if codec is not None and package is not None:
        cause = (
            f"it is compressed with {codec[1]}, and the Python package {package} is missing or broken here. Install it "
            f"(pip install --force-reinstall {package}) and start the worker again"
        )
    else:
        kind = type(found.error).__name__
        cause = cause if kind == cause else f"{cause} ({kind})"
    topic, partition = found.partition
    return BatchError(
        f"Kafka at {servers(kafka)}: {topic}[{partition}]: the batch at offset {found.offset} can't be decoded: {cause}"
    )


def _no_right(kafka: KafkaConfig, doing: str, error: kafka_errors.KafkaError, what: str = "") -> BrokerRightsError:
    kind = type(error).__name__.removesuffix("AuthorizationFailedError")
    resource = {"TransactionalId": "transactional id", "Topic": "topic", "Group": "group"}.get(kind, "cluster")
    given = (sorted(_strings(part)) for part in reversed(error.args))
    named = next((" " + ", ".join(map(repr, names)) for names in given if any(names)), what)
    return BrokerRightsError(
        f"Kafka at {servers(kafka)}: {doing}: {login.name(kafka)} lacks a right on the {resource}{named}. "
        "`stream-detector check CONFIG --rights` prints the rights and the commands that grant them"
    )


def _strings(part: object) -> list[str]:
    """Return a text, or those in a collection: the client gives the topics of a refusal as a set."""
    if isinstance(part, str):
        return [part]
    return [one for one in part if isinstance(one, str)] if isinstance(part, (set, frozenset, list, tuple)) else []


def plain(error: BaseException) -> str:
    """Say in words what went wrong; the client's own messages repeat class names and request dumps."""
    if isinstance(error, kafka_errors.BrokerResponseError):
        described = str(getattr(error, "description", ""))
        return f"{type(error).__name__.removesuffix('Error')}: {described}" if described else str(error)
    text = ": ".join(str(part) for part in error.args if part) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
