"""The audit topic as `stream-detector thresholds` shows it: what happened to an asset, and points to go back to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from stream_detector.codec import audit_id, decode_audit
from stream_detector.config import Config
from stream_detector.errors import ConfigError, DecodeError
from stream_detector.telemetry.printable import printable
from stream_detector.types import Audit, Point

#: What each cause means to people.
MEANING = {
    "calibrate": "starts from the model's calibration",
    "new-model": "another model judges: starts from its calibration",
    "level": "the level followed normal scores",
    "refit": "inputs were re-centred on quiet windows",
    "regime-ask": "an incident is flat; an operator is asked",
    "regime-change": "a flat incident became the new normal",
    "accept": "an operator took a flat incident for normal",
    "pin": "an operator pinned the level",
    "unpin": "an operator unpinned the level",
    "reset": "an operator reset what was learnt",
    "rollback": "an operator went back to an entry",
    "risk": "an alert budget set another risk",
    "retire": "an operator retired the asset",
    "forget": "an operator had the asset forgotten",
}


def entries(config: Config) -> Iterator[Audit]:
    """Yield the committed entries of the audit topic up to its present end, each partition's in order, once each.

    Unreadable entries are reported on stderr. Raises BrokerError.
    """
    from stream_detector.adapters.kafka import read_to_end  # the client is slow to import

    if not config.audit:
        raise ConfigError("audit is false in this set-up: nothing is written to the audit topic")
    seen: set[str] = set()
    for batch in read_to_end(config.kafka, config.audit_topic):
        for message in batch.messages:
            try:
                entry = decode_audit(message.value or b"")
            except DecodeError as error:
                where = f"offset {message.offset} of partition {batch.partition.index}"
                sys.stderr.write(f"{printable(f'{where}: {error}')}\n")
                continue
            if audit_id(entry) not in seen:  # at least once, an entry may stand there twice
                seen.add(audit_id(entry))
                yield entry


def history(config: Config, asset: str) -> list[Audit]:
    """Return the asset's entries, oldest first. Raises ConfigError when there are none, BrokerError."""
    names: set[str] = set()
    found = []
    for entry in entries(config):
        names.add(entry.asset)
        if entry.asset == asset:
            found.append(entry)
    if not found:
        near = get_close_matches(asset, sorted(names), n=3) or sorted(names)[:3]
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ": it is empty"
        raise ConfigError(f"the audit topic {config.audit_topic} holds nothing about {asset!r}{hint}")
    return found


def entry_of(config: Config, asset: str, name: str) -> Audit:
    """Return the asset's entry of this id, or of the only one that begins so, to go back to.

    Raises ConfigError, also when it is of another model than the newest one, and BrokerError.
    """
    every = history(config, asset)
    mine = [entry for entry in every if audit_id(entry).startswith(name)]
    if len(mine) != 1:
        what = "no entry" if not mine else f"{len(mine)} entries"
        raise ConfigError(
            f"--to {name}: {asset!r} has {what} whose id begins so; `stream-detector thresholds history` lists them"
        )
    if mine[0].model.version != every[-1].model.version:
        raise ConfigError(
            f"--to {name}: it is about scores of the model {mine[0].model.version}, and {asset} is judged by "
            f"{every[-1].model.version} by now; `stream-detector thresholds reset` starts from that model's calibration"
        )
    return mine[0]


def plain(entry: Audit) -> dict[str, Any]:
    """Return an entry for --json, less the state."""
    return {
        "id": audit_id(entry),
        "asset": entry.asset,
        "at_ms": entry.at_ms,
        "cause": entry.cause,
        "meaning": MEANING[entry.cause],
        "before": None if entry.before is None else _plain(entry.before),
        "after": _plain(entry.after),
        "method": entry.method,
        "risk": entry.risk,
        "model": entry.model.version,
    }


def change(entry: Audit, earlier: Audit | None = None) -> str:
    """Return what an entry changed, in few words; `earlier`: the asset's entry before it, which says the risk then."""
    before, after = entry.before, entry.after
    parts = []
    if entry.cause == "risk":
        parts.append(f"risk {_number(None if earlier is None else earlier.risk)} → {_number(entry.risk)}")
    old = None if before is None else before.level
    if old != after.level:
        parts.append(f"level {_number(old)} → {_number(after.level)}")
    if (None if before is None else before.pinned) != after.pinned:
        parts.append(f"pin {_number(None if before is None else before.pinned)} → {_number(after.pinned)}")
    shift = {} if before is None else before.shift
    moved = sorted(
        ((name, shift.get(name, 0.0), after.shift.get(name, 0.0)) for name in {*shift, *after.shift}),
        key=lambda one: -abs(one[2] - one[1]),
    )
    parts += [f"{name} {old:+.2f} → {new:+.2f}" for name, old, new in moved[:2] if old != new]
    return ", ".join(parts) or "–"


def _plain(point: Point) -> dict[str, Any]:
    return {"level": point.level, "pinned": point.pinned, "seen": point.seen, "shift": dict(point.shift)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
