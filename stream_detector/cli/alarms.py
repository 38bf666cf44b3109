"""What `train` and `check` say about the alarms that an artifact can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stream_detector.errors import DataError

if TYPE_CHECKING:
    from stream_detector.artifacts.artifact import Artifact
    from stream_detector.config import Config
    from stream_detector.training.alarms import Findings


def refuse_mute(config: Config, artifacts: Sequence[Artifact], *, force: bool) -> None:
    """Raise DataError when none of the detectors just trained can ever alarm, unless `force` is set.

    Of several detectors one that can is enough: the log has a warning for each of the others.
    """
    from stream_detector.training.alarms import findings

    found = [findings(config, artifact) for artifact in artifacts]
    if force or not found or not all(one.cannot_alarm for one in found):
        return
    of = "" if len(found) == 1 else f"(all of {len(found)}; the first one's figures) "
    raise DataError(f"{of}{found[0].never}. Nothing was written; --force writes it all the same")


def facts(found: Findings) -> dict[str, Any]:
    """Return what was found as JSON has it."""
    return {
        "level": found.level,
        "alarms_from_spreads": found.alarms_from,
        "can_alarm": None if found.highest is None else not found.cannot_alarm,
    }


def described(name: str, found: Findings) -> Iterator[str]:
    """Yield lines about one detector: its level, then from what distance each channel alarms."""
    level = "no level yet" if found.level is None else f"alarms above {found.level:.4g} at the start"
    if found.highest is None:
        yield f"{name}: {level}; an artifact of a version before 0.3, its channels were not tried in training"
        return
    yield f"{name}: {level}; a channel moved alone alarms from"
    for channel, spreads in found.alarms_from.items():
        yield f"    {channel}: " + ("no distance tried" if spreads is None else f"{spreads:g} spreads")
