"""What a store and the broker keep for a task: asset states, positions, offset metadata <-> bytes and text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from stream_detector.codec.packing import pack, unpack
from stream_detector.errors import DecodeError
from stream_detector.types import (
    Adaptation,
    AppliedControls,
    AssetState,
    BudgetState,
    IncidentState,
    Partition,
    Position,
    RecordedVerdict,
    Refused,
    SensorFault,
    SensorState,
    ThresholdState,
)

STATE_SCHEMA = 5
#: What schema 1 lacked, at the ends of the threshold's and the incident's fields: nothing pending, not re-armed.
_SINCE_2: tuple[bytes, None] = (b"", None)
POSITIONS_SCHEMA = 1

_METADATA = re.compile(r"sd1:([0-9]{1,18}):([0-9]{1,18})")


def encode_state(state: AssetState, epoch: int) -> bytes:
    """Return one asset's state, written in the commit of this epoch. Floats are exact.

    At most 4 kB for what `ThresholdConfig` allows (900 samples) and names of usual length.
    """
    threshold, incident, applied = state.threshold, state.incident, state.applied
    return pack(
        [
            STATE_SCHEMA,
            int(epoch),
            int(state.judged_ms),
            state.reset,
            [
                threshold.method,
                _float_or_none(threshold.level),
                int(threshold.seen),
                [float(number) for number in threshold.numbers],
                np.ascontiguousarray(threshold.sample, dtype="<f4").tobytes(),
                threshold.pending,
            ],
            [
                int(incident.recent),
                int(incident.quiet),
                _int_or_none(incident.first_ms),
                _int_or_none(incident.opened_ms),
                incident.incident,
                incident.severity,
                incident.leader,
                float(incident.peak),
                int(incident.windows),
                _float_or_none(incident.rearm),
            ],
            _packed_sensors(state.sensors, incident.unusual),
            _packed_adaptation(state.adaptation),
            [
                _float_or_none(applied.pinned),
                applied.accepted,
                applied.rolled,
                _float_or_none(applied.level),
                int(applied.told_ms),
                None if applied.budget is None else list(astuple(applied.budget)),
            ],
        ]
    )


def decode_state(value: bytes) -> tuple[int, AssetState]:
    """Return the epoch and state that `encode_state` wrote, in this version or an earlier one.

    Raises DecodeError(bad-state) for anything else.
    """
    fields = _unpacked(value, "bad-state")
    if not (type(fields) is list and fields and type(fields[0]) is int):
        raise DecodeError("bad-state", "not a state of this program")
    if fields[0] == 1:
        fields = _as_schema_2(fields)
    if fields[0] == 2:
        fields = _as_schema_3(fields)
    if fields[0] == 3:
        fields = _as_schema_4(fields)
    if fields[0] == 4:
        fields = _as_schema_5(fields)
    if fields[0] != STATE_SCHEMA:
        raise DecodeError("bad-state", f"schema {fields[0]} is not known; expected {STATE_SCHEMA}")
    match fields:
        case [
            _,
            int(epoch),
            int(judged_ms),
            str(reset),
            [str(method), (float() | None) as level, int(seen), [*numbers], bytes(sample), bytes(pending)],
            [
                int(recent),
                int(quiet),
                (int() | None) as first_ms,
                (int() | None) as opened_ms,
                (str() | None) as incident,
                ("info" | "warning" | "critical") as severity,
                (str() | None) as leader,
                float(peak),
                int(windows),
                (float() | None) as rearm,
            ],
            [
                int(unusual),
                [str(fault), str(channel), int(refusals), int(good), bool(open_), int(refused_ms)],
                [*faults],
            ],
            [
                int(serial),
                bytes(shift),
                bytes(anchor),
                bytes(usual),
                bytes(waiting),
                bytes(sums),
                int(count),
                (int() | None) as calm_ms,
                (int() | None) as flat_ms,
                bool(asked),
                bytes(newest),
                [float(logs), int(normal), int(low), (int() | None) as came_ms, float(came), [*past], bool(settling)],
            ],
            [(float() | None) as pinned, str(accepted), str(rolled), (float() | None) as told, int(told_ms), budget],
        ] if (
            len(sample) % 4 == len(pending) % 4 == 0
            and _are_floats(shift, anchor, usual, waiting, sums, newest)
            and all(type(number) is float for number in (*numbers, *past))
        ):
            return epoch, AssetState(
                threshold=ThresholdState(
                    method=method,
                    level=level,
                    seen=seen,
                    numbers=tuple(numbers),
                    sample=np.frombuffer(sample, dtype="<f4").astype(np.float32),
                    pending=pending,
                ),
                incident=IncidentState(
                    recent, quiet, first_ms, opened_ms, incident, severity, leader, peak, windows, rearm, unusual
                ),
                judged_ms=judged_ms,
                reset=reset,
                sensors=SensorState(
                    tuple(map(_sensor_fault, faults)), Refused(fault, channel, refusals, good, open_, refused_ms)
                ),
                adaptation=Adaptation(
                    serial,
                    _floats(shift),
                    _floats(anchor),
                    _floats(usual),
                    _floats(waiting),
                    _floats(sums),
                    count,
                    calm_ms,
                    flat_ms,
                    asked,
                    tuple(_floats(newest).tolist()),
                    logs,
                    normal,
                    low,
                    came_ms,
                    came,
                    tuple(past),
                    settling,
                ),
                applied=AppliedControls(pinned, accepted, rolled, told, told_ms, _budget(budget)),
            )
    raise DecodeError("bad-state", "a field is missing or of a wrong type")


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
    raise DecodeError("bad-positions", "not positions of this program, or of an unknown schema")


def encode_metadata(position: Position) -> str:
    """Return the text committed beside an offset: where reading had come to, and the epoch."""
    return f"sd1:{position.read}:{position.epoch}"


def decode_metadata(text: str | None) -> tuple[int, int] | None:
    """Return (read, epoch) of a commit by this program; None for any other text: somebody else set the offset."""
    found = _METADATA.fullmatch(text or "")
    return (int(found[1]), int(found[2])) if found else None


def _as_schema_2(fields: list[Any]) -> list[Any]:
    if len(fields) == 6 and type(fields[4]) is list and type(fields[5]) is list:
        pending, rearm = _SINCE_2
        return [2, *fields[1:4], [*fields[4], pending], [*fields[5], rearm]]
    return fields


def _as_schema_3(fields: list[Any]) -> list[Any]:
    """Give a state what schema 2 lacked: nothing was known of sensors."""
    return [3, *fields[1:], _packed_sensors(SensorState(), 0)] if len(fields) == 6 else fields


def _packed_sensors(sensors: SensorState, unusual: int) -> list[Any]:
    faults = [
        [one.channel, one.fault, int(one.since_ms), one.incident, int(one.quiet), int(one.windows), bool(one.by_log)]
        for one in sensors.faults
    ]
    refused = sensors.refused
    counts = [
        refused.fault,
        refused.channel,
        int(refused.count),
        int(refused.good),
        bool(refused.open),
        int(refused.since_ms),
    ]
    return [int(unusual), counts, faults]


def _sensor_fault(fields: object) -> SensorFault:
    match fields:
        case [
            str(channel),
            str(fault),
            int(since_ms),
            (str() | None) as incident,
            int(quiet),
            int(windows),
            bool(by_log),
        ]:
            return SensorFault(channel, fault, since_ms, incident, quiet, windows, by_log)
    raise DecodeError("bad-state", "a sensor fault's field is missing or of a wrong type")


def _as_schema_4(fields: list[Any]) -> list[Any]:
    """Give a state what schema 3 lacked: nothing has moved, nothing was told."""
    if len(fields) == 7:
        return [4, *fields[1:], _packed_adaptation(Adaptation())[:-1], [None, "", "", None, 0, None]]
    return fields


def _as_schema_5(fields: list[Any]) -> list[Any]:
    """Give a state what schema 4 lacked: how scores went lately. A block that is being filled is begun anew."""
    if len(fields) == 9 and type(fields[7]) is list and len(fields[7]) == 11:
        moved = [*fields[7], _packed_adaptation(Adaptation())[-1]]
        moved[5:7] = [b"", 0]
        return [5, *fields[1:7], moved, fields[8]]
    return fields


def _budget(fields: object) -> BudgetState | None:
    match fields:
        case None:
            return None
        case [
            int(start),
            int(set_ms),
            int(since),
            float(elapsed),
            float(shadow),
            float(opened),
            float(promised),
            int(ever),
            int(recent),
            int(quiet),
            float(rarer),
            int(rare),
            int(still),
        ]:
            return BudgetState(
                start, set_ms, since, elapsed, shadow, opened, promised, ever, recent, quiet, rarer, rare, still
            )
    raise DecodeError("bad-state", "a budget's field is missing or of a wrong type")


def _packed_adaptation(one: Adaptation) -> list[Any]:
    return [
        int(one.serial),
        *(_bytes(part) for part in (one.shift, one.anchor, one.usual, one.waiting, one.sums)),
        int(one.count),
        _int_or_none(one.calm_ms),
        _int_or_none(one.flat_ms),
        bool(one.asked),
        np.array(one.scores, dtype="<f4").tobytes(),
        [
            float(one.logs),
            int(one.normal),
            int(one.low),
            _int_or_none(one.came_ms),
            float(one.came),
            [float(log) for log in one.past],
            bool(one.settling),
        ],
    ]


def _bytes(array: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def _are_floats(*parts: bytes) -> bool:
    return not any(len(part) % 4 for part in parts)


def _floats(value: bytes) -> NDArray[np.float32]:
    return np.frombuffer(value, dtype="<f4").astype(np.float32)


def _unpacked(value: bytes, code: str) -> Any:
    try:
        return unpack(value)
    except Exception as error:  # whatever the parser finds
        raise DecodeError(code, f"not MessagePack: {str(error)[:200] or type(error).__name__}") from None


def _float_or_none(number: float | None) -> float | None:
    return None if number is None else float(number)


def _int_or_none(number: int | None) -> int | None:
    return None if number is None else int(number)


def encode_recorded(verdict: RecordedVerdict) -> bytes:
    """Return what is kept of a verdict beside its order and its alert."""
    return orjson.dumps({"verdict": verdict.verdict, "by": verdict.by, "note": verdict.note})


def decode_recorded(alert: str, value: bytes) -> RecordedVerdict:
    """Return the verdict on an alert from `<ms>:<partition>:<offset>:` and its JSON. Raises ValueError, KeyError."""
    ms, partition, offset, rest = value.split(b":", 3)
    fields = orjson.loads(rest)
    return RecordedVerdict(alert, fields["verdict"], fields["by"], fields["note"], int(ms), int(partition), int(offset))
