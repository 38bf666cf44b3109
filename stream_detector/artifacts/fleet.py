"""A plant's detectors in one file: one model per asset, all of one shape, and optionally one for all other assets.

The file is a safetensors file like an artifact's (artifact.py), with the same envelope and checksum:

    NAME            (M, …)   every tensor of the M detectors and their preprocessing
    calibration     (Σ n_m,) their calibration scores one after the other; calibration.count (M,)
    fit.losses, fit.val_losses (Σ epochs_m,)
    shared.NAME              the tensors of the detector for all other assets, where there is one

The header has the fields of an artifact's header, those that differ by asset as lists of length M.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stream_detector.artifacts.artifact import Artifact, rebuilt, snapshot
from stream_detector.artifacts.file import (
    FORMAT,
    MAX_BYTES,
    UnusableError,
    described,
    digest,
    read_file,
    verified,
    write_file,
)
from stream_detector.errors import ArtifactError
from stream_detector.models.stacking import stacked
from stream_detector.types import ModelRef

#: Most assets in one file: with small models a hundred thousand reach the largest size that is read.
MOST_ASSETS = 100_000
_SHARED = "shared."
#: Fields that are the same in all artifacts of a file.
_OF_ALL = ("format", "kind", "columns", "config", "packages", "plugin")


@dataclass(frozen=True)
class Fleet:
    """Detectors by asset, in the order of the assets' names."""

    artifacts: Mapping[str, Artifact]
    shared: Artifact | None = None  # for all other assets
    left_out: Mapping[str, str] = field(default_factory=dict)  # asset without a detector of its own -> why; not saved

    @property
    def ref(self) -> ModelRef:
        """Model reference of the whole file; the alerts of all its assets carry it."""
        return next(iter(self.artifacts.values())).ref

    def save(self, path: Path) -> None:
        """Write one file atomically. Raises ArtifactError when detectors differ in shape or it can't be written."""
        content, tensors = self._packed()
        write_file(path, content, tensors, self.ref.version)

    def named(self) -> Fleet:
        """Return the fleet with one version for all artifacts, derived from its content."""
        version = self._version(digest(*self._packed()))
        refs = {asset: replace(one, ref=ModelRef(one.ref.kind, version)) for asset, one in self.artifacts.items()}
        shared = self.shared and replace(self.shared, ref=ModelRef(self.shared.ref.kind, version))
        return Fleet(refs, shared, self.left_out)

    def _version(self, of: str) -> str:
        newest = max(self.artifacts.values(), key=lambda one: one.data.end_ms)
        day = newest.ref.version.partition("-")[0]
        return f"{day}-{hashlib.sha256(of.encode()).hexdigest()[:8]}"

    def _packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        some = list(self.artifacts.values())
        if not 0 < len(some) <= MOST_ASSETS:
            raise ArtifactError(f"a fleet has 1 to {MOST_ASSETS} assets, got {len(some)}; train into a folder")
        states = [one.tensors() for one in some]
        counts = [len(state.pop("calibration")) for state in states]
        try:
            tensors = stacked(states)
        except (ValueError, KeyError) as error:
            raise ArtifactError(
                f"the detectors don't fit into one file ({error}): of {some[0].ref.kind} the data decides the size. "
                "Give --out a folder, for a file an asset"
            ) from error
        tensors["calibration"] = torch.cat([torch.from_numpy(one.calibration) for one in some])
        tensors["calibration.count"] = torch.tensor(counts)
        for name in ("losses", "val_losses"):
            values = [value for one in some for value in getattr(one.fit, name)]
            tensors[f"fit.{name}"] = torch.tensor(values, dtype=torch.float64)
        fits = [{k: v for k, v in asdict(one.fit).items() if not k.endswith("losses")} for one in some]
        head = some[0].content()
        content = {name: head[name] for name in _OF_ALL if name in head} | {
            "fleet": {
                "assets": list(self.artifacts),
                "data": [asdict(one.data) for one in some],
                "split": [asdict(one.split) for one in some],
                "fit": fits,
            },
            "shared": None if self.shared is None else self.shared.content(),
        }
        if self.shared is not None:
            tensors |= {_SHARED + name: tensor for name, tensor in self.shared.tensors().items()}
        return content, tensors


def load(path: Path, max_bytes: int = MAX_BYTES, sha256: str | None = None) -> Artifact | Fleet:
    """Read and verify a file of one detector or of a fleet; with `sha256`, only if the file has that SHA-256.

    Raises ArtifactError naming the file and what is wrong with it.
    """
    try:
        envelope, tensors = verified(read_file(path, max_bytes, sha256))
        with described():
            content = envelope["content"]
            if "fleet" in content:
                found: Artifact | Fleet = _fleet(content, tensors, str(envelope["version"]))
            else:
                found = rebuilt(content, tensors)
        if isinstance(found, Artifact) and found.ref.version != envelope.get("version"):
            raise UnusableError(f"its version {envelope.get('version')!r} doesn't match its content; train again")
    except UnusableError as error:
        raise ArtifactError(f"the artifact {path} can't be used: {error}") from error
    return found


def _fleet(content: dict[str, Any], tensors: dict[str, Tensor], version: str) -> Fleet:
    about = content["fleet"]
    assets = [str(asset) for asset in about["assets"]]
    if not 0 < len(assets) <= MOST_ASSETS or len(set(assets)) < len(assets):
        raise ValueError(f"its {len(assets)} assets are none, too many or not all different")
    shared = {name.removeprefix(_SHARED): tensors.pop(name) for name in list(tensors) if name.startswith(_SHARED)}
    config = snapshot(content)
    special = ("calibration", "calibration.count", "fit.losses", "fit.val_losses")
    calibration, counts, losses, val_losses = (tensors.pop(name) for name in special)
    if wrong := [name for name, tensor in tensors.items() if tensor.ndim == 0 or len(tensor) != len(assets)]:
        raise ValueError(f"tensor {wrong[0]!r} is not of {len(assets)} detectors")
    parts = torch.split(calibration, counts.tolist())
    epochs = [int(fit["epochs"]) for fit in about["fit"]]
    of_epochs = zip(torch.split(losses, epochs), torch.split(val_losses, epochs), strict=True)
    artifacts = {}
    lists = zip(assets, parts, about["data"], about["split"], about["fit"], of_epochs, strict=True)
    for row, (asset, scores, data, split, fit, (loss, val_loss)) in enumerate(lists):
        own = {name: tensor[row] for name, tensor in tensors.items()} | {"calibration": scores}
        one = {
            "assets": [asset],
            "data": data,
            "split": split,
            "packages": content["packages"],
            "plugin": content.get("plugin"),
            "fit": fit | {"losses": loss.tolist(), "val_losses": val_loss.tolist()},
        }
        made = rebuilt(one, own, config)
        artifacts[asset] = replace(made, ref=ModelRef(made.ref.kind, version))
    default = None
    if content["shared"] is not None:
        default = replace(rebuilt(content["shared"], shared), ref=ModelRef(config.model.kind, version))
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}")
    return Fleet(artifacts, default)
