"""Compressed topics: all codecs of Kafka from a plain install, and what happens where a codec's library is broken."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, free_port
from stream_detector.adapters.kafka import ensure_topics
from stream_detector.cli.stopping import GRACE_S
from tests.integration.site import DETECTOR, ROOT, Program, Site, until, write_config
from tests.integration.test_live import by_asset
from tests.integration.test_operations import ready
from tests.integration.test_store_live import said, worker_of

pytestmark = pytest.mark.slow
Make = Callable[[str], Site]


@pytest.fixture
def make_compressed(material, kafka_server, redis_server, tmp_path, unique) -> Iterator[Make]:
    """Make a stream whose topics the broker keeps compressed."""
    sites: list[Site] = []

    def make(codec: str) -> Site:
        kafka = {"bootstrap_servers": kafka_server.config.bootstrap_servers, "session_timeout_ms": SESSION_TIMEOUT_MS}
        name = unique(codec)
        topics = {f"{name}.readings": 2, f"{name}.alerts": 2, f"{name}.audit": 2}
        ensure_topics(kafka_server.config, topics, compression_type=codec)
        path = write_config(tmp_path / "site.yaml", name, material.artifact, kafka, redis_server.url)
        sites.append(Site(path, tmp_path, 2, True))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_of_kafka_is_read(make_compressed: Make, material, codec):
    """By the worker and by whoever reads its alerts; they are those of an uncompressed topic."""
    site = make_compressed(codec)
    worker = worker_of(site)
    site.finish(site.replay(material.files, "max"), worker)
    assert 0 == worker.stop(), worker.said()
    assert by_asset(material.alerts) == by_asset(site.alerts())


LIBRARIES = {"snappy": ("snappy", "python-snappy"), "lz4": ("lz4", "lz4"), "zstd": ("zstandard", "zstandard")}


def broken_worker(site: Site, folder: Path, module: str, code: str) -> Program:
    """Start a worker whose Python finds this in place of a library."""
    folder.mkdir()
    (folder / f"{module}.py").write_text(code)
    port = free_port()
    env = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "STREAM_DETECTOR__METRICS__PORT": str(port)}
    return site._start("broken", env, DETECTOR, "--log-format", "json", "run", site.config_path, port=port)


@pytest.mark.parametrize("codec", sorted(LIBRARIES))
def test_a_library_that_is_missing_is_named(make_compressed: Make, material, tmp_path, codec):
    """With the place, once, in the log and in /readyz; the worker lives, and ends when it is asked to."""
    module, package = LIBRARIES[codec]
    site = make_compressed(codec)
    replay = site.replay(material.files, "max")
    assert 0 == replay.process.wait(timeout=90), replay.said()
    worker = broken_worker(site, tmp_path / "broken", module, "raise ImportError('not here')\n")
    until(lambda: said(worker, "broker-away"), "it says so", 60, worker)
    time.sleep(3)
    away = said(worker, "broker-away", "broker-back")
    assert ["broker-away"] * len(away) == [line["event"] for line in away]
    assert len(away) <= 2, "once for each partition"
    assert f"the Python package {package} is missing" in away[0]["message"]
    assert "at offset 0 can't be decoded" in away[0]["message"]
    status, why = ready(worker.metrics_port)
    assert (503, True) == (status, package in why)
    assert 0 == worker.stop(), worker.said()
    worker = worker_of(site)  # with the library it reads on: nothing was skipped
    until(site.processed, "all is processed", alive=worker)
    assert by_asset(material.alerts) == by_asset(site.alerts())


def test_a_library_that_fails_is_told_with_its_error(make_compressed: Make, material, tmp_path):
    """Whatever it raises: the worker doesn't end over it."""
    site = make_compressed("snappy")
    replay = site.replay(material.files, "max")
    assert 0 == replay.process.wait(timeout=90), replay.said()
    code = "class Panic(BaseException): pass\ndef decompress(data):\n    raise Panic('table overflow')\n"
    worker = broken_worker(site, tmp_path / "broken", "snappy", code)
    (line, *_) = until(lambda: said(worker, "broker-away"), "it says so", 60, worker)
    assert "can't be decoded: table overflow (Panic)" in line["message"]
    assert 0 == worker.stop(), worker.said()


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(10_000)"])
def test_a_library_that_never_returns_does_not_keep_a_worker(make_compressed: Make, material, tmp_path, body):
    """SIGTERM ends the process in less than a supervisor's half a minute, with status 1 and a line that says why."""
    site = make_compressed("snappy")
    replay = site.replay(material.files, "max")
    assert 0 == replay.process.wait(timeout=90), replay.said()
    mark = tmp_path / "hangs"
    code = f"def decompress(data):\n    open({str(mark)!r}, 'w').close()\n    {body}\n"
    worker = broken_worker(site, tmp_path / "broken", "snappy", code)
    until(mark.exists, "it hangs", 60, worker)
    began = time.monotonic()
    assert 1 == worker.stop(), worker.said()
    assert time.monotonic() - began < GRACE_S + 5
    assert ["stop-forced"] == [line["event"] for line in said(worker, "stop-forced", "worker-stopped")]
