"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks import toy
from edge_agent.adapters.releases import read_release
from edge_agent.cli import main
from edge_agent.commands.local import LocalAgent, LocalBroker, free_port
from edge_agent.commands.run import _only_agent
from edge_agent.core.errors import Misconfigured
from edge_agent.settings import Config
from tests.plant import Plant, store_at, wait_until
from tests.scripts import ROOT, edge_agent

Start = Callable[..., LocalAgent]


@pytest.fixture
def toy_npz(tmp_path: Path) -> Path:
    """The toy data set as a user's own archive, in five groups."""
    split = toy.dataset().train
    path = tmp_path / "mine.npz"
    groups = np.arange(len(split)) % 5
    np.savez(
        path,
        windows=split.windows,
        labels=split.labels,
        classes=np.array(toy.CLASSES),
        groups=groups,
        rate_hz=np.array(toy.RATE_HZ),
    )
    return path


def commands(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def test_every_command_has_help_with_an_example() -> None:
    found = dict(commands(main, "edge-agent"))
    assert len(found) > 20
    for words, command in found.items():
        assert re.search(rf"Examples?: (.*\n.*)?{words}", command.help or ""), words


def test_a_release_is_trained_from_an_npz_and_the_accuracy_is_that_of_other_groups(
    toy_npz: Path, tmp_path: Path
) -> None:
    out = tmp_path / "release"
    run = edge_agent(
        "train", "--data", toy_npz, "--out", out, "--width", 4, "--epochs", 2, "--threads", 1, timeout_s=300
    )
    assert run.returncode == 0, run.stderr
    assert "split by group" in run.stdout
    assert "test accuracy" in run.stdout
    card = read_release(out).card
    assert card.classes == toy.CLASSES
    assert card.metrics["test_accuracy"] >= 0
    again = edge_agent("train", "--data", toy_npz, "--out", out)
    assert (again.returncode, "is not empty" in again.stderr) == (78, True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("train", "--data", "cwru", "--out", "x"), "E_DATA"),
        (("train", "--data", "nowhere.npz", "--out", "x"), "E_DATA"),
        (("train", "--data", "nowhere.csv", "--out", "x"), "E_DATA"),
        (("run", "--config", "nowhere.toml"), "E_CONFIG"),
        (("releases", "list", "--config", "nowhere.toml"), "E_CONFIG"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line_and_exit_code_78(arguments: tuple[str, ...], code: str) -> None:
    run = edge_agent(*arguments)
    assert run.returncode == 78
    assert run.stderr.splitlines()[-1].startswith(f"error: {code}: ")
    assert "Traceback" not in run.stderr


def test_check_finds_nothing_wrong_where_all_is_well(start_agent: Start) -> None:
    agent = start_agent("[cache]\nmax_bytes = 16777216")
    run = edge_agent("check", "--config", agent.config)
    assert run.returncode == 0, run.stdout
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [
        ["ok", subject] for subject in ("config", "access", "state", "disk", "keys", "clock", "release", "broker")
    ]


def test_check_names_what_is_wrong_with_a_remedy(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[gateway]\nname = "x"\nstate_dir = "state"\nrelease = "none"\n[mqtt]\nport = {free_port()}\n')
    run = edge_agent("check", "--config", config)
    assert run.returncode == 1
    failed = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["release", "broker"]
    assert run.stdout.count("remedy: ") == 2
    assert edge_agent("check", "--config", tmp_path / "none.toml").returncode == 1


def test_check_says_what_others_may_read_and_how_long_certificates_hold(tmp_path: Path) -> None:
    for words in ("ca",), ("agent", "toy"):
        subprocess.run([ROOT / "deploy" / "pki.sh", tmp_path, *words], check=True)
    (tmp_path / "toy.key").chmod(0o644)
    files = 'ca_file = "ca.pem"\ncert_file = "toy.pem"\nkey_file = "toy.key"\n'
    config = tmp_path / "agent.toml"
    config.write_text(f'[gateway]\nname = "x"\nstate_dir = "state"\n[mqtt]\nport = {free_port()}\n{files}')
    said = edge_agent("check", "--config", config).stdout
    assert f"others may read or write {tmp_path / 'toy.key'} (mode 0644)" in said
    assert re.search(r"ok    tls      .*toy\.pem holds until 20\d\d-\d\d-\d\d, 82[45] days", said)
    subprocess.run([ROOT / "deploy" / "pki.sh", tmp_path, "agent", "toy"], check=True, env={**os.environ, "DAYS": "7"})
    assert re.search(
        r"FAIL  tls      .*toy\.pem holds until .*, [67] days\n +remedy: renew it",
        edge_agent("check", "--config", config).stdout,
    )
    (tmp_path / "toy.key").write_text("damaged")
    assert "toy.key cannot be used" in edge_agent("check", "--config", config).stdout


def test_the_schema_of_the_configuration_knows_every_key_and_takes_the_example() -> None:
    schema = json.loads(edge_agent("check", "--schema").stdout)
    for section, fields in Config.model_fields.items():
        assert section in schema["properties"]
        assert fields.annotation is not None
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Mqtt"]["properties"]["port"]["maximum"] == 65535


def test_diag_packs_what_a_helper_needs_and_nothing_that_is_secret(
    start_agent: Start, plant: Plant, tmp_path: Path
) -> None:
    agent = start_agent(http_port=free_port())
    plant.answers(plant.feed(2, 40))
    out = tmp_path / "diag.tar.gz"
    run = edge_agent("diag", "--config", agent.config, "--out", out, "--log", agent.log_path)
    assert run.returncode == 0, run.stderr
    with tarfile.open(out) as archive:
        members = {name: archive.extractfile(name) for name in archive.getnames()}
        contents = {Path(name).name: file.read() for name, file in members.items() if file is not None}
    assert set(contents) == {
        "about.json", "clock.json", "log.jsonl", "config.json", "cards.json", "journal.json", "audit.json", "disk.json",
        "metrics.txt", "findings.json",
    }  # fmt: skip
    assert json.loads(contents["about.json"])["packages"]["onnxruntime"]
    assert json.loads(contents["config.json"])["gateway"]["name"] == "toy"
    assert json.loads(contents["audit.json"])["rows"] >= 1
    assert b"agent.started" in contents["log.jsonl"]
    assert b"edge_agent_windows_total" in contents["metrics.txt"]
    assert all(finding["passed"] for finding in json.loads(contents["findings.json"]))
    assert "not_to_be_had" not in str(contents)
    assert edge_agent("diag", "--config", agent.config, "--out", out).returncode == 78
    # Also where nothing works.
    again = edge_agent(
        "diag", "--config", tmp_path / "none.toml", "--out", tmp_path / "more.tar.gz", "--log", agent.log_path
    )
    assert again.returncode == 0, again.stderr


def test_simulate_sends_windows_of_the_users_data_and_counts_the_answers(start_agent: Start, toy_npz: Path) -> None:
    agent = start_agent()
    run = edge_agent("simulate", "--source", toy_npz, "--rate", 200, "--count", 100, "--config", agent.config)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("sent 100, answered 100, right ")


def test_unlearn_waits_for_the_end_and_says_why_the_gate_let_it_pass(start_agent: Start, plant: Plant) -> None:
    agent = start_agent()
    plant.answers(plant.feed(2, 64, seed=11))
    run = edge_agent("unlearn", "whine", "--config", agent.config, "--wait")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "successful" in run.stdout
    assert "ok   whine is still answered for 0.0% of its cached windows, limit 0.0%" in run.stdout.replace("\n  ", "\n")
    again = edge_agent("unlearn", "whine", "--config", agent.config, "--wait")
    assert again.returncode == 1
    assert "rejected: E_ALREADY_FORGOTTEN" in again.stdout


def test_unlearn_says_so_when_nobody_answers(broker: LocalBroker) -> None:
    run = edge_agent("unlearn", "whine", "--port", free_port())
    assert (run.returncode, "error: E_BROKER: 127.0.0.1:" in run.stderr) == (1, True)
    run = edge_agent("unlearn", "whine", "--port", broker.port, "--wait", "--timeout", 1)
    assert run.returncode == 1
    assert "no agent answered on edge/gateway/unlearn/whine/status within 1 s" in run.stderr


def test_a_malformed_class_or_data_class_ends_with_one_line(broker: LocalBroker) -> None:
    run = edge_agent("unlearn", "IF+1", "--port", broker.port)
    assert (run.returncode, "E_CLASS" in run.stderr) == (1, True)
    run = edge_agent("simulate", "--class", "IF-9", "--port", broker.port)
    assert (run.returncode, "E_DATA: class 'IF-9' is not in the data" in run.stderr) == (78, True)


def test_releases_are_listed_shown_verified_installed_and_rolled_back(
    start_agent: Start, plant: Plant, toy_release: Path, tmp_path: Path
) -> None:
    agent = start_agent("[forget]\nprobation_s = 600")
    plant.answers(plant.feed(2, 64, seed=11))
    assert edge_agent("unlearn", "whine", "--config", agent.config, "--wait").returncode == 0
    first, second = read_release(toy_release).digest, store_at(agent.state_dir).current()
    assert second is not None
    listed = edge_agent("releases", "list", "--config", agent.config).stdout
    assert first[:12] in listed
    assert any(second[:12] in line and "live" in line and "whine" in line for line in listed.splitlines())
    assert '"whine"' in edge_agent("releases", "show", second[:8], "--config", agent.config).stdout
    assert edge_agent("releases", "verify", "--config", agent.config).returncode == 0
    assert edge_agent("releases", "rollback", "--config", agent.config).returncode == 0
    wait_until(lambda: store_at(agent.state_dir).current() == first)
    plant.expect("unlearn/whine/status", code="E_ROLLED_BACK")
    exported = edge_agent("releases", "export", second[:8], tmp_path / "second", "--config", agent.config)
    assert exported.returncode == 0, exported.stderr
    installed = edge_agent("releases", "install", tmp_path / "second", "--config", agent.config)
    assert installed.returncode == 0, installed.stderr
    wait_until(lambda: store_at(agent.state_dir).current() == second)
    removed = edge_agent("releases", "remove", first[:8], "--config", agent.config)
    assert removed.stdout == f"removed {first[:12]}\n", removed.stderr
    assert store_at(agent.state_dir).digests() == [second]


def test_a_rollback_across_an_erasure_is_refused(start_agent: Start, plant: Plant, toy_release: Path) -> None:
    agent = start_agent()
    plant.answers(plant.feed(2, 64, seed=11))
    assert edge_agent("unlearn", "whine", "--config", agent.config, "--wait").returncode == 0
    for arguments in (("rollback",), ("install", toy_release)):
        run = edge_agent("releases", *arguments, "--config", agent.config)
        assert (run.returncode, "E_ERASED" in run.stderr) == (1, True), arguments


def test_a_state_directory_has_one_agent_and_what_ends_that_is_not_said_to_be_another(tmp_path: Path) -> None:
    """Whatever would have blocked while it served read "in use by another agent"."""
    with _only_agent(tmp_path), pytest.raises(Misconfigured, match="in use by another agent"), _only_agent(tmp_path):
        pass
    with pytest.raises(BlockingIOError, match="of the agent's own"), _only_agent(tmp_path):
        raise BlockingIOError("of the agent's own")
