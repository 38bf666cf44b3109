"""What a run published and kept, and the hashes of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgpack  # type: ignore[import-untyped] # it ships no types
import orjson

from stream_detector.types import Message

#: One input message: its key, value, headers, timestamp and partition decide everything that follows.
Lines = list[bytes]


@dataclass
class Logs:
    """The input and the output of one run, each as byte strings in order."""

    inputs: Lines = field(default_factory=list)
    alerts: Lines = field(default_factory=list)
    alert_headers: Lines = field(default_factory=list)  # empty where the run publishes values only
    audits: Lines = field(default_factory=list)
    states: Lines = field(default_factory=list)
    dead_letters: Lines = field(default_factory=list)

    def kinds(self) -> dict[str, Lines]:
        """Return every log that this run wrote, by its name in hashes.json."""
        found = {
            "inputs": self.inputs,
            "alerts": self.alerts,
            "audits": self.audits,
            "states": self.states,
            "dead_letters": self.dead_letters,
        }
        return found | ({"alert_headers": self.alert_headers} if self.alert_headers else {})

    def hashes(self) -> dict[str, object]:
        """Return the entry of hashes.json: a hash for each log, and counts that explain a difference."""
        causes = Counter(str(orjson.loads(entry)["cause"]) for entry in self.audits)
        kinds = Counter(f"{one['event']} {one['kind']}" for one in map(orjson.loads, self.alerts))
        codes = Counter(dict(msgpack.unpackb(letter)[2])["error"].decode() for letter in self.dead_letters)
        counts = {
            "inputs": len(self.inputs),
            "alerts": _sorted(kinds),
            "audits": _sorted(causes),
            "states": len(self.states),
            "dead_letters": _sorted(codes),
        }
        return {kind: digest(lines) for kind, lines in self.kinds().items()} | {"counts": counts}

    def by_asset(self) -> dict[str, Lines]:
        """Return what must not depend on the batch size: per asset, alerts and audit entries in order; states.

        Dead letters as a set (those of the decoder come before those of the windows of the same poll), less `detail`
        (that of `too-late` says how far behind the newest reading of the poll one is).
        """
        parts: dict[str, Lines] = {}
        for name, lines in (("alerts", self.alerts), ("audits", self.audits)):
            for line in lines:
                parts.setdefault(f"{name} of {orjson.loads(line)['asset']}", []).append(line)
        return {**parts, "states": self.states, "dead letters": sorted(map(_without_detail, self.dead_letters))}


def digest(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 over lines in order; each is preceded by its length, so that no two lists share a hash."""
    found = hashlib.sha256()
    for line in lines:
        found.update(b"%d:" % len(line))
        found.update(line)
    return found.hexdigest()


def packed(message: Message) -> bytes:
    """Return a message as one byte string: key, value, headers."""
    packed_: bytes = msgpack.packb([message.key, message.value, [list(header) for header in message.headers]])
    return packed_


def _without_detail(letter: bytes) -> bytes:
    key, value, headers = msgpack.unpackb(letter)
    packed_: bytes = msgpack.packb([key, value, [header for header in headers if header[0] != "detail"]])
    return packed_


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
