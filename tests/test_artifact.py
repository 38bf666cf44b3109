import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from stream_detector.artifacts import file as module
from stream_detector.artifacts.artifact import load
from stream_detector.artifacts.file import FORMAT, METADATA_KEY
from stream_detector.artifacts.model_set import ModelSet
from stream_detector.errors import ArtifactError
from stream_detector.scoring.scorer import Scorer
from stream_detector.training.train import train
from tests.trained import artifact, make_config, windows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved artifact."""
    artifact().save(tmp_path / "pump.safetensors")
    return tmp_path / "pump.safetensors"


def envelope_of(path: Path) -> dict:
    """Return the JSON of ours in the file."""
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def rewrite(path: Path, change, *, sign: bool = True) -> None:
    """Change content and tensors of a saved artifact; with `sign`, as someone would who knows the format."""
    envelope, tensors = envelope_of(path), safetensors.torch.load_file(path)
    change(envelope["content"], tensors)
    if sign:
        envelope["checksum"] = module.digest(envelope["content"], tensors)
    safetensors.torch.save_file(tensors, path, {METADATA_KEY: json.dumps(envelope)})


def test_what_is_saved_comes_back(path: Path):
    """Every field survives, tensors bit for bit."""
    saved, loaded = artifact(), load(path)
    for name in ("config", "assets", "data", "split", "fit", "packages", "ref"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.calibration.tobytes() == saved.calibration.tobytes()
    for part in ("detector", "preprocess"):
        before, after = getattr(saved, part).state_dict(), getattr(loaded, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_loaded_detector_scores_the_same_bits(path: Path):
    """Saving changes no score."""
    batch = windows(40, seed=3)
    config = make_config().scorer
    before, after = (Scorer(ModelSet(a), config).score(batch) for a in (artifact(), load(path)))
    assert before.score.tobytes() == after.score.tobytes()
    assert before.channels.tobytes() == after.channels.tobytes()


def test_saving_again_gives_the_same_bytes(path: Path, tmp_path: Path):
    """A file doesn't depend on the clock, its name or the process."""
    load(path).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_version_is_the_data_s_last_day_and_a_hash():
    """It tells when the knowledge ends, and two trainings apart."""
    assert artifact().ref.kind == "ae"
    assert artifact().ref.version.startswith("20200309-")
    assert len(artifact().ref.version) == len("20200309-1f3c5a7b")
    assert artifact(0).ref.version != artifact(1).ref.version


def test_the_file_explains_itself(path: Path):
    """The metadata names kind, columns, configuration, data, split and packages; no secret or path is in it."""
    content = envelope_of(path)["content"]
    assert content["format"] == FORMAT
    assert content["kind"] == "ae"
    assert content["columns"] == ["vibration", "temperature", "current"]
    assert list(content["config"]) == ["channels", "window", "features", "model", "train"]
    assert content["config"]["channels"]["temperature"]["unit"] == "°C"
    assert content["data"]["windows"] == 200
    assert content["split"]["method"] == "holdout"
    assert "torch" in content["packages"]


def test_saving_is_atomic(path: Path, monkeypatch: pytest.MonkeyPatch):
    """When writing fails the old file stays whole and nothing is left beside it."""
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact(1).save(path)
    assert path.read_bytes() == before
    assert [path.name] == [entry.name for entry in path.parent.iterdir()]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_cut_file_is_refused(path: Path, share: float):
    """The message names the file and what to do."""
    blob = path.read_bytes()
    path.write_bytes(blob[: int(share * len(blob))])
    with pytest.raises(ArtifactError, match=r"pump\.safetensors.*again"):
        load(path)


def test_no_changed_byte_goes_unnoticed(path: Path):
    """Whichever byte is damaged, the file is refused (or, in JSON's padding, means the same)."""
    blob = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(blob), 150):
        damaged = bytearray(blob)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"pump\.safetensors"):
            load(path)


@pytest.mark.parametrize(
    "blob",
    [
        b"\x80\x04\x95not a model",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 20) + b'{"__metadata__": []} ',
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_another_file_is_refused(path: Path, blob: bytes):
    """A pickle, a huge header, an empty one, a nested bomb: an error that names the file, never code that runs."""
    path.write_bytes(blob)
    with pytest.raises(ArtifactError, match=r"pump\.safetensors"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path):
    """With how to make one."""
    with pytest.raises(ArtifactError, match=r"none\.safetensors.*No such file.*stream-detector train"):
        load(tmp_path / "none.safetensors")


def test_a_file_over_the_limit_is_not_read(path: Path):
    """The limit is in the message."""
    with pytest.raises(ArtifactError, match="larger than 1000 bytes"):
        load(path, max_bytes=1000)


def test_another_format_is_refused_by_number(path: Path):
    """A file of a later version says so, rather than look damaged."""
    rewrite(path, lambda content, _: content.update(format=FORMAT + 1), sign=False)
    with pytest.raises(ArtifactError, match=f"format is {FORMAT + 1}, this version reads {FORMAT}"):
        load(path)


def test_a_changed_setting_without_a_new_checksum_is_damage(path: Path):
    """The checksum covers the configuration too."""
    rewrite(path, lambda content, _: content["config"]["window"].update(length=4), sign=False)
    with pytest.raises(ArtifactError, match="checksum"):
        load(path)


def _widen(content: dict, _: dict) -> None:
    content["config"]["model"]["hidden"] = [10**9]  # 12 GB of weights if it were built


def _nan(_: dict, tensors: dict) -> None:
    tensors["detector.weight"] = tensors["detector.weight"] * float("nan")


def _flat(_: dict, tensors: dict) -> None:
    tensors["preprocess.scaler.scale"] = torch.zeros(3, dtype=torch.float64)


def _stranger(_: dict, tensors: dict) -> None:
    tensors["stranger"] = torch.zeros(1)


def _kind(content: dict, _: dict) -> None:
    content["config"]["model"]["kind"] = "oracle"


def _no_fit(content: dict, _: dict) -> None:
    del content["fit"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_widen, "expected"),
        (_nan, "no finite numbers"),
        (_flat, "not positive"),
        (_stranger, "stranger"),
        (_kind, "kind"),
        (_no_fit, "fit"),
    ],
)
def test_a_signed_but_senseless_file_is_refused(path: Path, change, says: str):
    """A right checksum is no proof: shapes, kinds and numbers are checked before anything is built."""
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=says):
        load(path)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"channels": {"vibration": {}, "current": {}}}, "channels is vibration, current .* with vibration, temp"),
        ({"channels": {"vibration": {"cell": "max"}, "temperature": {}, "current": {}}}, r"vibration\.cell is max"),
        ({"window": {"length": 9}}, r"window\.length is 9 in the configuration, .* trained with 8"),
        ({"window": {"length": 8, "cell_ms": 500}}, r"window\.cell_ms is 500\.0"),
        ({"features": {"smoothing": 0.2, "keep": 2}}, r"features\.smoothing is 0\.2"),
        ({"features": {"smoothing": 0.3, "keep": 2, "clip": None}}, r"features\.clip is None"),
    ],
)
def test_a_detector_of_other_windows_is_refused(sections: dict, says: str):
    """The message names the key, what the configuration says and what the detector knows."""
    with pytest.raises(ArtifactError, match=says):
        artifact().check_compatible(make_config(**sections))


def test_what_does_not_change_the_input_may_differ():
    """Stride, lateness, gaps and units are free."""
    artifact().check_compatible(
        make_config(
            channels={"vibration": {"unit": "mm/s"}, "temperature": {"valid": [0, 200]}, "current": {}},
            window={"length": 8, "stride": 4, "lateness_ms": 10, "max_gap_ms": 1},
        )
    )


def test_the_order_of_channels_counts():
    """It is the order of the model's inputs."""
    swapped = {"temperature": {}, "vibration": {}, "current": {}}
    with pytest.raises(ArtifactError, match="channels is temperature, vibration"):
        artifact().check_compatible(make_config(channels=swapped))


@pytest.mark.parametrize("body", ["dense", "conv"])
def test_every_body_can_be_saved(body: str, tmp_path: Path):
    """Bit for bit, whatever the network looks like."""
    config = make_config(model={"body": body, "hidden": [4, 4], "latent": 2, "kernel": 3}, features={})
    saved = train(config, [windows(100)])
    saved.save(tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").ref == saved.ref


@pytest.mark.parametrize("model", [{"kind": "ae", "hidden": [4]}, {"kind": "vae", "hidden": [4]}, {"kind": "pca"}])
def test_a_cross_fitted_detector_can_be_saved(model: dict, tmp_path: Path):
    """All its members come back, and score the same bits."""
    config = make_config(model=model, train={"epochs": 2, "folds": 3})
    saved = train(config, [windows(100)])
    saved.save(tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    assert loaded.ref == saved.ref
    before, after = (Scorer(ModelSet(a), config.scorer).score(windows(40, seed=3)) for a in (saved, loaded))
    assert before.score.tobytes() == after.score.tobytes()
