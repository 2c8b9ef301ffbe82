"""A plant at the broker that never gives up: what the broker has not acknowledged is sent again."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
from paho.mqtt.client import MQTTMessageInfo

from benchmarks import toy
from benchmarks.adversity.oracle import Oracle
from edge_agent.commands.client import connected
from edge_agent.core.types import Float32
from edge_agent.mqtt_client import BrokerAddress

QUEUED = 1000  # messages that wait for the broker at most, of the 65,535 that paho has names for


class Sender:
    """Sends windows of a pool in the oracle's books; ``open`` and ``close`` as the broker comes and goes."""

    def __init__(self, port: int, base: str, pool: Float32, labels: list[str], oracle: Oracle) -> None:
        self._port, self._base, self._pool, self.labels, self._oracle = port, base, pool, labels, oracle
        self._open: dict[int, tuple[MQTTMessageInfo, bytes]] = {}  # by number, until the broker has acknowledged it
        self._seq = 0
        self._connection = ExitStack()
        self.open()

    def open(self) -> None:
        """Connect, and send again what is open."""
        self._connection = ExitStack()
        address = BrokerAddress("127.0.0.1", self._port, f"sender-{time.monotonic_ns()}")
        self._tool = self._connection.enter_context(connected(address))
        for seq, (_, payload) in list(self._open.items()):
            self._publish(seq, payload)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
        self.settle()

    def settle(self) -> None:
        """Note what the broker has acknowledged by now."""
        taken = [seq for seq, (info, _) in self._open.items() if info.is_published()]
        for seq in taken:
            del self._open[seq]
        with self._oracle.lock:
            self._oracle.books.taken.update(taken)

    @property
    def pending(self) -> int:
        """Windows that the broker has not acknowledged."""
        self.settle()
        return len(self._open)

    def window(self, index: int, *, labelled: bool) -> None:
        """Send one window of the pool."""
        self._seq += 1
        label = self.labels[index] if labelled else None
        with self._oracle.lock:
            self._oracle.books.sent[self._seq] = index
        self._publish(self._seq, toy.message(self._seq, label, self._pool[index]))

    def publish(self, topic: str, payload: bytes) -> None:
        """Send something else, and wait until the broker has taken it."""
        self._tool.publish(topic, payload)

    def malformed(self, count: int, chance: np.random.Generator) -> None:
        """Send rubbish as windows, as fast as the broker takes it."""
        for number in range(1, count + 1):
            payload = chance.bytes(int(chance.integers(1, 400)))
            info = self._tool.client.publish(f"{self._base}/windows/m1", payload, qos=1)
            if number % QUEUED == 0 or number == count:
                info.wait_for_publish(60.0)

    def _publish(self, seq: int, payload: bytes) -> None:
        self._open[seq] = self._tool.client.publish(f"{self._base}/windows/m1", payload, qos=1), payload
