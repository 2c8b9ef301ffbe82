"""A small plant for tests: a real broker, a real agent process, a client that sends and listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import toy
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import ReleaseStore, read_release
from edge_agent.budget import Budget
from edge_agent.commands import local
from edge_agent.commands.client import Heard, ToolClient, connected
from edge_agent.commands.local import LocalAgent
from edge_agent.core.types import Float32
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.card import MODEL
from edge_agent.vault import Vault

BASE = "edge/toy"


def toy_agent(
    folder: Path, port: int, release: Path, extra: str = "", env: dict[str, str] | None = None, *, http_port: int = 0
) -> LocalAgent:
    """A real ``edge-agent run`` with the toy release."""
    environment = {"OMP_NUM_THREADS": "1", **(env or {})}
    return LocalAgent(folder, "toy", port, release, extra, environment, http_port=http_port)


def known_windows(release: Path, label: int, count: int, seed: int = 0) -> Float32:
    """Windows of one class that the release answers with it: the toy network does not know every one."""
    windows = toy.windows(label, 2 * count, np.random.default_rng(seed))
    answers = OnnxModel(read_release(release).read(MODEL), 1).logits(windows).argmax(axis=1)
    known: Float32 = windows[answers == label][:count]
    return known


def damage(path: Path) -> None:
    """Change the last byte of a file. Set to 0 it was unchanged once in 256 times: a seal ends with any byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll until ``condition`` is true, and return what it gave; fail after ``timeout_s``."""
    return local.wait_until(condition, str(condition), timeout_s)


def store_at(state_dir: Path) -> ReleaseStore:
    """The releases of a state directory that keeps its own master key."""
    return ReleaseStore(state_dir, Vault(state_dir))


def unlimited() -> Budget:
    """A write budget that is never used up."""
    return Budget(10**18, time.monotonic)


class Plant:
    """A client at the broker that remembers all it heard."""

    def __init__(self, client: ToolClient, base: str = BASE) -> None:
        self.client, self.base = client, base
        self.heard: list[Heard] = []
        client.subscribe([f"{base}/diagnosis/+", f"{base}/refused", f"{base}/status", f"{base}/release"])
        client.subscribe([f"{base}/unlearn/+/status", f"{base}/unlearn/+/certificate"])
        self._seq = 0

    def send(self, samples: Float32, label: str | None = None, asset: str = "m1", seq: int | None = None) -> int:
        """Send a CBOR window; returns its sequence number."""
        self._seq = self._seq + 1 if seq is None else seq
        self.raw(f"windows/{asset}", toy.message(self._seq, label, samples, asset, "boot-1"))
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
        self.heard.extend(self.client.pending())
        rows = [one.content for one in self.heard if one.topic == f"{self.base}/{topic}"]
        return [row for row in rows if all(row.get(key) == value for key, value in content.items())]

    def expect(self, topic: str, timeout_s: float = 20.0, **content: Any) -> dict[str, Any]:
        """Wait for such a message."""
        found: list[dict[str, Any]] = wait_until(lambda: self.find(topic, **content), timeout_s)
        return found[0]

    def status(self) -> dict[str, Any]:
        """Wait until the newest status is the agent's own, which a will is not; returns it."""
        wait_until(lambda: (self.find("status") or [{}])[-1].get("state") == "online")
        return self.find("status")[-1]

    def final(self, classes: str = "whine", **content: Any) -> dict[str, Any] | None:
        """The newest final status of a command, if there is one."""
        rows = self.find(f"unlearn/{classes}/status", **content)
        ended = [row for row in rows if row["status"] in ("successful", "failed")]
        return ended[-1] if ended else None

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
