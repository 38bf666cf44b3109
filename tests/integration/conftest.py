"""A detector trained once, and streams of a test's own on servers that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream_detector.adapters.embedded.servers import SESSION_TIMEOUT_MS, Embedded
from stream_detector.datasets.output import write
from stream_detector.simulation.simulate import simulate
from tests.chaos import verify
from tests.integration.fortress import fortress, make_secured, revealed
from tests.integration.plant import Plant
from tests.integration.site import DETECTOR, Site, call, write_config
from tests.servers import KafkaServer, RedisServer

__all__ = ["fortress", "make_secured", "revealed"]  # fixtures of fortress.py


@dataclass(frozen=True)
class Material:
    """Recorded machines with faults, and a detector trained on their healthy beginnings."""

    files: list[Path]
    messages: int
    artifact: Path
    alerts: list[bytes]
    """What `stream-detector backtest --json` prints for them: what every live run is held against."""


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Six machines for half an hour, most with faults after the first twelve minutes."""
    folder = tmp_path_factory.mktemp("material")
    recordings = simulate(
        6,
        0.5,
        seed=5,
        faults="machine-1=bearing-outer@13m+8m:0.9, machine-2=overheating@14m+12m:0.9, "
        "machine-3=sensor-stuck/current@15m+5m, machine-5=bearing-inner@20m+6m:0.9, "
        "machine-6=sensor-offset/temperature@14m+10m",
    )
    files = [path for path in write(recordings, folder / "recordings") if path.suffix == ".csv"]
    artifact = folder / "machine.safetensors"
    config = write_config(folder / "train.yaml", "training", artifact, {}, "redis://127.0.0.1:1/0")
    call(DETECTOR, "train", config, "--data", *files, "--rows", 720, "--quiet")
    printed = call(DETECTOR, "backtest", config, "--data", *files, "--json", "--quiet")
    return Material(files, sum(map(len, recordings)), artifact, [line.encode() for line in printed.splitlines()])


@pytest.fixture(params=["embedded", "kafka+redis"])
def servers(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    """Kafka settings and the store's URL: what is embedded, or Apache Kafka and Redis."""
    if request.param == "embedded":
        embedded: Embedded = request.getfixturevalue("embedded")
        brokers, redis = [embedded.bootstrap_servers], embedded.redis_url
    else:
        kafka: KafkaServer = request.getfixturevalue("kafka_server")
        store: RedisServer = request.getfixturevalue("redis_server")
        brokers, redis = kafka.config.bootstrap_servers, store.url
    assert redis is not None
    return {"bootstrap_servers": brokers, "session_timeout_ms": SESSION_TIMEOUT_MS}, redis


@pytest.fixture
def make_site(
    request: pytest.FixtureRequest,
    servers: tuple[dict[str, Any], str],
    material: Material,
    unique: Callable[[str], str],
    tmp_path: Path,
) -> Iterator[Callable[..., Site]]:
    """Make a stream on the servers; its programs end with the test."""
    sites: list[Site] = []

    def make(partitions: int = 4, max_poll_records: int = 4_000, **sections: Any) -> Site:
        kafka = servers[0] | {"max_poll_records": max_poll_records}
        path = write_config(tmp_path / "site.yaml", unique("live"), material.artifact, kafka, servers[1], **sections)
        sites.append(Site(path, tmp_path, partitions, request.node.callspec.params["servers"] != "embedded"))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture(scope="session")
def wanted(material: Material) -> verify.Wanted:
    """What an undisturbed run leaves."""
    found = verify.expected(material.artifact.parent / "train.yaml", material.files)
    assert len(found.alerts) > 10
    assert len(found.audits) >= len(found.states) == 6
    return found


@pytest.fixture
def make_plant(make_site: Callable[..., Site], material: Material, wanted: verify.Wanted) -> Callable[..., Plant]:
    """Make a stream with all readings on its topic; small polls, so that there is much to be interrupted."""

    def make(partitions: int = 4, poll: int = 30, fill: bool = True, **sections: Any) -> Plant:
        sections = {"delivery": "exactly_once", "commit_interval_ms": 100, **sections}
        site = make_site(partitions, max_poll_records=poll, **sections)
        plant = Plant(site.config_path, site.folder, site.partitions, True, site.programs, wanted)
        if fill:
            assert 0 == plant.replay(material.files, "max").process.wait(60)
        return plant

    return make
