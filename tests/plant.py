"""A small plant for tests: a real broker, a real agent process, a client that sends and listens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.adapters.mqtt import BrokerAddress
from edge_agent.commands.client import Heard, ToolClient, connected
from edge_agent.core.types import Float32, Window
from edge_agent.schemas.windows import encode
from tests import toy

BASE = "edge/toy"


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll until ``condition`` is true, and return what it gave; fail after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {condition}")


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A real mosquitto on a port of its own; ``extra`` are lines of its configuration."""

    def __init__(self, folder: Path, port: int, extra: str = "") -> None:
        self.port, self._folder = port, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        lines = f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{extra}\n"
        self._config.write_text(lines)
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "mosquitto is needed: apt-get install mosquitto"
        with (self._folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(self._config)], stdout=log, stderr=log)
        wait_until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class AgentProcess:
    """A real ``edge-agent run`` with the toy release; ``extra`` are more lines of agent.toml."""

    def __init__(self, folder: Path, port: int, release: Path, extra: str = "", env: dict[str, str] | None = None) -> None:
        self.folder, self.state_dir = folder, folder / "state"
        self.config, self.log_path = folder / "agent.toml", folder / "agent.log"
        self._env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f'[gateway]\nname = "toy"\nstate_dir = "state"\nrelease = "{release}"\n[mqtt]\nport = {port}\n{extra}\n'
        )
        self.start()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "edge_agent", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = self.log_path.read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        return [row for row in rows if row["event"] == name]

    def ready(self, times: int = 1) -> None:
        """Wait for the ``times``-th accepted connection."""
        wait_until(lambda: len(self.events("broker.connected")) >= times or self.process.poll() is not None)
        assert self.process.poll() is None, self.log_path.read_text()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Plant:
    """A client at the broker that remembers all it heard."""

    def __init__(self, client: ToolClient, base: str = BASE) -> None:
        self.client, self.base = client, base
        self.heard: list[Heard] = []
        client.subscribe([f"{base}/diagnosis/+", f"{base}/refused", f"{base}/status", f"{base}/release"])
        client.subscribe([f"{base}/unlearn/+/status"])
        self._seq = 0

    def send(self, samples: Float32, label: str | None = None, asset: str = "m1", seq: int | None = None) -> int:
        """Send a CBOR window; returns its sequence number."""
        self._seq = self._seq + 1 if seq is None else seq
        window = Window(asset, "boot-1", self._seq, 0, label, samples)
        self.raw(f"windows/{asset}", encode(window, toy.RATE_HZ, "m/s^2"))
        return self._seq

    def raw(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish below the base at QoS 1."""
        self.client.client.publish(f"{self.base}/{topic}", payload, qos=1, retain=retain)

    def feed(self, label: int, count: int, seed: int = 0, *, labelled: bool = True) -> list[int]:
        """Send ``count`` windows of one class."""
        rows = toy.windows(label, count, np.random.default_rng(seed))
        return [self.send(row, toy.CLASSES[label] if labelled else None) for row in rows]

    def find(self, topic: str, **content: Any) -> list[dict[str, Any]]:
        """Messages heard so far on a topic below the base, whose content has these values."""
        while not self.client.heard.empty():
            self.heard.append(self.client.heard.get())
        rows = [one.content for one in self.heard if one.topic == f"{self.base}/{topic}"]
        return [row for row in rows if all(row.get(key) == value for key, value in content.items())]

    def expect(self, topic: str, timeout_s: float = 20.0, **content: Any) -> dict[str, Any]:
        """Wait for such a message."""
        found: list[dict[str, Any]] = wait_until(lambda: self.find(topic, **content), timeout_s)
        return found[0]

    def answers(self, seqs: list[int], asset: str = "m1") -> list[dict[str, Any]]:
        """Wait for the diagnosis of every one of these windows; repeats are left out."""
        wanted = set(seqs)
        wait_until(lambda: wanted <= {row["seq"] for row in self.find(f"diagnosis/{asset}")})
        rows = {row["seq"]: row for row in self.find(f"diagnosis/{asset}")}
        return [rows[seq] for seq in seqs]


@contextmanager
def plant_at(port: int, base: str = BASE) -> Iterator[Plant]:
    """A connected plant client."""
    address = BrokerAddress("127.0.0.1", port, f"plant-{time.monotonic_ns()}")
    with connected(address) as client:
        yield Plant(client, base)
