"""Each policy's part of an asset's state <-> MessagePack fields, with its version and the migrations from older ones.

A part is a list of fields. Its migrations lead from one version to the next; version 0 is a state without such a part.
To change a part: add a migration, raise its version here, and set in `state.py` which schema writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DecodeError
from stream_detector.types import (
    Adaptation,
    AppliedControls,
    AssetState,
    AuditedLevel,
    BudgetState,
    IncidentState,
    Refused,
    SensorFault,
    SensorState,
    ThresholdState,
)

Fields = list[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Encoder and decoder of one part."""

    name: str
    version: int
    pack: Callable[[AssetState], Fields]
    unpack: Callable[[Fields], Mapping[str, Any]]
    """Returns fields of AssetState, and of its parts as `part.field`. Raises DecodeError on anything unexpected."""
    migrations: Mapping[int, Callable[[Fields], Fields]]
    """By the version they start from."""

    def read(self, version: int, fields: Fields) -> Mapping[str, Any]:
        """Return the values of fields of this or an older version; for version 0 `fields` is empty."""
        for older in range(version, self.version):
            fields = self.migrations[older](fields)
        return self.unpack(fields)


def wrong(what: str) -> DecodeError:
    """Return the error for a part in an unexpected form."""
    return DecodeError("bad-state", f"a field of its {what} is missing or of a wrong type")


# Threshold ----------------------------------------------------------------------------------------------------------


def _pack_threshold(state: AssetState) -> Fields:
    one = state.threshold
    return [
        one.method,
        float_or_none(one.level),
        int(one.seen),
        [float(number) for number in one.numbers],
        to_bytes(one.sample),
        one.pending,
    ]


def _unpack_threshold(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [str(method), (float() | None) as level, int(seen), [*numbers], bytes(sample), bytes(pending)] if len(
            sample
        ) % 4 == len(pending) % 4 == 0 and _all_floats(numbers):
            state = ThresholdState(
                method=method,
                level=level,
                seen=seen,
                numbers=tuple(numbers),
                sample=to_floats(sample),
                pending=pending,
            )
            return {"threshold": state}
    raise wrong("threshold")


# Incident -----------------------------------------------------------------------------------------------------------


def _pack_incident(state: AssetState) -> Fields:
    one = state.incident
    return [
        int(one.recent),
        int(one.quiet),
        int_or_none(one.first_ms),
        int_or_none(one.opened_ms),
        one.incident,
        one.severity,
        one.leader,
        float(one.peak),
        int(one.windows),
        float_or_none(one.rearm),
    ]


def _unpack_incident(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [
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
        ]:
            state = IncidentState(
                recent=recent,
                quiet=quiet,
                first_ms=first_ms,
                opened_ms=opened_ms,
                incident=incident,
                severity=severity,
                leader=leader,
                peak=peak,
                windows=windows,
                rearm=rearm,
            )
            return {"incident": state}
    raise wrong("incident")


# Sensors, and the count of unusual windows of an incident, which came with them --------------------------------------


def _pack_sensors(state: AssetState) -> Fields:
    refused = state.sensors.refused
    counts = [
        refused.fault,
        refused.channel,
        int(refused.count),
        int(refused.good),
        bool(refused.open),
        int(refused.since_ms),
    ]
    faults = [
        [one.channel, one.fault, int(one.since_ms), one.incident, int(one.quiet), int(one.windows), bool(one.by_log)]
        for one in state.sensors.faults
    ]
    return [int(state.incident.unusual), counts, faults]


def _unpack_sensors(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [
            int(unusual),
            [str(fault), str(channel), int(count), int(good), bool(open_), int(since_ms)],
            [*faults],
        ]:
            refused = Refused(fault=fault, channel=channel, count=count, good=good, open=open_, since_ms=since_ms)
            sensors = SensorState(faults=tuple(map(_unpack_fault, faults)), refused=refused)
            return {"sensors": sensors, "incident.unusual": unusual}
    raise wrong("sensors")


def _unpack_fault(fields: object) -> SensorFault:
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
            return SensorFault(
                channel=channel,
                fault=fault,
                since_ms=since_ms,
                incident=incident,
                quiet=quiet,
                windows=windows,
                by_log=by_log,
            )
    raise wrong("sensor faults")


# Adaptation ---------------------------------------------------------------------------------------------------------


def _pack_adaptation(state: AssetState) -> Fields:
    one = state.adaptation
    return [
        int(one.serial),
        *(to_bytes(array) for array in (one.shift, one.anchor, one.usual, one.waiting, one.sums)),
        int(one.count),
        int_or_none(one.calm_ms),
        int_or_none(one.flat_ms),
        bool(one.asked),
        to_bytes(np.array(one.scores, np.float32)),
        [
            float(one.logs),
            int(one.normal),
            int(one.low),
            int_or_none(one.came_ms),
            float(one.came),
            [float(log) for log in one.past],
            bool(one.settling),
        ],
    ]


def _unpack_adaptation(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [
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
            bytes(scores),
            [float(logs), int(normal), int(low), (int() | None) as came_ms, float(came), [*past], bool(settling)],
        ] if _all_floats(past) and _are_arrays(shift, anchor, usual, waiting, sums, scores):
            state = Adaptation(
                serial=serial,
                shift=to_floats(shift),
                anchor=to_floats(anchor),
                usual=to_floats(usual),
                waiting=to_floats(waiting),
                sums=to_floats(sums),
                count=count,
                calm_ms=calm_ms,
                flat_ms=flat_ms,
                asked=asked,
                scores=tuple(to_floats(scores).tolist()),
                logs=logs,
                normal=normal,
                low=low,
                came_ms=came_ms,
                came=came,
                past=tuple(past),
                settling=settling,
            )
            return {"adaptation": state}
    raise wrong("adaptation")


_FRESH = AssetState(judged_ms=0, threshold=ThresholdState(method="", level=None, seen=0))


def _adaptation_1(fields: Fields) -> Fields:
    """Return the part of an asset whose baseline has not moved yet."""
    return _pack_adaptation(_FRESH)[:-1]


def _adaptation_2(fields: Fields) -> Fields:
    """Add the course of recent scores. A block that is being filled starts again."""
    if len(fields) != 11:
        raise wrong("adaptation")
    moved = [*fields, _pack_adaptation(_FRESH)[-1]]
    moved[5:7] = [b"", 0]
    return moved


# Controls applied, the level audited, the alert budget ---------------------------------------------------------------


def _pack_applied(state: AssetState) -> Fields:
    return [
        float_or_none(state.applied.pinned),
        state.applied.accepted,
        state.applied.rolled,
        float_or_none(state.audited.level),
        int(state.audited.at_ms),
        None if state.budget is None else list(msgspec.structs.astuple(state.budget)),
        *([state.applied.removed] if state.applied.removed else []),  # of assets that begin after a removal only
    ]


def _unpack_applied(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [
            (float() | None) as pinned,
            str(accepted),
            str(rolled),
            (float() | None) as level,
            int(at_ms),
            budget,
            *removed,
        ] if not removed or (len(removed) == 1 and type(removed[0]) is str):
            return {
                "applied": AppliedControls(pinned=pinned, accepted=accepted, rolled=rolled, removed="".join(removed)),
                "audited": AuditedLevel(level=level, at_ms=at_ms),
                "budget": _unpack_budget(budget),
            }
    raise wrong("applied controls")


_BUDGET = BudgetState.__struct_fields__
_BUDGET_TYPES = tuple(type(value) for value in msgspec.structs.astuple(BudgetState()))


def _unpack_budget(fields: object) -> BudgetState | None:
    if fields is None:
        return None
    if type(fields) is not list or tuple(map(type, fields)) != _BUDGET_TYPES:
        raise wrong("alert budget")
    return BudgetState(**dict(zip(_BUDGET, fields, strict=True)))


# The model ------------------------------------------------------------------------------------------------------------


def _unpack_model(fields: Fields) -> Mapping[str, Any]:
    match fields:
        case [str(version)]:
            return {"model": version}
    raise wrong("model")


def _appended(what: str, length: int, value: object) -> Callable[[Fields], Fields]:
    """Return a migration that appends a field to `length` fields."""

    def migrate(fields: Fields) -> Fields:
        if len(fields) != length:
            raise wrong(what)
        return [*fields, value]

    return migrate


#: All parts, in their order in a state.
PARTS: Sequence[Part] = (
    Part("threshold", 2, _pack_threshold, _unpack_threshold, {1: _appended("threshold", 5, b"")}),
    Part("incident", 2, _pack_incident, _unpack_incident, {1: _appended("incident", 9, None)}),
    Part("sensors", 1, _pack_sensors, _unpack_sensors, {0: lambda _: _pack_sensors(_FRESH)}),
    Part("adaptation", 2, _pack_adaptation, _unpack_adaptation, {0: _adaptation_1, 1: _adaptation_2}),
    Part("applied", 1, _pack_applied, _unpack_applied, {0: lambda _: _pack_applied(_FRESH)}),
    Part("model", 1, lambda state: [state.model], _unpack_model, {0: lambda _: [""]}),
)


def to_bytes(array: NDArray[np.float32]) -> bytes:
    """Return an array as little-endian float32."""
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def to_floats(value: bytes) -> NDArray[np.float32]:
    """Return the array that `to_bytes` wrote."""
    return np.frombuffer(value, dtype="<f4").astype(np.float32)


def float_or_none(number: float | None) -> float | None:
    """Return a plain float, since numpy's can't be packed."""
    return None if number is None else float(number)


def int_or_none(number: int | None) -> int | None:
    """Return a plain int, since numpy's can't be packed."""
    return None if number is None else int(number)


def _are_arrays(*values: bytes) -> bool:
    return not any(len(value) % 4 for value in values)


def _all_floats(values: Sequence[object]) -> bool:
    return all(type(value) is float for value in values)
