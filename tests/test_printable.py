"""Text of strangers on a terminal."""

from __future__ import annotations

import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from stream_detector.telemetry.logs import TextLines
from stream_detector.telemetry.printable import printable, printable_json, printable_lines


def test_a_terminal_has_nothing_to_act_on():
    """Control characters of both kinds, line ends, marks of direction, invisible ones: as `repr` writes them."""
    assert r"a\nb\x1b[31m\x9b\r\x7f\u202e\u2066\u200b\u2028" == printable(
        "a\nb\x1b[31m\x9b\r\x7f\u202e\u2066\u200b\u2028"
    )


def test_readable_text_stays():
    """Letters of all scripts, symbols and emoji are no danger."""
    text = "pümp/№1 🚰 насос ポンプ [bold] \\n"
    assert text == printable(text) == printable_lines(text) == printable_json(text)


def test_lines_of_ours_stay_lines():
    """An error may list several things."""
    assert "two:\n  a\\x1b\n  b" == printable_lines("two:\n  a\x1b\n  b")


@given(st.recursive(st.text(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)), st.booleans())
def test_json_keeps_its_value(value, indented):
    """Whatever is escaped in JSON means the same."""
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=1 if indented else None))
    assert shown.isprintable()
    assert value == json.loads(shown)


@given(st.text())
def test_any_text_is_one_printable_line(text):
    """Nothing gets through."""
    assert printable(text).isprintable()


def test_a_message_of_the_log_is_one_line():
    """A name can't forge a second line; a traceback's lines stay apart."""
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "asset %s is silent", ("a\nERROR forged\x1b[2J",), None)
    record.created = 1_583_748_873.5
    assert r"2020-03-09T10:14:33.500Z INFO x: asset a\nERROR forged\x1b[2J is silent" == TextLines().format(record)
    try:
        raise ValueError("a\x1b[2J")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    lines = TextLines().format(record).split("\n")
    assert len(lines) > 2
    assert all(line.isprintable() for line in lines)
