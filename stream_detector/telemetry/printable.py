"""Text from messages, shown on a terminal: names, notes and details are whatever a sender wrote.

A terminal acts on control characters (ESC [ 31 m, a newline, a carriage return), and marks of writing direction make a
line read differently from what it holds. Here they become escapes, as `repr` writes them: `\\x1b`, `\\n`, `\\u202e`.
"""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """Return the text on one line, with every character that is not printable (`str.isprintable`) as its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Return the text like `printable`, but for its line ends: for texts of ours that have several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """Return JSON text as JSON of the same value on one line, with characters that are not printable as `\\uXXXX`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _in_json(char) for char in text)


def _in_json(char: str) -> str:
    # Outside of strings JSON has no such characters but white space; inside it has neither tabs nor line ends.
    return " " if char in "\t\n\r" else json.dumps(char)[1:-1]
