"""A trained detector on disk: one safetensors file with weights, scaler, calibration scores and their description.

The tensors are `detector.*`, `preprocess.*`, `calibration`, `norms` (the channel profile) and `reach` (the scores of
windows far outside); file.py computes the checksum over them. A model is built only from a validated configuration.
The same training gives the same bytes: nothing here depends on the clock, a file's path or a dictionary's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_detector import plugins
from stream_detector.artifacts.file import (
    DAMAGED,
    FORMAT,
    MAX_BYTES,
    UnusableError,
    canonical,
    described,
    digest,
    read_file,
    verified,
    write_file,
)
from stream_detector.config import (
    ChannelConfig,
    Config,
    FeatureConfig,
    ModelConfig,
    Section,
    TrainConfig,
    WindowConfig,
)
from stream_detector.errors import ArtifactError
from stream_detector.models import DETECTORS, Detector, FitReport, build_whole
from stream_detector.models.preprocessing import Preprocess, column_channels
from stream_detector.types import ModelRef
from stream_detector.windowing.channel_profile import ChannelProfile

#: Distances from normal at which training tries whether a window alarms, in training spreads.
REACH_SPREADS = (5.0, 10.0, 30.0)
#: Packages whose version may change the result of the same training.
PACKAGES = ("stream-detector", "torch", "numpy", "safetensors")


class Snapshot(Section):
    """The sections of the configuration that a detector was trained under and is scored under."""

    channels: dict[str, ChannelConfig]
    """Channels in the order of the model's inputs."""
    window: WindowConfig
    """The grid and the windows."""
    features: FeatureConfig
    """From window to model input."""
    model: ModelConfig
    """The detector."""
    train: TrainConfig
    """How it was fitted."""

    @classmethod
    def of(cls, config: Config) -> Snapshot:
        """Take the sections from a whole configuration."""
        return cls(
            channels=config.channels,
            window=config.window,
            features=config.features,
            model=config.model,
            train=config.train,
        )

    @property
    def columns(self) -> list[str]:
        """Names of the window columns, in order."""
        return [column for name, channel in self.channels.items() for column in channel.columns(name)]


@dataclass(frozen=True, slots=True)
class DataFingerprint:
    """Which windows a detector was trained and calibrated on."""

    sha256: str  # over each asset's windows in order: name, end times and float32 values
    windows: int  # total: training, calibration and those dropped between the two
    start_ms: int  # start of the first window, event time, UNIX ms
    end_ms: int  # end of the last window


@dataclass(frozen=True, slots=True)
class Split:
    """How the history was divided between the fit and the calibration; all counts are windows."""

    # "holdout": each asset's last windows, all later than its training windows; "cross-fit": every window, scored by
    # networks that were not trained on its block
    method: str
    n_train: int  # windows that scaler and weights were fitted to
    n_calibration: int  # windows scored for calibration, each by a detector that was not trained on it
    n_overlapping: int  # calibration windows that still share cells with training windows
    n_dropped: int  # windows at the boundary left out because they share cells with the training part


@dataclass(frozen=True)
class Artifact:
    """A trained detector and its origin. `ref.version` is the end date of its data and a hash of the whole content."""

    detector: Detector  # float32, in eval mode
    preprocess: Preprocess  # float64
    calibration: NDArray[np.float64]  # (n_calibration,) scores of windows not trained on, asset by asset in event time
    config: Snapshot
    assets: tuple[str, ...] | None  # the assets it was trained for; None: any asset
    data: DataFingerprint
    split: Split
    fit: FitReport
    packages: Mapping[str, str]  # package -> version at training
    ref: ModelRef
    profile: ChannelProfile | None = None  # normal range of each channel by itself; None in files of earlier versions
    plugin: str | None = None  # the distribution that provides the detector; None for built-in ones
    #: (C + 1, S) what windows that far outside score (training/alarms.py): by column, then all at once, and by
    #: REACH_SPREADS; None in files of versions before 0.3
    reach: NDArray[np.float64] | None = None

    @classmethod
    def create(
        cls,
        detector: Detector,
        preprocess: Preprocess,
        calibration: NDArray[np.float64],
        *,
        config: Snapshot,
        assets: tuple[str, ...] | None,
        data: DataFingerprint,
        split: Split,
        fit: FitReport,
        profile: ChannelProfile | None = None,
        reach: NDArray[np.float64] | None = None,
    ) -> Artifact:
        """Return the artifact of a training that has just ended, its version set from its content."""
        unnamed = ModelRef(config.model.kind, "")
        packages, plugin = _package_versions(), None
        if config.model.kind not in DETECTORS:
            origin = plugins.origin("detectors", config.model.kind)
            packages, plugin = {**packages, origin.name: origin.version}, origin.name
        draft = cls(
            detector,
            preprocess,
            calibration,
            config,
            assets,
            data,
            split,
            fit,
            packages,
            unnamed,
            profile,
            plugin,
            reach,
        )
        return draft._named(digest(draft.content(), draft.tensors()))

    def save(self, path: Path | str) -> None:
        """Write the file atomically: after a crash there is either the old file or the new one, never a partial one.

        Raises ArtifactError when it can't be written.
        """
        write_file(Path(path), self.content(), self.tensors(), self.ref.version)

    @classmethod
    def load(cls, path: Path | str, max_bytes: int = MAX_BYTES, sha256: str | None = None) -> Artifact:
        """Read and verify a file that `save` wrote; with `sha256`, only if the file has that SHA-256.

        Raises ArtifactError naming the file, what is wrong with it and what to do.
        """
        return load(Path(path), max_bytes, sha256)

    def mismatches(self, config: Config) -> list[str]:
        """List the keys of `config` that ask for other windows than the training windows, one `key: ...` per key."""
        ours, theirs = self.config, config
        found = []
        if ours.columns != theirs.columns:
            found.append(_mismatch("channels", ", ".join(ours.columns), ", ".join(theirs.columns)))
        else:
            pairs = [(name, ours.channels[name], theirs.channels.get(name)) for name in ours.channels]
            for name, mine, other in pairs:
                for key in ("kind", "cell", "encoding", "buckets", "log"):
                    found += _compare(f"channels.{name}.{key}", getattr(mine, key), getattr(other, key, None))
        for key in ("cell_ms", "length"):
            found += _compare(f"window.{key}", getattr(ours.window, key), getattr(theirs.window, key))
        for key in FeatureConfig.model_fields:
            found += _compare(f"features.{key}", getattr(ours.features, key), getattr(theirs.features, key))
        return found

    def check_compatible(self, config: Config, path: Path | None = None) -> None:
        """Raise ArtifactError when `config` asks for other windows than this detector was trained on.

        Compares what the windows hold and how they are prepared: columns, how cells are filled, cell width, length,
        features. Other keys may differ (stride, lateness, gaps, units, valid ranges): they don't change the
        detector's input.
        """
        if found := self.mismatches(config):
            name = f"the artifact {path}" if path is not None else f"the artifact {self.ref.version}"
            raise ArtifactError(f"{name} doesn't fit the configuration: {'; '.join(found)}; train again or set it back")

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the file by name."""
        parts = {"detector": self.detector, "preprocess": self.preprocess}
        tensors = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
        tensors["calibration"] = torch.from_numpy(np.ascontiguousarray(self.calibration, np.float64))
        if self.profile is not None:
            tensors["norms"] = torch.from_numpy(np.ascontiguousarray(self.profile.table, np.float64))
        if self.reach is not None:
            tensors["reach"] = torch.from_numpy(np.ascontiguousarray(self.reach, np.float64))
        return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}

    def content(self) -> dict[str, Any]:
        """Return the file's JSON content, all that is stored beside the tensors."""
        return {
            "format": FORMAT,
            "kind": self.config.model.kind,
            "columns": self.config.columns,
            "config": self.config.model_dump(mode="json"),
            "assets": None if self.assets is None else list(self.assets),
            "data": asdict(self.data),
            "split": asdict(self.split),
            "fit": asdict(self.fit),
            "packages": dict(self.packages),
            **({} if self.plugin is None else {"plugin": self.plugin}),
        }

    def _named(self, digest: str) -> Artifact:
        day = datetime.fromtimestamp(self.data.end_ms / 1000, UTC).strftime("%Y%m%d")
        ref = ModelRef(self.config.model.kind, f"{day}-{digest[:8]}")
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Artifact(**{**fields, "ref": ref})


def load(path: Path, max_bytes: int = MAX_BYTES, sha256: str | None = None) -> Artifact:
    """Read and verify an artifact; with `sha256`, only if the file has that SHA-256.

    Raises ArtifactError naming the file, what is wrong with it and what to do.
    """
    try:
        return _parse(read_file(path, max_bytes, sha256))
    except UnusableError as error:
        raise ArtifactError(f"the artifact {path} can't be used: {error}") from error


def _parse(blob: bytes) -> Artifact:
    envelope, tensors = verified(blob)
    if "fleet" in envelope["content"]:
        raise UnusableError("it is a fleet's, with a detector an asset; it is read as a set-up's artifact")
    with described():
        artifact = rebuilt(envelope["content"], tensors)
    if artifact.ref.version != envelope.get("version"):
        raise UnusableError(f"its version {envelope.get('version')!r} doesn't match its content; {DAMAGED}")
    return artifact


def snapshot(content: Mapping[str, Any]) -> Snapshot:
    """Return the configuration in a file's content. Raises UnusableError when its detector's plug-in is missing."""
    plugin, kind = content.get("plugin"), content["config"]["model"]["kind"]
    if plugin is not None and kind not in plugins.names("detectors"):
        number = content["packages"].get(plugin, "")
        raise UnusableError(
            f"its detector {kind!r} is of the package {plugin} {number}, which is not installed here; install it: "
            f"pip install {plugin}=={number}"
        )
    return Snapshot.model_validate_json(canonical(content["config"]), strict=False)


def rebuilt(content: dict[str, Any], tensors: Mapping[str, Tensor], known: Snapshot | None = None) -> Artifact:
    """Build an artifact from a file's content; pass `known` where its configuration has been read already."""
    config = known or snapshot(content)
    channels = column_channels(config.channels)
    preprocess = Preprocess(config.features, config.window.length, len(channels), channels)
    preprocess.load_state_dict(_under("preprocess.", tensors))  # first: it determines the number of features
    with torch.device("meta"):  # shapes only: a forged width costs no memory, the tensors must be there to match it
        detector = build_whole(config.model, config.train, preprocess.length, preprocess.columns)
    detector.restore(_under("detector.", tensors))
    if not bool((preprocess.scaler.scale > 0).all()):
        raise ValueError("a column's scale is not positive")
    scores = tensors["calibration"]
    if scores.dtype != torch.float64 or scores.ndim != 1:
        raise ValueError(f"calibration is {scores.dtype} {tuple(scores.shape)}, expected torch.float64 (n,)")
    profile = ChannelProfile(tensors["norms"].numpy()) if "norms" in tensors else None
    if profile is not None and profile.table.shape[1] != len(channels):
        raise ValueError(f"its norms are of {profile.table.shape[1]} columns, expected {len(channels)}")
    reach = tensors.get("reach")
    if reach is not None and tuple(reach.shape) != (len(channels) + 1, len(REACH_SPREADS)):
        raise ValueError(f"its reach is {tuple(reach.shape)}, expected {(len(channels) + 1, len(REACH_SPREADS))}")
    names = {"calibration", "norms", "reach", *(f"preprocess.{n}" for n in preprocess.state_dict())}
    if extra := sorted(name for name in tensors if name not in names and not name.startswith("detector.")):
        raise ValueError(f"it holds the unknown tensor {extra[0]!r}")
    fit = content["fit"]
    assets = content["assets"]
    draft = Artifact(
        detector=detector.eval(),
        preprocess=preprocess.eval(),
        calibration=scores.numpy(),
        config=config,
        assets=None if assets is None else tuple(str(asset) for asset in assets),
        data=_fingerprint(content["data"]),
        split=_split(content["split"]),
        fit=_report(fit),
        packages={str(name): str(number) for name, number in content["packages"].items()},
        ref=ModelRef(config.model.kind, ""),
        profile=profile,
        plugin=content.get("plugin"),
        reach=None if reach is None else reach.double().numpy(),
    )
    return draft if known else draft._named(digest(content, tensors))


def _fingerprint(data: dict[str, Any]) -> DataFingerprint:
    return DataFingerprint(str(data["sha256"]), int(data["windows"]), int(data["start_ms"]), int(data["end_ms"]))


def _report(data: dict[str, Any]) -> FitReport:
    return FitReport(
        epochs=int(data["epochs"]),
        best_epoch=int(data["best_epoch"]),
        losses=tuple(map(float, data["losses"])),
        val_losses=tuple(map(float, data["val_losses"])),
        first_choice=int(data["first_choice"]),
        warnings=tuple(map(str, data["warnings"])),
        faulty=int(data.get("faulty", 0)),  # not in files of earlier versions
    )


def _split(data: dict[str, Any]) -> Split:
    counts = (int(data[key]) for key in ("n_train", "n_calibration", "n_overlapping", "n_dropped"))
    return Split(str(data["method"]), *counts)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _compare(key: str, ours: object, theirs: object) -> list[str]:
    return [] if ours == theirs else [_mismatch(key, ours, theirs)]


def _mismatch(key: str, ours: object, theirs: object) -> str:
    return f"{key} is {theirs} in the configuration, but the detector was trained with {ours}"


@cache
def _package_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"  # run from a source tree that isn't installed
    return found
