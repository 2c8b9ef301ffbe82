"""Who answers windows, each a process on topics of its own: the agent, bare scripts, Node-RED."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Final
from urllib.request import urlopen

from benchmarks.machine import ROOT
from benchmarks.speed.node_red import node_red
from edge_agent.commands.local import LocalAgent, free_port

PER_CLASS: Final = 64  # windows that the agent caches
CACHING: Final = f"[cache]\nfrom_diagnosis = true\nwindows_per_class = {PER_CLASS}\n"
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Consumer:
    """A process that answers the windows of ``BASE/windows/+``.

    Attributes:
        per_answer: windows for which one message comes back.
    """

    name: str
    base: str
    pid: int
    per_answer: int = 1

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def rss_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def agent(folder: Path, port: int, release: Path, extra: str = "") -> Iterator[Consumer]:
    """The agent with all that it does beside answering: it caches, and its metrics are read once a second.

    It caches by its own diagnoses, for the windows of all consumers are the same and carry no label; few of each class,
    so that the caches are full after the first round, as they are on a gateway that has run for a day.
    """
    http_port = free_port()
    with running_agent(folder, port, release, CACHING + extra, http_port=http_port) as local, _scraped(http_port):
        yield Consumer("agent", "edge/agent", local.process.pid)


@contextmanager
def _scraped(http_port: int) -> Iterator[None]:
    """Ask for the metrics once a second; a process that is stopped just then answers later."""
    ended = Event()

    def ask() -> None:
        while not ended.wait(1.0):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=60) as answer:
                answer.read()

    asking = Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()


@contextmanager
def running_agent(
    folder: Path,
    port: int,
    release: Path,
    extra: str = "",
    env: Mapping[str, str] | None = None,
    *,
    http_port: int = 0,
) -> Iterator[LocalAgent]:
    """An agent, as the process."""
    local = LocalAgent(folder, "agent", port, release, extra, env, http_port=http_port)
    try:
        local.ready()
        yield local
    finally:
        local.kill()


@contextmanager
def bare_loop(_: Path, port: int, release: Path) -> Iterator[Consumer]:
    """Limit (c): subscribe, run the model, publish."""
    with _bare(port, "edge/bare-loop", str(release)) as process:
        yield Consumer("bare_loop", "edge/bare-loop", process.pid)


@contextmanager
def bare_broker(port: int) -> Iterator[Consumer]:
    """Limit (a): acknowledge."""
    from benchmarks.speed.bare import SAYS_EVERY

    with _bare(port, "edge/bare-broker") as process:
        yield Consumer("bare_broker", "edge/bare-broker", process.pid, SAYS_EVERY)


@contextmanager
def through_node_red(folder: Path, port: int, release: Path) -> Iterator[Consumer]:
    """Limit (d): what a user would pick instead."""
    with node_red(folder, port, "edge/node-red", release) as process:
        yield Consumer("node_red", "edge/node-red", process.pid)


Starter = Callable[[Path, int, Path], AbstractContextManager[Consumer]]


@contextmanager
def _bare(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.speed.bare", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the bare script did not start"
            yield process
        finally:
            process.kill()
