"""Trains the stored artifacts. For new cases only: an artifact's version enters the id of every alert it causes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stream_detector.config import Config
from stream_detector.datasets.recording import Recording
from stream_detector.evaluate.offline import Encoded, windows
from stream_detector.training.fleet import train_fleet
from stream_detector.training.train import train
from tests.golden import material, setups
from tests.golden.runs import ARTIFACTS, Sent


def _train(config: Config, sent: Iterable[Sent], path: Path, each: bool = False) -> None:
    found = windows(config, (Encoded(one.key, one.value or b"", one.headers) for one in sent))
    (train_fleet(config, found) if each else train(config, found)).save(path)


def _of(setup: setups.Setup, recordings: Sequence[Recording], path: Path, each: bool = False) -> None:
    _train(Config.model_validate(setup), material.one_after_another(recordings), path, each)


def _beginnings(recordings: Iterable[Recording], share: float = material.TRAINED) -> list[Recording]:
    return [one.head(round(share * len(one))) for one in recordings]


#: Name of the file -> how it is made.
MAKERS: dict[str, Callable[[Path], None]] = {
    "skab": lambda path: _of(setups.SKAB, [one.head(material.SKAB_ROWS) for one in material.skab()], path),
    "waveforms": lambda path: _of(setups.WAVEFORMS, _beginnings(material.waveforms()), path),
    "records": lambda path: _train(Config.model_validate(setups.RECORDS), material.records(2_000, seed=7), path),
    "chaos": lambda path: _of(setups.CHAOS, _beginnings(material.chaos()[:12]), path),
    "chaos-records": lambda path: _of(setups.CHAOS_RECORDS, _beginnings(material.chaos(records=True)), path),
    "fleet": lambda path: _of(setups.FLEET, _beginnings(material.fleet()), path),
    "fleet-each": lambda path: _of(setups.FLEET, _beginnings(material.fleet()[:7]), path, each=True),
    **{
        f"suite-{name}": lambda path, name=name: _of(setups.SUITES, material.suite(name)[0], path, each=True)
        for name in ("healthy", "nuisance", "faults", "kinds")
    },
}


def train_missing() -> list[Path]:
    """Train every artifact that is not stored yet; return the paths written. Those that exist stay as they are."""
    ARTIFACTS.mkdir(exist_ok=True)
    made: list[Path] = []
    for name, make in MAKERS.items():
        path = ARTIFACTS / f"{name}.safetensors"
        if not path.exists():
            make(path)
            made.append(path)
    return made
