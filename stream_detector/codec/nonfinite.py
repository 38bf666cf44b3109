"""JSON with NaN and infinities: no JSON, but what many programs write for a sensor that gave no number.

Python's json.dumps writes NaN and Infinity, C's printf nan and -inf, Microsoft's 1.#QNAN. A message that holds them is
read all the same, so that it is known whose reading it is, and which channel is broken: the value is then refused like
any other that is not a number. Only messages that aren't JSON come here.
"""

from __future__ import annotations

import json
import re

import orjson

#: A string, to be passed over, or a literal where a value ends.
_TOKEN = re.compile(
    rb"""("(?:[^"\\]|\\.)*+")|
    (?<![\w.+\-])([+\-]?)(?:(nan(?:\([a-z0-9_]*\))?|1\.\#(?:ind|[qs]?nan)\w*)|(inf(?:inity)?|1\.\#inf\w*))(?=\s*[,}\]])""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def loads(value: bytes) -> object:
    """Parse JSON that may hold such literals, as floats. Raises ValueError where it is no JSON for another reason."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        checked = _TOKEN.sub(lambda token: token[1] or b"0", value)
        if checked == value:
            raise
    orjson.loads(checked)  # the rest must be JSON by the same rules
    named = _TOKEN.sub(_named, value).decode()
    return json.loads(named, parse_int=orjson.loads)  # integers beyond 64 bits as floating point, as everywhere


def _named(token: re.Match[bytes]) -> bytes:
    if token[1] is not None:
        return token[1]
    if token[3] is not None:
        return b"NaN"
    return b"-Infinity" if token[2] == b"-" else b"Infinity"


def is_name(text: str) -> bool:
    """Whether a text spells a number that is none: "NaN", "-inf"."""
    return _NAME(text) is not None


_NAME = re.compile(r"\s*[+-]?(nan(\([a-z0-9_]*\))?|inf(inity)?|1\.#(ind|inf|[qs]?nan)\w*)\s*", re.IGNORECASE).fullmatch
