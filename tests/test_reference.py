"""What is written for people is what the code does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli import main
from edge_agent.config import read_config
from edge_agent.core.errors import CODES
from edge_agent.logs import EVENTS
from edge_agent.schemas.messages import COUNTERS
from edge_agent.schemas.topics import Topics
from tests import manual, reference

PACKAGE = reference.ROOT / "edge_agent"


def source() -> str:
    return "\n".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name not in ("errors.py", "logs.py"))


def test_the_tables_of_the_readme_are_those_of_the_code() -> None:
    readme = reference.README.read_text()
    assert readme == reference.with_tables(readme), "run make readme"


def test_the_example_configuration_has_every_key_with_its_default(tmp_path: Path) -> None:
    assert reference.EXAMPLE.read_text() == reference.example(), "run make readme"
    bare = tmp_path / "bare.toml"
    bare.write_text('[gateway]\nname = "press-7"\n')
    assert read_config(reference.EXAMPLE) == read_config(bare)


def test_the_key_of_somebody_who_may_sign_is_added_to_the_example_by_one_line(tmp_path: Path) -> None:
    """The file said ``keys = {}``, below which TOML takes no ``keys.anna``: whoever followed the runbook had none."""
    (tmp_path / "agent.toml").write_text(reference.EXAMPLE.read_text().replace("# keys.NAME", "keys.anna"))
    read = read_config(tmp_path / "agent.toml")
    assert {*read.commands.keys} == {*read.releases.keys} == {"anna"}


def test_the_manual_and_the_completions_are_those_of_the_command_line() -> None:
    for path, content in manual.files().items():
        assert path.read_text() == content, f"{path}: run make readme"


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_the_manual_is_set_without_a_warning_and_names_every_command() -> None:
    command = ["man", "--warnings", "--local-file", str(manual.DEPLOY / "man" / "edge-agent.1")]
    page = subprocess.run(command, env={**os.environ, "MANWIDTH": "100"}, capture_output=True, text=True, check=True)
    assert page.stderr == ""
    for name in main.commands:
        assert f"edge-agent {name}" in page.stdout


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    launcher = tmp_path / "edge-agent"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m edge_agent "$@"\n')
    launcher.chmod(0o755)
    script = f"""
        source {manual.DEPLOY / "completions" / "edge-agent.bash"}
        complete_it() {{
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _edge_agent_completion edge-agent
            echo "${{COMPREPLY[@]}}"
        }}
        complete_it edge-agent unl
        complete_it edge-agent releases in
        complete_it edge-agent unlearn --wa
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = subprocess.run(["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["unlearn", "install", "--wait"]


def test_every_error_code_is_used_and_every_code_used_is_known() -> None:
    assert set(re.findall(r'"(E_[A-Z_]+)"', source())) == set(CODES)


def test_every_log_event_is_listed_and_every_listed_one_is_written() -> None:
    written = set(re.findall(r'log\.(?:debug|info|warning|error|exception)\(\s*"([^"]+)"', source()))
    written |= set(re.findall(r'failed\("[a-z_]+", "([^"]+)"', source()))
    assert written == set(EVENTS)
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+(ed|ost)", event) for event in written)


def test_every_counter_is_listed_and_every_listed_one_counts() -> None:
    found = set(re.findall(r'counters\[f?"([a-z_]+(?:\{[^}]+\})?)"\]', source()))
    found |= set(re.findall(r'failed\("([a-z_]+)"', source()))
    names = {re.sub(r"\{error.code\}", "<code>", name) for name in found}
    names = {one for name in names for one in (("windows_gap", "windows_repeat") if "{flag}" in name else (name,))}
    assert names == set(COUNTERS)


def test_every_topic_stands_in_the_readme() -> None:
    topics, readme = Topics("{base}"), reference.README.read_text()
    shown = [topics.diagnosis("<asset>"), topics.unlearn("<class>"), topics.unlearn_status("<class>")]
    shown += [
        topics.certificate("<class>"),
        topics.status,
        topics.release,
        topics.refused,
        "{base}/windows/<asset>",
        "{base}/labels/<asset>",
    ]
    assert [topic for topic in shown if f"`{topic}`" not in readme] == []


def test_every_decision_stands_in_its_index() -> None:
    folder = reference.ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    pages: list[Path] = sorted(folder.glob("[0-9]*.md"))
    assert sorted(set(re.findall(r"\((\d{4}-[^)]+\.md)\)", index))) == [page.name for page in pages]
