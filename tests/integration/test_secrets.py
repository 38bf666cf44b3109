"""Secrets are nowhere but where the set-up says they are: every command, at level debug, when all is well and not."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fortress import SECRETS
from tests.integration.site import DETECTOR, PRODUCERS, ROOT, environment, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("revealed")]

WRONG = "sentinel-wrong-4714"
ALERT = "94c0e7a1-0b0b-5229-8b52-84a5c6626cbc"


def leaks(text: str) -> list[str]:
    """Return the secrets found in a text, in any of the ways they travel."""
    ways = {secret: (secret, base64.b64encode(secret.encode()).decode()) for secret in (*SECRETS, WRONG)}
    return [secret for secret, written in ways.items() if any(way in text for way in written)]


#: Runs commands one after the other in one process: starting one takes longer than most of them.
_RUNNER = """
import importlib, json, sys
for module, *arguments in json.loads(sys.argv[1]):
    status = importlib.import_module(module + ".__main__").main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    print(f"\\n=== {status}", flush=True)
"""


def ran(commands: list[tuple[object, ...]]) -> list[tuple[int, str]]:
    """Run commands to their ends; return of each its status and all it wrote."""
    listed = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER, listed],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    parts = re.split(r"\n=== (\d+)\n", done.stdout)
    return [(int(status), said) for said, status in zip(parts[0::2], parts[1::2], strict=False)]


def changed(path: Path, name: str, *changes: tuple[str, Any]) -> Path:
    """Write a set-up anew with some settings changed, `a.b.c` each."""
    settings = yaml.safe_load(path.read_text())
    for dotted, value in changes:
        here = settings
        *steps, last = dotted.split(".")
        for step in steps:
            here = here[step]
        here[last] = value
    new = path.with_name(f"{name}.yaml")
    new.write_text(yaml.safe_dump(settings))
    return new


@pytest.mark.parametrize("way", ["SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_worker_says_no_secret(make_secured, fortress, way):
    """Neither the log at level debug nor /metrics, /readyz or the process's arguments hold a secret or a token."""
    fortress.endpoint.given.clear()
    site = make_secured(way)
    worker = site.worker("debug")
    until(lambda: worker.metric("restores_total") == 2, "it works", alive=worker)
    pages = []
    for page in ("metrics", "readyz", "healthz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/{page}", timeout=5) as answer:
            pages.append(answer.read().decode())
    arguments = Path(f"/proc/{worker.process.pid}/cmdline").read_text()
    assert 0 == worker.stop()
    said = worker.said()
    assert "DEBUG kafka" in said  # there was something to hide it in
    assert [] == leaks(said + "".join(pages) + arguments)
    assert [] == [token for token in fortress.endpoint.given if token in said]
    assert bool(fortress.endpoint.given) == (way == "OAUTHBEARER")


def test_no_command_says_a_secret(make_secured, fortress, material):
    """Every command that reads a set-up, with a login that works and with one that doesn't, keeps the secrets."""
    site = make_secured()
    wrong_kafka = changed(site.config_path, "kafka", ("kafka.security.password", {"env": "WRONG"}))
    wrong_redis = changed(site.config_path, "redis", ("redis.password", {"env": "WRONG"}))
    literal = changed(site.config_path, "literal", ("kafka.security.password", WRONG), ("redis.password", WRONG))
    url = changed(
        site.config_path,
        "url",
        ("redis.url", f"redis://user:{WRONG}@127.0.0.1:1/0"),
        ("kafka.bootstrap_servers", [f"user:{WRONG}@127.0.0.1:9092"]),
    )
    query = changed(site.config_path, "query", ("redis.url", f"redis://127.0.0.1:1/0?password={WRONG}"))
    debug = ("--log-level", "debug")
    out = site.folder / "again.safetensors"
    expected = {
        (DETECTOR, *debug, "check", site.config_path): 0,
        (DETECTOR, *debug, "check", site.config_path, "--json"): 0,
        (DETECTOR, *debug, "check", site.config_path, "--rights"): 0,
        (DETECTOR, *debug, "thresholds", "list", site.config_path): 0,
        (DETECTOR, *debug, "thresholds", "list", wrong_redis): 2,
        (DETECTOR, *debug, "run", wrong_kafka): 2,
        (DETECTOR, *debug, "run", wrong_redis): 2,
        (DETECTOR, *debug, "monitor", wrong_kafka): 2,
        (DETECTOR, *debug, "monitor", site.config_path): 2,  # its user may not read alerts
        (DETECTOR, *debug, "backtest", site.config_path, "--data", material.files[0], "--quiet"): 0,
        (PRODUCERS, "replay", material.files[0], "--format", "csv", "--config", wrong_kafka): 2,
        (PRODUCERS, "replay", material.files[0], "--format", "csv", "--config", site.config_path, "--speed", "max"): 1,
        **{(DETECTOR, *debug, name, path): 2 for path in (literal, url, query) for name in ("check", "run")},
        (DETECTOR, *debug, "verdict", site.config_path, ALERT, "false-alarm"): 1,  # its user may not send any
        (DETECTOR, *debug, "verdict", wrong_kafka, ALERT, "false-alarm"): 2,
        (DETECTOR, *debug, "verdict", literal, ALERT, "false-alarm"): 2,
        (DETECTOR, *debug, "verdicts", site.config_path): 0,
        (DETECTOR, *debug, "verdicts", wrong_redis): 2,
        (DETECTOR, *debug, "verdicts", url): 2,
        (DETECTOR, *debug, "train", site.config_path, "--data", material.files[0], "--rows", 720, "--out", out): 0,
        (DETECTOR, *debug, "train", query, "--data", material.files[0], "--out", out): 2,
        (DETECTOR, *debug, "evaluate", "skab", "--data", out.parent, "--config", site.config_path): 2,
        (DETECTOR, *debug, "evaluate", "simulated", "--suite", "nuisance", "--config", literal): 2,
        (DETECTOR, *debug, "demo", "--headless", "--config", url): 2,
        (DETECTOR, *debug, "demo", "--headless", "--bootstrap-servers", f"user:{WRONG}@127.0.0.1:9092"): 2,
        (DETECTOR, *debug, "demo", "--headless", "--redis", f"redis://user:{WRONG}@127.0.0.1:1/0"): 2,
    }
    found = ran(list(expected))
    assert len(expected) == len(found), found[-1:]
    for (arguments, status), (ended, said) in zip(expected.items(), found, strict=True):
        assert (arguments, status) == (arguments, ended), said[-2_000:]
        assert [] == leaks(said), arguments
        assert "Traceback" not in said, said
