"""A package with a detector, a threshold method and a reader: installed, named, trained, run, without an edit here.

The package is tests/plugin; pip installs it into a folder of the test's. Everything is done by the command line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from stream_detector.adapters.embedded.servers import Embedded

ROOT = Path(__file__).parents[1]
SET_UP = """\
stream: lathes
channels:
  heat: {unit: K}
  load: {}
window: {length: 10, stride: 2}
model: {kind: ewma-z, weight: 0.5}
threshold: {method: fixed-multiple, factor: 4, margin: 1.5}
incident: {open_after: 2, open_of: 3}
artifact: lathes.safetensors
"""


@dataclass(frozen=True)
class Shell:
    """Runs Python in a folder, with some folders before all others on its path."""

    folder: Path
    path: tuple[Path, ...]

    def __call__(self, *argv: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `python -m ARGV`; its exit status must be `status`."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*self.path, ROOT))), "NO_COLOR": "1"}
        command = [sys.executable, "-m", *map(str, argv)]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr + done.stdout
        return done

    def python(self, code: str) -> str:
        """Run some code; return what it prints."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*self.path, ROOT)))}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in, as pip does it; no index is asked."""
    source = shutil.copytree(ROOT / "tests/plugin", tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", target, source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def lines(path: Path, rows: int, seed: int, faults: range = range(0)) -> None:
    """Write measurements of two machines in the package's format, a second apart."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with path.open("w") as file:
        for place, machine in enumerate(("lathe-1", "lathe-2")):
            values = np.random.default_rng([seed, place]).normal(size=(rows, 2))
            for row, (heat, load) in enumerate(values.tolist()):
                faulty = row in faults
                at = (start + timedelta(seconds=row)).isoformat()
                fields = {"machine": machine, "at": at, "heat": 20 + heat + 9 * faulty, "load": load, "faulty": faulty}
                file.write(json.dumps(fields) + "\n")


@pytest.fixture(scope="module")
def shell(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with a set-up, a history, a recording with a fault, and the detector trained."""
    folder = tmp_path_factory.mktemp("lathes")
    (folder / "lathes.yaml").write_text(SET_UP)
    lines(folder / "history.lines", 700, 0)
    (folder / "live").mkdir()
    lines(folder / "live" / "week.lines", 900, 1, range(600, 660))
    shell = Shell(folder, (site,))
    shell("stream_detector", "train", "lathes.yaml", "--data", "history.lines", "--format", "machine-lines", "--quiet")
    return shell


@pytest.fixture(scope="module")
def bare(shell: Shell) -> Shell:
    """The same folder where the package is not installed."""
    return Shell(shell.folder, ())


def offered(site: Path, package: str, entries: str) -> Shell:
    """Return a shell in a folder where a package declares entry points, as an installer leaves it."""
    info = site / f"{package.replace('-', '_')}-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(entries)
    return Shell(site, (site,))


def test_the_package_keeps_all_contracts(shell: Shell):
    """By the checks that the package's own tests import."""
    shutil.copy(ROOT / "tests/plugin/contract.py", shell.folder)
    shell("pytest", "-q", "-p", "no:cacheprovider", "contract.py")


def test_a_set_up_names_it_and_is_checked_by_its_settings(shell: Shell):
    """Defaults are filled in, wrong values and unknown keys are refused with the line, as anywhere."""
    found = json.loads(shell("stream_detector", "check", "lathes.yaml", "--json").stdout)
    assert {"kind": "ewma-z", "weight": 0.5} == found["model"]
    assert ("fixed-multiple", 4.0, 1.5) == tuple(found["threshold"][key] for key in ("method", "factor", "margin"))
    wrong = SET_UP.replace("weight", "wieght").replace("factor: 4", "factor: 0.5")
    (shell.folder / "wrong.yaml").write_text(wrong)
    told = shell("stream_detector", "check", "wrong.yaml", status=2).stderr
    assert "model.wieght: unknown key; did you mean weight? (line 6)" in told
    assert "threshold.factor: got 0.5, expected greater than or equal to 1 (line 7)" in told


def test_the_environment_reaches_its_settings(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """Keys that the file leaves out, too."""
    monkeypatch.setenv("STREAM_DETECTOR__MODEL__WEIGHT", "0.25")
    monkeypatch.setenv("STREAM_DETECTOR__THRESHOLD__FACTOR", "7")
    found = json.loads(shell("stream_detector", "check", "lathes.yaml", "--json").stdout)
    assert (0.25, 7.0) == (found["model"]["weight"], found["threshold"]["factor"])


def test_effective_settings_load_again(shell: Shell):
    """What `check` prints is a set-up."""
    (shell.folder / "again.yaml").write_text(shell("stream_detector", "check", "lathes.yaml").stdout)
    both = [shell("stream_detector", "check", name, "--json").stdout for name in ("lathes.yaml", "again.yaml")]
    assert both[0] == both[1]


def test_reading_a_set_up_imports_no_torch(shell: Shell):
    """Its settings are apart from what they are settings of; names are listed without importing anything."""
    code = (
        "import sys; from stream_detector import load_config; load_config('lathes.yaml'); print('torch' in sys.modules)"
    )
    assert shell.python(code) == "False\n"
    code = (
        "import sys; from stream_detector.plugins import names; "
        "print(*(names(group) for group in ('detectors', 'thresholds', 'readers'))); "
        "print(any('example' in name for name in sys.modules))"
    )
    assert shell.python(code) == "['ewma-z'] ['fixed-multiple'] ['machine-lines']\nFalse\n"


def test_its_artifact_names_the_package(shell: Shell):
    """Which version trained it, and that it is a plug-in's."""
    code = (
        "from stream_detector import Artifact; one = Artifact.load('lathes.safetensors'); "
        "print(one.plugin, one.packages['stream-detector-example'], one.ref.kind)"
    )
    assert shell.python(code) == "stream-detector-example 1.2.0 ewma-z\n"


def test_a_backtest_finds_the_fault(shell: Shell):
    """Alerts name the detector and the method."""
    argv = ("backtest", "lathes.yaml", "--data", "live", "--format", "machine-lines", "--json", "--quiet")
    alerts = [json.loads(line) for line in shell("stream_detector", *argv).stdout.splitlines()]
    opened = [alert for alert in alerts if alert["event"] == "open"]
    assert {"lathe-1", "lathe-2"} == {alert["asset"] for alert in opened}
    assert {("ewma-z", "fixed-multiple")} == {(alert["model"]["kind"], alert["state"]["method"]) for alert in alerts}
    assert {"heat"} == {alert["channels"][0]["name"] for alert in opened}


def test_an_evaluation_measures_it(shell: Shell):
    """Beside a built-in detector, on files of the package's format; the other way round, too."""
    argv = ("evaluate", "csv", "--data", "live", "--format", "machine-lines", "--config", "lathes.yaml", "--json")
    found = json.loads(shell("stream_detector", *argv, "--baselines", "pca", "--quiet").stdout)
    assert found["detector"] == "ewma-z"
    assert found["f1"] > 0.6
    assert "pca" in found["baselines"]
    other = json.loads(shell("stream_detector", *argv, "--detector", "pca", "--baselines", "ewma-z", "--quiet").stdout)
    assert other["baselines"]["ewma-z"]["f1"] == found["f1"]


@pytest.mark.slow
def test_a_worker_runs_it_live(shell: Shell, embedded: Embedded):
    """Trained, replayed through a broker, judged by a worker, by one command."""
    del embedded  # skips where no servers can be started; the demo starts its own
    argv = ("demo", "--data", "live", "--format", "machine-lines", "--config", "lathes.yaml", "--headless", "--json")
    summary = json.loads(shell("stream_detector", *argv, "--train-rows", "400").stdout.splitlines()[-1])
    assert summary["faults_detected"] == summary["faults"] == 2


def test_replay_lists_its_format(shell: Shell, bare: Shell):
    """With the package it is of."""
    listed = "machine-lines of the package stream-detector-example 1.2.0"
    assert listed in shell("producers", "replay", "--help").stdout
    assert listed not in bare("producers", "replay", "--help").stdout


def test_without_the_package_every_command_says_what_is_missing(bare: Shell):
    """The names there are, and how another one is installed."""
    told = bare("stream_detector", "check", "lathes.yaml", status=2).stderr
    for key, value, first in (("model.kind", "ewma-z", "ae"), ("threshold.method", "fixed-multiple", "spot")):
        assert f"{key}: got '{value}', expected one of: '{first}', " in told
    assert "a plug-in's detector needs its package installed: pip install PACKAGE (line 6)" in told
    (bare.folder / "pca.yaml").write_text(
        SET_UP.replace("ewma-z, weight: 0.5", "pca").replace("fixed-multiple, factor: 4", "mad")
    )
    told = bare("stream_detector", "train", "pca.yaml", "--data", "live", "--format", "machine-lines", status=2).stderr
    assert "format 'machine-lines' is not known; expected one of: 'skab', " in told
    told = bare("stream_detector", "backtest", "pca.yaml", "--data", "live", status=2).stderr
    assert "nothing of format csv" in told


def test_without_the_package_its_artifact_says_which_one_made_it(bare: Shell):
    """With the version to install."""
    (bare.folder / "pca.yaml").write_text(
        SET_UP.replace("ewma-z, weight: 0.5", "pca").replace("fixed-multiple, factor: 4", "mad")
    )
    (bare.folder / "a.csv").write_text("ts,heat,load\n2024-01-01,1,2\n")
    told = bare("stream_detector", "backtest", "pca.yaml", "--data", "a.csv", status=2).stderr
    assert (
        "its detector 'ewma-z' is of the package stream-detector-example 1.2.0, which is not installed here; "
        "install it: pip install stream-detector-example==1.2.0" in told
    )


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "nowhere.at_all:Config",
            "model.kind: the detector 'broken' of the package odd-package 0.3 can't be imported "
            "(nowhere.at_all:Config): ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("json:dumps", "model.kind: 'broken' of the package odd-package 0.3 is <function dumps"),
        ("stream_detector.config:AEConfig", "not a subclass of PluginModelConfig with `implemented_by`"),
    ],
)
def test_a_package_that_is_broken_is_named(tmp_path: Path, entry: str, told: str):
    """Whoever reads the message knows which package to look at."""
    shell = offered(tmp_path, "odd-package", f"[stream_detector.detectors]\nbroken = {entry}\n")
    (tmp_path / "odd.yaml").write_text("stream: odd\nchannels: {a: {}}\nmodel: {kind: broken}\n")
    assert told in shell("stream_detector", "check", "odd.yaml", status=2).stderr


def test_a_name_offered_twice_is_refused(tmp_path: Path):
    """Neither package is taken without a word."""
    offered(tmp_path, "one-package", "[stream_detector.readers]\ntwice = json:dumps\n")
    shell = offered(tmp_path, "other-package", "[stream_detector.readers]\ntwice = json:dumps\n")
    (tmp_path / "odd.yaml").write_text("stream: odd\nchannels: {a: {}}\nartifact: a\n")
    told = shell("stream_detector", "train", "odd.yaml", "--data", "odd.yaml", "--format", "twice", status=2).stderr
    assert "the format 'twice' is offered by one-package 0.3 and other-package 0.3; uninstall one" in told


def test_a_built_in_name_stays_built_in(tmp_path: Path):
    """A package can't take the place of a family."""
    shell = offered(tmp_path, "odd-package", "[stream_detector.detectors]\nae = json:dumps\n")
    (tmp_path / "odd.yaml").write_text("stream: odd\nchannels: {a: {}}\n")
    assert json.loads(shell("stream_detector", "check", "odd.yaml", "--json").stdout)["model"]["kind"] == "ae"
