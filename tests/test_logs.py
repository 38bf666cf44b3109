"""The log as JSON: one object a line, whatever is said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from stream_detector.telemetry.logs import JsonLines, event

ROOT = Path(__file__).parents[1]


def line(message, *args, level=logging.WARNING, bound=None, **more):
    """What the formatter makes of one record, parsed."""
    formatter = JsonLines()
    formatter.bound |= bound or {}
    logger = logging.getLogger("test.logs")
    made = {"exc_info": more.get("exc_info"), "extra": more.get("extra")}
    record = logger.makeRecord(logger.name, level, __file__, 1, message, args, **made)
    text = formatter.format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_when_how_bad_what_and_what_to():
    """ts in UTC, level, event, the stream bound before, the event's fields, and the message for people."""
    found = line("task %d is dropped", 3, bound={"stream": "pump"}, extra=event("task-dropped", task=3, asset="pump-1"))
    ts = found.pop("ts")
    assert (24, "T", "Z") == (len(ts), ts[10], ts[-1])
    assert {
        "level": "warning",
        "event": "task-dropped",
        "stream": "pump",
        "task": 3,
        "asset": "pump-1",
        "message": "task 3 is dropped",
        "logger": "test.logs",
    } == found


def test_nothing_said_makes_two_lines():
    """Line feeds, quotes and what isn't text stay inside one object; somebody else's line has the event `log`."""
    found = line('a "quoted"\nline\u2028 of %r', Path("x"))
    assert ("log", "a \"quoted\"\nline\u2028 of PosixPath('x')") == (found["event"], found["message"])
    assert "x" == line("m", extra=event("e", where=Path("x")))["where"]


def test_an_error_brings_its_traceback():
    """As one field."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        found = line("it broke", exc_info=sys.exc_info())
    assert found["traceback"].endswith("ValueError: two\nlines")


def program(*arguments):
    """Run the command line to its end; return status and standard error."""
    command = [sys.executable, "-m", "stream_detector", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("level", ["info", "error"])
def test_what_ends_a_program_is_a_line_too(tmp_path, level):
    """A missing set-up: status 2 and one object; as text the sentence it always was."""
    status, said = program("--log-format", "json", "--log-level", level, "run", str(tmp_path / "none.yaml"))
    found = json.loads(said)
    assert (2, "error", "failed", "ConfigError") == (status, found["level"], found["event"], found["error"])
    assert (2, f"stream-detector: {found['message']}\n") == program("run", str(tmp_path / "none.yaml"))


def test_what_nobody_caught_is_a_line_too(tmp_path):
    """A defect's traceback doesn't break the lines apart."""
    code = (
        "from stream_detector.telemetry.logs import Output\n"
        "import threading, warnings\n"
        "Output('json', 'info').install()\n"
        "warnings.warn('old')\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start(); thread.join()\n"
        "raise RuntimeError('two\\nlines')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert [("warning", "log"), ("critical", "crashed"), ("critical", "crashed")] == [
        (each["level"], each["event"]) for each in lines
    ]
    assert "two\nlines" == lines[2]["message"]
