"""Whether this user may do what a worker does, asked at the start: the right to write alerts is missed hours later."""

from __future__ import annotations

from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from stream_detector.adapters.kafka.login import name
from stream_detector.adapters.kafka.settings import client_settings, servers, translated
from stream_detector.config import Config
from stream_detector.errors import BrokerRightsError
from stream_detector.permissions import KafkaPermission, kafka_permissions


def require_rights(config: Config) -> None:
    """Raise BrokerRightsError that names every right on a topic or the group that this user lacks. Raises BrokerError.

    A broker tells what a user may do on topics it may describe (Kafka 2.3 and newer; others are taken at their word).
    Topics that don't exist, and the one of verdicts, which is looked at when it is read, are passed over.
    """
    wanted = [right for right in kafka_permissions(config) if right.name != config.verdict_topic]
    with translated(config.kafka, "looking up this user's rights"):
        client: Any = KafkaAdminClient(**client_settings(config.kafka))  # type: ignore[no-untyped-call]  # no types
        try:
            missing = _missing_on_topics(client, [right for right in wanted if right.resource == "topic"])
            missing += _missing_on_group(client, [right for right in wanted if right.name == config.group])
        finally:
            client.close()
    if missing:
        listed = "".join(f"\n  {right}" for right in missing)
        raise BrokerRightsError(
            f"Kafka at {servers(config.kafka)}: {name(config.kafka)} lacks "
            f"{'a right' if len(missing) == 1 else f'{len(missing)} rights'}:{listed}\n"
            "  `stream-detector check CONFIG --rights` prints the commands that grant them"
        )


def _missing_on_topics(client: Any, wanted: list[KafkaPermission]) -> list[KafkaPermission]:
    """Return the missing permissions of each topic."""
    missing = []
    for topic in client.describe_topics([right.name for right in wanted]):
        right = next(right for right in wanted if right.name == topic["name"])
        allowed = topic["authorized_operations"]
        if topic["error_code"] == kafka_errors.TopicAuthorizationFailedError.errno:
            missing.append(right)
        elif not topic["error_code"] and allowed:  # nothing allowed on what we were shown: the broker doesn't tell
            lacking = tuple(operation for operation in right.operations if operation not in allowed)
            if lacking:
                missing.append(KafkaPermission(right.resource, right.name, lacking, right.why, right.pattern))
    return missing


def _missing_on_group(client: Any, wanted: list[KafkaPermission]) -> list[KafkaPermission]:
    try:
        client.describe_groups([right.name for right in wanted])
    except kafka_errors.GroupAuthorizationFailedError:
        return wanted
    except kafka_errors.KafkaError:  # a broker that can't describe groups, or this one yet: joining tells
        return []
    except ValueError:  # a broker that leaves out what is allowed, as Kafka does not: the client can't read that
        return []
    return []
