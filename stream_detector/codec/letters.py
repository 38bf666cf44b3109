"""Dead letters as they lie on their topic: what was refused, why, and whether it was sent again."""

from __future__ import annotations

from dataclasses import dataclass

from stream_detector.codec.alerts import DEAD_LETTER_HEADERS
from stream_detector.types import Message, Partition, PlainMessage

#: Header of a record that is no dead letter, but notes that the one at this place was sent again.
REQUEUED = "requeued"
_DROPPED = "dropped-bytes"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter taken apart."""

    partition: int  # of the dead-letter topic
    offset: int
    written_ms: int  # UNIX ms, by the record; -1 when unknown
    code: str
    detail: str
    source: Partition  # where the message came from
    original: PlainMessage  # as it was there, its time aside
    dropped: int | None  # bytes that are left out, so that the message is not whole

    @property
    def place(self) -> str:
        """Return what names it on the command line."""
        return f"{self.partition}:{self.offset}"


def read_letter(partition: int, record: Message) -> Letter | None:
    """Take a record of the dead-letter topic apart; None when it is no dead letter."""
    headers = list(record.headers)
    dropped: int | None = None
    try:
        if headers and headers[-1][0] == _DROPPED:
            dropped = int(headers.pop()[1])
        own = headers[-len(DEAD_LETTER_HEADERS) :]
        if tuple(name for name, _ in own) != DEAD_LETTER_HEADERS:
            return None
        code, detail, topic, index, offset = (value.decode("utf-8", "replace") for _, value in own)
        source, at = Partition(topic, int(index)), int(offset)
    except ValueError:  # another program's headers of these names
        return None
    original = PlainMessage(at, -1, record.key, record.value, tuple(headers[: -len(own)]))
    return Letter(partition, record.offset, record.timestamp, code, detail, source, original, dropped)


def requeued_header(letter: Letter) -> tuple[str, bytes]:
    """Return the header of the record that notes that the letter was sent again."""
    return REQUEUED, letter.place.encode()


def requeued_place(record: Message) -> str | None:
    """Return the place of the letter that this record notes as sent again; None when it is no such record."""
    headers = list(record.headers)
    if len(headers) != 1 or headers[0][0] != REQUEUED or record.value:
        return None
    return headers[0][1].decode("utf-8", "replace")
