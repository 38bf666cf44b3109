"""Artifacts made to harm: whoever can write a file can sign it, so everything in it is looked at before it is used."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stream_detector.artifacts import file as module
from stream_detector.artifacts.artifact import load
from stream_detector.artifacts.file import METADATA_KEY
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.config import Config
from stream_detector.errors import ArtifactError
from tests.test_artifact import envelope_of, rewrite
from tests.trained import artifact, make_config

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    -(2**70),
    10**400,
    1e308,
    float("nan"),
    "",
    "x" * 9_999,
    "\x00",
    [],
    [[]],
    {},
    {"a": 1},
    [1.5] * 3,
    "../../etc/passwd",
    "ae",
    10**9,
)
DTYPES = (torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved artifact."""
    artifact().save(tmp_path / "pump.safetensors")
    return tmp_path / "pump.safetensors"


def places(value: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a tree."""
    found = [steps] if steps else []
    keys = value.keys() if isinstance(value, dict) else range(min(3, len(value))) if isinstance(value, list) else ()
    return found + [place for key in keys for place in places(value[key], (*steps, key))]


def change(rng: random.Random, content: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """Change one thing; return what."""
    if rng.random() < 0.6:
        *steps, last = place = rng.choice(places(content))
        here = content
        for step in steps:
            here = here[step]
        value = rng.choice(ODD)
        if rng.random() < 0.2 and isinstance(here, dict):
            del here[last]
            return f"{place} taken out"
        here[last] = value
        return f"{place} = {str(value)[:40]}"
    name = rng.choice(list(tensors))
    what, tensor = rng.randrange(6), tensors[name]
    if what == 0:
        tensors[name] = tensor.to(rng.choice(DTYPES))
    elif what == 1:
        tensors[name] = tensor.reshape(-1).contiguous() if tensor.ndim != 1 else tensor.reshape(1, -1).contiguous()
    elif what == 2:
        tensors[name] = tensor[:0].contiguous() if tensor.ndim else tensor.reshape(1)
    elif what == 3:
        del tensors[name]
    elif what == 4:
        tensors[f"{name}.more"] = torch.zeros(3)
    else:
        tensors[name] = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)
    return f"{name}: {what}"


def refusal(path: Path) -> str | None:
    """Return why a file is refused; None when it loads. Any other error is the test's to report."""
    try:
        load(path)
    except ArtifactError as error:
        return str(error)
    return None


def test_signed_forgeries_load_or_are_refused(path: Path):
    """300 files with one thing changed and a right checksum: each loads whole, or is an ArtifactError of one line."""
    rng, refused = random.Random(5), 0
    original, held = path.read_bytes(), envelope_of(path)
    tensors = safetensors.torch.load(original)
    for number in range(300):
        envelope, changed = copy.deepcopy(held), dict(tensors)
        what = change(rng, envelope["content"], changed)
        envelope["checksum"] = module.digest(envelope["content"], changed)
        path.write_bytes(safetensors.torch.save(changed, {METADATA_KEY: json.dumps(envelope)}))
        if (said := refusal(path)) is not None:
            refused += 1
            assert (1, True) == (len(said.splitlines()), str(path) in said), (number, what)
    assert refused > 150


def test_nested_content_is_refused(path: Path):
    """JSON nested as deep as the parser goes, or deeper, is an ArtifactError and no exhausted stack."""
    for depth in (400, 900, 20_000):
        nested = "[" * depth + "]" * depth
        rewrite(path, lambda *_: None)
        envelope = json.dumps(envelope_of(path))
        forged = envelope.replace('"content": {', f'"content": {{"more": {nested}, ', 1)
        assert forged != envelope
        tensors = safetensors.torch.load_file(path)
        path.write_bytes(safetensors.torch.save(tensors, {METADATA_KEY: forged}))
        with pytest.raises(ArtifactError, match=r"checksum|not an artifact|not valid"):
            load(path)
        artifact().save(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**63]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]},
        {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_a_header_that_lies_costs_no_memory(path: Path, entry: dict[str, Any]):
    """Lengths, shapes and types that the file doesn't hold are refused before anything is made of them."""
    held = json.dumps(envelope_of(path))
    header = json.dumps({"__metadata__": {METADATA_KEY: held}, "calibration": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"damaged|not valid"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    tracemalloc.stop()


def configured(path: Path, sha256: str) -> Config:
    """Return a set-up that pins the artifact."""
    return make_config(artifact=str(path), artifact_sha256=sha256)


def test_a_pinned_artifact(path: Path, tmp_path: Path):
    """With its SHA-256 in the set-up a file loads, with another's it doesn't; a folder's covers every file in it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert 1 == len(ModelSet.load(configured(path, digest)))
    rewrite(path, lambda content, _: content["packages"].update(torch="another"))
    with pytest.raises(ArtifactError, match=f"artifact_sha256 pins {digest}"):
        ModelSet.load(configured(path, digest))

    folder = tmp_path / "fleet"
    for name in ("pump-1", "default"):
        artifact().save(folder / f"{name}.safetensors")
    listed = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())
    )
    digest = hashlib.sha256(listed.encode()).hexdigest()  # what `sha256sum *.safetensors | sha256sum` prints
    assert 2 == len(ModelSet.load(configured(folder, digest)))
    artifact().save(folder / "pump-2.safetensors")
    with pytest.raises(ArtifactError, match="artifact_sha256"):
        ModelSet.load(configured(folder, digest))
