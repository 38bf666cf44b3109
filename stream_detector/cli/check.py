"""`stream-detector check`: is this set-up right, and what exactly will a worker run with?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.cli.options import add_json
from stream_detector.cli.printing import print_json
from stream_detector.errors import ConfigError, exit_status
from stream_detector.permissions import REDIS_ROLES, ROLES, Role, kafka_commands, kafka_permissions, redis_command
from stream_detector.telemetry.logs import Output

if TYPE_CHECKING:  # argparse names the type of its subparsers only privately
    from stream_detector.config import Config, Secret

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="validate a set-up and print its effective settings",
        description="Validate a set-up: its file, the STREAM_DETECTOR__… environment and the defaults together. Print "
        "the settings that a worker would use, without secrets, and look into the artifact, if there is one: whether "
        "it can be used and fits. If something is wrong, print every problem on standard error and end with status 2.",
    )
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="YAML file of the set-up")
    what = parser.add_mutually_exclusive_group()
    add_json(what, "print the settings as JSON instead of YAML")
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of set-up files, for editors")
    what.add_argument("--reference", action="store_true", help="print the documentation of every key as Markdown")
    what.add_argument(
        "--rights", action="store_true", help="print the minimum permissions on Kafka and Redis, as commands to paste"
    )
    parser.add_argument(
        "--principal",
        default="User:detector",
        metavar="KIND:NAME",
        help="for --rights: who gets the permissions (default: User:detector)",
    )
    parser.add_argument("--role", choices=ROLES, default="worker", help="for --rights: which program (default: worker)")
    parser.add_argument(
        "--online",
        action="store_true",
        help="look at brokers, topics, permissions and Redis, as a worker does when it starts; status 1 if one is away",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry it out; return the exit status: 0 when all is right, 2 otherwise."""
    from stream_detector.cli import reference
    from stream_detector.config import loading as settings

    if args.schema:
        sys.stdout.write(schema_text())
        return 0
    if args.reference:
        sys.stdout.write(reference.markdown())
        return 0
    output: Output = args.output
    if args.config is None:
        output.refuse(ConfigError("stream-detector check: CONFIG is missing: name the YAML file of a set-up"))
        return 2
    try:
        config = settings.load(args.config)
    except ConfigError as error:
        output.refuse(error)
        return 2
    if args.rights:
        sys.stdout.write(rights_text(config, args.role, args.principal))
        return 0
    plain = settings.effective(config)
    if args.json:
        print_json(plain)
    else:
        sys.stdout.write(as_yaml(plain))
    for warning in warnings(config):
        output.warn(warning)
    return _look(args, config)


def _look(args: argparse.Namespace, config: Config) -> int:
    """Look at what the settings name; return the exit status."""
    from stream_detector.cli import look

    output: Output = args.output
    status = 0
    there = config.artifact is not None and config.artifact.exists()
    for found in chain(look.at_artifact(config) if there else (), look.online(config) if args.online else ()):
        if found.error is not None:
            output.refuse(found.error)
            status = max(status, exit_status(found.error))
        elif found.warning:
            output.warn(found.warning)
        else:
            output.tell(f"ok: {found.good}")
    return status


def schema_text() -> str:
    """Return the JSON Schema as it is stored in `stream_detector/schemas/config.schema.json`."""
    from stream_detector.config import loading as settings

    return json.dumps(settings.schema(), indent=2, ensure_ascii=False) + "\n"


def rights_text(config: Config, role: Role, principal: str) -> str:
    """Return the commands that grant a role what it needs on Kafka and Redis, with a comment each."""
    lines = []
    bootstrap = ",".join(config.kafka.bootstrap_servers)
    for right in kafka_permissions(config, role):
        lines += [f"# {right.why}", *kafka_commands([right], principal, bootstrap)]
    if role in REDIS_ROLES:
        lines += [
            "# thresholds and states; in redis-cli, PASSWORD being your choice",
            redis_command(config, config.redis.username or "detector"),
        ]
    return "\n".join(lines) + "\n"


def as_yaml(plain: dict[str, Any]) -> str:
    """Return settings as YAML in the order of the documentation."""
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed, but will stop a worker on this machine as things stand."""
    if config.artifact is None:
        yield "artifact is not set: give --artifact to `run`, or `stream-detector train` one and name it here"
    elif not config.artifact.exists():
        yield f"artifact: {config.artifact} does not exist (yet); `stream-detector train` writes it"
    from stream_detector.config import Secret

    for path, place in _places(config, ""):
        if isinstance(place, Path) and not place.is_file():
            yield f"{path}: the file {place} does not exist"
        elif isinstance(place, Secret) and place.env is not None and not os.environ.get(place.env):
            yield f"{path}: the environment variable {place.env} is not set"


def _places(part: object, path: str) -> Iterator[tuple[str, Path | Secret]]:
    """Yield every file and secret that the settings name, the artifact aside."""
    from pydantic import BaseModel

    from stream_detector.config import Secret

    if isinstance(part, Path) and path != "artifact":
        yield path, part
    elif isinstance(part, BaseModel):
        if isinstance(part, Secret):
            yield path, part
        for name in type(part).model_fields:
            yield from _places(getattr(part, name), f"{path}.{name}".lstrip("."))
    elif isinstance(part, (list, tuple)):
        for index, each in enumerate(part):
            yield from _places(each, f"{path}.{index}")
