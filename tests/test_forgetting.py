"""Forgetting a class: the agent as a process, a real broker, the real child."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from benchmarks.adversity import forensics
from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.local import LocalAgent, LocalBroker
from edge_agent.core.margins import LEVELS, ClassMargins
from edge_agent.schemas.card import MODEL
from edge_agent.settings import Forget
from edge_agent.unlearn_job import OOM_SCORE
from edge_agent.vault import Vault
from tests.plant import Plant, plant_at, store_at, toy_agent, wait_until

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
FORGET_S = 120.0


@pytest.fixture
def stocked(start_agent: Start, plant: Plant) -> LocalAgent:
    """An agent that has cached 64 labelled windows of two classes."""
    agent = start_agent()
    stock(plant)
    return agent


def stock(plant: Plant) -> None:
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.answers(plant.feed(WHINE - 1, 64, seed=12))


def forget(plant: Plant, classes: str = "whine", **body: Any) -> dict[str, Any]:
    """Ask, and wait for the final status."""
    plant.raw(f"unlearn/{classes}", json.dumps(body).encode() if body else b"")
    status: dict[str, Any] = wait_until(lambda: plant.final(classes, **body), FORGET_S)
    return status


def current(agent: LocalAgent) -> Path:
    """Folder of the live release."""
    return (agent.state_dir / "current").resolve()


def job_files(agent: LocalAgent) -> list[Path]:
    """What is left of job folders, in memory and on the disk."""
    folder = Workplace(agent.state_dir).folder("any", 0)
    return [*folder.parent.iterdir(), *(agent.state_dir / "jobs").glob("*")]


def job_processes(agent: LocalAgent) -> list[int]:
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_a_class_is_forgotten_by_the_weights_and_the_others_are_kept(stocked: LocalAgent, plant: Plant) -> None:
    before = stocked.live_release()
    test = toy.dataset(seed=3).test
    kept = test.labels != WHINE
    old = OnnxModel(before.read(MODEL), 1).logits(test.windows).argmax(axis=1)

    status = forget(plant)
    assert status["status"] == "successful", status
    assert status["phase"] == "done"

    after = stocked.live_release()
    raw = OnnxModel(after.read(MODEL), 1).logits(test.windows).argmax(axis=1)  # nothing masked
    assert (raw[~kept] == WHINE).mean() <= 0.02
    assert (raw == test.labels)[kept].mean() >= (old == test.labels)[kept].mean() - 0.03
    answers = plant.answers([plant.send(row) for row in test.windows])
    assert all(row["class"] != "whine" for row in answers)
    assert {row["release"] for row in answers} == {after.digest}
    assert after.card.forgotten == ("whine",)
    assert plant.find("release")[-1]["forgotten"] == ["whine"]


def test_nothing_of_the_class_stays_behind(stocked: LocalAgent, plant: Plant) -> None:
    parent = stocked.live_release()
    marks = [row.tobytes()[:256] for row in toy.windows(WHINE, 64, np.random.default_rng(11))]
    marks += forensics.knowledge(parent, WHINE)
    before = forensics.image(stocked.state_dir)
    assert forensics.found(marks, before, Vault(stocked.state_dir)) == len(marks)  # else the search proves nothing
    status = forget(plant)
    assert status["metrics"]["windows_erased"] == {"whine": 64}
    stocked.stop()
    stocked.start()  # a start must not bring the parent back from the folder that gateway.release names
    stocked.ready(times=2)
    assert not (stocked.state_dir / "releases" / parent.digest).exists()
    assert job_files(stocked) == []
    kept = [row.tobytes()[:256] for row in toy.windows(WHINE - 1, 64, np.random.default_rng(12))]
    for image in (before, forensics.image(stocked.state_dir)):  # an older copy of the disk tells no more
        assert forensics.found(marks, image, Vault(stocked.state_dir)) == 0
        assert forensics.found(kept, image, Vault(stocked.state_dir)) == len(kept)
    plant.answers(plant.feed(WHINE, 5, seed=13))
    stocked.stop()
    assert plant.expect("status", state="offline")["cached"]["whine"] == 0  # not cached again


def test_no_answer_names_the_class_from_acceptance_on(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b"")
    plant.expect("unlearn/whine/status", status="accepted")
    answers = plant.answers(plant.feed(WHINE, 30, seed=14))
    assert all(row["class"] != "whine" and "whine" not in dict(row["top"]) for row in answers)
    assert answers[0]["masked"] == ["whine"]


def test_the_status_tells_phase_progress_and_numbers_so_far(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b'{"id": "job-1", "reason": "wrong labels"}')
    status = wait_until(lambda: plant.final(id="job-1"), FORGET_S)
    rows = plant.find("unlearn/whine/status")
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    assert phases[0] == "masked"
    assert phases[-1] == "done"
    assert {"probing", "editing"} <= set(phases)
    progress = [row["progress"] for row in rows]
    assert progress == sorted(progress)
    assert all(row["id"] == "job-1" for row in rows)
    metrics = status["metrics"]
    assert metrics["windows"] == 64
    assert metrics["onnx_parity"] <= 1e-4
    assert metrics["flip_rate"] > 0.9
    assert "whine" not in metrics["flipped_to"]
    assert {reason["check"] for reason in metrics["gate"]} >= {"forget_share", "int8_share", "agreement", "drift"}
    assert all(reason["words"] for reason in metrics["gate"])


def test_windows_are_answered_while_the_job_runs_and_none_is_lost_at_the_swap(
    stocked: LocalAgent, plant: Plant
) -> None:
    plant.raw("unlearn/whine", b"")
    seqs: list[int] = []

    def feed_until_final() -> dict[str, Any] | None:
        seqs.extend(plant.feed(len(seqs) % 2, 5, seed=len(seqs)))
        return plant.final()

    assert wait_until(feed_until_final, FORGET_S)["status"] == "successful"
    answers = plant.answers(seqs + plant.feed(0, 5))
    assert len({row["release"] for row in answers}) == 2


def test_the_same_id_runs_once_and_another_body_with_it_is_refused(stocked: LocalAgent, plant: Plant) -> None:
    done = forget(plant, id="once")
    plant.raw("unlearn/whine", b'{"id": "once"}')
    again = wait_until(lambda: plant.find("unlearn/whine/status", status="successful", id="once")[1:])
    assert again[0]["rev"] == done["rev"]
    plant.raw("unlearn/rattle", b'{"id": "once"}')
    assert plant.expect("unlearn/rattle/status", status="rejected")["code"] == "E_SAME_ID"
    assert len(stocked.events("job.started")) == 1


def test_a_command_without_id_is_the_same_command_until_it_has_failed(stocked: LocalAgent, plant: Plant) -> None:
    done = forget(plant)
    plant.raw("unlearn/whine", b'{"reason": "again"}')
    wait_until(lambda: plant.find("unlearn/whine/status", status="successful", id=done["id"])[1:])
    assert not plant.find("unlearn/whine/status", status="rejected")
    plant.raw("unlearn/rattle", json.dumps({"id": done["id"]}).encode())  # nobody can take such an id
    assert plant.expect("refused", code="E_JSON")


@pytest.mark.parametrize(
    ("classes", "payload", "code", "words"),
    [
        ("growl", b"", "E_CLASS", "growl"),
        ("a,b$", b"", "E_CLASS", "b$"),
        ("hum", b"", "E_TOO_FEW_WINDOWS", "0 windows of hum are cached, at least 32"),
        ("hum,rattle,whine,squeal", b"", "E_LAST_CLASS", "1 classes would stay, at least 2"),
        ("whine", b"{", "E_JSON", ""),
        ("whine", b'{"idd": "x"}', "E_JSON", "idd"),
        ("whine", b'{"id": "a b"}', "E_JSON", "id"),
        ("whine", b'"' + b"x" * 20_000 + b'"', "E_TOO_LONG", "20002 bytes, at most 16384"),
        ("whine", b'{"expires_at": "2020-01-01T00:00:00Z"}', "E_EXPIRED", "2020"),
    ],
)
def test_a_command_that_cannot_be_done_is_refused_with_the_reason(
    stocked: LocalAgent, plant: Plant, classes: str, payload: bytes, code: str, words: str
) -> None:
    plant.raw(f"unlearn/{classes}", payload)
    refusal = plant.expect("refused", code=code)
    assert words in refusal["reason"]
    name = ",".join(sorted(classes.split(","))) if code == "E_LAST_CLASS" else classes
    plant.expect(f"unlearn/{name}/status", status="rejected", code=code)
    assert not stocked.events("command.accepted")


def test_a_refusal_is_published_to_who_asked_but_does_not_replace_the_retained_state(
    stocked: LocalAgent, plant: Plant, broker: LocalBroker
) -> None:
    forget(plant)
    plant.raw("unlearn/whine", b'{"id": "late"}')
    assert plant.expect("unlearn/whine/status", status="rejected", id="late")["code"] == "E_ALREADY_FORGOTTEN"
    with plant_at(broker.port) as newcomer:
        assert newcomer.expect("unlearn/whine/status")["status"] == "successful"


def test_a_retained_command_is_refused(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b'{"id": "kept"}', retain=True)
    assert plant.expect("unlearn/whine/status", status="rejected", id="kept")["code"] == "E_RETAINED"
    stocked.stop()
    stocked.start()  # the broker keeps it, and must not hand it over to the new subscription
    stocked.ready(times=2)
    plant.answers(plant.feed(0, 5))
    assert not stocked.events("command.accepted")


def test_the_plant_wide_topic_reaches_the_gateway(stocked: LocalAgent, plant: Plant) -> None:
    plant.client.publish("unlearn/whine", b"")
    assert wait_until(plant.final, FORGET_S)["status"] == "successful"


def test_several_classes_are_forgotten_in_one_run(stocked: LocalAgent, plant: Plant) -> None:
    status = forget(plant, "rattle,whine")
    assert status["status"] == "successful", status
    assert stocked.live_release().card.forgotten == ("rattle", "whine")
    answers = plant.answers(plant.feed(WHINE, 10, seed=15) + plant.feed(WHINE - 1, 10, seed=16))
    assert {row["class"] for row in answers} <= {"hum", "squeal", "chirp"}


def test_a_killed_child_fails_the_command_and_the_old_model_names_the_class_again(
    stocked: LocalAgent, plant: Plant
) -> None:
    before = current(stocked)
    plant.raw("unlearn/whine", b"")
    child = wait_until(lambda: job_processes(stocked))[0]
    os.kill(child, signal.SIGKILL)
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["code"]) == ("failed", "E_CHILD")
    assert current(stocked) == before
    answers = plant.answers(plant.feed(WHINE, 10, seed=17))
    assert [row["class"] for row in answers].count("whine") >= 8
    assert job_files(stocked) == []
    assert forget(plant, id="second-try")["status"] == "successful"  # its windows are still cached


def test_a_job_that_takes_too_long_is_ended(start_agent: Start, plant: Plant) -> None:
    start_agent("[forget]\ntimeout_s = 0.5")
    stock(plant)
    status = forget(plant)
    assert (status["status"], status["code"]) == ("failed", "E_TIMEOUT")
    assert "0.5 s" in status["reason"]


def test_a_command_survives_a_killed_agent_and_runs_to_its_end(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b'{"id": "tough"}')
    child = wait_until(lambda: stocked.events("job.started"))[0]["pid"]
    stocked.kill()
    stocked.start()
    status = wait_until(plant.final, FORGET_S)
    assert (status["status"], status["id"]) == ("successful", "tough")
    assert [row["attempt"] for row in stocked.events("job.started")] == [1, 2]
    wait_until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))  # the orphan has ended too


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_an_edit_that_the_gate_refuses_leaves_all_as_it_was(
    tmp_path: Path, broker: LocalBroker, toy_release: Path, plant: Plant
) -> None:
    # Its windows are said to lie so close to their borders that any edit would cost some.
    narrow = ClassMargins(1.0, tuple(np.linspace(1e-6, 1e-4, len(LEVELS)).tolist()))
    release = toy.twin(toy_release, tmp_path / "narrow", margins=(narrow,) * len(toy.CLASSES))
    agent = toy_agent(tmp_path / "agent", broker.port, release)
    try:
        agent.ready()
        stock(plant)
        status = forget(plant)
        assert (status["status"], status["code"], status["release_after"]) == ("failed", "E_GATE", None)
        assert "of its windows would be answered otherwise" in status["reason"]
        rows = list(read_rows(agent.state_dir / "audit.jsonl"))
        assert [row["content"]["accepted"] for row in rows if row["event"] == "gate.judged"] == [False]
        assert [row["content"]["code"] for row in rows if row["event"] == "command.failed"] == ["E_GATE"]
        answers = plant.answers(plant.feed(WHINE, 10, seed=18))
        assert "whine" in {row["class"] for row in answers}
        assert {row["release"] for row in answers} == {read_release(release).digest}
        agent.stop()
        assert plant.expect("status", state="offline")["cached"]["whine"] == 74
        assert store_at(agent.state_dir).digests() == [read_release(release).digest]
        assert job_files(agent) == []
    finally:
        agent.kill()


def test_a_job_gives_way_to_serving_and_is_the_first_that_the_kernel_kills(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b"")
    pid = wait_until(lambda: stocked.events("job.started"))[0]["pid"]
    nice = [os.getpriority(os.PRIO_PROCESS, one) for one in (stocked.process.pid, pid)]
    assert nice[1] == min(19, nice[0] + Forget().nice)
    place = Path(f"/proc/{pid}")
    wait_until(lambda: (place / "oom_score_adj").read_text().strip() == OOM_SCORE)


def test_the_mask_holds_from_the_first_answer_after_a_restart(stocked: LocalAgent, plant: Plant) -> None:
    plant.raw("unlearn/whine", b"")
    plant.expect("unlearn/whine/status", status="accepted")
    stocked.kill()
    stocked.start()
    answers = plant.answers(plant.feed(WHINE, 10, seed=18))
    assert all(row["class"] != "whine" for row in answers)


def test_the_parent_is_kept_for_its_probation_and_a_rollback_brings_the_class_back(
    start_agent: Start, plant: Plant
) -> None:
    agent = start_agent("[forget]\nprobation_s = 600")
    stock(plant)
    parent = current(agent).name
    assert forget(plant)["status"] == "successful"
    assert (agent.state_dir / "releases" / parent).exists()
    (agent.state_dir / "wanted").symlink_to(f"releases/{parent}")
    undone = wait_until(lambda: plant.find("unlearn/whine/status", code="E_ROLLED_BACK"))
    assert undone[0]["status"] == "failed"
    wait_until(lambda: plant.find("unlearn/whine/certificate")[-1] is None)  # it would claim what is not so any more
    assert list((agent.state_dir / "certificates").iterdir()) == []
    answers = plant.answers(plant.feed(WHINE, 10, seed=19))
    assert [row["class"] for row in answers].count("whine") >= 8


def test_probation_ends_with_the_parent_destroyed(start_agent: Start, plant: Plant) -> None:
    agent = start_agent("[forget]\nprobation_s = 1")
    stock(plant)
    parent = current(agent)
    forget(plant)
    wait_until(lambda: not parent.exists())


def test_a_release_that_knows_an_erased_class_is_refused(stocked: LocalAgent, plant: Plant, toy_release: Path) -> None:
    forget(plant)
    store = store_at(stocked.state_dir)
    store.want(store.add(toy_release).digest)
    assert wait_until(lambda: stocked.events("release.refused"))[0]["code"] == "E_ERASED"
    assert plant.answers(plant.feed(WHINE, 1))[0]["class"] != "whine"
