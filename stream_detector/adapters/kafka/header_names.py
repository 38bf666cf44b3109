"""Record headers whose name is not UTF-8: Kafka takes any bytes, the client refuses to read the record.

It calls such a record corrupt and comes no further in its partition, so that one message would stop the stream. Here
the bytes of its name that are no text are read as `\\xff`, and the record goes its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka.record.default_records import DefaultRecordBatch

_strict: Any = DefaultRecordBatch._read_msg


class _Name(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode whatever it is."""
        return super().decode(encoding, errors)


class _Buffer(bytes):
    def __getitem__(self, place: Any) -> Any:
        """Return parts that can be decoded whatever they are."""
        part = super().__getitem__(place)
        return _Name(part) if isinstance(part, bytes) else part


def _read_msg(batch: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return _strict(batch, *args, **kwargs)
    except UnicodeDecodeError:  # the place in the buffer has not moved
        buffer = batch._buffer
        batch._buffer = _Buffer(buffer)
        try:
            return _strict(batch, *args, **kwargs)
        finally:
            batch._buffer = buffer


def install() -> None:
    """Make the client read such records, in this process. Costs nothing while there are none."""
    setattr(DefaultRecordBatch, "_read_msg", _read_msg)  # noqa: B010 - mypy takes no assignment to a method


def sendable(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    """Return headers as the client can send them: a null value is empty."""
    return [(name, b"" if value is None else value) for name, value in headers]
