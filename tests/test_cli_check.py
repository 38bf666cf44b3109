import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stream_detector.cli import check, reference
from stream_detector.config import loading as settings
from stream_detector.telemetry.logs import Output

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "tests" / "compat" / "artifacts"


@pytest.fixture
def command(capsys):
    """Run `check` with arguments; return exit status, standard output and standard error."""

    def _command(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        check.add_parser(parser.add_subparsers())
        args = parser.parse_args(["check", *map(str, arguments)])
        args.output = Output("text", "info")
        status = args.run(args)
        return (status, *capsys.readouterr())

    return _command


@pytest.fixture
def set_up(tmp_path):
    """A small valid set-up with an artifact that fits it."""
    shutil.copy(ARTIFACTS / "mahalanobis.safetensors", tmp_path / "pump.safetensors")
    path = tmp_path / "pump.yaml"
    path.write_text(
        "stream: pump\nartifact: pump.safetensors\n"
        "channels: {vibration: {unit: °C}, temperature: {}, current: {}}\n"
        "model: {kind: mahalanobis}\nfeatures: {smoothing: 0.3, keep: 2}\n"
    )
    return path


@pytest.fixture(autouse=True)
def _window(monkeypatch):
    """The window the artifact was trained with."""
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGTH", "8")


def test_effective_settings_are_printed_as_yaml(command, set_up):
    """The defaults, derived topics and resolved paths are filled in, and nothing is complained of."""
    status, out, err = command(set_up)
    plain = yaml.safe_load(out)
    assert (status, err) == (0, "")
    assert (plain["kafka"]["alert_topic"], plain["window"]["length"], plain["channels"]["vibration"]["unit"]) == (
        "pump.alerts",
        8,
        "°C",
    )
    assert str(set_up.parent / "pump.safetensors") == plain["artifact"]


def test_json_says_the_same_as_yaml(command, set_up):
    """Programs read the same settings as people."""
    assert yaml.safe_load(command(set_up)[1]) == json.loads(command(set_up, "--json")[1])


def test_as_json_every_line_is_an_object(set_up, tmp_path):
    """Problems, and what to look at before going on, are log lines like a worker's."""
    wrong, without = tmp_path / "wrong.yaml", tmp_path / "without.yaml"
    wrong.write_text(set_up.read_text() + "window: {stride: 0}\n")
    without.write_text(set_up.read_text().replace("pump.safetensors", "none.safetensors"))
    for words, wanted in (
        (["check", wrong], (2, "error", "failed", "window.stride: got 0")),
        (["check"], (2, "error", "failed", "CONFIG is missing")),
        (["check", without], (0, "warning", "warning", "does not exist (yet)")),
    ):
        command = [sys.executable, "-m", "stream_detector", "--log-format", "json", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        line = json.loads(done.stderr)
        status, level, name, text = wanted
        assert (status, level, name) == (done.returncode, line["level"], line["event"])
        assert text in line["message"]


def test_problems_go_to_standard_error_with_status_2(command, set_up):
    """Nothing but the problems is printed."""
    set_up.write_text(set_up.read_text() + "window: {stride: 0}\n")
    status, out, err = command(set_up)
    assert (status, out) == (2, "")
    assert "window.stride: got 0, expected greater than or equal to 1 (line 6)" in err


def test_the_environment_counts(command, set_up, monkeypatch):
    """What is checked is what a worker started here would run with."""
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__STRIDE", "7")
    assert yaml.safe_load(command(set_up)[1])["window"]["stride"] == 7


def test_what_a_worker_would_miss_here_is_warned_of(command, set_up, monkeypatch):
    """A file or variable that the settings name and this machine lacks is no error: it may be there at run time."""
    monkeypatch.delenv("KAFKA_PW", raising=False)
    set_up.write_text(
        "stream: pump\nchannels: {vibration: {}}\nartifact: none.safetensors\n"
        "redis: {password: {file: pw}}\n"
        "kafka: {security: {protocol: SASL_SSL, mechanism: PLAIN, username: a, password: {env: KAFKA_PW}}}\n"
    )
    status, _, err = command(set_up)
    assert status == 0
    assert err.splitlines() == [
        f"warning: artifact: {set_up.parent}/none.safetensors does not exist (yet); `stream-detector train` writes it",
        "warning: kafka.security.password: the environment variable KAFKA_PW is not set",
        f"warning: redis.password.file: the file {set_up.parent}/pw does not exist",
    ]


def test_a_set_up_without_an_artifact_says_what_run_needs(command, set_up):
    """`run` can't go without a model."""
    set_up.write_text("stream: pump\nchannels: {vibration: {}}\n")
    assert "artifact is not set" in command(set_up)[2]


def test_config_is_needed(command):
    """Without a file there is nothing to check."""
    status, out, err = command()
    assert (status, out) == (2, "")
    assert "CONFIG is missing" in err


def test_the_stored_schema_is_current(command):
    """Mend it by: stream-detector check --schema > stream_detector/schemas/config.schema.json."""
    assert command("--schema")[1] == (ROOT / "stream_detector/schemas/config.schema.json").read_text()


def test_the_documentation_is_current(command):
    """Mend it by: stream-detector check --reference > docs/configuration.md."""
    assert command("--reference")[1] == (ROOT / "docs/configuration.md").read_text()


def test_the_documentation_has_every_key():
    """Each key of each section of the schema stands in a table."""
    keys = {key for part in [settings.schema(), *settings.schema()["$defs"].values()] for key in part["properties"]}
    text = reference.markdown()
    assert set() == {key for key in keys - {"env", "file"} if f"| `{key}` |" not in text}


def test_an_artifact_that_does_not_fit_is_an_error(command, set_up, monkeypatch):
    """A worker would end at its start: every key is named, and the settings are printed all the same."""
    monkeypatch.setenv("STREAM_DETECTOR__WINDOW__LENGTH", "9")
    set_up.write_text(set_up.read_text().replace("smoothing: 0.3", "smoothing: 0.4"))
    status, out, err = command(set_up)
    assert (2, 9) == (status, yaml.safe_load(out)["window"]["length"])
    assert "window.length is 9 in the configuration, but the detector was trained with 8" in err
    assert "features.smoothing is 0.4" in err


def test_other_channels_are_an_error(command, set_up):
    """The detector's columns and the set-up's, by name."""
    set_up.write_text(set_up.read_text().replace("current: {}", "pressure: {}"))
    status, _, err = command(set_up)
    assert 2 == status
    assert "channels is vibration, temperature, pressure in the configuration" in err


def test_a_damaged_artifact_is_an_error(command, set_up):
    """One that can't be read, and one that isn't the one pinned."""
    set_up.write_text(set_up.read_text() + f"artifact_sha256: {'a' * 64}\n")
    status, _, err = command(set_up)
    assert (2, True) == (status, "artifact_sha256 pins" in err)
    (set_up.parent / "pump.safetensors").write_bytes(b"nothing")
    status, _, err = command(set_up)
    assert (2, True) == (status, "can't be used" in err)


def test_of_a_folder_all_files_that_do_not_fit_are_named(command, set_up):
    """Not only the first one."""
    folder = set_up.parent / "models"
    folder.mkdir()
    shutil.copy(ARTIFACTS / "mahalanobis.safetensors", folder / "a.safetensors")
    shutil.copy(ARTIFACTS / "records.safetensors", folder / "b.safetensors")
    (folder / "c.safetensors").write_bytes(b"nothing")
    set_up.write_text(set_up.read_text().replace("artifact: pump.safetensors", "artifact: models"))
    status, _, err = command(set_up)
    assert 2 == status
    assert ["b.safetensors", "c.safetensors"] == [
        name for name in ("a.safetensors", "b.safetensors", "c.safetensors") if name in err
    ]


def test_another_detector_than_the_set_up_says_is_warned_of(command, set_up):
    """The artifact's runs, whatever model.kind says; the next training makes the other."""
    set_up.write_text(set_up.read_text().replace("kind: mahalanobis", "kind: pca"))
    status, _, err = command(set_up)
    assert (0, True) == (status, "warning: model.kind is pca, but" in err)


def test_an_artifact_of_a_newer_version_is_warned_of(command, set_up, monkeypatch):
    """Older ones are read for good; newer ones nobody has tried here."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.9" if name == "stream-detector" else "99.0")
    status, _, err = command(set_up)
    assert 0 == status
    assert "was trained with stream-detector 0.1.0, and 0.0.9 is installed here" in err
