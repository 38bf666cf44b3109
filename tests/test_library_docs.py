"""docs/library.md: every example runs, one after the other in one session, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import stream_detector

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/library.md"
_BLOCK = re.compile(r"^```(\w+)( no-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block."""

    line: int  # of its first line of code
    language: str
    runs: bool
    text: str


def blocks() -> list[Block]:
    """The page's blocks in order."""
    page = PAGE.read_text("utf-8")
    return [
        Block(page.count("\n", 0, found.start(3)) + 1, found[1], not found[2], found[3])
        for found in _BLOCK.finditer(page)
    ]


def test_the_examples_run_and_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `text` block is what the example before it prints; an example without one prints nothing."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "library"}
    every = blocks()
    examples = [(at, block) for at, block in enumerate(every) if block.language == "python"]
    assert len(examples) > 10
    for at, block in examples:
        code = compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec")  # so that errors name the page's line
        if not block.runs:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        after = every[at + 1] if at + 1 < len(every) else None
        expected = after.text if after is not None and after.language == "text" else ""
        assert printed.getvalue() == expected, f"{PAGE.name}, line {block.line}"


@pytest.mark.parametrize("name", stream_detector.__all__)
def test_every_public_name_is_on_the_page(name: str):
    """In code, so that it can be looked for."""
    assert re.search(rf"`{name}`", PAGE.read_text("utf-8"))


def test_the_plug_in_on_the_page_is_the_one_of_the_tests():
    """The entry points and the settings shown are those that tests/test_plugin.py installs."""
    (declared,) = (tomllib.loads(block.text) for block in blocks() if block.language == "toml")
    package = tomllib.loads((ROOT / "tests/plugin/pyproject.toml").read_text())
    assert declared["project"]["entry-points"] == package["project"]["entry-points"]
    shown = next(block.text for block in blocks() if "class EwmaZConfig" in block.text)
    settings = (ROOT / "tests/plugin/src/stream_detector_example/settings.py").read_text()
    assert shown[shown.index("class EwmaZConfig") :].strip() in settings
