"""The rooms of the package, and what a program loads at its start. Layers: import-linter, in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: The only modules that lie beside the rooms.
FLAT = {"__init__.py", "__main__.py", "errors.py", "permissions.py", "ports.py", "py.typed"}


def test_no_module_lies_outside_the_rooms():
    """Each package holds one concern, and its docstring says which."""
    package = ROOT / "stream_detector"
    entries = [one for one in package.iterdir() if one.name != "__pycache__"]
    assert {one.name for one in entries if one.is_file()} <= FLAT
    rooms = [one for one in entries if one.is_dir() and one.name != "schemas"]
    assert len(entries) <= 28
    assert [one.name for one in rooms if not (one / "__init__.py").read_text().startswith('"""')] == []


def loaded(code: str, *heavy: str) -> list[str]:
    """Return which of some packages are loaded after some code, in a fresh interpreter."""
    code = f"import sys; {code}; print(*sorted({set(heavy)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("program", ["stream_detector", "producers"])
def test_help_does_not_wait_for_torch(program):
    """The command line starts at once: torch, which takes seconds, is imported by the commands that compute."""
    assert loaded(f"import {program}.__main__", "torch", "kafka", "redis") == []


def test_importing_the_package_loads_no_torch():
    """A program that only reads alerts need not wait for what trains detectors."""
    assert loaded("import stream_detector", "torch", "kafka", "redis", "sklearn", "river") == []


COMMANDS = (
    "", "demo", "check", "train", "backtest", "evaluate", "run", "monitor", "thresholds", "thresholds list",
    "thresholds reset", "verdict", "verdicts",
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_help_loads_nothing_but_options(words):
    """No library is imported to print help or refuse an option: what imports in milliseconds answers at once."""
    heavy = {
        "torch", "numpy", "pydantic", "rich", "yaml", "orjson", "msgpack", "msgspec", "kafka", "redis", "sklearn",
        "river", "scipy", "prometheus_client", "safetensors", "stream_detector.config", "stream_detector.types",
    }  # fmt: skip
    code = (
        "import contextlib, io\nfrom stream_detector.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        f"    main({[*words.split(), '--help']!r})\n"
        f"assert text.getvalue().startswith('usage: stream-detector {words}'), text.getvalue()"
    )
    assert loaded(f"exec({code!r})", *heavy) == []


def test_names_in_help_are_those_there_are():
    """The lists that are written out, so that help needs no import."""
    from typing import get_args

    from stream_detector.cli import data, verdict
    from stream_detector.datasets import FORMATS
    from stream_detector.types import VerdictKind

    assert tuple(FORMATS) == data.FORMATS
    assert get_args(VerdictKind) == verdict.KINDS
