"""The trained detectors of one worker: one for all assets, or one per asset with an optional default.

Detectors per asset come from a folder of files or from one fleet file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from stream_detector.artifacts.artifact import Artifact
from stream_detector.artifacts.file import file_sha256
from stream_detector.artifacts.fleet import Fleet, load
from stream_detector.config import Config
from stream_detector.errors import ArtifactError, ConfigError
from stream_detector.types import ModelRef

SUFFIX = ".safetensors"
#: The file of a folder that serves every asset without a file of its own.
DEFAULT_FILE = f"default{SUFFIX}"
#: Longer quoted names are cut and get a hash: file systems allow 255 bytes.
LONGEST_NAME = 200


def asset_file(asset: str) -> str:
    """Return the file name of an asset's own detector, a safe name for any asset name.

    >>> asset_file("pump-1"), asset_file("hall 2/pump"), asset_file("default")
    ('pump-1.safetensors', 'hall%202%2Fpump.safetensors', '%64efault.safetensors')
    """
    name = quote(asset, safe="")
    if name == "default":  # that file serves all assets
        name = "%64efault"
    if len(name) > LONGEST_NAME:
        name = f"{name[:150]}-{hashlib.sha256(asset.encode()).hexdigest()[:16]}"
    return name + SUFFIX


def save_all(artifacts: Mapping[str, Artifact], folder: Path) -> None:
    """Write one file per asset into `folder`. Raises ArtifactError when one can't be written."""
    for asset, artifact in artifacts.items():
        artifact.save(folder / asset_file(asset))


def _pins(config: Config, files: list[Path]) -> dict[Path, str]:
    """Return the SHA-256 that each file must have when it is loaded; empty without a pin. Raises ArtifactError."""
    path, wanted = config.artifact, config.artifact_sha256
    if wanted is None or path is None:
        return {}
    if not path.is_dir():
        return {path: wanted}
    pins = {file: file_sha256(file) for file in files}
    listed = "".join(f"{digest}  {file.name}\n" for file, digest in pins.items())
    if (found := hashlib.sha256(listed.encode()).hexdigest()) != wanted:
        raise ArtifactError(
            f"the artifacts in {path} are others than those pinned: the SHA-256 of their list is {found}, "
            f"but artifact_sha256 is {wanted}; look at the files, or set the pin"
        )
    return pins


class ModelSet:
    """Detectors by index, and which asset uses which. Assets are looked up by their file name."""

    def __init__(self, default: Artifact | None = None, by_asset: Mapping[str, Artifact] | None = None) -> None:
        """Serve the assets in `by_asset` with their own detectors and all others with `default`."""
        own = {asset_file(asset): artifact for asset, artifact in (by_asset or {}).items()}
        self._fill(default, own)

    @classmethod
    def load(cls, config: Config) -> ModelSet:
        """Load and verify what `config.artifact` names, a file or a folder, and check that it fits the configuration.

        Raises ConfigError when no artifact is configured, ArtifactError when one can't be used or doesn't fit.
        """
        path = config.artifact
        if path is None:
            raise ConfigError("artifact is not set; run `stream-detector train` and set it to the file it writes")
        if not path.exists():
            raise ArtifactError(f"the artifact {path} doesn't exist; run `stream-detector train` or correct the path")
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not files:
            raise ArtifactError(f"the folder {path} holds no *{SUFFIX}; run `stream-detector train` for its assets")
        loaded: dict[str, Artifact] = {}
        fleets: dict[str, Artifact] = {}
        shared: Artifact | None = None
        pinned = _pins(config, files)
        for file in files:
            found = load(file, sha256=pinned.get(file))
            if isinstance(found, Fleet):
                next(iter(found.artifacts.values())).check_compatible(config, file)  # all share one configuration
                fleets.update({asset_file(asset): one for asset, one in found.artifacts.items()})
                shared = found.shared or shared
            else:
                found.check_compatible(config, file)
                loaded[file.name] = found
        models = cls()
        if path.is_dir():
            models._fill(loaded.pop(DEFAULT_FILE, shared), fleets | loaded)  # an asset's own file takes precedence
        else:
            models._fill(loaded.get(path.name, shared), fleets)
        return models

    def __len__(self) -> int:
        """Number of detectors."""
        return len(self.artifacts)

    @property
    def refs(self) -> tuple[ModelRef, ...]:
        """Names of the detectors, by index."""
        return tuple(artifact.ref for artifact in self.artifacts)

    def ref_of(self, asset: str) -> ModelRef | None:
        """Return the model reference of an asset's detector; None when it has none."""
        index = self.for_asset(asset)
        return None if index is None else self.refs[index]

    def for_asset(self, asset: str) -> int | None:
        """Return the index of the asset's detector; None when it has none."""
        if not self._own:
            return self._default
        try:
            return self._known[asset]
        except KeyError:
            index = self._known[asset] = self._own.get(asset_file(asset), self._default)
            return index

    def _fill(self, default: Artifact | None, own: Mapping[str, Artifact]) -> None:
        self.artifacts = (*own.values(), *(() if default is None else (default,)))
        self._own = {name: index for index, name in enumerate(own)}
        self._default = len(own) if default is not None else None
        self._known: dict[str, int | None] = {}
