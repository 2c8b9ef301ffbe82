"""Many agents at one broker of this machine: one command, all certificates; and what a restart of the broker does.

    python -m benchmarks.fleet --agents 50 --json

Each agent is a process of its own with the toy release. The broker is killed and started again after some seconds; the
agents' connections are then counted by the second from its log. After that one ``fleet unlearn`` asks all.

Keys of the JSON object: agents, certificates_verified, seconds (of the command), connects (after the restart, two for
each agent), connect_peak_over_mean (connects per second, largest over mean, from the first to the last), reconnect_s,
rss_per_agent_mib (mean, before the command), answered (windows).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import toy
from benchmarks.machine import facts, show
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.fleet import Member
from edge_agent.commands.fleet_ask import Wish, unlearn
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port, wait_until
from edge_agent.mqtt_client import BrokerAddress

WINDOWS: Final = 40  # cached by each agent
LIMIT_S: Final = 3600.0
LOGGED: Final = "log_type notice\nlog_timestamp_format %s\npersistence true\npersistence_location {folder}/"
CONNECTED: Final = re.compile(r"^(\d+): New client connected from .* as (edge-agent-gw-\S+)", re.MULTILINE)


def run(agents: int, down_s: float, folder: Path) -> dict[str, Any]:
    """Start, disturb, ask."""
    release = toy.release(folder / "release")
    broker_folder = folder / "broker"
    broker = LocalBroker(broker_folder, free_port(), LOGGED.format(folder=broker_folder))
    try:
        with _started(agents, broker.port, release, folder) as started:
            with connected(BrokerAddress("127.0.0.1", broker.port, "plant", in_flight=1000)) as plant:
                answered = _fill(plant, agents)
            rss_mib = [agent.rss_mib() for agent in started]
            connects = _restarted(broker, broker_folder / "broker.log", agents, down_s)
            started_s = time.monotonic()
            address = BrokerAddress("127.0.0.1", broker.port, "operator", in_flight=1000)
            wish = Wish((toy.CLASSES[0],), None, "benchmark", LIMIT_S)
            report = unlearn(address, "edge", wish, {}, LIMIT_S, _Told())
            seconds = time.monotonic() - started_s
    finally:
        broker.stop()
    per_s = Counter(connects)
    span_s = max(connects) - min(connects) + 1
    return {
        "agents": agents,
        "certificates_verified": sum(row["certificate_verified"] for row in report["gateways"].values()),
        "succeeded": report["succeeded"],
        "seconds": round(seconds, 1),
        "down_s": down_s,
        "connects": len(connects),
        "connect_peak_over_mean": round(max(per_s.values()) / (len(connects) / span_s), 2),
        "reconnect_s": span_s,
        "rss_per_agent_mib": round(sum(rss_mib) / len(rss_mib), 1),
        "answered": answered,
    }


@contextmanager
def _started(agents: int, port: int, release: Path, folder: Path) -> Iterator[list[LocalAgent]]:
    started: list[LocalAgent] = []
    with ExitStack() as stack:
        for number in range(agents):
            env = {"OMP_NUM_THREADS": "1"}
            agent = LocalAgent(
                folder / f"gw-{number}", f"gw-{number}", port, release, "[forget]\nmin_windows = 32", env
            )
            stack.callback(agent.kill)
            started.append(agent)
            agent.ready()
            _say(f"{number + 1} of {agents} agents are up", every=10, number=number + 1)
        yield started


def _fill(plant: ToolClient, agents: int) -> int:
    """Labelled windows for everybody; returns how many were answered."""
    plant.subscribe(["edge/+/diagnosis/+"])
    answered = 0
    for number in range(agents):
        rows = toy.windows(0, WINDOWS, np.random.default_rng(number))
        for seq, row in enumerate(rows):
            plant.client.publish(f"edge/gw-{number}/windows/m1", toy.message(seq, toy.CLASSES[0], row), qos=1)
    for _ in plant.listen(60):
        answered += 1
        if answered == agents * WINDOWS:
            break
    return answered


def _restarted(broker: LocalBroker, log: Path, agents: int, down_s: float) -> list[int]:
    """Take the broker away and bring it back; the second of each connection after that."""
    broker.stop()
    time.sleep(down_s)
    seen = len(log.read_text())
    broker.start()
    wait_until(lambda: len(_connects(log, seen)) == 2 * agents, "all are connected", 120)
    return list(_connects(log, seen).values())


def _connects(log: Path, seen: int) -> dict[str, int]:
    """The second at which each client first connected, from this place of the log on."""
    found: dict[str, int] = {}
    for second, client in CONNECTED.findall(log.read_text()[seen:]):
        found.setdefault(client, int(second))
    return found


class _Told:
    """Shows how many have ended, when that changes."""

    def __init__(self) -> None:
        self._ended = 0

    def __call__(self, members: Any) -> None:
        ended = sum(member.ended for member in members.values() if isinstance(member, Member))
        if ended != self._ended:
            self._ended = ended
            _say(f"{ended} of {len(members)} have ended", every=5, number=ended)


def _say(words: str, every: int, number: int) -> None:
    if number % every == 0:
        print(words, file=sys.stderr, flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--down", type=float, default=5.0, help="seconds without a broker")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-fleet-") as folder:
        show({**run(options.agents, options.down, Path(folder)), **facts()}, as_json=options.json)


if __name__ == "__main__":
    main()
