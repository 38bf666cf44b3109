"""The log of a program: lines for people, or one JSON object per line for machines.

    log.warning("task %d is dropped: %s", index, why, extra=event("task-dropped", task=index))

As text that is the message; as JSON `{"ts": …, "level": "warning", "event": "task-dropped", "stream": …, "task": 3,
"message": "task 3 is dropped: …", "logger": …}`. docs/operations.md lists the events; a line of a library
has the event `log`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from stream_detector.telemetry.printable import printable, printable_json, printable_lines
from stream_detector.telemetry.redaction import RedactingFilter, redacted

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_EVENT = "stream_detector_event"


def event(name: str, /, **fields: object) -> dict[str, object]:
    """Return the `extra` of a log call: a stable name of what happened, and the objects concerned as fields."""
    return {_EVENT: {"event": name, **fields}}


class TextLines(logging.Formatter):
    """Makes each record one line of text that starts with its time in UTC; a traceback's lines follow it.

    Control characters and line ends in a message, say in an asset's name, are escaped: a message can't look like two.
    """

    def __init__(self) -> None:
        """Use `TEXT`."""
        super().__init__(TEXT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Return the record's time as ISO 8601."""
        return _utc(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line itself."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback's, without the last terminator."""
        return printable_lines(super().format(record))


class JsonLines(logging.Formatter):
    """Makes each record one line of JSON with `ts` (UTC), `level`, `event`, `message`, `logger` and the event's fields.

    Line feeds inside are escaped, so one message is one line; values of types unknown to JSON are written as text.
    """

    def __init__(self) -> None:
        """Start without bound fields."""
        super().__init__()
        self.bound: dict[str, object] = {}
        """Fields of every line from now on, e.g. `stream`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its terminator."""
        line: dict[str, object] = {"ts": _utc(record), "level": record.levelname.lower(), "event": "log", **self.bound}
        line |= getattr(record, _EVENT, {})
        line |= {"message": record.getMessage(), "logger": record.name}
        if record.exc_text or record.exc_info:
            line["traceback"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return printable_json(redacted(json.dumps(line, ensure_ascii=False, default=str)))


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Output:
    """Where a program's log goes: standard error, in one of two formats."""

    def __init__(self, format: str, level: str) -> None:
        """`format`: text or json; `level`: debug, info, warning or error. `install` applies them."""
        self._json = JsonLines() if format == "json" else None
        self._level = level

    def install(self) -> None:
        """Send every log line of the process there; as JSON also warnings and uncaught exceptions."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(self._json or TextLines())
        logging.basicConfig(level=self._level.upper(), handlers=[handler], force=self._json is not None)
        for each in logging.getLogger().handlers:
            each.addFilter(RedactingFilter())
        # Kafka's errors are raised and reported once by this package; the client would log them many times.
        logging.getLogger("kafka").setLevel(logging.DEBUG if self._level == "debug" else logging.CRITICAL)
        if self._json is not None:
            logging.captureWarnings(True)
            sys.excepthook = _uncaught
            threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    def bind(self, **fields: object) -> None:
        """Add these fields to every line from now on. No effect as text."""
        if self._json is not None:
            self._json.bound |= fields

    def say(self, log: logging.Logger, text: str, name: str, **fields: object) -> None:
        """Print what a person at a terminal waits for: as text the bare line, at any level; as JSON a log line."""
        if self._json is None:
            sys.stderr.write(f"{printable(text)}\n")
        else:
            log.info("%s", text, extra=event(name, **fields))

    def tell(self, text: str) -> None:
        """Print a remark beside what a command prints: as text the bare line; as JSON a log line."""
        if self._json is None:
            sys.stderr.write(f"{printable(text)}\n")
        else:
            logging.getLogger("stream_detector").info("%s", text)

    def fail(self, error: Exception) -> None:
        """Report the error that ended the program."""
        if self._json is None:
            sys.stderr.write(f"stream-detector: {printable_lines(redacted(str(error)))}\n")
        else:
            logging.getLogger("stream_detector").error("%s", error, extra=event("failed", error=type(error).__name__))

    def refuse(self, error: Exception) -> None:
        """Report what is wrong with a checked configuration: as text only the message."""
        if self._json is None:
            sys.stderr.write(f"{printable_lines(redacted(str(error)))}\n")
        else:
            self.fail(error)

    def warn(self, text: str) -> None:
        """Report what a person should check before continuing."""
        if self._json is None:
            sys.stderr.write(f"warning: {printable_lines(redacted(text))}\n")
        else:
            logging.getLogger("stream_detector").warning("%s", text, extra=event("warning"))

    def crash(self, error: Exception) -> None:
        """Report an unexpected error with its traceback, secrets redacted."""
        if self._json is None:
            sys.stderr.write(printable_lines(redacted("".join(traceback.format_exception(error)))))
        else:
            _uncaught(type(error), error, error.__traceback__)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> Any:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("stream_detector").critical(
        "%s", error, exc_info=(kind, error or kind(), trace), extra=event("crashed", error=kind.__name__)
    )
