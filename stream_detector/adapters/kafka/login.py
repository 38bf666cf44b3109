"""Whether brokers and this client let each other in: certificates, then password or token.

Asked before the client is made, which would only try again, and say after a while that no broker answers.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.client_patches import LoginDialogue
from stream_detector.adapters.kafka.renewal import RenewedContext, stamps
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerLoginError

_TIMEOUT_S = 5.0
#: ApiVersions, version 0: its length, key, version, correlation id, no client id. Answered before any login.
_HELLO = struct.pack(">ihhih", 10, 18, 0, 1, -1)
#: What OpenSSL calls the alerts with which a server refuses a client's certificate.
_REFUSED = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "BAD_CERT")
_MOST_BYTES = 1_048_576

#: Servers that let us in, each with the settings it was asked under.
_seen: set[tuple[str, str]] = set()


def require_login(kafka: KafkaConfig, settings: Mapping[str, Any]) -> None:
    """Log in once with the client's settings, and raise BrokerLoginError, saying why, when it is refused.

    Asks each bootstrap server once a process, and again when a file of the settings has changed; one that doesn't
    answer is the client's to report.
    """
    if kafka.security.protocol == "PLAINTEXT":
        return
    asked = f"{kafka.security.model_dump_json()} {stamps(kafka.security)}"
    for server in kafka.bootstrap_servers:
        if (server, asked) not in _seen:
            try:
                _log_in(kafka, server, settings)
            except (OSError, ValueError, struct.error, kafka_errors.KafkaConnectionError):
                continue  # away, or on its way down
            _seen.add((server, asked))


def _log_in(kafka: KafkaConfig, server: str, settings: Mapping[str, Any]) -> None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    with ExitStack() as closing:
        stream = closing.enter_context(socket.create_connection((host, int(port)), timeout=_TIMEOUT_S))
        if context := settings.get("ssl_context"):
            stream = closing.enter_context(_secured(kafka, server, host, stream, context))
        if mechanism := settings.get("sasl_mechanism"):
            try:
                _authenticate(stream, host, mechanism, settings)
            except (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError) as error:
                raise BrokerLoginError(
                    f"Kafka at {server} refused the login of {name(kafka)}: {error.args[0]}; look at kafka.security"
                ) from None


def _secured(
    kafka: KafkaConfig, server: str, host: str, stream: socket.socket, context: RenewedContext
) -> ssl.SSLSocket:
    """Return the connection under TLS, once the server has taken the client's certificate.

    With TLS 1.3 it refuses one only after the handshake, so it is asked something.
    """
    security = kafka.security
    try:
        secured = context.wrap_socket(stream, server_hostname=host)
        secured.sendall(_HELLO)
        _receive(secured)
        return secured
    except ssl.SSLCertVerificationError as error:
        raise BrokerLoginError(
            f"Kafka at {server} has a certificate that is not trusted: {error.verify_message}; look at "
            f"kafka.security.ca_file ({security.ca_file or 'the system trust store'}) and at the broker's certificate"
        ) from None
    except ssl.SSLEOFError:
        raise
    except ssl.SSLError as error:
        words = (error.reason or str(error)).lower().replace("_", " ")
        if any(word in (error.reason or "") for word in _REFUSED):
            raise BrokerLoginError(
                f"Kafka at {server} refused this client's certificate ({security.cert_file or 'none was shown'}): "
                f"{words}; look at kafka.security.cert_file: when it ends, and who signed it"
            ) from None
        raise BrokerLoginError(
            f"Kafka at {server} doesn't speak TLS as protocol {security.protocol} needs: {words}; "
            "look at the port and at kafka.security.protocol"
        ) from None


def _authenticate(stream: socket.socket, host: str, mechanism: str, settings: Mapping[str, Any]) -> None:
    def exchange(request: bytes) -> bytes:
        stream.sendall(request)
        return _receive(stream)

    LoginDialogue(exchange, mechanism, host, settings).log_in()


def _receive(stream: socket.socket) -> bytes:
    """Return one answer, its length before it. Raises OSError when the connection ends before."""
    head = _exactly(stream, 4)
    size = int.from_bytes(head, "big", signed=True)
    if not 0 <= size <= _MOST_BYTES:
        raise OSError(f"an answer of {size} bytes")
    return head + _exactly(stream, size)


def _exactly(stream: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        if not (more := stream.recv(size - len(got))):
            raise OSError("the connection ended")
        got += more
    return got


def name(kafka: KafkaConfig) -> str:
    """Name who is logging in, and how."""
    security = kafka.security
    if security.oauth is not None:
        return f"client {security.oauth.client_id!r} by OAUTHBEARER"
    if security.mechanism is not None:
        return f"user {security.username!r} by {security.mechanism}"
    return f"the user of {security.cert_file}" if security.cert_file is not None else "this user"
