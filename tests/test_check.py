"""``check`` and ``diag`` where something is wrong: each finding stands beside all the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent.adapters.workplace import SHARED_MEMORY
from edge_agent.cli import main
from edge_agent.commands import orphans as orphans_module
from edge_agent.commands.check import check
from edge_agent.commands.client import connected
from edge_agent.commands.diag import diagnose
from edge_agent.core.errors import Unreachable
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.settings import MODELS
from edge_agent.signing import Signer
from tests.disk_kit import once
from tests.offline import config_of, ended, quiet, started
from tests.scripts import ROOT

NOBODY = 65534
NO_BROKER = "[http]\nport = 0\n[mqtt]\nport = 1\n"


def newer_journal(state_dir: Path) -> None:
    """As a later version has written it, from which the gateway was put back."""
    state = {"id": "a", "classes": ["whine"], "digest": "d", "status": "failed", "phase": "done", "later": 1}
    body = json.dumps(state).encode()
    (state_dir / "journal.jsonl").write_bytes(b"%08x %s\n" % (zlib.crc32(body), body))


@pytest.mark.parametrize("host", ["", "press..plant", "a" * 70])
def test_a_host_name_that_is_none_is_told(host: str) -> None:
    with pytest.raises(Unreachable, match="E_BROKER"), connected(BrokerAddress(host, 1883, "x")):
        pass


@pytest.mark.usefixtures(quiet.__name__)
def test_a_journal_of_a_later_version_hides_no_other_finding(tmp_path: Path, toy_release: Path) -> None:
    ended(started(config_of(tmp_path, toy_release, NO_BROKER)))
    newer_journal(tmp_path / "state")
    found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}
    assert not found["source"].passed
    assert not found["broker"].passed


@pytest.mark.usefixtures(quiet.__name__)
def test_a_disk_that_cannot_list_the_models_hides_no_other_finding(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after it was missing, the broker among it."""
    ended(started(config_of(tmp_path, toy_release, NO_BROKER)))
    once(monkeypatch, orphans_module, "listed", lambda folder: folder.name == MODELS)
    found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}
    assert "cannot be listed" in found["models"].words
    assert not found["broker"].passed


@pytest.mark.usefixtures(quiet.__name__)
@pytest.mark.parametrize("damage", ["journal of a later version", "card that is a list"])
def test_a_part_that_cannot_be_had_says_so_in_the_archive(tmp_path: Path, toy_release: Path, damage: str) -> None:
    """The archive ended there, half written."""
    ended(started(config_of(tmp_path, toy_release, NO_BROKER)))
    if damage.startswith("journal"):
        newer_journal(tmp_path / "state")
    else:
        (card,) = (tmp_path / "state" / "releases").glob("*/card.json")
        card.write_bytes(b"[]")
    (tmp_path / "log").write_text("x\n")
    names = diagnose(tmp_path / "agent.toml", tmp_path / "diag.tar.gz", tmp_path / "log")
    with tarfile.open(tmp_path / "diag.tar.gz") as archive:
        assert len(archive.getnames()) == len(names)
        part = archive.extractfile(f"edge-agent-diag/{'journal' if damage.startswith('journal') else 'cards'}.json")
        assert part is not None
        assert "not_to_be_had" in json.loads(part.read())


@pytest.mark.usefixtures(quiet.__name__)
def test_a_key_that_the_agent_would_miss_at_its_start_is_found(tmp_path: Path, toy_release: Path) -> None:
    more = f'{NO_BROKER}[commands]\nsigned = true\n[commands.keys]\nanna = "anna.pub.pem"\n'
    config_of(tmp_path, toy_release, more)
    found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}
    assert (found["keys"].passed, "anna.pub.pem" in found["keys"].words) == (False, True)
    (tmp_path / "anna.pub.pem").write_text(Signer.of_seed(bytes(32)).public.pem)
    (tmp_path / "anna.pub.pem").chmod(0o666)
    findings = list(check(tmp_path / "agent.toml"))
    assert next(finding for finding in findings if finding.subject == "keys").passed
    assert any("others may write" in finding.words for finding in findings)


@pytest.mark.usefixtures(quiet.__name__)
@pytest.mark.parametrize("words", [("certificate", "key"), ("releases", "list"), ("releases", "verify")])
def test_a_tool_that_only_looks_makes_no_gateway_where_there_is_none(
    tmp_path: Path, toy_release: Path, words: tuple[str, ...]
) -> None:
    """With a mistyped state_dir it printed a key that it had made that moment, to be pinned from then on."""
    config_of(tmp_path, toy_release)
    run = CliRunner().invoke(main, [*words, "--config", str(tmp_path / "agent.toml")])
    assert (run.exit_code, "holds no gateway's state" in run.output) == (78, True)
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.usefixtures(quiet.__name__)
def test_a_cache_too_small_for_this_release_and_a_time_that_was_wrong_are_found(
    tmp_path: Path, toy_release: Path
) -> None:
    config_of(tmp_path, toy_release, f"{NO_BROKER}[cache]\nmax_bytes = 1048576\n[forget]\nmin_windows = 500\n")
    (tmp_path / "state" / "clock").write_text("2099-01-01T00:00:00+00:00")
    found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}
    assert "min_windows is 500: none can be forgotten" in found["cache"].words
    assert "a synchronised clock said 2099-01-01 00:00 before" in found["clock"].words


@pytest.mark.usefixtures(quiet.__name__)
def test_a_place_for_jobs_that_is_not_in_memory_is_found(tmp_path: Path, toy_release: Path) -> None:
    """Jobs went to the state directory without a word, and bare windows onto flash."""
    for place, passed, words in ((tmp_path / "none", False, "is not there"), (SHARED_MEMORY, True, "is in memory")):
        config_of(tmp_path, toy_release, f'{NO_BROKER}[forget]\nwork_dir = "{place}"\n')
        found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}["work_dir"]
        assert (found.passed, found.words) == (passed, f"{place} {words}")
    config_of(tmp_path, toy_release, f'{NO_BROKER}[forget]\nwork_dir = "/proc"\n')
    found = {finding.subject: finding for finding in check(tmp_path / "agent.toml")}["work_dir"]
    assert (found.passed, found.words.startswith("/proc is on proc, not in memory")) == (False, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can go on as nobody")
def test_who_may_not_look_is_told_so(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("0" * 64)
    config = f'[gateway]\nname = "x"\nstate_dir = "state"\nmaster_key_file = "{secret}/key"\n'
    (tmp_path / "agent.toml").write_text(config)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    script = f"""
import os
from pathlib import Path
from edge_agent.commands import orphans as orphans_module
from edge_agent.commands.check import check
os.setgid({NOBODY}); os.setuid({NOBODY})
found = [finding for finding in check(Path({str(tmp_path / "agent.toml")!r})) if not finding.passed]
assert any("Permission denied" in finding.words for finding in found), found
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
