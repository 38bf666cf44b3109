"""Real servers for tests: Apache Kafka from Maven Central, Redis, and what is embedded.

Each class starts a process of its own on a free port of 127.0.0.1 and ends only that. They can also be killed, stopped
and continued (SIGSTOP, SIGCONT) and started again on the same port and data, for tests of outages.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from stream_detector.adapters.embedded.servers import end, free_port, speaks_kafka
from stream_detector.adapters.kafka import partition_counts
from stream_detector.config import KafkaConfig
from stream_detector.errors import BrokerError

KAFKA_VERSION = "4.3.1"
REPOSITORY = Path(__file__).parent.parent

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stream-detector</groupId><artifactId>test-servers</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


class UnavailableError(Exception):
    """A server can't be had on this machine; the message says why."""


def kafka_id() -> str:
    """Return a new id as Kafka writes them. Never one that begins with a dash: its tools take that for an option."""
    return "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def kafka_jars() -> Path:
    """Return the folder of Apache Kafka's jars, fetched on first use. Raises UnavailableError.

    Kept in the folder that STREAM_DETECTOR_SERVERS names, or in `.servers` in the repository.
    """
    if shutil.which("java") is None:
        raise UnavailableError("Apache Kafka needs Java 17, and there is no `java` on the path")
    cache = Path(os.environ.get("STREAM_DETECTOR_SERVERS") or REPOSITORY / ".servers")
    jars = cache / f"kafka-{KAFKA_VERSION}"
    if jars.is_dir():
        return jars
    if shutil.which("mvn") is None:
        raise UnavailableError(f"Apache Kafka is not in {cache}, and there is no `mvn` on the path to fetch it")
    work = cache / f"fetch-{uuid.uuid4().hex[:8]}"
    work.mkdir(parents=True)
    try:
        (work / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise UnavailableError(f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr)[-500:]}")
        with suppress(OSError):  # another test run was faster
            (work / "jars").rename(jars)
        return jars
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("Maven took more than ten minutes to fetch Apache Kafka") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Server:
    """A child process with an address, that can be stopped, killed, held and started again."""

    def __init__(self, folder: Path) -> None:
        """Keep data and logs in `folder`. Nothing starts yet."""
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Tell whether it answers."""
        raise NotImplementedError

    def start(self, timeout_s: float = 60.0) -> None:
        """Start and return once it answers; the port and the data stay the same from start to start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2_000:]
                self.kill()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{tail}")
            time.sleep(0.1)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it the ordinary way (SIGTERM), by force when it takes too long."""
        if self.process is not None:
            self.resume()
            end(self.process, timeout_s)
            self.process = None

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Hold it (SIGSTOP): connections stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class KafkaServer(Server):
    """One Apache Kafka broker, controller included (KRaft)."""

    def __init__(self, folder: Path, jars: Path, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are added to server.properties."""
        super().__init__(folder)
        self.jars = jars
        self._controller_port = free_port()
        self._settings = dict(settings or {})

    @property
    def config(self) -> KafkaConfig:
        """Settings that reach it."""
        return KafkaConfig(bootstrap_servers=[f"127.0.0.1:{self.port}"])

    def _java(self, *arguments: str) -> list[str]:
        # The first compiler level and the serial collector: starts in half the time, and two cores are little.
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return ["java", *options, "-cp", f"{self.jars}/*", *arguments]

    def command(self) -> list[str]:
        """Format the data folder on first use and return the command line."""
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            cluster = kafka_id()
            tool = self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(properties))
            done = subprocess.run(tool, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                properties.unlink()
                raise RuntimeError(f"formatting Kafka's storage failed: {done.stdout}{done.stderr}")
        return self._java("kafka.Kafka", str(properties))

    def _properties(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "default.replication.factor": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "auto.create.topics.enable": "false",
            **self._settings,
        }

    def ready(self) -> bool:
        """Tell whether it answers requests as a broker of its cluster."""
        if not speaks_kafka(self.port):
            return False
        try:
            partition_counts(self.config, ["readiness"])
        except BrokerError:
            return False
        return True


class RedisServer(Server):
    """Debian's redis-server, in memory; `settings` are redis.conf directives."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Raises UnavailableError when redis-server is not installed."""
        super().__init__(folder)
        binary = shutil.which("redis-server")
        if binary is None:
            raise UnavailableError("there is no `redis-server` on the path (Debian: apt install redis-server)")
        self._binary = binary
        self._settings = {"save": "", "appendonly": "no", **(settings or {})}

    @property
    def url(self) -> str:
        """URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command line."""
        options = [part for key, value in self._settings.items() for part in (f"--{key}", value)]
        return [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *options]

    def ready(self) -> bool:
        """Tell whether it answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class SentinelServer(RedisServer):
    """A sentinel that watches one master, called `plant`; the first failed pings of half a second start a failover."""

    def __init__(self, folder: Path, master: RedisServer, quorum: int, password: str = "") -> None:
        """`quorum`: how many sentinels must agree; `password`: what clients and other sentinels need."""
        super().__init__(folder, {})
        self._lines = [
            f"sentinel monitor plant 127.0.0.1 {master.port} {quorum}",
            "sentinel down-after-milliseconds plant 500",
            "sentinel failover-timeout plant 3000",
            *([f"requirepass {password}", f"sentinel sentinel-pass {password}"] if password else []),
        ]

    def command(self) -> list[str]:
        """Write its file, which it changes, and return the command line."""
        file = self.folder / "sentinel.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", *self._lines]
        file.write_text("\n".join(lines) + "\n")
        return [self._binary, str(file), "--sentinel"]


class Forwarder:
    """An address whose connections lead to whichever port is `target` when they are made, as a name in a DNS does.

    Connections made before stay with the server that they were made to.
    """

    def __init__(self, target: int) -> None:
        """Listen on a free port."""
        self.target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._socket.accept()[0]
            except OSError:  # closed
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._socket.close()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
