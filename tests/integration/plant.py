"""A stream whose readings lie on its topic already, and workers that can be broken; judged by `tests.chaos.verify`."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_detector.adapters.embedded.servers import free_port
from tests.chaos import verify
from tests.integration.site import Program, Site, until

FINE = dict.fromkeys(
    (
        "missing",
        "repeated",
        "unexpected",
        "audits_missing",
        "audits_repeated",
        "audits_unexpected",
        "state_differences",
        "undecided",
    ),
    0,
)
SESSION_MS = 3_000


@dataclass
class Plant(Site):
    """The stream."""

    wanted: verify.Wanted = field(default=verify.Wanted([], [], [], {}))

    def start(self, at: str = "", broken: str = "", **settings: str) -> Program:
        """Start a worker; see tests/chaos/worker.py."""
        port = free_port()
        settings = {
            "METRICS__PORT": str(port),
            "KAFKA__SESSION_TIMEOUT_MS": str(SESSION_MS),
            **settings,
        }
        env = {f"STREAM_DETECTOR__{name}": value for name, value in settings.items()}
        env |= {"STREAM_DETECTOR_TEST_AT": at, "STREAM_DETECTOR_TEST_BREAK": broken}
        module, *words = "tests.chaos.worker", "--log-level", "info", "run"
        return self._start("worker", env, module, *words, self.config_path, port=port)

    def progress(self) -> verify.Progress:
        """Return how many messages are committed as read, saved, and written."""
        return verify.progress(self.config_path)

    def finish(self, *workers: Program, seconds: float = 90.0) -> dict[str, int]:
        """Wait until all is committed; stop the workers; return what the verifier says."""
        until(lambda: verify.settled(self.config_path), "all is processed", seconds, workers[0])
        for worker in workers:
            until(lambda worker=worker: "worker started" in worker.said(), "it can be stopped", 30, worker)
            assert 0 == worker.stop(), worker.said()
        return self.verdict()

    def verdict(self) -> dict[str, int]:
        """Return what the verifier says."""
        return verify.verify(self.config_path, self.wanted)
