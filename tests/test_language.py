"""Documentation, command-line help and tooltips use plain technical English: no phrase of forbidden_phrases.txt."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from producers.arguments import build_parser as producers_parser
from stream_detector.__main__ import build_parser

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docker-compose.yml", "configs/**/*.y*ml")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))


def phrases() -> list[re.Pattern[str]]:
    """Return the forbidden phrases."""
    lines = (ROOT / "tests/forbidden_phrases.txt").read_text("utf-8").splitlines()
    found = [line.split("  #")[0].strip() for line in lines if not line.startswith("#")]
    return [re.compile(phrase, re.IGNORECASE) for phrase in found if phrase]


def forbidden(text: str) -> list[str]:
    """Return each forbidden phrase of a text with its surroundings, wherever lines are broken."""
    fences = text.replace("```", "\n")
    prose = re.sub(r"`[^`]{1,300}`", "`…`", fences)
    flat = re.sub(r"\s+", " ", re.sub(r"\n\s*#+ ?", "\n", prose))
    return [
        f"{hit.group()!r} in: …{flat[max(0, hit.start() - 40) : hit.end() + 40]}…"
        for phrase in phrases()
        for hit in phrase.finditer(flat)
    ]


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield name and help of a command and of all commands below it."""
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from helps(below)


def tooltips(part: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every description in a JSON Schema."""
    if isinstance(part, dict):
        if isinstance(text := part.get("description"), str):
            yield path, text
        for key, inner in part.items():
            yield from tooltips(inner, f"{path}.{key}")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_plain(path):
    """Pages, set-ups and rules."""
    assert forbidden(path.read_text("utf-8")) == []


def test_help_is_plain(monkeypatch):
    """What every command prints under --help."""
    monkeypatch.setenv("COLUMNS", "200")
    commands = dict([*helps(build_parser()), *helps(producers_parser())])
    assert {"stream-detector run", "stream-detector thresholds pin", "python -m producers replay"} <= set(commands)
    assert {name: found for name, text in commands.items() if (found := forbidden(text))} == {}


def test_tooltips_are_plain():
    """What an editor shows for a key of a set-up: at least one whole sentence."""
    schema = json.loads((ROOT / "stream_detector/schemas/config.schema.json").read_text("utf-8"))
    texts = dict(tooltips(schema))
    assert {path: found for path, text in texts.items() if (found := forbidden(text))} == {}
    assert [path for path, text in texts.items() if not text.rstrip().endswith(".")] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a model\n  an asset", 1),
        ("# so\n# many", 1),
        ("**Anew**", 1),
        ("the key `learn_told`", 0),
        ("--loop forever", 0),
        ("a silent asset, its rights, the truth, the parts", 0),
    ],
)
def test_phrases_are_found_across_lines_but_not_in_code(text, found):
    """The list is of words in prose: names that are contracts keep theirs."""
    assert len(forbidden(text)) == found
