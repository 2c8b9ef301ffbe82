"""Damaged state files: the agent starts with the last good state, says what it gave up, and believes no damaged one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from benchmarks import toy
from edge_agent.adapters.releases import read_release
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.local import LocalBroker, free_port
from tests.offline import config_of, ended, quiet, started
from tests.plant import plant_at, toy_agent

WHINE = toy.CLASSES.index("whine")
BLOCK = 512
FLIPS = 12  # of each file
pytestmark = pytest.mark.usefixtures(quiet.__name__)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, toy_release: Path) -> dict[str, Path]:
    """Two state directories that a real agent left: with windows cached, and after it has forgotten a class."""
    folder = tmp_path_factory.mktemp("states")
    broker = LocalBroker(folder / "broker", free_port())
    agent = toy_agent(folder / "agent", broker.port, toy_release)
    try:
        agent.ready()
        with plant_at(broker.port) as plant:
            plant.answers(plant.feed(WHINE, 40, seed=11))
            agent.stop()
            shutil.copytree(agent.state_dir, folder / "before", symlinks=True)
            agent.start()
            plant.raw("unlearn/whine", b"")
            plant.expect("unlearn/whine/status", 120.0, status="successful")
            agent.stop()
            shutil.copytree(agent.state_dir, folder / "after", symlinks=True)
    finally:
        agent.kill()
        broker.stop()
        Workplace(agent.state_dir).clear()
    return {"before": folder / "before", "after": folder / "after"}


def damages(content: bytes, seed: int) -> Iterator[bytes]:
    """Cut off at every block, and flipped at random bytes."""
    for size in range(0, len(content), BLOCK):
        yield content[:size]
    generator = np.random.default_rng(seed)
    for _ in range(FLIPS if content else 0):
        damaged = bytearray(content)
        damaged[int(generator.integers(len(content)))] ^= int(generator.integers(1, 256))
        yield bytes(damaged)


MASK = '[forget]\nknown_again = "mask"\n'


@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_state_file_is_damaged_the_agent_starts_and_no_erased_class_comes_back(
    states: dict[str, Path], toy_release: Path, tmp_path: Path, when: str
) -> None:
    config, state_dir = config_of(tmp_path, toy_release, MASK), tmp_path / "state"
    known = {read_release(toy_release).digest, *(path.name for path in (states[when] / "releases").iterdir())}
    names = [path.relative_to(states[when]) for path in sorted(states[when].rglob("*")) if path.is_file()]
    names = [name for name in names if not (states[when] / name.parts[0]).is_symlink() and name.name != "lock"]
    assert len(names) > 12
    tried = 0
    for seed, name in enumerate(names):
        for content in damages((states[when] / name).read_bytes(), seed):
            shutil.rmtree(state_dir, ignore_errors=True)
            shutil.copytree(states[when], state_dir, symlinks=True)
            (state_dir / name).write_bytes(content)
            with capture_logs() as logs:
                model = started(config)
            about = f"{name}, {len(content)} bytes, {[row['event'] for row in logs]}"
            assert model.live.release.digest in known, about
            assert model.forgetting._store.get(model.live.release.digest).digest == model.live.release.digest, about
            if when == "after":
                assert "whine" in model.live.masked, about
                assert model._cache.counts()["whine"] == 0, about
            ended(model)
            tried += 1
    assert tried > 300


def test_what_was_given_up_is_told(states: dict[str, Path], toy_release: Path, tmp_path: Path) -> None:
    told = {
        "journal.jsonl": "journal.damaged",
        "audit.jsonl": None,  # in the log itself
        "session": "session.damaged",
        "keys/identity.key": "identity.replaced",
    }
    for name, event in told.items():
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        shutil.copytree(states["after"], tmp_path / "state", symlinks=True)
        content = (tmp_path / "state" / name).read_bytes()
        (tmp_path / "state" / name).write_bytes(b"\0" + content[1:])
        os.utime(tmp_path / "state" / name, (30, 30))
        with capture_logs() as logs:
            model = started(config_of(tmp_path, toy_release, MASK))
        assert event is None or event in [row["event"] for row in logs], name
        if name == "session":  # larger than any before, also where the file was written in 1970
            assert int((tmp_path / "state" / name).read_text()) > 1_700_000_000
        if event is None:
            assert model._audit.rows[-1]["event"] == "audit.damaged"
        ended(model)


def test_no_two_starts_have_one_number_where_nothing_new_can_be_written(tmp_path: Path, toy_release: Path) -> None:
    # Two starts on a full disk were one to replicas: those did not believe what the second announced.
    config, sessions = config_of(tmp_path, toy_release), []
    for _ in range(3):
        model = started(config)
        sessions.append(model._session)
        ended(model)
        (tmp_path / "state" / ".session.new").mkdir(exist_ok=True)  # in the way of the file beside
    assert sessions[0] < sessions[1] < sessions[2]


def test_the_number_of_a_start_is_larger_than_any_before_the_copy_that_was_put_back(
    tmp_path: Path, toy_release: Path
) -> None:
    """Replicas of a gateway that was restored took its news for old, for as many starts as the copy was behind."""
    config = config_of(tmp_path, toy_release)
    (tmp_path / "state" / "session").write_text("7")
    model = started(config)
    assert model._session > 1_700_000_000  # by the clock
    ended(model)
    (tmp_path / "state" / "session").write_text("99999999999")
    model = started(config)
    assert model._session == 100_000_000_000  # of a clock that was wrong
    ended(model)


def test_a_damaged_live_release_is_replaced_by_the_configured_one(
    states: dict[str, Path], toy_release: Path, tmp_path: Path
) -> None:
    shutil.copytree(states["before"], tmp_path / "state", symlinks=True)
    live = (tmp_path / "state" / "current").resolve()
    (live / "model.onnx.sealed").write_bytes(b"")
    with capture_logs() as logs:
        model = started(config_of(tmp_path, toy_release, MASK))
    assert "release.refused" in [row["event"] for row in logs]
    assert model.live.release.digest == read_release(toy_release).digest
    ended(model)
