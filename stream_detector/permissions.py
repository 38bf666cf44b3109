"""The minimum permissions that each program needs, as ACLs of Kafka and Redis.

`stream-detector check CONFIG --rights` prints them as commands to paste; the worker's start-up check and the tests use
the same lists.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stream_detector.config import Config

Role = Literal["worker", "monitor", "producer", "verdict", "requeue"]
ROLES: tuple[Role, ...] = ("worker", "monitor", "producer", "verdict", "requeue")
#: Roles that use Redis; `stream-detector thresholds` and `assets` use the worker's user.
REDIS_ROLES: tuple[Role, ...] = ("worker", "requeue")


@dataclass(frozen=True, slots=True)
class KafkaPermission:
    """One resource and the operations that must be allowed on it. READ, WRITE and DELETE imply DESCRIBE."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operations: tuple[str, ...]
    why: str
    pattern: Literal["literal", "prefixed"] = "literal"

    def __str__(self) -> str:
        """Return a description in words."""
        resource = {"transactional-id": "transactional ids"}.get(self.resource, self.resource)
        begin = " beginning with" if self.pattern == "prefixed" else ""
        return f"{' and '.join(self.operations)} on {resource}{begin} {self.name!r} ({self.why})"


def kafka_permissions(config: Config, role: Role = "worker", create_topics: bool = False) -> list[KafkaPermission]:
    """Return the permissions of a role; `create_topics`: also those to create the topics."""
    inputs = [entry.topic for entry in config.inputs]
    create = ("CREATE",) if create_topics else ()
    if role == "monitor":
        permissions = [KafkaPermission("topic", config.alert_topic, ("READ",), "follows the alerts")]
        if config.audit:
            permissions.append(
                KafkaPermission("topic", config.audit_topic, ("READ",), "`thresholds history` and `rollback`")
            )
        return permissions
    if role == "producer":
        return [KafkaPermission("topic", topic, ("WRITE", *create), "sends readings") for topic in inputs]
    if role == "verdict":
        return [
            KafkaPermission("topic", config.verdict_topic, ("WRITE",), "sends verdicts"),
            KafkaPermission("topic", config.alert_topic, ("READ",), "whether there is such an alert"),
        ]
    if role == "requeue":
        return _requeue_permissions(config, inputs)
    exact = config.delivery == "exactly_once"
    audit = KafkaPermission("topic", config.audit_topic, ("WRITE", *create), "changes of thresholds")
    letters = ("READ", "WRITE") if exact else ("WRITE",)
    why = (
        "unusable messages; at the start, whether one of an aborted transaction can be read"
        if exact
        else ("unusable messages")
    )
    permissions = [KafkaPermission("topic", topic, ("READ", *create), "readings") for topic in inputs]
    permissions += [
        KafkaPermission("topic", config.alert_topic, ("WRITE", *create), "alerts"),
        KafkaPermission("topic", config.dead_letter_topic, (*letters, *create), why),
        *([audit] if config.audit else []),
        KafkaPermission("topic", config.verdict_topic, ("READ", *create), "verdicts"),
        KafkaPermission("group", config.group, ("READ",), "membership and offsets"),
        KafkaPermission(
            "group", f"{config.group}#", ("READ",), "groups of its own: verdicts, the start-up probe", "prefixed"
        ),
    ]
    if exact:
        permissions.append(
            KafkaPermission("transactional-id", f"{config.group}#", ("WRITE",), "transactions", "prefixed")
        )
    return permissions


def _requeue_permissions(config: Config, inputs: Sequence[str]) -> list[KafkaPermission]:
    letters = KafkaPermission("topic", config.dead_letter_topic, ("READ", "WRITE"), "dead letters, and notes on them")
    again = [KafkaPermission("topic", topic, ("WRITE",), "sends messages again") for topic in inputs]
    again.append(KafkaPermission("topic", config.verdict_topic, ("WRITE",), "sends verdicts again"))
    if config.delivery == "exactly_once":
        ids = f"{config.group}#requeue"
        again.append(KafkaPermission("transactional-id", ids, ("WRITE",), "transactions", "prefixed"))
    return [letters, *again]


def kafka_commands(permissions: Iterable[KafkaPermission], principal: str, bootstrap: str) -> list[str]:
    """Return the commands that grant the permissions, for `kafka-acls.sh` of Apache Kafka."""
    commands = []
    for right in permissions:
        words = [
            "kafka-acls.sh",
            "--bootstrap-server",
            bootstrap,
            "--command-config",
            "admin.properties",
            "--add",
            "--allow-principal",
            principal,
        ]
        for operation in right.operations:
            words += ["--operation", operation.title()]
        words += [f"--{right.resource}", right.name]
        if right.pattern == "prefixed":
            words += ["--resource-pattern-type", "prefixed"]
        commands.append(shlex.join(words))
    return commands


_READING = ("get", "hget", "hgetall", "hscan", "smembers", "multi", "exec", "discard")
_SCRIPTS = ("eval", "evalsha", "script|load")
_LOOKING = ("info",)  # for a warning only: whether the server may evict states
_INSIDE = ("hset", "hdel", "hmget", "sadd", "incr", "time", "del", "zadd", "zcard", "zrange", "zrem", "srem")


def redis_rules(config: Config) -> Sequence[str]:
    """Return the ACL rules of the user that workers, `thresholds` and `assets` use."""
    base = f"{config.redis.prefix}:{{{config.stream}}}"
    commands = sorted({*_READING, *_SCRIPTS, *_INSIDE, *_LOOKING, "select"})
    return ["resetkeys", f"~{base}:*", "resetchannels", "-@all", *(f"+{command}" for command in commands)]


def redis_command(config: Config, user: str) -> str:
    """Return the redis-cli command that creates the user; PASSWORD is a placeholder for one you choose."""
    return f"ACL SETUSER {user} reset on '>PASSWORD' {' '.join(redis_rules(config))}"
