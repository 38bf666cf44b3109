"""An evaluation's detectors and alerts on disk, so that the same run can be repeated live and compared.

    DIR/config.yaml        the set-up, its artifact set to the folder beside it
    DIR/artifacts/         the detectors of the first seed: one a recording, or default.safetensors for all
    DIR/alerts.jsonl       the alerts of the judged rows, the very bytes a worker publishes for them, one a line
    DIR/rows.json          asset -> file, and the row of it that the judged part begins with

Where recordings are judged under different set-ups (their own grids), each set-up has a folder DIR/1, DIR/2, …
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
    """What was written of the recordings judged under one set-up."""

    folder: Path
    recordings: tuple[Recording, ...]
    """The rows that were judged."""
    alerts: dict[str, list[bytes]]
    """Asset -> its alerts as published; without those that have none."""


def keep(run: Run, folder: Path) -> list[Kept]:
    """Write a run into a folder; return what each set-up's folder holds. Raises DataError when that can't be done."""
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
