"""systemd's watchdog: pinged by the main loop, through a forget and a lost broker, and not by a loop that hangs."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.adapters.mqtt import BROKER
from edge_agent.adapters.threads import DIED
from edge_agent.commands.local import LocalAgent, LocalBroker
from tests.plant import Plant, wait_until

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
WATCHDOG_S = 60.0  # WatchdogSec of systemd/edge-agent.service


class Manager:
    """The service manager's socket: what it was told, and when."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.told: list[tuple[float, str]] = []

    def hear(self) -> list[str]:
        while True:
            try:
                lines = self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return [line for _, line in self.told]
            self.told += [(time.monotonic(), line) for line in lines]

    def pings_s(self) -> list[float]:
        self.hear()
        return [at_s for at_s, line in self.told if line == "WATCHDOG=1"]

    def said(self, words: str) -> bool:
        return any(words in line for line in self.hear())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


@pytest.fixture
def agent(start_agent: Start, manager: Manager, tmp_path: Path) -> LocalAgent:
    return start_agent(env={"NOTIFY_SOCKET": str(tmp_path / "notify")})


def test_ready_status_and_stopping_are_told_in_this_order(agent: LocalAgent, manager: Manager) -> None:
    wait_until(lambda: len(manager.pings_s()) >= 2)
    agent.stop()
    told = manager.hear()
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    assert manager.said("STATUS=0 windows answered")
    assert told.count("READY=1") == told.count("STOPPING=1") == 1


def test_a_forget_never_keeps_the_watchdog_waiting(agent: LocalAgent, manager: Manager, plant: Plant) -> None:
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    ended: list[object] = []

    def over() -> bool:
        manager.hear()  # so that a ping is timed when it comes
        ended.extend(plant.find("unlearn/whine/status", status="successful"))
        return bool(ended)

    wait_until(over, 120.0)
    pings = manager.pings_s()
    assert len(pings) > 3
    assert max(late - early for early, late in pairwise(pings)) < WATCHDOG_S / 6
    assert manager.said("forgetting whine: probing")


def test_a_lost_broker_is_no_failure(agent: LocalAgent, manager: Manager, broker: LocalBroker) -> None:
    broker.kill()
    wait_until(lambda: manager.said("no connection to the broker"))
    before = len(manager.pings_s())
    wait_until(lambda: len(manager.pings_s()) >= before + 3)
    assert agent.process.poll() is None
    broker.start()
    agent.ready(times=2)
    count = len(manager.told)
    wait_until(lambda: len(manager.pings_s()) and manager.told[count:] and "broker" not in manager.told[-1][1])


def test_a_loop_that_hangs_does_not_ping(agent: LocalAgent, manager: Manager) -> None:
    wait_until(lambda: len(manager.pings_s()) >= 2)
    agent.process.send_signal(signal.SIGSTOP)  # as systemd sees a loop that never ends its turn
    wait_until(lambda: Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    silent = len(manager.pings_s())
    deadline_s = time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() > deadline_s)
    assert len(manager.pings_s()) == silent
    agent.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(manager.pings_s()) > silent)


def test_an_agent_whose_thread_for_the_broker_dies_ends_with_it(
    tmp_path: Path, broker: LocalBroker, toy_release: Path
) -> None:
    # It lived on, fed the watchdog, said that it was well, and never connected again.
    agent = LocalAgent(tmp_path / "agent", "toy", broker.port, toy_release, start=False)
    agent.program = ("tests.dying_broker",)
    agent.start()
    assert agent.process.wait(30) == DIED
    assert [row["thread"] for row in agent.events("thread.died")] == [BROKER]


def test_the_unit_restarts_what_no_longer_pings() -> None:
    unit = (Path(__file__).parents[1] / "systemd" / "edge-agent.service").read_text().splitlines()
    assert "Type=notify" in unit
    assert f"WatchdogSec={WATCHDOG_S:.0f}" in unit
    assert "Restart=on-failure" in unit  # which a watchdog's timeout is, systemd.service(5)
