"""YAML as a settings file needs it: safe, YAML 1.2's plain scalars, no duplicate keys, errors with line and column.

Messages never quote the file: a line that can't be read may contain a secret.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stream_detector.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars: `no` and `on` are strings, 1e-4 is a number, 12:30 and dates are strings."""


_Loader.yaml_implicit_resolvers = {}
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read an integer as in YAML 1.2: a leading zero doesn't make it octal."""
    return int(node.value, 16 if node.value.startswith("0x") else 10)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed YAML file: its data, and the position of each part."""

    data: object
    root: yaml.Node | None

    def line(self, path: Sequence[Hashable]) -> int | None:
        """Return the line, from 1, of the key or list item at `path`; None where the file has no such place."""
        node, line = self.root, None
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
                if found is None:
                    return None
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                return None
        return line


def read(path: Path) -> Document:
    """Read one YAML document. Raises ConfigError naming the file and, for bad YAML, line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Read one YAML document from `text`; `name` is the prefix of every error's message."""
    loader = _Loader("")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Document(None, None)
        _reject_duplicates(root, name)
        return Document(_unshared(loader.construct_document(root)), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{place}: not valid YAML: {_quiet(error.problem or 'unreadable')}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}, line {line}: not valid YAML: it holds a control character") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{name}: not valid YAML: nested too deeply, or an anchor holds itself") from None
    finally:
        loader.dispose()


def _quiet(problem: str) -> str:
    """Drop quoted pieces of the file (an alias or tag may be a secret typed without quotes), keep token names."""
    return re.sub(r"'(?!<)[^']{2,}'", "'…'", problem)


def _reject_duplicates(root: yaml.Node, name: str) -> None:
    """Raise ConfigError on a key given twice in one mapping; overriding a merged key (`<<`) is allowed."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(f"{name}, line {line}: a key must be a plain word, not a list or mapping")
                if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                    first = lines[key.value]
                    raise ConfigError(f"{name}, line {line}: {key.value!r} is given twice, first on line {first}")
                lines[key.value] = line
                waiting.append(value)


def _unshared(value: object) -> object:
    """Copy, so that changing the data of one alias does not change the others. Raises RecursionError on a cycle."""
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_unshared(part) for part in value]
    return value
