"""Episodes of a plant in which everything breaks: agent, child, broker, network, neighbours, and what they send."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import toy
from benchmarks.adversity.halves import ended, halves, states
from benchmarks.adversity.oracle import Oracle
from benchmarks.adversity.proxy import Proxy
from benchmarks.adversity.sender import Sender
from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.client import connected
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port, wait_until
from edge_agent.core.errors import EdgeAgentError
from edge_agent.mqtt_client import BrokerAddress, connect, make_client

BASE: Final = "edge/toy"
PER_CLASS: Final = 40  # windows of the pool
RATE_HZ: Final = 40.0  # windows per second
IN_FLIGHT: Final = 64
BACK_S: Final = 60.0  # after a fault the next window is answered within this
QUIET_S: Final = (1.0, 4.0)  # between two faults
PERSISTENT: Final = "persistence true\npersistence_location {folder}/\nautosave_interval 1"
CLIENT_ID: Final = "agent-of-toy"  # which an intruder must know
MQTT: Final = (
    f'client_id = "{CLIENT_ID}"\nin_flight = {IN_FLIGHT}\nkeepalive_s = 5\nprotocol = "{{protocol}}"\n{{more}}'
)


@dataclass
class Figures:
    """What came of all episodes."""

    by_kind: Counter[str] = field(default_factory=Counter)
    books: Counter[str] = field(default_factory=Counter)  # windows, lost, lost_by_broker, wrong, repeated
    commands: int = 0
    run_twice: int = 0
    bad_starts: int = 0
    problems: list[str] = field(default_factory=list)
    half_states: int = 0


class Episode:
    """One agent, from its first start until it has been found sound, or not."""

    def __init__(self, folder: Path, release: Path, seed: int, malformed: int, figures: Figures) -> None:
        self._chance, self._figures, self._malformed = np.random.default_rng(seed), figures, malformed
        labels = np.repeat(np.arange(len(toy.CLASSES)), PER_CLASS)
        pool = np.concatenate([toy.windows(label, PER_CLASS, self._chance) for label in range(len(toy.CLASSES))])
        self.persistent, self._protocol = seed % 2 == 0, ("5", "3.1.1")[seed // 2 % 2]
        more = "[forget]\nshadow_windows = 30\nshadow_agreement = 0.5" if seed % 3 == 1 else ""
        broker_folder = folder / "broker"
        extra = PERSISTENT.format(folder=broker_folder) if self.persistent else ""
        self._broker = LocalBroker(broker_folder, free_port(), extra)
        self._oracle = Oracle(BASE, pool)
        self._proxy = Proxy(self._broker.port, self._oracle)
        config = MQTT.format(protocol=self._protocol, more=more)
        env = {"OMP_NUM_THREADS": "1"}
        self._agent = LocalAgent(folder / "agent", "toy", self._proxy.port, release, config, env)
        self._agent.ready()
        names = [toy.CLASSES[label] for label in labels]
        self._sender = Sender(self._broker.port, BASE, pool, names, self._oracle)
        self._asked: list[str] = []

    def run(self, seconds: float) -> None:
        """Break things for so long, then let all come to rest, and look."""
        for index in range(len(self._sender.labels)):  # a stock of each class to begin with
            self._sender.window(index, labelled=True)
        kinds = self._kinds()
        start_s = time.monotonic()
        while (passed_s := time.monotonic() - start_s) < seconds:
            if len(self._asked) < 2 and passed_s > seconds * (0.1 + 0.4 * len(self._asked)):
                self._ask()
            self._feed(float(self._chance.uniform(*QUIET_S)))
            name, act = next(kinds)
            if act() is not False:
                self._figures.by_kind[name] += 1
                self._come_back(name)
        self._rest()
        self._close_books()

    def end(self) -> None:
        """Stop all processes."""
        self._agent.kill()
        self._proxy.stop()
        self._sender.close()
        self._broker.stop()
        Workplace(self._agent.state_dir).clear()

    # Faults

    def _kinds(self) -> Iterator[tuple[str, Callable[[], bool | None]]]:
        kinds: list[tuple[str, Callable[[], bool | None]]] = [
            ("agent killed", self._kill_agent),
            ("child killed", self._kill_child),
            (f"broker killed, {'with' if self.persistent else 'without'} persistence", self._kill_broker),
            ("network cut", lambda: self._for_s(2.0, self._proxy.cut)),
            ("half-open", lambda: self._for_s(9.0, self._proxy.hold)),
            ("slow", lambda: self._for_s(4.0, lambda: self._proxy.slow(30_000))),
            ("reset", self._proxy.reset),
            ("duplicate client id", self._intrude),
            ("malformed windows", self._send_rubbish),
            ("reset with a full in-flight window", self._overfill),
        ]
        while True:
            for place in self._chance.permutation(len(kinds)):
                yield kinds[place]

    def _kill_agent(self) -> None:
        self._agent.kill()
        self._feed(float(self._chance.uniform(0, 1)))
        self._agent.start()

    def _kill_child(self) -> bool:
        """Only where one runs."""
        listed = Path(f"/proc/{self._agent.process.pid}/task/{self._agent.process.pid}/children").read_text().split()
        for pid in listed:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return bool(listed)

    def _kill_broker(self) -> None:
        """What it took and forgot is not ours; without persistence it also forgets who subscribed to what."""
        connections = len(self._agent.events("broker.connected"))
        self._sender.close()
        self._broker.kill()
        self._oracle.broker_forgot()
        self._broker.start()
        self._sender.open()
        if not self.persistent:
            with suppress(TimeoutError):  # then no window is answered either, which is seen
                wait_until(lambda: self._subscribed_after(connections), "the agent has subscribed again", BACK_S)
            self._sender.settle()
            self._oracle.broker_forgot()

    def _subscribed_after(self, connections: int) -> bool:
        self._feed(0.1)
        return len(self._agent.events("broker.connected")) > connections

    def _for_s(self, seconds: float, act: Callable[[], None]) -> None:
        act()
        self._feed(seconds)
        self._proxy.mend()

    def _intrude(self) -> None:
        """A client with the agent's own name takes the session over, and leaves it."""
        address = BrokerAddress("127.0.0.1", self._broker.port, CLIENT_ID, in_flight=IN_FLIGHT)
        client = make_client(address, self._protocol)
        connect(client, address, self._protocol)
        client.loop_start()
        self._feed(0.5)
        client.disconnect()
        client.loop_stop()

    def _send_rubbish(self) -> None:
        self._sender.malformed(self._malformed, self._chance)

    def _overfill(self) -> None:
        self._agent.process.send_signal(signal.SIGSTOP)
        for _ in range(3 * IN_FLIGHT):
            self._window()
        self._agent.process.send_signal(signal.SIGCONT)
        self._feed(0.1)
        self._proxy.reset()

    # The plant

    def _window(self) -> None:
        self._sender.window(
            int(self._chance.integers(len(self._sender.labels))), labelled=bool(self._chance.integers(2))
        )

    def _feed(self, seconds: float) -> None:
        """Send windows at the usual rate, and get to know new releases."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._window()
            self._sender.settle()
            self._meet()
            time.sleep(1 / RATE_HZ)

    def _meet(self) -> None:
        for digest in self._oracle.releases():
            if not self._oracle.knows(digest):
                with suppress(EdgeAgentError, OSError):
                    self._oracle.show(self._agent.live_release())

    def _ask(self) -> None:
        """Ask to forget a class, several times over, on both topics."""
        name = toy.CLASSES[1 + len(self._asked)]
        self._asked.append(name)
        body = f'{{"id": "chaos-{name}"}}'.encode()
        for topic in (f"{BASE}/unlearn/{name}", f"unlearn/{name}", f"{BASE}/unlearn/{name}"):
            self._sender.publish(topic, body)

    def _come_back(self, kind: str) -> None:
        """Wait until a window that was sent after the fault is answered."""
        with self._oracle.lock:
            last = max(self._oracle.books.sent)
        try:
            wait_until(lambda: self._answered_after(last), f"a window is answered after: {kind}", BACK_S)
        except TimeoutError as error:
            self._figures.bad_starts += 1
            self._figures.problems.append(str(error))
            if self._agent.process.poll() is not None:
                self._agent.start()

    def _answered_after(self, seq: int) -> bool:
        self._feed(0.1)
        with self._oracle.lock:
            return any(one > seq for one in self._oracle.books.answered)

    # The end

    def _rest(self) -> None:
        """Ask once more for what was asked for, and wait until nothing is open."""
        for name in self._asked:
            self._sender.publish(f"{BASE}/unlearn/{name}", f'{{"id": "chaos-{name}"}}'.encode())

        def done() -> bool:
            self._meet()
            with self._oracle.lock:
                open_ = self._oracle.books.unanswered()
            return not open_ and not self._sender.pending and (not self._asked or ended(self._agent))

        with suppress(TimeoutError):  # what is open then, the books show
            wait_until(done, "everything has come to rest", 3 * BACK_S)

    def _close_books(self) -> None:
        figures, agent = self._figures, self._agent
        agent.kill()
        connections = len(agent.events("broker.connected"))
        agent.start()
        with connected(BrokerAddress("127.0.0.1", self._broker.port, "looker", in_flight=1000)) as looker:
            looker.subscribe([f"{BASE}/unlearn/+/status", f"{BASE}/release", f"{BASE}/status"])
            try:
                agent.ready(connections + 1)
                wait_until(lambda: ended(agent) or not self._asked, "every command has ended", BACK_S)
                found = list(halves(agent, looker, BASE))
            except (TimeoutError, EdgeAgentError) as error:
                found = [f"{type(error).__name__}: {error}"]
        figures.half_states += len(found)
        result = self._oracle.result()
        figures.problems += [*found, *result.pop("problems")]
        figures.books.update(result)
        figures.commands += len(states(agent))
        figures.run_twice += self._run_twice()
        print(f"  {result}, {[(one.name, one.status, one.code) for one in states(agent)]}", file=sys.stderr, flush=True)

    def _run_twice(self) -> int:
        """Commands that were erased for, or went live, more than once."""
        rows = read_rows(self._agent.state_dir / "audit.jsonl")
        erased = Counter(row["content"]["id"] for row in rows if row["event"] == "class.erased")
        live = Counter(row.get("id") for row in self._agent.events("release.adopted") if row["reason"] == "forget")
        return sum(count > 1 for count in (*erased.values(), *live.values()))


@contextmanager
def _episode(*args: Any) -> Iterator[Episode]:
    episode = Episode(*args)
    try:
        yield episode
    finally:
        episode.end()


def run(folder: Path, minutes: float, episodes: int, malformed: int, seed: int = 0) -> Figures:
    """So many episodes, together of about so many minutes."""
    figures, release = Figures(), toy.release(folder / "release")
    for number in range(seed, seed + episodes):
        print(f"episode {number}", file=sys.stderr, flush=True)
        with _episode(folder / f"episode{number}", release, number, malformed, figures) as episode:
            episode.run(60 * minutes / episodes)
    return figures
