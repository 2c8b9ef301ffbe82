"""Forgetting as a fact that a third party can check: certificate, audit log, tombstones, all of a real agent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters.audit import check, read_rows
from edge_agent.commands.local import LocalAgent
from edge_agent.signing import Signer, canonical
from tests.plant import Plant, store_at, wait_until
from tests.scripts import NEEDS_OPENSSL, edge_agent

Start = Callable[..., LocalAgent]
WHINE = toy.CLASSES.index("whine")
FORGET_S = 120.0


def forgotten(plant: Plant, payload: bytes = b"") -> dict[str, Any]:
    """Have 64 windows cached, and the class forgotten; its certificate."""
    plant.answers(plant.feed(WHINE, 64, seed=11))
    plant.raw("unlearn/whine", payload)
    return plant.expect("unlearn/whine/certificate", FORGET_S)


def events(agent: LocalAgent) -> list[str]:
    return [row["event"] for row in read_rows(agent.state_dir / "audit.jsonl")]


@pytest.fixture
def certified(start_agent: Start, plant: Plant, tmp_path: Path) -> tuple[LocalAgent, Path, Path]:
    """An agent that has forgotten a class; its certificate and its public key as files, taken from the broker."""
    agent = start_agent()
    document = forgotten(plant, b'{"id": "job-1", "reason": "bearing type withdrawn"}')
    (tmp_path / "certificate.json").write_bytes(canonical(document))
    (tmp_path / "key.pem").write_text(plant.expect("status", state="online")["public_key"])
    return agent, tmp_path / "certificate.json", tmp_path / "key.pem"


def test_a_certificate_says_what_was_done_and_is_checked_with_nothing_but_the_public_key(
    certified: tuple[LocalAgent, Path, Path], plant: Plant, toy_release: Path
) -> None:
    agent, path, key = certified
    status = plant.expect("unlearn/whine/status", status="successful")
    content = json.loads(path.read_bytes())["content"]
    assert content["command"]["classes"] == ["whine"]
    assert content["command"]["id"] == "job-1"
    assert content["releases"] == {"before": status["release_before"], "after": status["release_after"]}
    assert content["edit"]["windows"] == 64
    assert len(content["edit"]["windows_sha256"]) == 64
    assert content["edit"]["settings"]["scope"] == "last_stage"
    by_what = {one["what"]: one for one in content["destroyed"]}
    assert by_what["cached windows"]["windows"] == 64
    assert by_what["release"]["digest"] == status["release_before"]
    assert by_what["job folder"]["how"] == "removed from memory"
    # The folder in gateway.release still knows the class, and the certificate does not hide it.
    assert content["not_destroyed"][0]["path"] == str(toy_release.resolve())
    shown = edge_agent("certificate", "verify", path, "--key", key)
    assert shown.returncode == 0, shown.stderr
    assert "gateway toy forgot whine" in shown.stdout
    assert "not destroyed: release folder" in shown.stdout
    assert "not covered: copies of the state directory from before" in shown.stdout
    assert "master key: in the state directory, beside the keys that it wraps" in shown.stdout
    assert edge_agent("certificate", "key", "--config", agent.config).stdout == key.read_text()


def test_a_certificate_that_was_changed_or_signed_by_another_is_refused(
    certified: tuple[LocalAgent, Path, Path],
) -> None:
    _, path, key = certified
    document = path.read_bytes()
    path.write_bytes(document.replace(b'"windows":64', b'"windows":65', 1))
    changed = edge_agent("certificate", "verify", path, "--key", key)
    assert (changed.returncode, changed.stdout) == (1, "")
    assert "E_SIGNATURE" in changed.stderr
    path.write_bytes(document)
    key.write_text(Signer.of_seed(bytes(32)).public.pem)
    foreign = edge_agent("certificate", "verify", path, "--key", key)
    assert foreign.returncode == 1
    assert "was signed with key" in foreign.stderr


def test_the_audit_log_holds_the_life_of_a_command_and_the_certificate_its_head(
    certified: tuple[LocalAgent, Path, Path], tmp_path: Path
) -> None:
    agent, path, key = certified
    assert events(agent) == ["agent.started", "command.accepted", "gate.judged", "class.erased"]
    whole = ("audit", "verify", "--config", agent.config)
    assert edge_agent(*whole).stdout == "4 rows, none removed, changed or moved\n"
    held = edge_agent(*whole, "--certificate", path, "--key", key)
    assert held.returncode == 0, held.stderr
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(b"".join((agent.state_dir / "audit.jsonl").read_bytes().splitlines(keepends=True)[:3]))
    assert edge_agent("audit", "verify", copy).returncode == 0  # its end is cut off, which the chain alone cannot tell
    cut = edge_agent("audit", "verify", copy, "--certificate", path, "--key", key)
    assert cut.returncode == 1
    assert "E_CHAIN: the log ends at row 3" in cut.stderr


def test_the_certificate_is_there_again_after_the_broker_lost_it(
    certified: tuple[LocalAgent, Path, Path], plant: Plant
) -> None:
    agent, path, _ = certified
    plant.raw("unlearn/whine/certificate", b"", retain=True)
    plant.heard.clear()
    agent.stop()
    agent.start()
    again = wait_until(lambda: [one for one in plant.find("unlearn/whine/certificate") if one])
    assert canonical(again[0]) == path.read_bytes()


@pytest.mark.parametrize("lost", ["journal.jsonl", "audit.jsonl"])
def test_a_class_stays_forgotten_when_the_journal_or_the_audit_log_is_lost(
    certified: tuple[LocalAgent, Path, Path], plant: Plant, toy_release: Path, lost: str
) -> None:
    agent, _, _ = certified
    agent.stop()
    (agent.state_dir / lost).unlink()
    (agent.state_dir / "current").unlink()  # so that the live release's card does not say it either
    for digest in store_at(agent.state_dir).digests():
        store_at(agent.state_dir).remove(digest)
    agent.start()
    assert agent.process.wait(20) != 0
    assert "E_ERASED" in agent.log_path.read_text()


def test_a_parent_on_probation_is_named_by_the_certificate_until_it_is_destroyed(
    start_agent: Start, plant: Plant
) -> None:
    agent = start_agent("[forget]\nprobation_s = 3")
    first = forgotten(plant)["content"]
    assert first["not_destroyed"][0]["how"] == "kept sealed during a probation"
    assert "release" not in {one["what"] for one in first["destroyed"]}
    wait_until(lambda: len(plant.find("unlearn/whine/certificate")) > 1)
    second = plant.find("unlearn/whine/certificate")[-1]["content"]
    assert [one["what"] for one in second["destroyed"]] == ["cached windows", "job folder", "release"]
    assert [one["what"] for one in second["not_destroyed"]] == ["release folder"]
    assert events(agent)[-2:] == ["class.forgotten", "class.erased"]
    begun, over = list(read_rows(agent.state_dir / "audit.jsonl"))[-2:]
    # It was charged for the time before it began, at most five minutes, and ended at once.
    passed = datetime.fromisoformat(over["time"]["utc"]) - datetime.fromisoformat(begun["time"]["utc"])
    assert passed.total_seconds() >= 2
    assert store_at(agent.state_dir).digests() == [second["releases"]["after"]]


def test_time_in_which_the_agent_is_off_does_not_end_a_probation(start_agent: Start, plant: Plant) -> None:
    agent = start_agent("[forget]\nprobation_s = 600")
    forgotten(plant)
    agent.stop()
    rows = [json.loads(line[9:]) for line in (agent.state_dir / "journal.jsonl").read_text().splitlines()]
    assert 500 < rows[-1]["kept_s"] < 600
    agent.start()
    agent.ready(times=2)
    assert len(store_at(agent.state_dir).digests()) == 2


def test_refused_commands_are_written_down_and_a_flood_of_them_is_counted(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    for number in range(150):
        plant.raw(f"unlearn/unknown-{number}", b"")
    wait_until(lambda: len(plant.find("unlearn/unknown-149/status")) > 0)
    rows = [row for row in read_rows(agent.state_dir / "audit.jsonl") if row["event"] == "command.refused"]
    assert len(rows) == 60
    assert rows[0]["content"]["code"] == "E_CLASS"
    assert rows[0]["content"]["topic"] == "edge/toy/unlearn/unknown-0"
    agent.stop()
    with (agent.state_dir / "audit.jsonl").open("rb") as file:
        assert check(file) == 62
    assert list(read_rows(agent.state_dir / "audit.jsonl"))[-1]["content"] == {"count": 90}


def test_a_release_that_knows_an_erased_class_may_serve_with_it_masked(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent('[forget]\nknown_again = "mask"')
    forgotten(plant)
    asked = edge_agent("releases", "install", toy_release, "--config", agent.config)
    assert asked.returncode == 0, asked.stderr
    wait_until(lambda: [row for row in agent.events("release.adopted") if row["reason"] == "operator"])
    answers = plant.answers(plant.feed(WHINE, 10, seed=3))
    assert all("whine" not in dict(row["top"]) and row["masked"] == ["whine"] for row in answers)
    assert answers[0]["release"] == agent.live_release().digest
    agent.kill()
    agent.start()
    answers = plant.answers(plant.feed(WHINE, 10, seed=4))  # from the first answer on
    assert all("whine" not in dict(row["top"]) for row in answers)
    assert plant.status()["cached"]["whine"] == 0


def test_a_class_that_is_masked_in_a_later_release_gets_no_windows_of_the_next_class(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent('[forget]\nknown_again = "mask"')
    forgotten(plant)
    edge_agent("releases", "install", toy_release, "--config", agent.config)
    wait_until(lambda: [row for row in agent.events("release.adopted") if row["reason"] == "operator"])
    plant.answers(plant.feed(WHINE - 1, 64, seed=12))
    name = toy.CLASSES[WHINE - 1]
    plant.raw(f"unlearn/{name}", b"")
    document = plant.expect(f"unlearn/{name}/certificate", FORGET_S)
    assert "whine" not in document["content"]["edit"]["flipped_to"]


def test_a_revived_class_may_come_back_and_be_forgotten_again(
    start_agent: Start, plant: Plant, toy_release: Path
) -> None:
    agent = start_agent()
    forgotten(plant)
    unknown = edge_agent("releases", "revive", "hum", "--config", agent.config)
    assert "E_CLASS: class 'hum' is not forgotten here; forgotten: whine" in unknown.stderr
    assert edge_agent("releases", "install", toy_release, "--config", agent.config).returncode == 1
    assert edge_agent("releases", "revive", "whine", "--config", agent.config).returncode == 0
    wait_until(lambda: agent.events("class.revived"))
    assert edge_agent("releases", "install", toy_release, "--config", agent.config).returncode == 0
    wait_until(lambda: [row for row in agent.events("release.adopted") if row["reason"] == "operator"])
    answers = plant.answers(plant.feed(WHINE, 10, seed=3))
    assert [row["class"] for row in answers].count("whine") >= 8
    agent.kill()
    agent.start()
    plant.answers(plant.feed(WHINE, 64, seed=13))
    plant.raw("unlearn/whine", b"")
    plant.expect("unlearn/whine/status", FORGET_S, status="successful", id="anonymous/whine/2")
    assert events(agent)[-1] == "class.erased"
    assert edge_agent("releases", "install", toy_release, "--config", agent.config).returncode == 1


@NEEDS_OPENSSL
def test_where_signatures_are_demanded_only_a_signed_command_of_a_known_key_runs(
    start_agent: Start, plant: Plant, tmp_path: Path
) -> None:
    private, public = tmp_path / "operator.pem", tmp_path / "operator.pub"
    for command in (f"genpkey -algorithm ed25519 -out {private}", f"pkey -in {private} -pubout -out {public}"):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    agent = start_agent(f'[commands]\nsigned = true\nkeys = {{ operator = "{public}" }}')
    plant.answers(plant.feed(WHINE, 64, seed=11))
    ask = ("unlearn", "whine", "--config", agent.config)
    unsigned = edge_agent(*ask)
    assert (unsigned.returncode, "E_SIGNATURE" in unsigned.stdout) == (1, True)
    elsewhere = edge_agent(*ask, "--key", private, "--audience", "press-9")
    assert (elsewhere.returncode, "E_AUDIENCE" in elsewhere.stdout) == (1, True)
    late = edge_agent(*ask, "--key", private, "--valid", "-5")
    assert (late.returncode, "E_EXPIRED" in late.stdout) == (1, True)
    done = edge_agent(*ask, "--key", private, "--wait")
    assert done.returncode == 0, done.stderr
    assert events(agent).count("command.refused") == 3
    accepted = [row for row in read_rows(agent.state_dir / "audit.jsonl") if row["event"] == "command.accepted"]
    assert [row["content"]["key"] for row in accepted] == ["operator"]


def test_windows_of_the_class_are_not_cached_again_after_a_restart(
    certified: tuple[LocalAgent, Path, Path], plant: Plant
) -> None:
    agent, _, _ = certified
    agent.stop()
    agent.start()
    agent.ready(times=2)
    rows = toy.windows(WHINE, 5, np.random.default_rng(1))
    plant.answers([plant.send(row, "whine") for row in rows])
    agent.stop()
    assert plant.find("status", state="offline")[-1]["cached"]["whine"] == 0
