"""The release store: a release is there whole or not at all, and is what its digest says or is not used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent import files
from edge_agent.adapters import releases
from edge_agent.adapters.releases import SEALED, ReleaseStore, read_release, write_card
from edge_agent.core.errors import BrokenRelease, StorageFailed
from edge_agent.core.margins import ClassMargins
from edge_agent.files import remove, sha256, size_of, write_atomically
from edge_agent.schemas.card import CARD, DREAMS, MODEL, WEIGHTS, Card
from edge_agent.vault import Vault
from tests.plant import store_at
from tests.scripts import ROOT, run_script


def make_release(folder: Path, name: str = "press", size: int = 3000) -> Path:
    """A release folder of any bytes under a card that describes them; ``name`` decides its digest."""
    folder.mkdir(parents=True)
    for file in (MODEL, WEIGHTS, DREAMS):
        (folder / file).write_bytes(f"{name} {file}".encode() * (size // 20))
    card = Card(
        name=name,
        classes=("NC", "IF-1", "OF-1"),
        forgotten=(),
        channels=("x",),
        length=64,
        rate_hz=1000.0,
        unit="g",
        architecture="resnet18_1d",
        width=8,
        parent=None,
        channel_mean=(0.0,),
        channel_std=(1.0,),
        energy_floor=-1.0,
        margins=(ClassMargins(),) * 3,
        self_test=((0.0, 1.0, 2.0),) * 4,
        files={file: sha256(folder / file) for file in (MODEL, WEIGHTS, DREAMS)},
    )
    write_card(folder, card)
    return folder


def _code(use: Any, *arguments: object) -> str:
    with pytest.raises(BrokenRelease) as caught:
        use(*arguments)
    return caught.value.code


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_release(tmp_path / "source")


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return store_at(tmp_path / "state")


def test_an_added_release_is_found_by_its_digest_and_by_the_first_six_characters(
    store: ReleaseStore, source: Path
) -> None:
    added = store.add(source)
    assert added.folder == store.folder / added.digest
    assert store.digests() == [added.digest]
    assert store.get(added.digest) == store.get(added.digest[:6]) == added
    assert added.read(MODEL) == (source / MODEL).read_bytes()
    assert added.read(WEIGHTS) == (source / WEIGHTS).read_bytes()


def test_a_shorter_or_unknown_name_is_no_release(store: ReleaseStore, source: Path) -> None:
    digest = store.add(source).digest
    for name in ("", digest[:5], "0" * 64, digest + "0", "../source", "*"):
        assert _code(store.get, name) == "E_NO_RELEASE"


def test_adding_twice_is_harmless(store: ReleaseStore, source: Path) -> None:
    assert store.add(source) == store.add(source)
    assert len(store.digests()) == 1


def test_releases_are_listed_oldest_first(store: ReleaseStore, tmp_path: Path) -> None:
    digests = [store.add(make_release(tmp_path / name, name)).digest for name in "abc"]
    for age_s, digest in enumerate(digests):
        os.utime(store.folder / digest, (1000 - age_s, 1000 - age_s))
    assert store.digests() == digests[::-1]


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, DREAMS])
def test_a_tampered_file_is_found_out(store: ReleaseStore, source: Path, file: str) -> None:
    digest = store.add(source).digest
    for path in (store.folder / digest / (file + SEALED), source / file):
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    assert _code(store.get, digest) == "E_HASH"
    assert _code(store_at(source.parent / "other").add, source) == "E_HASH"


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, DREAMS])
def test_a_missing_file_is_found_out(source: Path, file: str) -> None:
    (source / file).unlink()
    assert _code(read_release, source) == "E_HASH"
    assert read_release(source, frozenset({file})).card.name == "press"


def test_a_symlink_or_folder_in_place_of_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (source / MODEL).rename(tmp_path / "elsewhere")
    (source / MODEL).symlink_to(tmp_path / "elsewhere")
    assert _code(read_release, source) == "E_HASH"
    (source / MODEL).unlink()
    (source / MODEL).mkdir()
    assert _code(read_release, source) == "E_HASH"


@pytest.mark.parametrize("content", [b"", b"{}", b"[[[", b"\xff"])
def test_a_malformed_card_is_refused(store: ReleaseStore, source: Path, content: bytes) -> None:
    (source / CARD).write_bytes(content)
    assert _code(store.add, source) == "E_CARD"
    assert store.digests() == []


def test_a_missing_card_and_a_missing_folder_are_told_apart(source: Path) -> None:
    (source / CARD).unlink()
    assert _code(read_release, source) == "E_CARD"
    assert _code(read_release, source / "nowhere") == "E_NO_RELEASE"
    assert _code(read_release, source / MODEL) == "E_NO_RELEASE"


def test_a_card_edited_in_the_store_no_longer_fits_the_folders_name(store: ReleaseStore, source: Path) -> None:
    digest = store.add(source).digest
    card = store.folder / digest / CARD
    card.write_bytes(card.read_bytes().replace(b'"IF-1"', b'"IF-9"'))
    assert _code(store.get, digest) == "E_HASH"


def test_a_card_can_be_had_of_a_release_whose_other_files_are_damaged_and_no_card_that_is_not_its_own(
    store: ReleaseStore, source: Path
) -> None:
    digest = store.add(source).digest
    (store.folder / digest / (WEIGHTS + SEALED)).write_bytes(b"damaged")
    assert _code(store.get, digest) == "E_HASH"
    assert store.card(digest) == read_release(source).card
    (store.folder / digest / CARD).write_bytes(read_release(source).card.to_bytes().replace(b"OF-1", b"OF-2"))
    assert _code(store.card, digest) == "E_HASH"
    assert _code(store.card, "0" * 64) == "E_CARD"


def test_only_what_the_card_names_is_stored_and_all_but_the_card_is_sealed(store: ReleaseStore, source: Path) -> None:
    (source / "notes.txt").write_text("not part of the release")
    added = store.add(source)
    names = [CARD, MODEL + SEALED, WEIGHTS + SEALED, DREAMS + SEALED]
    assert sorted(path.name for path in added.folder.iterdir()) == sorted(names)
    for name in (MODEL, WEIGHTS, DREAMS):
        plain = (source / name).read_bytes()
        assert plain[:64] not in (added.folder / (name + SEALED)).read_bytes()
        assert added.read(name) == plain


def test_a_sealed_file_opens_only_in_its_own_place(store: ReleaseStore, source: Path, tmp_path: Path) -> None:
    one, two = store.add(source), store.add(make_release(tmp_path / "other", "other"))
    assert one.digest != two.digest
    for target in (one.folder / (WEIGHTS + SEALED), two.folder / (MODEL + SEALED)):
        target.write_bytes((one.folder / (MODEL + SEALED)).read_bytes())
    assert _code(store.get, one.digest) == _code(store.get, two.digest) == "E_HASH"


def test_a_release_whose_key_was_destroyed_cannot_be_had_from_what_was_kept_of_its_files(
    store: ReleaseStore, source: Path, tmp_path: Path
) -> None:
    digest = store.add(source).digest
    shutil.copytree(store.folder / digest, tmp_path / "kept")
    store.remove(digest)
    shutil.copytree(tmp_path / "kept", store.folder / digest)
    assert _code(store.get, digest) == "E_KEY"
    store.add(source)
    shutil.rmtree(store.folder / digest)
    shutil.copytree(tmp_path / "kept", store.folder / digest)  # the new key is another one
    assert _code(store.get, digest) == "E_HASH"


def test_a_release_is_written_out_as_it_was(store: ReleaseStore, source: Path, tmp_path: Path) -> None:
    digest = store.add(source).digest
    assert store.export(digest[:8], tmp_path / "out").digest == digest
    for path in source.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0  # it knows what lies sealed in the store
    with pytest.raises(StorageFailed, match="out"):
        store.export(digest, tmp_path / "out")


def test_a_release_that_goes_while_a_tool_looks_is_no_failure_of_the_disk(
    store: ReleaseStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, then looked at for its age: between the two the agent had destroyed it."""
    digest, look = store.add(source).digest, files.status

    def late(path: Path, *, follow: bool = True) -> os.stat_result | None:
        found = look(path, follow=follow)
        if path.name == digest:
            remove(path)
        return found

    monkeypatch.setattr(releases, "status", late)
    assert store.digests() == [digest]
    assert store.digests() == []


def test_keys_of_releases_that_are_gone_are_swept(store: ReleaseStore, source: Path) -> None:
    digest = store.add(source).digest
    remove(store.folder / digest)
    assert Vault(store.state_dir).names("release-") == [f"release-{digest}"]
    store.sweep()
    assert Vault(store.state_dir).names("release-") == []


def test_what_a_crash_left_is_neither_listed_nor_in_the_way_and_is_swept(store: ReleaseStore, source: Path) -> None:
    digest = store.add(source).digest
    half, gone = store.folder / f".{digest}.new", store.folder / f".{'0' * 64}.gone"
    store.remove(digest)
    for folder in (half, gone):
        folder.mkdir()
        (folder / MODEL).write_bytes(b"half")
    assert store.digests() == []
    assert store.add(source).digest == digest
    assert not half.exists()
    half.mkdir()
    store.sweep()
    assert [path.name for path in store.folder.iterdir()] == [digest]
    assert store.get(digest).digest == digest


def test_a_removed_release_is_gone_and_removing_it_again_is_harmless(store: ReleaseStore, source: Path) -> None:
    digest = store.add(source).digest
    store.remove(digest)
    assert store.digests() == []
    assert list(store.folder.iterdir()) == []
    store.remove(digest)
    assert _code(store.get, digest) == "E_NO_RELEASE"


def test_current_and_wanted_are_symlinks_that_move_by_rename(store: ReleaseStore, tmp_path: Path) -> None:
    one, two = (store.add(make_release(tmp_path / name, name)).digest for name in "ab")
    assert store.current() is None
    assert store.wanted() is None
    store.set_current(one)
    inode = (store.state_dir / "current").lstat().st_ino
    (store.state_dir / ".current.new").symlink_to("left by a crash")
    store.set_current(two)
    assert (store.state_dir / "current").lstat().st_ino != inode
    assert store.current() == two
    assert (store.state_dir / "current").resolve() == store.folder / two
    store.want(one)
    assert (store.wanted(), store.current()) == (one, two)
    store.forget_wish()
    assert store.wanted() is None
    store.forget_wish()
    assert store_at(store.state_dir).current() == two
    assert sorted(path.name for path in store.state_dir.iterdir()) == [
        "current",
        "keys",
        "master.copy",
        "master.key",
        "releases",
        "releases.lock",
    ]


def test_current_never_points_nowhere_while_it_moves(store: ReleaseStore, tmp_path: Path) -> None:
    digests = [store.add(make_release(tmp_path / name, name)).digest for name in "ab"]
    store.set_current(digests[0])
    script = f"""
from pathlib import Path
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.vault import Vault
state_dir = Path({str(store.state_dir)!r})
store = ReleaseStore(state_dir, Vault(state_dir))
for turn in range(100):
    store.set_current({digests!r}[turn % 2])
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as mover:
        looks = 0
        while mover.poll() is None:
            assert (store.state_dir / "current" / CARD).exists()
            looks += 1
    assert mover.returncode == 0
    assert looks > 100


def test_a_full_disk_leaves_the_store_as_it_was(store: ReleaseStore, tmp_path: Path) -> None:
    old = store.add(make_release(tmp_path / "small", "small")).digest
    store.set_current(old)
    large = make_release(tmp_path / "large", "large", size=200_000)
    script = f"""
import resource
from pathlib import Path
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.core.errors import StorageFailed
from edge_agent.vault import Vault

state_dir = Path({str(store.state_dir)!r})
store = ReleaseStore(state_dir, Vault(state_dir))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.add(Path({str(large)!r}))
except StorageFailed as error:
    assert error.code == "E_STORAGE", error
else:
    raise SystemExit("a full disk went unnoticed")
"""
    run_script(script)
    assert (store.digests(), store.current()) == ([old], old)
    store.sweep()
    assert [path.name for path in store.folder.iterdir()] == [old]
    assert store.add(large).card.name == "large"


def test_a_state_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match="E_STORAGE"):
        store_at(tmp_path / "file")


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    (tmp_path / ".file.new").write_bytes(b"left by a crash")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert size_of(tmp_path) == 3


def test_removing_a_symlink_spares_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "file").exists()
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    remove(tmp_path / "nowhere" / "file")
    assert list(tmp_path.iterdir()) == []
