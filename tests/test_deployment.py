"""What ships beside the code: the compose file, the image, the Makefile, dashboards and rules say only what is so.

No container engine is needed: the files are read, and the commands in them are parsed by the programs they name.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from producers.__main__ import main as producers_main
from stream_detector.config import loading as settings
from stream_detector.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOTS = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
DASHBOARD = json.loads((ROOT / "configs/grafana/dashboards/stream-detector.json").read_text())
RULES = yaml.safe_load((ROOT / "configs/prometheus/rules.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_of_ours = pytest.mark.parametrize("name", sorted(OURS))


def mounts(service: dict) -> dict[str, tuple[str, bool]]:
    """Return what is mounted where: target -> source, read-only."""
    found = {}
    for mount in service.get("volumes", []):
        source, target, *mode = mount.split(":")
        found[target] = (source, mode == ["ro"])
    return found


# ── docker-compose.yml ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_system_is_there():
    """Broker, store, workers, a replaying producer, Prometheus and Grafana."""
    assert {"kafka", "redis", "worker", "producer", "prometheus", "grafana"} <= set(SERVICES)
    assert SERVICES["worker"]["deploy"]["replicas"] > 1


@each_service
def test_images_are_pinned(name):
    """The same file starts the same versions next year: a version of at least two numbers, never `latest`."""
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)*$", SERVICES[name]["image"])


def test_our_image_has_the_version_of_the_package():
    """An image's tag tells which code it holds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in OURS.values()} == {f"stream-detector:{version}"}


@each_service
def test_services_are_watched(name):
    """A service that stays has a health check; one that ends is waited for by its success."""
    check = SERVICES[name].get("healthcheck")
    if name in ONE_SHOTS:
        assert check == {"disable": True}
        assert any(
            service.get("depends_on", {}).get(name) == {"condition": "service_completed_successfully"}
            for service in SERVICES.values()
        )
    else:
        assert {"test", "interval", "timeout", "start_period", "retries"} <= set(check)
        assert SERVICES[name]["restart"] == "unless-stopped"


@each_service
def test_nothing_starts_before_what_it_needs(name):
    """Every dependency states a condition, and waits for health or success wherever there is some to wait for."""
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        expected = {"service_completed_successfully"} if needed in ONE_SHOTS else {"service_healthy"}
        if name == "prometheus":  # it watches workers, healthy or not
            expected = {"service_started"}
        assert how["condition"] in expected


@each_service
def test_ports_are_open_on_this_machine_only(name):
    """Kafka, Redis, Prometheus and Grafana ask for no password here: none may be reached from another machine."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@each_service
def test_no_service_can_gain_rights(name):
    """Set-uid programs in an image give nothing."""
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]
    assert not SERVICES[name].get("privileged")


@each_of_ours
def test_ours_run_without_rights(name):
    """Not root, no capabilities, nothing writable but its volumes and /tmp."""
    service = OURS[name]
    assert not service["user"].startswith("0")
    assert (service["cap_drop"], service["read_only"], service["tmpfs"]) == (["ALL"], True, ["/tmp"])


@each_service
def test_data_lies_in_named_volumes_and_settings_are_read_only(name):
    """`docker compose down` loses nothing, and no container changes a file of the project."""
    for source, read_only in mounts(SERVICES[name]).values():
        if source.startswith("."):
            assert read_only
            assert (ROOT / source).exists()
        else:
            assert source in COMPOSE["volumes"]


def test_state_survives():
    """The broker's log, the thresholds, the model and the dashboards' data have a volume each."""
    assert {
        (name, target)
        for name in ("kafka", "redis", "worker", "prometheus", "grafana")
        for target, (source, _) in mounts(SERVICES[name]).items()
        if not source.startswith(".")
    } == {
        ("kafka", "/var/lib/kafka/data"),
        ("redis", "/data"),
        ("worker", "/artifacts"),
        ("prometheus", "/prometheus"),
        ("grafana", "/var/lib/grafana"),
    }
    assert "--appendonly" in SERVICES["redis"]["command"]


def parse(words: list[str]) -> Namespace:
    """Let the program named parse its arguments; fail with its message when it refuses them."""
    program = import_module(f"{words[0].replace('-', '_')}.__main__")
    parser: ArgumentParser = program.build_parser()
    try:
        return parser.parse_args(words[1:])
    except SystemExit as stop:
        pytest.fail(f"{shlex.join(words)}: refused by its own parser ({stop.code})")


@each_of_ours
def test_commands_of_the_compose_file_exist(name):
    """Each container's command is one that the program in it understands."""
    service = OURS[name]
    program = ["producers"] if service.get("entrypoint") == ["python", "-m", "producers"] else ["stream-detector"]
    assert parse([*program, *service["command"]])


@each_of_ours
def test_paths_in_commands_are_mounted(name):
    """A command reads and writes only where something is mounted, and writes only where it may."""
    service, found = OURS[name], mounts(OURS[name])
    words = service["command"]
    for place, word in enumerate(words):
        if word.startswith("/"):
            target = "/" + word.split("/")[1]
            assert target in found
            if target == "/configs":
                assert (ROOT / word.lstrip("/")).is_file()
            assert not (words[place - 1] == "--out" and found[target][1])


@pytest.mark.parametrize(("name", "faulty"), [("history", 0), ("live", 5)])
def test_the_recordings_are_as_said(name, faulty, tmp_path):
    """The one that trains is healthy, the one replayed has five faults; both have the channels of the set-up."""
    words = [word.replace(f"/recordings/{name}", str(tmp_path)) for word in SERVICES[name]["command"]]
    assert producers_main([*words, "--quiet"]) == 0
    assert len(json.loads((tmp_path / "faults.json").read_text())) == faulty
    config = settings.load(ROOT / "configs/machine.yaml", {})
    header = (tmp_path / "machine-1.csv").read_text().splitlines()[0].split(",")
    assert header == ["timestamp", *config.channels, "anomaly"]


@each_of_ours
def test_environment_of_our_services_fits_the_settings(name):
    """Every STREAM_DETECTOR__ variable in the compose file and the image names a setting, with a value it takes."""
    image = dict(re.findall(r"^\s*(STREAM_DETECTOR__\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    config = settings.load(ROOT / "configs/machine.yaml", image | OURS[name]["environment"])
    assert (config.kafka.bootstrap_servers, config.redis.url) == (["kafka:19092"], "redis://redis:6379/0")
    assert (config.metrics.host, config.metrics.port) == ("0.0.0.0", 9464)


def test_topics_are_made_for_the_set_up():
    """The topics created are those that the set-up reads and writes, and the broker makes no others by itself."""
    config = settings.load(ROOT / "configs/machine.yaml", {})
    (script,) = SERVICES["topics"]["command"]
    made = re.search(r"for topic in (.*); do", script)
    assert made is not None
    outputs = {config.alert_topic, config.dead_letter_topic, config.audit_topic}
    wanted = {entry.topic for entry in config.inputs} | outputs
    assert wanted == set(made[1].split())
    assert SERVICES["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_broker_is_known_by_one_name():
    """Advertised listeners, quorum and clients agree on the broker's name and ports."""
    kafka = SERVICES["kafka"]
    ports = dict(re.findall(r"(\w+)://:(\d+)", kafka["environment"]["KAFKA_LISTENERS"]))
    assert kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"] == (
        f"INTERNAL://kafka:{ports['INTERNAL']},HOST://127.0.0.1:{ports['HOST']}"
    )
    assert kafka["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@kafka:{ports['CONTROLLER']}"
    assert kafka["ports"] == [f"127.0.0.1:{ports['HOST']}:{ports['HOST']}"]


# ── Dockerfile ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_image_is_built_in_stages_for_a_user_without_rights():
    """What runs holds no build tools of ours and is not root."""
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.1\d\.\d+-slim", DOCKERFILE, re.MULTILINE)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert user is not None
    assert {service["user"].split(":")[0] for service in OURS.values()} == {user[1]}
    assert 'ENTRYPOINT ["stream-detector"]' in last
    assert "/healthz" in last


def test_the_image_gets_all_it_copies():
    """What the Dockerfile copies exists and is let through by .dockerignore, which lets nothing else through."""
    allowed = {line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {source for source in copied if not (ROOT / source).exists()} == set()
    assert set(copied) == allowed


# ── Prometheus and Grafana ────────────────────────────────────────────────────────────────────────────────────────────


def expressions() -> list[str]:
    """Return every PromQL expression of the dashboard and the rules."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return panels + [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


def provisioned(path: str) -> dict:
    """Return a provisioning file of Grafana's."""
    return yaml.safe_load((ROOT / "configs/grafana/provisioning" / path).read_text())


def exported() -> dict[str, set[str]]:
    """Return the series a worker exports, each with the labels it may have."""
    series: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):  # the client keeps a metric's label names to itself
            for family in metric.describe():
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
                for suffix in suffixes[family.type]:
                    labels = set(metric._labelnames) | ({"le"} if suffix == "_bucket" else set())
                    series[family.name + suffix] = labels
    return series


def test_dashboards_and_rules_ask_for_what_workers_export():
    """A misspelt metric shows an empty panel, and a rule on it never fires."""
    asked = {name for text in expressions() for name in re.findall(r"\bstream_detector_\w+", text)}
    assert asked - set(exported()) == set()
    assert len(asked) > 15


@pytest.mark.parametrize("text", expressions())
def test_expressions_use_labels_that_exist(text):
    """`sum by (topic)` of a metric without that label silently sums everything."""
    known = {label for name, labels in exported().items() if name in text for label in labels} | {"instance", "job"}
    used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")}
    used |= set(re.findall(r"[{,]\s*(\w+)=", text))
    assert used <= known


def test_every_metric_is_shown():
    """Each metric a worker exports stands on the dashboard."""
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", []))
    metrics = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()}
    assert {name for name in metrics if name not in shown} == set()


def test_the_dashboard_is_whole():
    """Panels have ids of their own, a title, a meaning, the provisioned data source, and don't overlap."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    (source,) = provisioned("datasources/prometheus.yaml")["datasources"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        taken = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not taken & cells
        assert place["x"] + place["w"] <= 24
        cells |= taken
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}


def test_prometheus_and_grafana_find_each_other_and_the_workers():
    """Names, ports and paths in the provisioning are those of the compose file."""
    (scrape,) = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    assert (found["names"], [str(found["port"])]) == (["worker"], SERVICES["worker"]["expose"])
    (source,) = provisioned("datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (boards,) = provisioned("dashboards/dashboards.yaml")["providers"]
    assert boards["options"]["path"] in mounts(SERVICES["grafana"])
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "configs/grafana/dashboards" / Path(home).name).is_file()


def test_rules_say_what_is_wrong_and_how_bad():
    """Whoever is woken reads what happened."""
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["labels"]["severity"] in {"warning", "critical"} for rule in rules)
    assert all({"summary", "description"} <= set(rule["annotations"]) for rule in rules)


# ── Makefile, CI, licence ─────────────────────────────────────────────────────────────────────────────────────────────


def make(*words: str) -> str:
    """Run make without the settings of a make that may be running these tests."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_bare_make_lists_the_targets():
    """Every target has its line of help."""
    targets = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())
    assert {"install", "demo", "test", "lint", "bench", "clean"} <= targets
    assert set(re.findall(r"^  ([a-z-]+) ", make(), re.MULTILINE)) == targets


def test_make_demo_installs_and_hands_its_arguments_on(tmp_path):
    """On a fresh machine `make demo` alone makes the environment first; ARGS reach the program."""
    recipe = make("--dry-run", "demo", "ARGS=--headless --json", f"VENV={tmp_path}/venv")
    steps = [recipe.index(text) for text in ("-m venv", "pip install", "stream-detector demo --headless --json")]
    assert steps == sorted(steps)


def test_an_environment_that_is_current_is_not_installed_again(tmp_path):
    """Only a change of pyproject.toml costs the installation again."""
    (tmp_path / ".installed").touch()
    assert "pip" not in make("--dry-run", "test", f"VENV={tmp_path}")


def test_make_uses_programs_that_exist():
    """Modules and commands in the Makefile can be found."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(re.findall(r"\$\(BIN\)/([\w-]+)", MAKEFILE)) - {"python", "ruff", "mypy", "lint-imports"} == set(
        declared
    )
    for module in set(re.findall(r"-m (tests\.[\w.]+)", MAKEFILE)):
        place = ROOT / Path(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()


@pytest.mark.slow
def test_the_workflow_is_valid():
    """As actionlint sees it."""
    if shutil.which("go") is None:
        pytest.skip("actionlint is built by Go, and there is no `go` on the path")
    make("check-workflows")


def test_the_workflow_runs_what_runs_here():
    """CI on GitHub is `.ci/run` on a fresh machine, with the oldest Python that is supported among others."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]


def test_pre_commit_runs_the_linters_of_make_lint():
    """The same programs from the same environment; nothing is fetched."""
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    linters = re.findall(r"^\t\$\(BIN\)/(\S+(?: (?:check|format))?)", recipe_of("lint"), re.MULTILINE)
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]]
    assert [linter for linter in linters if not any(entry.startswith(linter) for entry in entries)] == []


def recipe_of(target: str) -> str:
    """The lines below a target of the Makefile."""
    return MAKEFILE[MAKEFILE.index(f"\n{target}:") + 1 :].split("\n\n")[0]


def test_ci_lints_before_it_tests():
    """`.ci/run` is executable bash that stops at the first failure."""
    script = (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "set -euo pipefail" in script
    assert script.index("make lint") < script.index("make test")
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_the_licence_is_whole_and_the_one_declared():
    """Apache-2.0, in full."""
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


def test_the_python_of_the_image_is_one_the_project_supports():
    """`requires-python` and the image agree, and these tests run on a supported one."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    least = tuple(map(int, wanted.split(".")))
    image = re.search(r"PYTHON_IMAGE=python:(\d+)\.(\d+)", DOCKERFILE)
    assert image is not None
    assert least <= (int(image[1]), int(image[2]))
    assert least <= sys.version_info[:2]
