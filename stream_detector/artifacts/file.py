"""An artifact's file: tensors (safetensors) and JSON in its header, protected by a checksum.

The safetensors metadata has one entry, `stream_detector`: JSON with `content`, `version` and `checksum`, a SHA-256 over
the content and every tensor. A file holds no executable code: no pickle. The checksum detects damage, not forgery:
anyone with write access to the file can recompute it. The same content gives the same bytes: nothing here depends on
the clock or the path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stream_detector.errors import ArtifactError

FORMAT = 1
METADATA_KEY = "stream_detector"
#: Largest file that `load` reads by default.
MAX_BYTES = 256 * 1024 * 1024
#: Largest safetensors header accepted; ours have a few kB, with a fleet's asset names a few hundred kB.
MAX_HEADER_BYTES = 16 * 1024 * 1024
DAMAGED = "copy it again or train again"


class UnusableError(Exception):
    """A file can't be used; raised where the file's name is not yet known."""


def write_file(path: Path, content: Mapping[str, Any], tensors: dict[str, Tensor], version: str) -> None:
    """Write content and tensors atomically, with a checksum. Raises ArtifactError when that can't be done."""
    envelope = {"content": content, "version": version, "checksum": digest(content, tensors)}
    blob = safetensors.torch.save(tensors, {METADATA_KEY: canonical(envelope)})
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power failure may lose the rename
        finally:
            os.close(folder)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ArtifactError(f"the artifact {path} can't be written: {error.strerror}") from error


def file_sha256(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the SHA-256 of a file. Raises ArtifactError when it can't be read, or is too large to be an artifact."""
    try:
        return hashlib.sha256(read_file(path, max_bytes)).hexdigest()
    except UnusableError as error:
        raise ArtifactError(f"the artifact {path} can't be used: {error}") from error


def read_file(path: Path, max_bytes: int, sha256: str | None = None) -> bytes:
    """Return a file's bytes. Raises UnusableError when it can't be read, is too large or not the one with `sha256`."""
    try:
        with path.open("rb") as file:
            # Read no more than the file holds: a read of `max_bytes` would allocate that much memory first.
            blob = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    except OSError as error:
        raise UnusableError(f"{error.strerror}; give the path that `stream-detector train` wrote") from error
    if len(blob) > max_bytes:
        raise UnusableError(f"it is larger than {max_bytes} bytes; check the path, or raise the limit")
    if sha256 is not None and (found := hashlib.sha256(blob).hexdigest()) != sha256:
        raise UnusableError(f"its SHA-256 is {found}, but artifact_sha256 pins {sha256}; {DAMAGED}")
    return blob


def verified(blob: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a file's envelope and its tensors. Raises UnusableError when they are not what was written."""
    envelope = _envelope(blob)
    try:
        tensors = safetensors.torch.load(blob)
    except Exception as error:  # the library documents no error types; any error means that the file is damaged
        raise UnusableError(f"it is damaged ({error}); {DAMAGED}") from error
    try:
        found = digest(envelope["content"], tensors)
    except (RecursionError, TypeError, ValueError, RuntimeError) as error:
        raise UnusableError(f"its content is not valid ({type(error).__name__}); {DAMAGED}") from error
    if found != envelope.get("checksum"):
        raise UnusableError(f"its checksum doesn't match its content: it is damaged; {DAMAGED}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnusableError(f"its tensor {name!r} holds values that are no finite numbers; train again")
    return envelope, tensors


@contextmanager
def described() -> Iterator[None]:
    """Convert any error that a file's content causes into an UnusableError that names it."""
    try:
        yield
    except UnusableError:
        raise
    except Exception as error:  # untrusted content may raise any error in our code; the file can't be used
        detail = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:500]
        raise UnusableError(f"its content is not valid ({detail}); train again with this version") from error


def _envelope(blob: bytes) -> dict[str, Any]:
    """Return our JSON from a safetensors header; only its structure and format version are checked here."""
    size = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or size > min(len(blob) - 8, MAX_HEADER_BYTES):
        raise UnusableError(f"it is no safetensors file or cut short ({len(blob)} bytes); {DAMAGED}")
    try:
        header = json.loads(blob[8 : 8 + size])
        envelope = json.loads(header["__metadata__"][METADATA_KEY])
        found = envelope["content"]["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableError(f"it is not an artifact of stream-detector, or damaged; {DAMAGED}") from error
    if found != FORMAT:
        raise UnusableError(f"its format is {found!r}, this version reads {FORMAT}; train again with this version")
    return dict(envelope)


def digest(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over the content's JSON and every tensor's name, type, shape and bytes, as hex."""
    sha = hashlib.sha256(canonical(content).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def canonical(value: object) -> str:
    """Return compact JSON."""
    # channels keep their order (it is the order of the inputs), so keys are not sorted
    return json.dumps(value, separators=(",", ":"))
