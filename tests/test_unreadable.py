"""What cannot be read is not taken for what is not there.

From Python 3.12 on ``Path.glob`` finds nothing in a folder that cannot be read: one failing sector under ``cache`` had
the key of a class destroyed with all its windows, and one under ``keys`` had a certificate say of a key that was there
that it was destroyed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edge_agent import files, slots
from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.journal import Journal, read_states
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.workplace import Workplace
from edge_agent.commands.orphans import known_in, orphans
from edge_agent.core.errors import StorageFailed
from edge_agent.slots import SlotFile
from edge_agent.vault import Vault
from tests.disk_kit import once
from tests.test_releases import make_release


def unreadable(monkeypatch: pytest.MonkeyPatch, path: Path, *calls: str) -> None:
    """Let calls of ``os`` fail for a path, as for a sector that cannot be read; without names, those that list it."""
    for name in calls or ("listdir", "scandir"):
        once(monkeypatch, os, name, lambda at=".", *_: str(at) == str(path), times=99)


def test_a_cache_whose_folder_cannot_be_read_keeps_its_keys_and_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, vault = tmp_path / "cache", Vault(tmp_path)
    cache.mkdir()
    file = SlotFile(cache, "hum", vault, 4, 16, 8)
    file.write(0, b"head", b"b" * 16)
    file.close()
    with monkeypatch.context() as sick:
        unreadable(sick, cache)
        with pytest.raises(OSError, match="Input/output error"):
            SlotFile(cache, "hum", vault, 4, 16, 8)
        with pytest.raises(OSError, match="Input/output error"):
            slots.sweep(cache, vault, frozenset({"hum"}))
    assert SlotFile(cache, "hum", vault, 4, 16, 8).header(0) == b"head"


def test_keys_that_cannot_be_listed_are_not_said_to_be_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    vault = Vault(tmp_path)
    vault.make(f"{slots.KEY}hum.1")
    store = ReleaseStore(tmp_path, vault)
    with monkeypatch.context() as sick:
        unreadable(sick, tmp_path / "keys")
        with pytest.raises(StorageFailed, match="the keys cannot be listed"):
            slots.destroy(tmp_path / "cache", vault, "hum")
        with pytest.raises(StorageFailed, match="the keys cannot be listed"):
            store.sweep()
    assert vault.names(slots.KEY) == ["cache-hum.1"]


def test_a_key_that_cannot_be_looked_at_is_not_taken_for_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(tmp_path)
    vault.make("cache-hum.1")
    with monkeypatch.context() as sick:
        unreadable(sick, tmp_path / "keys" / "cache-hum.1.key", "stat")
        with pytest.raises(StorageFailed, match=r"key cache-hum\.1 cannot be destroyed"):
            vault.destroy("cache-hum.1")
    assert vault.names("") == ["cache-hum.1"]


def test_keys_that_cannot_be_read_just_now_do_not_pass_for_those_of_another_master_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The agent ended with the exit code of a wrong configuration, after which systemd does not start it again.
    vault = Vault(tmp_path)
    for name in "identity", "cache-hum.1":
        vault.make(name)
    with monkeypatch.context() as sick:
        once(sick, Path, "read_bytes", lambda path: path.parent.name == "keys", times=99)
        with pytest.raises(StorageFailed, match="key identity cannot be read"):
            Vault(tmp_path, bytes(32))


def test_a_job_folder_that_cannot_be_read_is_not_said_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, folder = Workplace(tmp_path), tmp_path / "jobs" / "job"
    folder.mkdir(parents=True)
    (folder / "windows.safetensors").write_bytes(b"windows")
    for sick_one in folder.parent, folder:
        with monkeypatch.context() as sick:
            unreadable(sick, sick_one)
            with pytest.raises(StorageFailed):
                place.clear()
        assert (folder / "windows.safetensors").read_bytes() == b"windows"
    assert place.clear()
    assert not folder.exists()


def test_a_tree_that_cannot_be_read_is_not_said_to_be_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    assert [path.name for path in files.below(tmp_path)] == ["file", "deep", "link"]
    assert files.size_of(tmp_path) == 1
    unreadable(monkeypatch, tmp_path / "deep")
    with pytest.raises(OSError, match="Input/output error"):
        files.sync_tree(tmp_path)


def test_a_journal_that_cannot_be_looked_at_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"a line\n")
    with monkeypatch.context() as sick:
        unreadable(sick, path, "stat")
        Journal(path).close()
    assert (tmp_path / "journal.damaged").read_bytes() == b"a line"


def test_what_another_process_reads_of_a_sick_disk_is_an_error_of_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "journal.jsonl", "audit.jsonl":
        (tmp_path / name).mkdir()  # cannot be read as a file
    with pytest.raises(StorageFailed, match="the journal cannot be read"):
        read_states(tmp_path / "journal.jsonl")
    with pytest.raises(StorageFailed, match="the audit log cannot be read"):
        list(read_rows(tmp_path / "audit.jsonl"))
    (tmp_path / "models").mkdir()
    unreadable(monkeypatch, tmp_path / "models")
    with pytest.raises(StorageFailed, match="the models cannot be listed"):
        orphans(tmp_path, [])


def test_another_models_release_whose_card_cannot_be_read_is_taken_to_know_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A certificate left such a neighbour out, as if it knew nothing of what was forgotten.
    models = tmp_path / "models"
    (models / "pumps").mkdir(parents=True)
    ReleaseStore(models / "pumps", Vault(models / "pumps")).add(make_release(tmp_path / "source"))
    assert orphans(tmp_path, [], ["hum"]) == {"pumps": {"NC", "IF-1", "OF-1"}}
    (models / "pumps" / "releases" / "broken").mkdir()
    (models / "pumps" / "releases" / "broken" / "card.json").write_bytes(b"{")
    assert known_in(models / "pumps", ["cavitation"]) == {"NC", "IF-1", "OF-1", "cavitation"}
    (models / "pumps" / "releases" / "half").mkdir()
    assert orphans(tmp_path, ["pumps"], ["hum"]) == {}
    unreadable(monkeypatch, models / "pumps" / "releases")
    assert known_in(models / "pumps", ["cavitation"]) == {"cavitation"}


OF_THE_STATE = (
    *("vault", "slots", "erasure", "masks", "followed", "forgetting", "jobs", "commands/orphans"),
    *(f"adapters/{name}" for name in ("journal", "audit", "releases", "windows", "workplace")),
)


@pytest.mark.parametrize("module", OF_THE_STATE)
def test_what_reads_the_state_directory_does_not_ask_pathlib_whether_something_is_there(module: str) -> None:
    source = (Path(files.__file__).parent / f"{module}.py").read_text()
    asked = re.findall(r"\S+\.(?:r?glob|exists|is_dir|is_file|is_symlink)\(", source)
    assert [one for one in asked if not one.startswith(("pid).", "place.is_symlink("))] == []
