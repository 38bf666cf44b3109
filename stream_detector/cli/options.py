"""Options that several commands have: one name, one meaning, one help text each.

Importing a command must cost nothing, so that `--help` and a wrong option are answered at once: this module and those
of the commands import what computes, or talks to a server, inside their functions.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

#: The version that no longer knows the old names.
RENAMED_UNTIL = "0.4.0"


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument CONFIG."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the set-up")


def add_json(parser: argparse._ActionsContainer, text: str = "print JSON") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=text)


def add_quiet(parser: argparse.ArgumentParser, text: str = "no progress bar") -> None:
    """Add `--quiet`."""
    parser.add_argument("--quiet", action="store_true", help=text)


def add_artifact(parser: argparse.ArgumentParser) -> None:
    """Add `--artifact`, and `--model`, its name until 0.2."""
    text = "trained detector, a file or folder (default: the set-up's)"
    parser.add_argument("--artifact", type=Path, metavar="PATH", help=text)
    add_renamed(parser, "--model", "--artifact", type=Path)


def add_limit(parser: argparse.ArgumentParser, text: str, former: str | None = None) -> None:
    """Add `--limit N`: at most N of what is printed. `former`: its name until 0.2."""
    parser.add_argument("--limit", type=at_least_1, metavar="N", help=text)
    if former is not None:
        add_renamed(parser, former, "--limit", type=at_least_1)


def add_renamed(parser: Any, former: str, now: str, **how: Any) -> None:
    """Let an option's former name work for a version, with a warning; help doesn't show it."""
    dest = now.lstrip("-").replace("-", "_")
    parser.add_argument(former, dest=dest, action=_Renamed, now=now, help=argparse.SUPPRESS, **how)


class _Renamed(argparse.Action):
    """Sets what the option is called now, and notes in `args.renamed` that the former name was used."""

    def __init__(self, option_strings: Sequence[str], dest: str, now: str, **how: Any) -> None:
        # SUPPRESS: this default must not win over that of the option itself
        super().__init__(option_strings, dest, **{**how, "default": argparse.SUPPRESS})
        self._now = now

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, former: str | None = None
    ) -> None:
        """Take the value."""
        setattr(namespace, self.dest, values)
        warning = f"{former} is now {self._now}; the former name works until {RENAMED_UNTIL}"
        namespace.renamed = [*getattr(namespace, "renamed", ()), warning]


def at_least_1(text: str) -> int:
    """Return a whole number of at least 1. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def moment(text: str) -> float:
    """Return a time as UNIX ms: ISO 8601 with an offset, or how long before now (90m). Raises ArgumentTypeError."""
    if before := re.fullmatch(r"([0-9]+)([smhd])", text.strip()):
        return (time.time() - int(before[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[before[2]]) * 1_000
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 2020-03-09T10:14:33Z, or 90m, 6h, 3d; got {text!r}")
    return found.timestamp() * 1_000
