"""Keys. What may know a fault class lies on the disk only sealed, each thing under a key of its own.

    master.key, master.copy   wrap all other keys; two copies, so that one damaged sector does not lose everything
    keys/<name>.key           one key, wrapped

Sealing is AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits in front: 2^32 seals per key are safe, and no
key comes near that. Destroying a key erases what it sealed, wherever copies of that may lie. A key file is written
once and overwritten in place before it is unlinked; a disk that writes elsewhere (flash, copy on write) may keep the
wrapped key, so there the master key belongs outside the disk: ``gateway.master_key_file`` or a systemd credential.
"""

from __future__ import annotations

import os
import secrets
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_agent.core.errors import KeyLost, Misconfigured, StorageFailed
from edge_agent.files import credential, listed, read_if_there, shred, storage, write_atomically

NONCE_BYTES: Final = 12
OVERHEAD_BYTES: Final = NONCE_BYTES + 16  # of a seal: the nonce and the tag
KEY_BYTES: Final = 32
MASTER, MASTER_COPY, KEYS = "master.key", "master.copy", "keys"
KEY_SUFFIX: Final = ".key"
IDENTITY: Final = "identity"  # name of the key that certificates are signed with
CREDENTIAL: Final = "edge-agent-master-key"
OTHERS: Final = 0o077  # permission bits of everybody but the owner


class Cipher:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)

    def seal(self, content: bytes, about: str) -> bytes:
        """Encrypt; ``about`` says what it is, and must be the same when it is opened."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._key.encrypt(nonce, content, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """Decrypt.

        Raises:
            KeyLost: ``E_KEY``, it was damaged or sealed under another key or name.
        """
        try:
            return self._key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce and a tag
            raise KeyLost("E_KEY", f"{about} is damaged, or was sealed with another key") from error


class Vault:
    """The keys of one state directory, by name.

    Args:
        master: the key that wraps all others, if an operator keeps it; else the state directory has its own.

    Raises:
        Misconfigured: ``E_KEY``, the master key cannot be had, or opens none of the keys.
        StorageFailed: a new one cannot be stored, or the disk cannot read the keys now.
    """

    def __init__(self, state_dir: Path, master: bytes | None = None) -> None:
        self._folder = state_dir / KEYS
        with storage("the keys cannot be stored"):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._master = Cipher(master or _own(state_dir))
        self._refuse_another()

    def _refuse_another(self) -> None:
        """With the wrong master key every key would pass for damaged, and be replaced. One that is damaged is alone."""
        names, unread = self.names(""), None
        for name in names:
            try:
                self._bare(name)
            except KeyLost:
                continue
            except StorageFailed as error:
                unread = error
            else:
                return
        if unread is not None:
            raise unread
        if len(names) > 1:
            words = f"the master key opens none of the {len(names)} keys in {self._folder}, which another one made"
            raise Misconfigured("E_KEY", f"{words}: bring the one from before back from your copy")

    def make(self, name: str) -> Cipher:
        """A new key under a name; one that was there is destroyed.

        Raises:
            StorageFailed: there is no such key now.
        """
        return Cipher(self.make_secret(name))

    def make_secret(self, name: str) -> bytes:
        """The same, as 32 random bytes that serve something else than sealing."""
        self.destroy(name)
        key = secrets.token_bytes(KEY_BYTES)
        with storage(f"key {name} cannot be stored"):
            write_atomically(self._path(name), self._master.seal(key, name), mode=0o600)
        return key

    def find(self, name: str) -> Cipher:
        """The key under a name.

        Raises:
            KeyLost: ``E_KEY``, it was destroyed, is damaged, or was wrapped by another master key.
            StorageFailed: the disk cannot read it now; what it sealed is not lost for that.
        """
        return Cipher(self._bare(name))

    def secret(self, name: str) -> bytes:
        """The bare key under a name, made if there is none.

        Raises:
            KeyLost: ``E_KEY``, it is damaged, or was wrapped by another master key.
            StorageFailed: the disk cannot read it now, or cannot store a new one.
        """
        wrapped = self._wrapped(name)
        return self.make_secret(name) if wrapped is None else self._master.open(wrapped, name)

    def _bare(self, name: str) -> bytes:
        wrapped = self._wrapped(name)
        if wrapped is None:
            raise KeyLost("E_KEY", f"there is no key {name}")
        return self._master.open(wrapped, name)

    def _wrapped(self, name: str) -> bytes | None:
        with storage(f"key {name} cannot be read"):
            return read_if_there(self._path(name))

    def destroy(self, name: str) -> None:
        """Destroy a key, durably; gone already is fine.

        Raises:
            StorageFailed: it may be there still.
        """
        with storage(f"key {name} cannot be destroyed"):
            shred(self._path(name))

    def names(self, prefix: str) -> list[str]:
        """Names of the keys that begin so.

        Raises:
            StorageFailed: the disk cannot say.
        """
        with storage("the keys cannot be listed"):
            return [path.stem for path in listed(self._folder, prefix, KEY_SUFFIX)]

    def _path(self, name: str) -> Path:
        return self._folder / (name + KEY_SUFFIX)


def given_master_file(configured: Path | None) -> Path | None:
    """Where an operator keeps the master key: as configured, or systemd's credential; None: nowhere."""
    return configured or credential(CREDENTIAL)


def read_master(path: Path) -> bytes:
    """The master key in an operator's file.

    Raises:
        Misconfigured: ``E_KEY``, it cannot be read, is open to others, or holds no key.
    """
    # A credential is guarded by who hands it over; in Kubernetes the group of the pod reads it.
    guarded = path.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", os.devnull))
    try:
        if not guarded and path.stat().st_mode & OTHERS:
            mode = f"{path.stat().st_mode & 0o777:04o}"
            raise Misconfigured("E_KEY", f"master key {path} is open to others (mode {mode}), expected 0600 or less")
        key = _parse(path.read_bytes())
    except OSError as error:
        raise Misconfigured("E_KEY", f"master key {path} cannot be read: {error.strerror}") from error
    if key is None:
        raise Misconfigured("E_KEY", f"master key {path} is not 64 hex digits (openssl rand -hex 32)")
    return key


def _own(state_dir: Path) -> bytes:
    """The state directory's own master key, made when there is none; a damaged copy is mended from the other."""
    paths = state_dir / MASTER, state_dir / MASTER_COPY
    contents = [read_if_there(path) for path in paths]
    found = [key for key in (_parse(content or b"", checked=True) for content in contents) if key]
    if not found and any(content is not None for content in contents):
        raise Misconfigured("E_KEY", f"both copies of the master key are damaged: {paths[0]} and {paths[1]}")
    if not found and listed(state_dir / KEYS, end=KEY_SUFFIX):
        words = f"gateway.master_key_file, or systemd's credential {CREDENTIAL} (then run this as root)"
        raise Misconfigured(
            "E_KEY", f"the keys in {state_dir / KEYS} need a master key that is kept elsewhere: {words}"
        )
    key = found[0] if found else secrets.token_bytes(KEY_BYTES)
    text = f"{key.hex()} {zlib.crc32(key):08x}\n".encode()
    for path, content in zip(paths, contents, strict=True):
        if content != text:
            write_atomically(path, text, mode=0o600)
    return key


def _parse(content: bytes, *, checked: bool = False) -> bytes | None:
    """The key of a file: 64 hex digits, in our own followed by their CRC-32."""
    words = content.split()
    with suppress(ValueError, IndexError):
        key = bytes.fromhex(words[0].decode("ascii"))
        if len(key) == KEY_BYTES and (not checked or int(words[1], 16) == zlib.crc32(key)):
            return key
    return None
