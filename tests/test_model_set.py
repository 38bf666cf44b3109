from pathlib import Path
from urllib.parse import unquote

import pytest

from stream_detector.artifacts.model_set import LONGEST_NAME, ModelSet, asset_file, save_all
from stream_detector.errors import ArtifactError, ConfigError
from tests.trained import artifact, make_config


def test_a_file_serves_every_asset(tmp_path: Path):
    """One detector, index 0, for whichever asset comes."""
    artifact().save(tmp_path / "pump.safetensors")
    models = ModelSet.load(make_config(artifact=tmp_path / "pump.safetensors"))
    assert len(models) == 1
    assert models.for_asset("pump-1") == models.for_asset("never seen") == 0
    assert models.refs == (artifact().ref,)


def test_a_folder_serves_each_asset_its_own(tmp_path: Path):
    """An asset without a file has no detector."""
    save_all({"pump-1": artifact(0), "hall 2/pump": artifact(1)}, tmp_path)
    models = ModelSet.load(make_config(artifact=tmp_path))
    served = {a: models.for_asset(a) for a in ("pump-1", "hall 2/pump", "pump-9")}
    assert served["pump-9"] is None
    assert models.refs[served["pump-1"]] == artifact(0).ref
    assert models.refs[served["hall 2/pump"]] == artifact(1).ref


def test_the_default_serves_the_rest(tmp_path: Path):
    """An asset that is itself called default keeps a file of its own."""
    save_all({"pump-1": artifact(0)}, tmp_path)
    artifact(1).save(tmp_path / "default.safetensors")
    models = ModelSet.load(make_config(artifact=tmp_path))
    assert [models.refs[models.for_asset(a)] for a in ("pump-1", "pump-9")] == [artifact(0).ref, artifact(1).ref]
    assert asset_file("default") != "default.safetensors"


@pytest.mark.parametrize("asset", ["../../etc/passwd", "a/b", "..", ".", "default", "ä ö", "nul\0", "C:\\x", "%2F"])
def test_a_file_name_is_safe_and_unique(asset: str):
    """No separator survives, and the name leads back to the asset."""
    name = asset_file(asset)
    assert "/" not in name
    assert "\\" not in name
    assert "\0" not in name
    assert unquote(name.removesuffix(".safetensors")) == asset


def test_the_longest_asset_names_stay_within_a_file_name(tmp_path: Path):
    """256 characters of any script; two that differ at their end differ."""
    one, other = "ж" * 256, "ж" * 255 + "з"
    assert len(asset_file(one)) <= LONGEST_NAME
    save_all({one: artifact(0), other: artifact(1)}, tmp_path)
    models = ModelSet.load(make_config(artifact=tmp_path))
    assert models.refs[models.for_asset(one)] == artifact(0).ref
    assert models.refs[models.for_asset(other)] == artifact(1).ref


def test_without_an_artifact_the_message_says_how_to_make_one():
    """The first thing a newcomer runs into."""
    with pytest.raises(ConfigError, match="stream-detector train"):
        ModelSet.load(make_config())


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_a_missing_file_or_an_empty_folder_is_named(tmp_path: Path, name: str):
    """With what to do."""
    with pytest.raises(ArtifactError, match="stream-detector train"):
        ModelSet.load(make_config(artifact=tmp_path / name))


def test_a_detector_that_does_not_fit_is_named_by_file(tmp_path: Path):
    """One wrong file in a folder of many can be found."""
    save_all({"pump-1": artifact()}, tmp_path)
    with pytest.raises(ArtifactError, match=r"pump-1\.safetensors.*window\.length"):
        ModelSet.load(make_config(artifact=tmp_path, window={"length": 16}))
