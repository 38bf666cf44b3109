"""Redaction: secrets that were read are hidden in everything this process logs or prints.

`Secret.reveal` calls `hide`; `redacted` redacts a text, and `RedactingFilter`, on every log handler, all records,
including those of libraries and tracebacks. The client libraries log some of their arguments at level debug.
"""

from __future__ import annotations

import json
import logging
import traceback
from base64 import b64encode
from urllib.parse import quote, quote_plus

MARK = "[hidden]"
#: Shorter texts are not redacted by value: they would match parts of many ordinary words.
LEAST = 4

_hidden: set[str] = set()


class Hidden(str):
    """A secret whose `repr`, as in a logged dictionary, doesn't show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return a placeholder."""
        return repr(MARK)


def hide(secret: str) -> Hidden:
    """Redact this text, and its forms in headers, URLs and bytes, from now on; return it."""
    if len(secret) >= LEAST:
        ways = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], repr(secret.encode())[2:-1]}
        ways.add(b64encode(secret.encode()).decode())
        ways |= {json.dumps(secret, ensure_ascii=plain)[1:-1] for plain in (True, False)}
        _hidden.update(ways)
    return Hidden(secret)


def redacted(text: str) -> str:
    """Return the text without any hidden secret."""
    for secret in sorted(_hidden, key=len, reverse=True):  # a secret may be part of another
        text = text.replace(secret, MARK)
    return text


class RedactingFilter(logging.Filter):
    """Redacts secrets in a record's message and traceback; put it on handlers, so that it sees all records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record in place; never drop it."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that don't fit: the handler would print them in its error
            text = f"a log call of {record.name} at {record.pathname}:{record.lineno} doesn't fit its arguments"
        if "SaslAuthenticateRequest" in text or "SaslBytesRequest" in text:
            text = f"{text.partition('Sasl')[0]}a SASL request, its content hidden"
        record.msg, record.args = redacted(text), None
        if record.exc_info:
            if not record.exc_text:
                record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
            record.exc_info = None
        return True
