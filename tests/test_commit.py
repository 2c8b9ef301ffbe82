"""The most delicate moments of forgetting: crashes after the point of no return, rollbacks, other releases."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters import job_folder
from edge_agent.adapters.audit import AuditLog, read_rows
from edge_agent.adapters.journal import Journal, read_states
from edge_agent.adapters.releases import Release, read_release
from edge_agent.adapters.windows import WindowCache
from edge_agent.clock import Clock
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.core.types import Window
from edge_agent.reservoir import Source
from edge_agent.schemas.messages import JobState, Phase
from edge_agent.vault import Vault
from tests.plant import Plant, damage, plant_at, store_at, toy_agent, unlimited, wait_until

Start = Callable[..., LocalAgent]
WHINE, RATTLE = toy.CLASSES.index("whine"), toy.CLASSES.index("rattle")
FORGET_S = 120.0


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, toy_release: Path) -> Path:
    """The release that forgetting "whine" leads to, made by the real child."""
    folder = tmp_path_factory.mktemp("edited") / "job"
    release = read_release(toy_release)
    windows = {"whine": toy.windows(WHINE, 64, np.random.default_rng(11))}
    job_folder.prepare(folder, job_folder.Job("id", ("whine",), 1, 1, {}), release, windows)
    subprocess.run([sys.executable, "-m", "edge_agent.unlearn_job", str(folder)], check=True, timeout=120)
    return folder / "result"


def crashed_state(folder: Path, parent: Path, edited: Path, phase: Phase) -> tuple[Release, Release]:
    """A state directory as a crash in ``phase`` leaves it; the releases before and after."""
    state_dir = folder / "state"
    store = store_at(state_dir)
    before, after = store.add(parent), store.add(edited)
    store.set_current(before.digest if phase == "committing" else after.digest)
    cache = WindowCache(state_dir / "cache", Vault(state_dir), 512, 1 << 30, 16, unlimited(), np.random.default_rng(0))
    cache.fit(toy.CLASSES, (3, 256))
    for seq, samples in enumerate(toy.windows(WHINE, 40, np.random.default_rng(5))):
        cache.offer("whine", Window("m1", "b", seq, 0, "whine", samples), Source.SENDER)
    cache.close()
    (state_dir / "jobs" / "left-over").mkdir(parents=True)
    (state_dir / "jobs" / "left-over" / "windows.safetensors").write_bytes(b"windows of the class")
    journal = Journal(state_dir / "journal.jsonl")
    digests = {"release_before": before.digest, "release_after": after.digest}
    journal.write(JobState("crashed", ("whine",), "d", "executing", phase, **digests))  # type: ignore[arg-type]
    journal.close()
    return before, after


@pytest.mark.parametrize("phase", ["committing", "erasing"])
def test_a_crash_after_the_point_of_no_return_ends_in_success(
    tmp_path: Path, broker: LocalBroker, plant: Plant, toy_release: Path, edited: Path, phase: Phase
) -> None:
    before, after = crashed_state(tmp_path / "agent", toy_release, edited, phase)
    agent = toy_agent(tmp_path / "agent", broker.port, toy_release)
    try:
        agent.ready()
        plant.expect("unlearn/whine/status", status="successful", id="crashed")
        store = store_at(agent.state_dir)
        assert store.current() == after.digest
        assert store.digests() == [after.digest]
        assert before.digest not in store.digests()
        assert list((agent.state_dir / "jobs").iterdir()) == []
        answers = plant.answers(plant.feed(WHINE, 10, seed=3))
        assert all(row["class"] != "whine" for row in answers)
        agent.stop()
        assert plant.expect("status", state="offline")["cached"]["whine"] == 0
    finally:
        agent.kill()


def begun(agent: LocalAgent, plant: Plant) -> int:
    """Start the agent again and have it forget a class; the process id of its job."""
    agent.start()
    agent.ready(times=2)
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", b"")
    pid: int = wait_until(lambda: agent.events("job.started"))[0]["pid"]
    return pid


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_that_ends_while_the_disk_fails_is_not_run_again(start_agent: Start, plant: Plant, killed: bool) -> None:
    """Its outcome was lost with the write; after three such jobs the command failed: "the agent was stopped"."""
    agent = start_agent()
    agent.stop()
    log = AuditLog(agent.state_dir / "audit.jsonl", Clock(agent.folder / "clock"))
    log.append("command.failed", id="long ago", classes=[], code="E_GATE", reason="x" * 200_000)
    log.close()
    pid = begun(agent, plant)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Only the audit log is longer: nothing more can be written to it.
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (200_000, most))
    if killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: agent.events("storage.failed"), FORGET_S)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (most, most))
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["code"]) == (("failed", "E_CHILD") if killed else ("successful", None))
    assert len(agent.events("job.started")) == 1
    rows = [row["event"] for row in read_rows(agent.state_dir / "audit.jsonl")]
    assert (rows.count("gate.judged"), rows.count("command.failed")) == ((0, 2) if killed else (1, 1))
    assert 1 <= len(agent.events("storage.failed")) <= 3  # it did not try in every turn


def test_a_failure_that_the_journal_cannot_take_is_told_once(start_agent: Start, plant: Plant) -> None:
    """Each turn in which the journal could not be written left another ``command.failed`` in the audit log."""
    agent = start_agent()
    agent.stop()
    journal = Journal(agent.state_dir / "journal.jsonl")
    journal.write(JobState("long ago", ("hum",), "d", "failed", "probing", reason="x" * 200_000))
    journal.close()
    pid = begun(agent, plant)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (200_000, most))  # only the journal is longer
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: agent.events("storage.failed"), FORGET_S)
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (most, most))
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["code"]) == ("failed", "E_CHILD")
    rows = list(read_rows(agent.state_dir / "audit.jsonl"))
    assert [row["content"]["code"] for row in rows if row["event"] == "command.failed"] == ["E_CHILD"]


@pytest.mark.parametrize("phase", ["committing", "erasing"])
def test_a_damaged_candidate_fails_the_commit_and_the_parent_serves(
    tmp_path: Path, broker: LocalBroker, plant: Plant, toy_release: Path, edited: Path, phase: Phase
) -> None:
    """In ``erasing`` it reported success, and destroyed the parent, which served."""
    before, after = crashed_state(tmp_path / "agent", toy_release, edited, phase)
    model = tmp_path / "agent" / "state" / "releases" / after.digest / "model.onnx.sealed"
    damage(model)
    agent = toy_agent(tmp_path / "agent", broker.port, toy_release)
    try:
        agent.ready()
        assert plant.expect("unlearn/whine/status", status="failed")["code"] == "E_HASH"
        assert store_at(agent.state_dir).current() == before.digest
        answers = plant.answers(plant.feed(WHINE, 10, seed=3))
        assert [row["class"] for row in answers].count("whine") >= 8
    finally:
        agent.kill()


def stock(plant: Plant, *labels: int) -> None:
    for label in labels:
        plant.answers(plant.feed(label, 64, seed=label))


def forget(plant: Plant, name: str) -> dict[str, Any]:
    plant.raw(f"unlearn/{name}", b"")
    rows: dict[str, Any] = wait_until(lambda: plant.final(name), FORGET_S)
    return rows


def test_a_job_whose_result_was_being_sealed_when_the_agent_stopped_is_done_again(
    start_agent: Start, plant: Plant
) -> None:
    """Its phase may stand in the journal; nothing is left of its result, and it must not wait for itself."""
    agent = start_agent()
    stock(plant, WHINE)
    agent.stop()
    journal = Journal(agent.state_dir / "journal.jsonl")
    journal.write(JobState("c-1", ("whine",), "d", "executing", "verifying", attempts=1))
    journal.close()
    agent.start()
    agent.ready(2)
    assert wait_until(lambda: plant.final("whine", id="c-1"), FORGET_S)["status"] == "successful"


def test_a_rollback_over_two_probations_undoes_both(start_agent: Start, plant: Plant, toy_release: Path) -> None:
    """Going back two releases left the second class unmasked in the model and forgotten in the journal."""
    agent = start_agent("[forget]\nprobation_s = 600")
    stock(plant, WHINE, RATTLE)
    assert forget(plant, "whine")["status"] == "successful"
    assert forget(plant, "rattle")["status"] == "successful"
    store_at(agent.state_dir).want(read_release(toy_release).digest)
    for name in ("whine", "rattle"):
        plant.expect(f"unlearn/{name}/status", code="E_ROLLED_BACK")
    states = read_states(agent.state_dir / "journal.jsonl")
    assert [state.status for state in states] == ["failed", "failed"]


def test_another_release_is_adopted_only_when_no_command_is_unfinished(
    start_agent: Start, plant: Plant, toy_release: Path, tmp_path: Path
) -> None:
    """A release that came between two queued commands made the second crash the agent."""
    agent = start_agent()
    stock(plant, WHINE, RATTLE)
    plant.raw("unlearn/whine", b"")
    plant.raw("unlearn/rattle", b"")
    plant.expect("unlearn/rattle/status", status="accepted")
    newer = toy.twin(toy_release, tmp_path / "newer", forgotten=("whine", "rattle"))
    store_at(agent.state_dir).want(store_at(agent.state_dir).add(newer).digest)
    ended = wait_until(lambda: [row for name in ("whine", "rattle") if (row := plant.final(name))][1:], FORGET_S)
    assert ended[0]["status"] == plant.final("whine")["status"] == "successful"  # type: ignore[index]
    wait_until(lambda: store_at(agent.state_dir).current() == read_release(newer).digest)
    wait_until(lambda: told(agent) == ["class.erased", "class.erased", "release.adopted"])
    assert store_at(agent.state_dir).wanted() is None
    assert agent.process.poll() is None


def told(agent: LocalAgent) -> list[str]:
    """What the audit log says of classes that were erased and releases that were adopted, in order."""
    rows = [row["event"] for row in read_rows(agent.state_dir / "audit.jsonl")]
    return [event for event in rows if event in {"class.erased", "release.adopted"}]


def test_a_broker_that_refuses_diagnoses_does_not_make_the_agent_deaf(
    tmp_path: Path, broker: LocalBroker, start_agent: Start
) -> None:
    """Refused by the ACL, a diagnosis left its window unacknowledged, and after in_flight of them nothing came in."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite #\ntopic deny edge/toy/diagnosis/#\n")
    broker.stop()
    with (tmp_path / "broker" / "mosquitto.conf").open("a") as config:
        config.write(f"acl_file {acl}\n")
    broker.start()
    agent = start_agent("in_flight = 8")
    with plant_at(broker.port) as plant:
        for row in toy.windows(0, 40, np.random.default_rng(0)):
            plant.send(row)
        wait_until(lambda: agent.events("publish.refused"))
        plant.raw("unlearn/growl", b"")
        plant.expect("refused", code="E_CLASS")
        wait_until(lambda: _refused(plant) >= 40, 40)
    agent.stop()
    assert agent.events("agent.stopped")[0]["publishes_refused"] >= 40  # some twice: this broker cuts the connection


def _refused(plant: Plant) -> int:
    return max((row["counters"].get("publishes_refused", 0) for row in plant.find("status", state="online")), default=0)


def test_windows_that_were_damaged_on_the_disk_do_not_reach_the_job(start_agent: Start, plant: Plant) -> None:
    """A job without windows ended with a Python error for a reason."""
    agent = start_agent()
    stock(plant, WHINE)
    path = max((agent.state_dir / "cache").iterdir(), key=lambda path: path.stat().st_size)
    slot = path.stat().st_size // 64
    content = bytearray(path.read_bytes())
    for number in range(64):
        content[number * slot + slot - 1] ^= 1
    path.write_bytes(content)
    status = forget(plant, "whine")
    assert (status["status"], status["code"]) == ("failed", "E_TOO_FEW_WINDOWS")
    assert "only 0 windows of whine are sound, 32 are needed" in status["reason"]


def test_a_label_that_the_release_does_not_know_is_shown_and_its_window_answered(
    start_agent: Start, plant: Plant
) -> None:
    start_agent()
    seq = plant.send(toy.windows(0, 1, np.random.default_rng(0))[0], "hmu")
    plant.answers([seq])
    assert "'hmu' is no class" in plant.expect("refused", code="E_CLASS")["reason"]
