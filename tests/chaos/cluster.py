"""One Apache Kafka broker, or a cluster of three with every topic on all of them."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from stream_detector.adapters.embedded.servers import free_port
from tests.servers import KafkaServer, kafka_id


class Node(KafkaServer):
    """One broker and controller of a cluster."""

    def __init__(self, folder: Path, jars: Path, number: int, controllers: list[int], cluster: str) -> None:
        """`controllers`: ports by node, the first is node 1's."""
        voters = ",".join(f"{index}@127.0.0.1:{port}" for index, port in enumerate(controllers, 1))
        copies = str(min(3, len(controllers)))
        super().__init__(
            folder,
            jars,
            {
                "node.id": str(number),
                "controller.quorum.voters": voters,
                "default.replication.factor": copies,
                "min.insync.replicas": "2",
                "offsets.topic.replication.factor": copies,
                "transaction.state.log.replication.factor": copies,
                "transaction.state.log.min.isr": "2",
                "share.coordinator.state.topic.replication.factor": copies,
            },
        )
        self._controller_port = controllers[number - 1]
        self._cluster = cluster

    def _properties(self) -> dict[str, str]:
        properties = super()._properties()
        del properties["controller.quorum.bootstrap.servers"]  # the voters are fixed
        return properties

    def command(self) -> list[str]:
        """Format the data folder on first use and return the command line."""
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            tool = self._java("kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(properties))
            done = subprocess.run(tool, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                properties.unlink()
                raise RuntimeError(f"formatting Kafka's storage failed: {done.stdout}{done.stderr}")
        return self._java("kafka.Kafka", str(properties))

    def ready(self) -> bool:
        """Tell whether it runs; it answers when a majority does."""
        return self.process is not None


def start_brokers(folder: Path, jars: Path, count: int, closing: ExitStack) -> list[KafkaServer]:
    """Start one broker or a cluster; return once it answers."""
    if count == 1:
        brokers = [KafkaServer(folder / "kafka", jars)]
    else:
        controllers = [free_port() for _ in range(count)]
        cluster = kafka_id()
        brokers = [
            Node(folder / f"kafka-{number}", jars, number, controllers, cluster) for number in range(1, count + 1)
        ]
    for broker in brokers:
        broker.start()
        closing.callback(broker.kill)
    if count > 1:
        wait_for_all(brokers)
    return brokers


def wait_for_all(brokers: list[KafkaServer], timeout_s: float = 90.0) -> None:
    """Return once every broker answers as one of a cluster."""
    deadline = time.monotonic() + timeout_s
    while not all(KafkaServer.ready(broker) for broker in brokers):
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster did not come up")
        time.sleep(0.2)
