"""Storage of an evaluation's detectors and alerts, so that the same run can be repeated live and compared.

    DIR/config.yaml        the configuration, with `artifact` set to the folder beside it
    DIR/artifacts/         the detectors of the first seed: one per recording, or default.safetensors for all
    DIR/alerts.jsonl       the alerts of the judged rows, one per line, byte for byte as a worker publishes them
    DIR/rows.json          asset -> file, and the file's row at which the judged part begins

If recordings are judged under different configurations (each with its own grid), each configuration has its own folder
DIR/1, DIR/2, …
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from stream_detector.artifacts.model_set import DEFAULT_FILE, asset_file
from stream_detector.codec import encode_alert
from stream_detector.config.loading import effective
from stream_detector.errors import DataError
from stream_detector.evaluate.data import Recording
from stream_detector.evaluate.live import Live
from stream_detector.evaluate.series import Run

ARTIFACTS = "artifacts"


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of one configuration's folder."""

    folder: Path
    recordings: tuple[Recording, ...]
    """The rows that were judged."""
    alerts: dict[str, list[bytes]]
    """Asset -> its alerts as published; assets without alerts are left out."""


def keep(run: Run, folder: Path) -> list[Kept]:
    """Write a run to a folder; return the content of each configuration's folder. Raises DataError if it can't."""
    lives = list({id(live): live for live in run.lives}.values())
    try:
        return [
            _keep_one(run, live, folder if len(lives) == 1 else folder / str(number))
            for number, live in enumerate(lives, 1)
        ]
    except OSError as error:
        raise DataError(f"{folder}: can't be written: {error.strerror or error}; choose another --keep") from error


def _keep_one(run: Run, live: Live, folder: Path) -> Kept:
    (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
    alerts: dict[str, list[bytes]] = {}
    recordings: list[Recording] = []
    rows: dict[str, dict[str, object]] = {}
    for case, of, track in zip(run.cases, run.lives, run.tracks, strict=True):
        if of is not live or (index := live.models.for_asset(case.asset)) is None:
            continue
        artifact = live.models.artifacts[index]
        artifact.save(folder / ARTIFACTS / (DEFAULT_FILE if artifact.assets is None else asset_file(case.asset)))
        recordings.append(case.test)
        if track.alerts:
            alerts.setdefault(case.asset, []).extend(encode_alert(alert) for alert in track.alerts)
        rows[case.asset] = {"file": case.name, "first_row": case.first_row}
    plain = effective(live.asked) | {"artifact": ARTIFACTS}
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / "alerts.jsonl").write_bytes(b"".join(alert + b"\n" for own in alerts.values() for alert in own))
    (folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return Kept(folder, tuple(recordings), alerts)
