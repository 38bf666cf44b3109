"""Settings from a YAML file, the environment and the command line into one checked `Config`.

Sources in order of increasing priority: the defaults, the file, `STREAM_DETECTOR__…` variables, command-line overrides.

Environment: `STREAM_DETECTOR__WINDOW__STRIDE=4` sets `window.stride`. Two underscores separate the parts of the path;
case is ignored, and an underscore stands for any character that a variable's name can't contain
(`STREAM_DETECTOR__CHANNELS__FLOW_RATE__UNIT` finds the channel `Flow Rate`). A number is an index into a list; the next
free number appends. Values are read as YAML (`[a, b]`, `null`, `1e-3`). Variables can change channels, but not add any.

Paths: a relative path in the file is relative to the file's folder; one from the environment or the command line is
relative to the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stream_detector.config import Config, Secret, strict_yaml
from stream_detector.config.pluggable import properties
from stream_detector.errors import ConfigError

ENV_PREFIX = "STREAM_DETECTOR__"

Schema = dict[str, Any]
Steps = tuple[Hashable, ...]


def load(
    path: Path | str, env: Mapping[str, str] = os.environ, overrides: Mapping[str, object] | None = None
) -> Config:
    """Read, complete and check a configuration.

    `overrides` maps dotted paths to values, e.g. `{"kafka.bootstrap_servers": ["127.0.0.1:9092"]}`.
    Raises ConfigError that lists every problem found as `path: got VALUE, expected …`; secrets are never repeated.
    """
    path = Path(path)
    document = strict_yaml.read(path)
    data = document.data
    if not isinstance(data, dict):
        got = "an empty file" if data is None else _shown(data)
        raise ConfigError(f"{path}: expected a mapping of settings, got {got}")
    data = _with_paths(data, [schema()], path.parent)

    origins: dict[Steps, str] = {}  # values set outside the file, with their source
    problems: list[str] = []
    given = [
        *((name, name[len(ENV_PREFIX) :], value, True) for name, value in _in_order(env)),
        *((f"override {name}", name.replace(".", "__"), value, False) for name, value in (overrides or {}).items()),
    ]
    for source, rest, value, is_yaml in given:
        try:
            origins[_assign(data, rest, value, is_yaml, source)] = source
        except ConfigError as error:
            problems.append(str(error))

    config: Config | None = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems += [_problem(detail, data, document, origins) for detail in error.errors(include_url=False)]
    if problems or config is None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{path}: {count} in the settings:", *problems]))
    return config


def effective(config: Config) -> dict[str, Any]:
    """Return all settings as plain data: defaults and derived names filled in, secrets by their place.

    Written as YAML it loads to the same settings again.
    """
    plain: dict[str, Any] = _plain(config)
    plain["kafka"] |= {
        "group": config.group,
        "inputs": _plain(config.inputs),
        "alert_topic": config.alert_topic,
        "dead_letter_topic": config.dead_letter_topic,
        "audit_topic": config.audit_topic,
    }
    return plain


@cache
def schema() -> Schema:
    """Return the JSON Schema of a configuration's YAML file, for editors. Treat it as read-only."""
    return (
        {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        | Config.model_json_schema()
        | {"title": "stream-detector set-up"}
    )


def alternatives(part: Schema) -> list[Schema]:
    """Return the plain schemas that `part` of the whole schema stands for, references and unions resolved."""
    if "$ref" in part:
        return alternatives(schema()["$defs"][part["$ref"].rsplit("/", 1)[1]])
    for word in ("anyOf", "oneOf"):
        if word in part:
            return [found for choice in part[word] for found in alternatives(choice)]
    return [part]


def _plain(value: object) -> Any:
    if isinstance(value, Secret):
        return {key: str(place) for key, place in (("env", value.env), ("file", value.file)) if place is not None}
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


# ── walking the data and its schema ───────────────────────────────────────────────────────────────────────────────────


def _members(parts: Iterable[Schema], data: object) -> dict[str, list[Schema]]:
    """Return the keys that a mapping may have here, with their schemas; of open mappings, the keys it has."""
    found: dict[str, list[Schema]] = {}
    for part in (plain for each in parts for plain in alternatives(each)):
        for name, member in {**part.get("properties", {}), **properties(part, data)}.items():
            found.setdefault(name, []).append(member)
        if isinstance(open_part := part.get("additionalProperties"), dict) and isinstance(data, dict):
            for name in data:
                found.setdefault(str(name), []).append(open_part)
    return found


def _items(parts: Iterable[Schema]) -> list[Schema]:
    """Return the schemas of a list's items; empty when no list may stand here."""
    return [plain["items"] for part in parts for plain in alternatives(part) if "items" in plain]


def _with_paths(data: Any, parts: Sequence[Schema], folder: Path) -> Any:
    """Return a copy in which relative file paths are relative to `folder` instead."""
    if isinstance(data, dict):
        members = _members(parts, data)
        return {key: _with_paths(part, members.get(str(key), []), folder) for key, part in data.items()}
    if isinstance(data, list):
        return [_with_paths(part, _items(parts), folder) for part in data]
    is_path = any(plain.get("format") == "path" for part in parts for plain in alternatives(part))
    return str(folder / Path(data).expanduser()) if is_path and isinstance(data, str) and data else data


def _in_order(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return this program's variables: sections before their keys, list indices in order."""

    def order(item: tuple[str, str]) -> list[tuple[int, str]]:
        return [(int(step) if step.isdecimal() else -1, step) for step in item[0].split("__")]

    return sorted(((name, value) for name, value in env.items() if name.startswith(ENV_PREFIX)), key=order)


def _same(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _assign(data: dict[str, Any], rest: str, value: object, is_yaml: bool, source: str) -> Steps:
    """Set what `rest` names (steps separated by two underscores) and return its path. Raises ConfigError."""
    parts: list[Schema] = [schema()]
    here: Any = data
    steps: Steps = ()
    while True:
        where = _dotted(steps) or "the settings"
        key: Any
        if items := _items(parts):
            step, _, after = rest.partition("__")
            if not step.isdecimal() or int(step) > len(here):
                raise ConfigError(f"{source}: {where} is a list; expected a number in 0..{len(here)}, got {step!r}")
            key, parts, rest = int(step), items, after
            if key == len(here):
                here.append(None)
        else:
            members = _members(parts, here)
            key = _match(members, rest, source, where)
            parts, rest = members[key], rest[len(key) :].removeprefix("__")
            here.setdefault(key, None)
        steps += (key,)
        if not rest:
            here[key] = _read(value, parts, source) if is_yaml else value
            return steps
        if here[key] is None:  # create what the file omits: a list starts from its default
            defaults = [part["default"] for part in parts if isinstance(part.get("default"), list)]
            here[key] = list(*defaults[:1]) if _items(parts) else {}
        here = here[key]
        if not isinstance(here, list if _items(parts) else dict):
            raise ConfigError(f"{source}: {_dotted(steps)} is a single value and has no keys")


def _match(members: Mapping[str, object], rest: str, source: str, where: str) -> str:
    """Return the key that `rest` starts with: the longest, one written the same before one that differs in case."""
    wanted = _same(rest)
    found = [name for name in members if wanted == _same(name) or wanted.startswith(_same(name) + "__")]
    if not found:
        known = ", ".join(sorted(members)) or "none: it is a single value"
        raise ConfigError(f"{source}: no key {rest.split('__')[0].lower()!r} in {where}; expected one of: {known}")
    longest = max(map(len, found))
    found = [name for name in found if len(name) == longest]
    exact = [name for name in found if rest.startswith(name)]
    if len(exact or found) > 1:
        raise ConfigError(f"{source}: is ambiguous: {' or '.join(map(repr, found))} of {where}; set it in the file")
    return (exact or found)[0]


def _read(value: object, parts: Iterable[Schema], source: str) -> object:
    """Read a variable's value as YAML, but leave it unchanged where only text is allowed."""
    kinds = {plain.get("type") for part in parts for plain in alternatives(part)}
    text = str(value)
    if kinds == {"string"} or (kinds == {"string", "null"} and text not in ("", "~", "null")):
        return text
    return strict_yaml.parse(text, source).data


# ── reporting problems ────────────────────────────────────────────────────────────────────────────────────────────────

_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key", re.IGNORECASE)


def _problem(detail: ErrorDetails, data: object, document: strict_yaml.Document, origins: Mapping[Steps, str]) -> str:
    """Describe one validation problem in one line."""
    steps, parts, secret = _place(detail["loc"], data)
    if detail["type"] == "union_tag_invalid":  # the key that selects one of several sections is wrong
        steps += (detail["ctx"]["discriminator"].strip("'"),)
    text = _explained(detail, parts, secret, data)
    if detail["type"] == "value_error" and (first := re.split(r"[ :.]", text, maxsplit=1)[0]) in _members(parts, None):
        steps, text = (*steps, first), text[len(first) :]  # the message starts with the section's key that is wrong
    set_by = next((source for path, source in origins.items() if path == steps[: len(path)]), None)
    line = document.line(steps)
    origin = f" (from {set_by})" if set_by else f" (line {line})" if line else ""
    path = _dotted(steps)
    return f"{path}{text}{origin}" if text[:1] in (" ", ":", ".") or not path else f"{path}: {text}{origin}"


def _place(loc: Sequence[int | str], data: object) -> tuple[Steps, list[Schema], bool]:
    """Return the path in the data of an error (without pydantic's marks), its schemas, and whether it is a secret's."""
    steps: Steps = ()
    parts: list[Schema] = [schema()]
    secret = False
    for index, step in enumerate(loc):
        secret = secret or bool(_SECRET.search(str(step)))
        known = isinstance(data, dict) and (step in data or step in _members(parts, data))
        if known or isinstance(data, list):
            assert isinstance(data, (dict, list))
            parts = _items(parts) if isinstance(data, list) else _members(parts, data).get(str(step), [])
            data = data[step] if isinstance(data, list) or step in data else None  # type: ignore[index] # int of a list
            steps += (step,)
        elif index == len(loc) - 1 and step != "[key]":
            steps += (step,)
    return steps, parts, secret


def _explained(detail: ErrorDetails, parts: Sequence[Schema], secret: bool, data: object) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "missing":
        about = next((part["description"] for part in parts if part.get("description")), "a value")
        return f"missing, expected: {about.splitlines()[0]}"
    if kind == "extra_forbidden":
        siblings = _siblings(detail["loc"], data)
        close = get_close_matches(str(detail["loc"][-1]), siblings, n=1)
        expected = f"did you mean {close[0]}?" if close else f"expected one of: {', '.join(siblings)}"
        return f"unknown key; {expected}"
    if kind == "union_tag_invalid":
        return f"got {detail['ctx']['tag']!r}, expected one of: {detail['ctx']['expected_tags']}"
    got = "a value that is not shown" if secret else _shown(detail["input"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        hint = " (leave the key out to take the defaults)" if detail["input"] is None else ""
        return f"got {got}, expected a mapping{hint}"
    expected = message.removeprefix("Input should be ")
    expected = re.sub(r"^(\w+) should (have|match)", lambda m: f"a {m[1].lower()} to {m[2]}", expected)
    expected = re.sub(r", (unable|got) .*| after validation.*", "", expected)
    return f"got {got}, expected {expected}"


def _siblings(loc: Sequence[int | str], data: object) -> list[str]:
    """Return the keys that may stand where an unknown one does."""
    parts: list[Schema] = [schema()]
    for step in loc[:-1]:
        inside = data[step] if isinstance(data, dict) and step in data else None
        if isinstance(step, int):
            data = data[step] if isinstance(data, list) else None
            parts = _items(parts)
            continue
        if below := _members(parts, {step: None}).get(step):
            parts, data = below, inside
        else:
            parts = _tagged(parts, step)  # the tag of a union is not a step, but selects a section
    of_plugin = {name for part in parts for plain in alternatives(part) for name in properties(plain, data)}
    return sorted(of_plugin or _members(parts, None))


def _tagged(parts: Iterable[Schema], tag: str) -> list[Schema]:
    """Return the section whose constant is `tag`, or all sections when there is none."""
    plain = [each for part in parts for each in alternatives(part)]
    mine = [part for part in plain if any(key.get("const") == tag for key in part.get("properties", {}).values())]
    return mine or plain


def _shown(value: object) -> str:
    """Return a value as short text, without the credentials of an address."""
    if isinstance(value, dict):
        return "a mapping"
    if value is None:
        return "nothing"
    text = re.sub(r"//[^/]*@|(?<=password=)[^&'\s]+", "//…@", repr(value))
    return text if len(text) <= 60 else text[:57] + "…"


def _dotted(steps: Iterable[Hashable]) -> str:
    return ".".join(map(str, steps))
