"""From the start of the process to READY, and to the first diagnosis; what the serving process then holds."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.speed.consumers import Consumer
from benchmarks.speed.figures import Figure
from benchmarks.speed.load import Load, load
from benchmarks.speed.plan import Plan, say
from edge_agent.commands.local import LocalAgent

PART: Final = "starting"
WAITS_S: Final = 30.0
SERVED: Final = 1000  # windows before the memory is looked at, at a steady rate
RATE_HZ: Final = 100.0


def measure(plan: Plan, folder: Path) -> Iterator[Figure]:
    """Some starts of the agent, at the width for which there are limits."""
    width = plan.only_width or 32
    with load(folder / "broker", plan.payloads) as (port, offered):
        folders = [folder / f"agent-{number}" for number in range(plan.starts)]
        rounds = [_start(offered, port, plan.releases[width], one) for one in folders]
    for quantity, values in zip(("ready_s", "first_diagnosis_s", "rss_mib"), zip(*rounds, strict=True), strict=True):
        say(f"width {width}: {quantity} {statistics.median(values):.2f}")
        yield Figure(PART, "agent", f"width {width}", quantity, statistics.median(values))
    yield Figure(PART, "import_onnxruntime", "", "ready_s", _imports_s("numpy, onnxruntime, paho.mqtt.client"))


def _start(offered: Load, port: int, release: Path, folder: Path) -> tuple[float, float, float]:
    """One start: seconds to READY, seconds to the first diagnosis, resident MiB after a while.

    The first window is sent as soon as systemd would have been told: sooner, the broker would not know for whom.
    """
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.settimeout(WAITS_S)
        started_s = time.monotonic()
        agent = LocalAgent(folder / "home", "agent", port, release, env={"NOTIFY_SOCKET": str(folder / "notify")})
        try:
            while not notified.recv(4096).startswith(b"READY=1"):
                pass
            ready_s = time.monotonic() - started_s
            agent.ready()
            consumer = Consumer("agent", "edge/agent", agent.process.pid)
            offered.latencies_ms(consumer, RATE_HZ, 1)
            first_s = time.monotonic() - started_s
            offered.latencies_ms(consumer, RATE_HZ, SERVED)
            return ready_s, first_s, consumer.rss_mib()
        finally:
            agent.kill()


def _imports_s(modules: str) -> float:
    """What an interpreter needs for the libraries alone: the floor of any start."""

    def once() -> float:
        started_s = time.monotonic()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
        return time.monotonic() - started_s

    return statistics.median(once() for _ in range(3))
