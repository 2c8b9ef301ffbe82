"""A forget that is cut short at every change it makes to the disk: the old or the new, never half.

The agent is killed before or after its n-th change to the state directory, or gets an error (disk full, I/O error,
read-only) at that change and all later ones, and is then started anew on a sound disk. Changes are counted from the
start of the process to the end of the forget, so that starting is cut short as well.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import toy
from benchmarks.adversity.halves import ended, halves, states
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port, wait_until
from edge_agent.core.errors import EdgeAgentError
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.reservoir import HEADER_BYTES
from edge_agent.schemas.messages import TERMINAL
from edge_agent.slots import slot_bytes

FORGET: Final = "whine"
BASE: Final = "edge/toy"
WINDOWS: Final = 64
END_S: Final = 60.0  # an unfinished command has ended within this after a restart
ERROR_S: Final = 12.0  # a command on a disk that fails is given up after this
KILLS: Final = ("before", "after")
ERRORS: Final = {"no space": errno.ENOSPC, "I/O error": errno.EIO, "read-only": errno.EROFS}


@dataclass
class Tally:
    """What became of all cuts."""

    cuts: Counter[str] = field(default_factory=Counter)  # by how and phase
    problems: list[str] = field(default_factory=list)
    changes: int = 0  # of a forget that goes through


@contextmanager
def _broker(folder: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(folder / "broker", free_port())
    try:
        yield broker
    finally:
        broker.stop()


def cut_everywhere(folder: Path, step: int = 1, hows: Iterable[str] = (*KILLS, *ERRORS), first: int = 1) -> Tally:
    """Cut a forget at every ``step``-th change, in every way."""
    tally = Tally()
    release = toy.release(folder / "release")
    with _broker(folder / "prepare") as broker:
        prepared = _prepared(folder / "prepared", broker, release)
    for how in hows:
        # An error may end a command as well, so how many changes there are is known from being killed.
        numbers = itertools.count(first, step) if how in KILLS else range(first, tally.changes, step)
        for number in numbers:
            with _broker(folder / "cut") as broker:
                went_through = _cut(folder / "cut" / "agent", prepared, release, broker, how, number, tally)
            shutil.rmtree(folder / "cut")
            if went_through and how in KILLS:
                tally.changes = max(tally.changes, number)
                break
    return tally


def _prepared(folder: Path, broker: LocalBroker, release: Path) -> LocalAgent:
    """An agent that has cached windows of two classes, stopped."""
    agent = LocalAgent(folder, "toy", broker.port, release, env={"OMP_NUM_THREADS": "1"})
    agent.ready()
    with connected(BrokerAddress("127.0.0.1", broker.port, "plant")) as plant:
        plant.subscribe([f"{BASE}/diagnosis/+"])
        label = toy.CLASSES.index(FORGET)
        for seq, samples in enumerate(toy.windows(label, WINDOWS, np.random.default_rng(1))):
            plant.publish(f"{BASE}/windows/m1", toy.message(seq, FORGET, samples))
        wait_until(lambda: agent.live_release() and _cached(agent) == WINDOWS, "the windows are cached")
    agent.stop()
    return agent


def _cached(agent: LocalAgent) -> int:
    slots = max((path.stat().st_size for path in (agent.state_dir / "cache").glob("*.slots")), default=0)
    return slots // slot_bytes(HEADER_BYTES, len(toy.CHANNELS) * toy.LENGTH * 4)


def _cut(
    folder: Path, prepared: LocalAgent, release: Path, broker: LocalBroker, how: str, number: int, tally: Tally
) -> bool:
    """One cut; whether the command had ended before it came."""
    shutil.copytree(prepared.state_dir, folder / "state", symlinks=True)
    before = prepared.live_release().digest
    agent = LocalAgent(folder, "toy", broker.port, release, env={"OMP_NUM_THREADS": "1"}, start=False)
    agent.program = "benchmarks.adversity.crashes", str(agent.state_dir), str(number), str(ERRORS.get(how, how))
    agent.start()
    with connected(BrokerAddress("127.0.0.1", broker.port, "plant", in_flight=1000)) as plant:
        plant.subscribe([f"{BASE}/unlearn/+/status", f"{BASE}/release", f"{BASE}/status"])
        over = _asked(plant, agent, END_S if how in KILLS else ERROR_S)
        phase = _phase(agent)
        agent.kill()
        agent.program = ("edge_agent",)
        agent.start()
        problems = _problems(agent, plant, before)
        agent.kill()
    Workplace(agent.state_dir).clear()
    if not over or how not in KILLS:
        tally.cuts[f"{how}: {phase}"] += 1
    name = f"{how} {number} ({phase})"
    tally.problems += [f"{name}: {problem}" for problem in problems]
    print(f"{name}: {'; '.join(problems) or 'sound'}", file=sys.stderr)
    return over


def _asked(plant: ToolClient, agent: LocalAgent, patience_s: float) -> bool:
    """Ask to forget until the agent ends or the command does; whether the command did."""
    deadline_s, asked_s = time.monotonic() + patience_s, float("-inf")
    while time.monotonic() < deadline_s and agent.process.poll() is None:
        if time.monotonic() > asked_s + 5.0:
            asked_s = time.monotonic()
            plant.publish(f"{BASE}/unlearn/{FORGET}", b'{"id": "cut"}')
        for heard in plant.listen(0.1):
            if isinstance(heard.content, dict) and heard.content.get("status") in TERMINAL:
                return True
    return False


def _phase(agent: LocalAgent) -> str:
    known = states(agent)
    return known[-1].phase if known else "accepted"


def _problems(agent: LocalAgent, plant: ToolClient, before: str) -> list[str]:
    """What is wrong after a restart on a sound disk."""
    try:
        agent.ready()
        plant.publish(f"{BASE}/unlearn/{FORGET}", b'{"id": "cut"}')
        wait_until(lambda: ended(agent), "the command has ended", END_S)
        found = list(halves(agent, plant, BASE))
        release = agent.live_release()
        if not release.card.forgotten and release.digest != before:
            found.append("the live release is neither the old nor the new one")
    except (TimeoutError, EdgeAgentError) as error:
        return [f"{type(error).__name__}: {error}"]
    return found
