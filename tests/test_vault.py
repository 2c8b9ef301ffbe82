"""Keys: each seals for itself, damage is seen, and what is destroyed cannot be opened by anybody."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.errors import KeyLost, Misconfigured, StorageFailed
from edge_agent.files import shred
from edge_agent.vault import MASTER, MASTER_COPY, OVERHEAD_BYTES, Cipher, Vault, given_master_file, read_master

CONTENT = b"what a class looks like" * 100


def _given(folder: Path, text: str = "ab" * 32 + "\n", mode: int = 0o600) -> Path:
    path = folder / "given.key"
    path.write_text(text)
    path.chmod(mode)
    return path


@given(st.binary(max_size=300), st.text(max_size=20))
def test_what_is_sealed_is_opened_with_its_key_and_name_alone(content: bytes, about: str) -> None:
    cipher, other = Cipher(b"k" * 32), Cipher(b"o" * 32)
    sealed = cipher.seal(content, about)
    assert len(sealed) == len(content) + OVERHEAD_BYTES
    assert cipher.open(sealed, about) == content
    assert sealed != cipher.seal(content, about)  # no nonce is used twice
    for opener, name in ((cipher, about + "x"), (other, about)):
        with pytest.raises(KeyLost, match="E_KEY"):
            opener.open(sealed, name)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_one_flipped_bit_is_seen(place: int, bit: int) -> None:
    cipher = Cipher(b"k" * 32)
    sealed = bytearray(cipher.seal(CONTENT, "windows"))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(KeyLost, match="windows is damaged"):
        cipher.open(bytes(sealed), "windows")


@given(st.integers(0, 60))
def test_what_was_cut_off_is_seen(length: int) -> None:
    cipher = Cipher(b"k" * 32)
    with pytest.raises(KeyLost):
        cipher.open(cipher.seal(b"c" * 40, "windows")[:length], "windows")


def test_a_key_is_found_again_by_another_start(tmp_path: Path) -> None:
    sealed = Vault(tmp_path).make("cache-1").seal(CONTENT, "x")
    assert Vault(tmp_path).find("cache-1").open(sealed, "x") == CONTENT


def test_a_destroyed_key_opens_nothing_and_a_new_one_under_its_name_is_another(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    sealed = vault.make("cache-1").seal(CONTENT, "x")
    vault.destroy("cache-1")
    vault.destroy("cache-1")
    with pytest.raises(KeyLost, match=r"E_KEY.*cache-1"):
        vault.find("cache-1")
    with pytest.raises(KeyLost):
        vault.make("cache-1").open(sealed, "x")


def test_a_wrapped_key_under_another_name_is_refused(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.make("one")
    (tmp_path / "keys" / "one.key").rename(tmp_path / "keys" / "two.key")
    with pytest.raises(KeyLost):
        vault.find("two")


def test_names_are_listed_by_their_beginning(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    for name in ("release-b", "release-a", "cache-a"):
        vault.make(name)
    assert vault.names("release-") == ["release-a", "release-b"]


def test_keys_are_for_their_owner_alone_and_never_lie_there_bare(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.make("one")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for path in (tmp_path / MASTER, tmp_path / MASTER_COPY, tmp_path / "keys" / "one.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [MASTER, MASTER_COPY])
@pytest.mark.parametrize("damage", [b"", b"00" * 32 + b" 00000000\n", b"\xff" * 73])
def test_a_damaged_copy_of_the_master_key_is_mended_from_the_other(tmp_path: Path, name: str, damage: bytes) -> None:
    sealed = Vault(tmp_path).make("one").seal(CONTENT, "x")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage)
    assert Vault(tmp_path).find("one").open(sealed, "x") == CONTENT
    assert (tmp_path / name).read_bytes() == whole


def test_a_lost_copy_of_the_master_key_is_written_again(tmp_path: Path) -> None:
    Vault(tmp_path)
    (tmp_path / MASTER).unlink()
    Vault(tmp_path)
    assert (tmp_path / MASTER).read_bytes() == (tmp_path / MASTER_COPY).read_bytes()


def test_a_master_key_that_is_lost_altogether_is_not_quietly_replaced(tmp_path: Path) -> None:
    Vault(tmp_path)
    for name in (MASTER, MASTER_COPY):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(Misconfigured, match="E_KEY: both copies of the master key are damaged"):
        Vault(tmp_path)


def test_keys_that_another_master_key_wraps_get_no_new_one(tmp_path: Path) -> None:
    """A tool beside a service whose key is systemd's would have made one, which opens nothing."""
    Vault(tmp_path, bytes(32)).make("one")
    with pytest.raises(Misconfigured, match=r"E_KEY: the keys in .* need a master key that is kept elsewhere"):
        Vault(tmp_path)
    assert not (tmp_path / MASTER).exists()


def test_a_given_master_key_is_used_and_none_is_made(tmp_path: Path) -> None:
    state, given = tmp_path / "state", _given(tmp_path)
    sealed = Vault(state, read_master(given)).make("one").seal(CONTENT, "x")
    assert [path.name for path in state.iterdir()] == ["keys"]
    assert Vault(state, read_master(given)).find("one").open(sealed, "x") == CONTENT
    _given(tmp_path, "cd" * 32)
    with pytest.raises(KeyLost):
        Vault(state, read_master(given)).find("one")


@pytest.mark.parametrize("text", ["", "ab" * 31, "not hexadecimal", "ab" * 33])
def test_a_given_file_without_a_key_is_refused_with_the_way_to_make_one(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match=r"E_KEY.*given\.key is not 64 hex digits \(openssl rand -hex 32\)"):
        read_master(_given(tmp_path, text))


def test_a_given_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"open to others \(mode 0644\), expected 0600"):
        read_master(_given(tmp_path, mode=0o644))


def test_a_given_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"nowhere cannot be read: No such file"):
        read_master(tmp_path / "nowhere")


def test_the_credential_of_systemd_is_used_unless_a_file_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert given_master_file(None) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert given_master_file(None) is None
    (tmp_path / "edge-agent-master-key").write_text("ab" * 32)
    assert given_master_file(None) == tmp_path / "edge-agent-master-key"
    assert given_master_file(tmp_path / "mine") == tmp_path / "mine"


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match="E_STORAGE: the keys cannot be stored"):
        Vault(tmp_path / "file")


def test_shredding_overwrites_the_same_blocks_before_the_file_is_gone(tmp_path: Path) -> None:
    path, name = tmp_path / "one", tmp_path / "two"
    path.write_bytes(CONTENT)
    name.hardlink_to(path)  # the same blocks under another name, as a forensic tool sees them
    shred(path)
    shred(path)
    assert not path.exists()
    left = name.read_bytes()
    assert len(left) == len(CONTENT)
    assert CONTENT[:23] not in left


def test_another_master_key_is_refused_before_it_can_do_harm(tmp_path: Path) -> None:
    # A gateway that was started with a new master key took every key for damaged: its identity and its cache were made
    # anew, and the right key, brought back, found nothing of before.
    right, wrong = bytes(32), bytes([1] * 32)
    vault = Vault(tmp_path, right)
    secrets = {name: vault.make_secret(name) for name in ("identity", "cache-1", "release-ab")}
    with pytest.raises(Misconfigured, match="opens none of the 3 keys"):
        Vault(tmp_path, wrong)
    assert {name: Vault(tmp_path, right).secret(name) for name in secrets} == secrets


def test_one_damaged_key_does_not_pass_for_a_wrong_master_key(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    for name in "identity", "cache-1":
        vault.make_secret(name)
    (tmp_path / "keys" / "cache-1.key").write_bytes(b"damaged")
    assert len(Vault(tmp_path).secret("identity")) == 32
