"""The agent's process under a wall clock that starts in 1970 and jumps by decades, faked by libfaketime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import toy
from edge_agent.commands.local import LocalAgent
from tests.plant import Plant, wait_until

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
FORGET_S = 120.0
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: faketime)")


class Wall:
    """A wall clock for other processes; the monotonic one stays what it is."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("@1970-01-02 00:00:00")

    def set(self, time: str) -> None:
        """``@2040-01-01 00:00:00``: that time, and running."""
        beside = self._file.with_suffix(".new")
        beside.write_text(time + "\n")
        beside.rename(self._file)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }


@pytest.fixture
def wall(tmp_path: Path) -> Wall:
    return Wall(tmp_path / "wall")


def years(agent: LocalAgent) -> set[str]:
    """The years that the agent has lived in, by its log."""
    names = ("agent.started", "command.accepted", "job.started", "class.erased", "release.destroyed")
    return {row["timestamp"][:4] for name in names for row in agent.events(name)}


@needs_faketime
def test_windows_commands_jobs_and_probations_do_not_mind_what_the_wall_clock_does(
    start_agent: Start, plant: Plant, wall: Wall
) -> None:
    agent = start_agent("[forget]\nprobation_s = 3\ntimeout_s = 100", env=wall.env)
    parent = agent.live_release().digest
    plant.answers(plant.feed(WHINE, 64, seed=1))
    wall.set("@1990-01-01 00:00:00")
    plant.answers(plant.feed(0, 5))
    plant.raw("unlearn/whine", b'{"id": "jumpy"}')
    wait_until(lambda: agent.events("job.started"))
    wall.set("@2010-01-01 00:00:00")  # 20 years into the job, whose limit is 100 s
    plant.answers(plant.feed(0, 5))
    wall.set("@1980-01-01 00:00:00")
    status = wait_until(plant.final, FORGET_S)
    assert status["status"] == "successful", status
    wait_until(lambda: not (agent.state_dir / "releases" / parent).exists())  # after 3 s of running time
    wall.set("@2045-01-01 00:00:00")
    answers = plant.answers(plant.feed(WHINE, 5, seed=2))
    assert all(row["class"] != "whine" and 0 <= row["latency_ms"] < 60_000 for row in answers)
    agent.stop()
    agent.start()
    agent.ready(times=2)
    assert {"1970", "1990", "1980", "2045"} <= years(agent)


@needs_faketime
def test_a_command_that_expired_does_not_come_alive_on_a_gateway_that_wakes_in_1970(
    start_agent: Start, plant: Plant, wall: Wall
) -> None:
    wall.set("@2030-06-01 00:00:00")
    agent = start_agent(env=wall.env)
    plant.answers(plant.feed(WHINE, 64, seed=1))
    agent.stop()
    (agent.state_dir / "clock").write_text("2030-06-01T00:00:00+00:00")  # as kept from a clock that was synchronised
    wall.set("@1970-01-02 00:00:00")
    agent.start()
    agent.ready(times=2)
    plant.raw("unlearn/whine", b'{"id": "late", "expires_at": "2030-05-01T00:00:00Z"}')
    assert plant.expect("unlearn/whine/status", status="rejected", id="late")["code"] == "E_EXPIRED"
    plant.raw("unlearn/whine", b'{"id": "in-time", "expires_at": "2030-07-01T00:00:00Z"}')
    plant.expect("unlearn/whine/status", id="in-time", status="accepted")
