"""Real-time anomaly detection beside Kafka: readings in, alerts out.

The names below are the public ones (docs/library.md). Each is loaded when it is first used, so that
`import stream_detector` takes no time: torch and the clients of Kafka and Redis come with what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_detector.api.estimator import Estimator as Estimator
    from stream_detector.api.offline import BacktestResult as BacktestResult
    from stream_detector.api.offline import backtest as backtest
    from stream_detector.api.offline import train as train
    from stream_detector.api.worker import Worker as Worker
    from stream_detector.artifacts.artifact import Artifact as Artifact
    from stream_detector.artifacts.model_set import ModelSet as ModelSet
    from stream_detector.config import Config as Config
    from stream_detector.config.loading import load as load_config
    from stream_detector.datasets import Format as Format
    from stream_detector.datasets import read as read_recordings
    from stream_detector.datasets.recording import Recording as Recording
    from stream_detector.decision.engine import Engine as Engine
    from stream_detector.decision.engine import Step as Step
    from stream_detector.decision.threshold import ThresholdMethod as ThresholdMethod
    from stream_detector.decision.window import ScoredWindow as ScoredWindow
    from stream_detector.errors import DetectorError as DetectorError
    from stream_detector.models import Detector as Detector
    from stream_detector.ports import Sink as Sink
    from stream_detector.ports import Source as Source
    from stream_detector.ports import StateStore as StateStore
    from stream_detector.types import Alert as Alert
    from stream_detector.types import Controls as Controls
    from stream_detector.types import Reading as Reading

__version__ = "0.2.0"

#: Public name -> where it is made.
_PUBLIC = {
    "Alert": "types:Alert",
    "Artifact": "artifacts.artifact:Artifact",
    "BacktestResult": "api.offline:BacktestResult",
    "Config": "config:Config",
    "Controls": "types:Controls",
    "Detector": "models:Detector",
    "DetectorError": "errors:DetectorError",
    "Engine": "decision.engine:Engine",
    "Estimator": "api.estimator:Estimator",
    "Format": "datasets:Format",
    "ModelSet": "artifacts.model_set:ModelSet",
    "Reading": "types:Reading",
    "Recording": "datasets.recording:Recording",
    "ScoredWindow": "decision.window:ScoredWindow",
    "Sink": "ports:Sink",
    "Source": "ports:Source",
    "StateStore": "ports:StateStore",
    "Step": "decision.engine:Step",
    "ThresholdMethod": "decision.threshold:ThresholdMethod",
    "Worker": "api.worker:Worker",
    "backtest": "api.offline:backtest",
    "load_config": "config.loading:load",
    "read_recordings": "datasets:read",
    "train": "api.offline:train",
}

__all__ = [
    "Alert",
    "Artifact",
    "BacktestResult",
    "Config",
    "Controls",
    "Detector",
    "DetectorError",
    "Engine",
    "Estimator",
    "Format",
    "ModelSet",
    "Reading",
    "Recording",
    "ScoredWindow",
    "Sink",
    "Source",
    "StateStore",
    "Step",
    "ThresholdMethod",
    "Worker",
    "backtest",
    "load_config",
    "read_recordings",
    "train",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found: object = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])
