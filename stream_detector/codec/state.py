"""Data of a task in the store and at the broker: asset states, positions, offset metadata <-> bytes and text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from stream_detector.codec.packing import pack, unpack
from stream_detector.codec.state_parts import PARTS, wrong
from stream_detector.errors import DecodeError
from stream_detector.types import (
    AssetState,
    ForeignPart,
    Partition,
    Position,
    RecordedVerdict,
    Removed,
    State,
    replace,
)

#: Schema written; of points to go back to, which name no model; and of such points with parts of other policies.
STATE_SCHEMA, POINT_SCHEMA, EXTENDED_POINT_SCHEMA = 7, 5, 6
#: By schema, the version of each part that a state holds; omitted parts are of version 0.
_VERSIONS: Mapping[int, Mapping[str, int]] = {
    1: {"threshold": 1, "incident": 1},
    2: {"threshold": 2, "incident": 2},
    3: {"threshold": 2, "incident": 2, "sensors": 1},
    4: {"threshold": 2, "incident": 2, "sensors": 1, "adaptation": 1, "applied": 1},
    5: {"threshold": 2, "incident": 2, "sensors": 1, "adaptation": 2, "applied": 1},
    6: {"threshold": 2, "incident": 2, "sensors": 1, "adaptation": 2, "applied": 1},
    7: {"threshold": 2, "incident": 2, "sensors": 1, "adaptation": 2, "applied": 1, "model": 1},
}
_HEAD = 4  # fields before the parts: schema, epoch, judged_ms, reset
POSITIONS_SCHEMA = 1

_REMOVED = re.compile(rb"removed:(-?[0-9]{1,19}):(-?[0-9]{1,19}):([0-9]{1,20})")
_METADATA = re.compile(r"sd1:([0-9]{1,18}):([0-9]{1,18})")


def encode_state(state: AssetState, epoch: int) -> bytes:
    """Return one asset's state, written in the commit of this epoch. Floats are exact.

    At most 4 kB with the settings `ThresholdConfig` allows and names of usual length.
    """
    schema = STATE_SCHEMA
    if not state.model:
        schema = EXTENDED_POINT_SCHEMA if state.extra else POINT_SCHEMA
    fields = [schema, int(epoch), int(state.judged_ms), state.applied.reset]
    fields += [part.pack(state) for part in PARTS if part.name in _VERSIONS[schema]]
    if state.extra or state.model:
        fields.append({name: _pack_extra(part) for name, part in sorted(state.extra.items())})
    return pack(fields)


def decode_state(value: bytes) -> tuple[int, AssetState]:
    """Return the epoch and state that `encode_state` wrote, in this version or an earlier one.

    Parts of policies beyond the built-in ones are `ForeignPart`s until their policy adopts them. Raises
    DecodeError(bad-state) for anything else.
    """
    fields = _unpacked(value, "bad-state")
    if not (type(fields) is list and fields and type(fields[0]) is int):
        raise DecodeError("bad-state", "not a state of stream-detector")
    versions = _VERSIONS.get(fields[0])
    if versions is None:
        raise DecodeError("bad-state", f"schema {fields[0]} is not known; expected one of {sorted(_VERSIONS)}")
    extra: object = fields.pop() if fields[0] >= EXTENDED_POINT_SCHEMA else {}
    match fields[:_HEAD]:
        case [int(), int(epoch), int(judged_ms), str(reset)] if len(fields) == _HEAD + len(versions):
            found: dict[str, Any] = {}
            for place, part in enumerate(PARTS):
                version = versions.get(part.name, 0)
                of_part = fields[_HEAD + place] if version else []
                if type(of_part) is not list:
                    raise wrong(part.name)
                found |= part.read(version, of_part)
            return epoch, _assembled(found, judged_ms, reset, extra)
    raise DecodeError("bad-state", "a field is missing or of a wrong type")


def _assembled(found: dict[str, Any], judged_ms: int, reset: str, extra: object) -> AssetState:
    unusual = found.pop("incident.unusual")
    if unusual:
        found["incident"] = replace(found["incident"], unusual=unusual)
    if reset:
        found["applied"] = replace(found["applied"], reset=reset)
    if type(extra) is not dict:
        raise wrong("custom policies")
    if extra:
        found["extra"] = {name: _unpack_extra(name, fields) for name, fields in extra.items()}
    return AssetState(judged_ms=judged_ms, **found)


def _pack_extra(part: State) -> list[Any]:
    if isinstance(part, ForeignPart):
        return [part.version, part.fields]
    return [int(getattr(part, "VERSION", 1)), list(msgspec.structs.astuple(part))]


def _unpack_extra(name: object, fields: object) -> ForeignPart:
    match name, fields:
        case str(), [int(version), [*rest]]:
            return ForeignPart(version=version, fields=rest)
    raise wrong(f"part {name!r}")


def encode_version(version: AssetState | Removed, epoch: int) -> bytes:
    """Return what a save of this epoch writes of an asset: its state, or that it was removed."""
    if isinstance(version, Removed):
        return b"removed:%d:%d:%s" % (version.judged_ms, version.read_ms, version.token.encode())
    return encode_state(version, epoch)


def decode_version(value: bytes) -> AssetState | Removed:
    """Return what `encode_version` wrote. Raises DecodeError(bad-state)."""
    if not value.startswith(b"removed:"):  # a state is an array, so it never begins so
        return decode_state(value)[1]
    found = _REMOVED.fullmatch(value)
    if found is None:
        raise DecodeError("bad-state", "not what is left of a removed asset")
    return Removed(int(found[1]), int(found[2]), found[3].decode())


def encode_positions(positions: Mapping[Partition, Position]) -> bytes:
    """Return a commit's positions, sorted by partition."""
    return pack(
        [
            POSITIONS_SCHEMA,
            [
                [partition.topic, partition.index, position.offset, position.read, position.epoch]
                for partition, position in sorted(positions.items(), key=lambda item: item[0])
            ],
        ]
    )


def decode_positions(value: bytes) -> dict[Partition, Position]:
    """Return the positions that `encode_positions` wrote. Raises DecodeError(bad-positions) for anything else."""
    fields = _unpacked(value, "bad-positions")
    positions: dict[Partition, Position] = {}
    match fields:
        case [int(schema), [*entries]] if schema == POSITIONS_SCHEMA:
            for entry in entries:
                match entry:
                    case [str(topic), int(index), int(offset), int(read), int(epoch)]:
                        positions[Partition(topic, index)] = Position(offset, read, epoch)
                    case _:
                        raise DecodeError("bad-positions", "an entry is not [topic, partition, offset, read, epoch]")
            return positions
    raise DecodeError("bad-positions", "not positions of stream-detector, or of an unknown schema")


def encode_metadata(position: Position) -> str:
    """Return the text committed beside an offset: the position read up to, and the epoch."""
    return f"sd1:{position.read}:{position.epoch}"


def decode_metadata(text: str | None) -> tuple[int, int] | None:
    """Return (read, epoch) of a commit by this program; None for other text: an operator set the offset."""
    found = _METADATA.fullmatch(text or "")
    return (int(found[1]), int(found[2])) if found else None


def _unpacked(value: bytes, code: str) -> Any:
    try:
        return unpack(value)
    except Exception as error:  # any error of the parser
        raise DecodeError(code, f"not MessagePack: {str(error)[:200] or type(error).__name__}") from None


def encode_recorded(verdict: RecordedVerdict) -> bytes:
    """Return a verdict's stored fields, except its order and its alert."""
    return orjson.dumps({"verdict": verdict.verdict, "by": verdict.by, "note": verdict.note})


def decode_recorded(alert: str, value: bytes) -> RecordedVerdict:
    """Return the verdict on an alert from `<ms>:<partition>:<offset>:` and its JSON. Raises ValueError, KeyError."""
    ms, partition, offset, rest = value.split(b":", 3)
    fields = orjson.loads(rest)
    return RecordedVerdict(alert, fields["verdict"], fields["by"], fields["note"], int(ms), int(partition), int(offset))
