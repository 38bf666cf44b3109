"""`stream-detector demo` as on a new machine: nothing running, all of it started, used and ended by one command."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.site import DETECTOR, ROOT, call

pytestmark = pytest.mark.slow

KEYS = {
    "readings",
    "windows",
    "alerts",
    "incidents",
    "faults",
    "faults_detected",
    "false_incidents",
    "assets",
    "machine_days",
    "dead_letters",
    "seconds",
}
SKAB = ROOT.parent / "shared" / "data" / "skab" / "valve1"


@pytest.fixture(autouse=True)
def servers(embedded):
    """Where the embedded servers can't be had, this skips with the reason."""


def demo(*arguments: object) -> dict[str, float]:
    """Run it and return its summary: the last line it prints."""
    printed = call(DETECTOR, "demo", "--headless", "--json", *arguments)
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    assert KEYS <= set(found)
    return found


def test_simulated_machines(tmp_path):
    """Every reading is processed, every fault detected, and what was made can be kept; 24 minutes teach little: a mild
    false incident may come with it."""
    found = demo("--machines", 2, "--hours", 1, "--seed", 1, "--out", tmp_path)
    assert (7_200, 2, 0) == (found["readings"], found["assets"], found["dead_letters"])
    assert found["windows"] == pytest.approx(7_200 / 5, rel=0.05)
    assert found["faults"] == found["faults_detected"] > 0
    assert found["false_incidents"] <= 1
    assert found["alerts"] >= found["incidents"] >= found["faults"]
    assert {"machine-1.safetensors", "machine-2.safetensors"} <= {file.name for file in tmp_path.rglob("*.safetensors")}


def test_a_recording(tmp_path):
    """Three files of the Skoltech Anomaly Benchmark: most anomalies are detected (15 of all 16 of valve1)."""
    if not SKAB.is_dir():
        pytest.skip(f"the recordings are not at {SKAB}")
    for name in ("0.csv", "1.csv", "2.csv"):
        shutil.copy(SKAB / name, tmp_path)
    found = demo("--data", tmp_path, "--format", "skab")
    assert (3, 3, 0) == (found["assets"], found["faults"], found["dead_letters"])
    assert found["faults_detected"] >= 2
    assert sum(len(Path(file).read_text().splitlines()) - 1 for file in tmp_path.glob("*.csv")) == found["readings"]


def test_one_s_own_servers(embedded, tmp_path):
    """With --bootstrap-servers and --redis it starts none, and uses those."""
    found = demo(
        "--machines",
        1,
        "--hours",
        0.5,
        "--bootstrap-servers",
        embedded.bootstrap_servers,
        "--redis",
        embedded.redis_url,
        "--out",
        tmp_path,
    )
    assert (1_800, 0) == (found["readings"], found["dead_letters"])
