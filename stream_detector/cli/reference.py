"""The documentation of every key of a set-up, made from the JSON Schema: docs/configuration.md is its output."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

from stream_detector.config import loading as settings
from stream_detector.config.pluggable import PLUG_INS

_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def markdown() -> str:
    """Return the reference as Markdown: one table a section."""
    intro = inspect.cleandoc(settings.__doc__ or "").partition("\n")[2]
    return "\n".join(
        [
            "# Configuration",
            "",
            "<!-- Made by `stream-detector check --reference`; change the docstrings of stream_detector/config/ -->",
            "",
            "A set-up is one YAML file. `stream-detector check CONFIG` validates it and prints the settings that a",
            "worker would use; `stream-detector check --schema` prints the JSON Schema, which the files in `configs/`",
            "name for editors.",
            "",
            intro.strip(),
            "",
            "Secrets: the file never contains a password. `{env: NAME}` names the environment variable that holds it,",
            "`{file: PATH}` the file.",
            "",
            *_section("", settings.schema()),
        ]
    )


def _section(path: str, part: settings.Schema) -> Iterator[str]:
    """Yield the lines of one section, then of the sections in it."""
    inner: list[tuple[str, settings.Schema]] = []
    required = part.get("required", [])
    named = part["properties"].get("kind", {}).get("const")  # one of several sections that may stand here
    which = f" of kind `{named}`" if named else " of a plug-in" if PLUG_INS in part else ""
    yield f"## {f'`{path}`' if path else 'Top level'}{which}"
    yield ""
    yield from (part.get("description", "").split("\n\n")[0].replace("\n", " "), "")
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, member in part["properties"].items():
        kind, below = _kind(member), f"{path}.{name}".lstrip(".")
        sections: list[settings.Schema] = []
        for plain in settings.alternatives(member):
            repeated = plain.get("additionalProperties") or plain.get("items")
            if isinstance(repeated, dict):
                below += ".N" if "items" in plain else ".NAME"
            within = settings.alternatives(repeated) if isinstance(repeated, dict) else [plain]
            sections += [each for each in within if "properties" in each]
        if "secret" not in kind:
            inner += [(below, section) for section in sections]
        default = "required" if name in required else _default(member, bool(sections))
        meaning = member.get("description", "").replace("\n", " ").replace("|", "\\|")
        yield f"| `{name}` | {kind} | {default} | {meaning} |"
    yield ""
    for below, section in inner:
        yield from _section(below, section)


def _kind(member: settings.Schema) -> str:
    """Say in words what may stand here."""
    kinds = [_plain_kind(plain) for plain in settings.alternatives(member)]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null")).replace("|", "\\|")


def _plain_kind(plain: settings.Schema) -> str:
    if "properties" in plain:
        return "a secret's place" if plain.get("title") == "Secret" else "section"
    if isinstance(named := plain.get("additionalProperties"), dict):
        return f"mapping of names to {_kind(named)}"
    if "prefixItems" in plain:
        return "[" + ", ".join(_kind(each) for each in plain["prefixItems"]) + "]"
    if "items" in plain:
        return f"list of {_kind(plain['items'])}"
    if "enum" in plain:
        return ", ".join(f"`{each}`" for each in plain["enum"])
    if "const" in plain:
        return f"`{plain['const']}`"
    words = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
    kind = "path" if plain.get("format") == "path" else words[plain["type"]]
    bounds = ", ".join(f"{sign} {plain[word]:g}" for word, sign in _BOUNDS.items() if word in plain)
    return f"{kind} {bounds}".strip() + (f" matching `{plain['pattern']}`" if "pattern" in plain else "")


def _default(member: settings.Schema, is_section: bool) -> str:
    if is_section or "default" not in member:
        return "—"
    value = member["default"]
    return "none" if value is None or value in ("", {}) else f"`{json.dumps(value, ensure_ascii=False)}`"
