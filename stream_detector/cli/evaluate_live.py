"""`stream-detector evaluate … --live`: are the evaluation's alerts those that a worker publishes behind a broker?

kept set-up, detectors ─▶ a worker of its own, behind a broker and a store started here
judged rows ─▶ input topic ─▶ worker ─▶ alert topic ─▶ held, byte for byte, against the evaluation's
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.cli import processes
from stream_detector.errors import DetectorError

if TYPE_CHECKING:
    from stream_detector.config import Config
    from stream_detector.evaluate.data import Recording
    from stream_detector.evaluate.series import Run

PARTITIONS = 4
_QUIET_READS = 3  # polls without an alert after the worker has stopped: the last ones may still be on their way

Tell = Callable[[str, int, int], None]
ByAsset = dict[str, list[bytes]]


def run(found: Run, tell: Tell) -> dict[str, Any]:
    """Run an evaluation's first seed again through a broker.

    Returns how many recordings and alerts were compared; alerts `missing` live and `unexpected` ones; whether each
    asset's alerts were the same bytes in the same order (`equal`); and how many alerts about sensors only a worker
    raises (`live_only`): an evaluation judges windows, and does not watch who is heard.
    """
    from stream_detector.evaluate.keep import keep

    counts = {"recordings": 0, "alerts": 0, "missing": 0, "unexpected": 0, "live_only": 0}
    equal = True
    with tempfile.TemporaryDirectory(prefix="stream-detector-live-") as name:
        parts = keep(found, Path(name))
        for number, part in enumerate(parts):
            tell("live", number, len(parts))
            published = _published(part.folder, part.recordings)
            for asset in sorted(part.alerts.keys() | published.keys()):
                wanted, live = part.alerts.get(asset, []), published.get(asset, [])
                got = [alert for alert in live if alert in wanted or not _about_a_sensor(alert)]
                counts["live_only"] += len(live) - len(got)
                counts["alerts"] += len(wanted)
                counts["missing"] += (Counter(wanted) - Counter(got)).total()
                counts["unexpected"] += (Counter(got) - Counter(wanted)).total()
                equal = equal and wanted == got
            counts["recordings"] += len(part.recordings)
        tell("live", len(parts), len(parts))
    return {**counts, "equal": equal}


def _about_a_sensor(alert: bytes) -> bool:
    return json.loads(alert).get("sensor") is not None


def _published(folder: Path, recordings: Sequence[Recording]) -> ByAsset:
    """Return what a worker publishes for recordings, by asset."""
    from stream_detector.config import loading as settings

    with ExitStack() as exits:
        environment = processes.servers(None, None, exits)
        path = folder / "config.yaml"
        config = settings.load(path, env={**os.environ, **environment})
        processes.create(config, PARTITIONS)
        _send(config, recordings)
        upto = processes.ends(config)
        env = {**os.environ, **environment}
        worker = processes.Child(["stream_detector", "--log-level", "warning", "run", str(path)], env, exits)
        while not processes.processed(config, upto):
            if worker.ended():
                raise DetectorError(f"the worker ended early with status {worker.process.returncode}")
            time.sleep(0.2)
        worker.stop()
        return _read(config)


def _send(config: Config, recordings: Sequence[Recording]) -> None:
    """Replay all recordings, as fast as it goes, into the input topic."""
    from stream_detector.adapters.kafka import MessageWriter
    from stream_detector.datasets.replay import Plan, SystemClock, replay

    entry = config.inputs[0]
    plan = Plan(entry.topic, speed=None, format="msgpack" if entry.format == "msgpack" else "json", fields=entry.fields)
    with MessageWriter(config.kafka, client_id="stream-detector-evaluate") as writer:
        replay(recordings, plan, writer, clock=SystemClock())  # type: ignore[arg-type]  # read by stream_detector.datasets


def _read(config: Config) -> ByAsset:
    """Return all alerts published, by asset."""
    from stream_detector.adapters.kafka import AlertReader

    found: ByAsset = {}
    quiet = 0
    with AlertReader(config, from_beginning=True) as reader:
        while quiet < _QUIET_READS:
            records = reader.read(timeout_ms=300)
            quiet = 0 if records else quiet + 1
            for record in records:
                found.setdefault(json.loads(record.value)["asset"], []).append(record.value)
    return found
