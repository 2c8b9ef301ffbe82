"""Files of equal slots, each sealed, under one key per file that can be destroyed or replaced.

    <name>.<generation>.slots   slot after slot: a sealed header, a sealed body
    <name>.lent                 JSON: the names of files that contents of this one were moved to

Both parts of a slot are sealed for their place, so that no slot passes for another. A slot that does not open is empty:
a torn write loses one, a file cut short its tail. A disk that does not write in place may keep what a slot held before;
it opens with the file's key alone. ``rekey`` therefore copies a file under a new key and destroys the old one.
"""

from __future__ import annotations

import copy
import errno
import json
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.core.errors import KeyLost
from edge_agent.files import listed, read_if_there, remove, sync_folder, write_atomically
from edge_agent.vault import OVERHEAD_BYTES, Cipher, Vault

SUFFIX: Final = ".slots"
LENT: Final = ".lent"
KEY: Final = "cache-"  # before the names of keys in the vault


class SlotFile:
    """One file of at most ``most`` slots.

    Attributes:
        count: slots that the file has room for so far.
        given_up: whether there was a file whose key is lost, so that a new one was begun.

    Raises:
        OSError: it cannot be opened or made.
        StorageFailed: its key cannot be made or destroyed.
    """

    def __init__(self, folder: Path, name: str, vault: Vault, header_bytes: int, body_bytes: int, most: int) -> None:
        self._folder, self._name, self._vault = folder, name, vault
        self._header_bytes = header_bytes + OVERHEAD_BYTES
        self.slot_bytes = slot_bytes(header_bytes, body_bytes)
        self._generation, self._cipher, self.given_up = self._settle()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # What lies beyond the last whole slot was torn, or is more than is allowed now.
        try:
            self.count = min(os.fstat(self._descriptor).st_size // self.slot_bytes, most)
            os.ftruncate(self._descriptor, self.count * self.slot_bytes)
            self._lent = _read_lent(folder / (name + LENT))
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._name}.{self._generation}{SUFFIX}"

    def _settle(self) -> tuple[int, Cipher, bool]:
        """The newest generation that opens; older ones, left by a crash in ``rekey``, are destroyed."""
        found = sorted(self._files(), reverse=True)
        for generation in found:
            try:
                cipher = self._vault.find(self._key(generation))
            except KeyLost:
                continue
            self._destroy_all_but(generation)
            return generation, cipher, False
        self._destroy_all_but(None)
        return 1, self._vault.make(self._key(1)), bool(found)

    def header(self, slot: int) -> bytes | None:
        """The header of a slot, or None if the slot is empty."""
        return self._open(slot, "header", slot * self.slot_bytes, self._header_bytes)

    def body(self, slot: int) -> bytes | None:
        """The body of a slot, or None if the slot is empty."""
        start = slot * self.slot_bytes + self._header_bytes
        return self._open(slot, "body", start, self.slot_bytes - self._header_bytes)

    def duplicate(self) -> SlotFile:
        """Another handle on what lies there now, for another thread to read: it outlives ``rekey`` and ``close``.

        Raises:
            OSError: there are no more descriptors.
        """
        other = copy.copy(self)
        other._descriptor = os.dup(self._descriptor)  # noqa: SLF001  of the same class
        return other

    def page_bytes(self, slot: int) -> int:
        """What a write of this slot sends to the disk: the kernel writes whole pages."""
        first = slot * self.slot_bytes // mmap.PAGESIZE
        last = ((slot + 1) * self.slot_bytes - 1) // mmap.PAGESIZE
        return (last - first + 1) * mmap.PAGESIZE

    def write(self, slot: int, header: bytes, body: bytes) -> None:
        """Fill a slot.

        Raises:
            OSError: the slot is as before, or empty.
        """
        parts = ((header, "header"), (body, "body"))
        content = b"".join(self._cipher.seal(part, self._about(slot, kind)) for part, kind in parts)
        if os.pwrite(self._descriptor, content, slot * self.slot_bytes) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self.count = max(self.count, slot + 1)

    def clear(self, slot: int) -> None:
        """Overwrite a slot."""
        os.pwrite(self._descriptor, bytes(self.slot_bytes), slot * self.slot_bytes)

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        os.fdatasync(self._descriptor)

    def lend(self, name: str) -> None:
        """Remember, durably, that a content of this file is about to be moved to another one."""
        if self._lent is not None and name not in self._lent:
            write_atomically(self._folder / (self._name + LENT), json.dumps(sorted({*self._lent, name})).encode())
            self._lent |= {name}

    def has_lent(self, name: str) -> bool:
        """Whether contents of this file were moved to that one, or may have been: the list of them may be damaged."""
        return self._lent is None or name in self._lent

    def rekey(self) -> None:
        """Copy all slots under a new key, then destroy the old one and what it sealed.

        Raises:
            OSError: the old key, or a file that it sealed, may be left; done again, it does what is left to do.
            StorageFailed: the same.
        """
        fresh = max(self._generations()) + 1
        beside = self._folder / f".{self._name}.new"
        beside.unlink(missing_ok=True)  # it may be what fills the disk
        cipher = self._vault.make(self._key(fresh))
        try:
            self._copy(beside, cipher)
        except OSError:
            beside.unlink(missing_ok=True)
            self._vault.destroy(self._key(fresh))
            raise
        path = self._path.with_name(f"{self._name}.{fresh}{SUFFIX}")
        beside.rename(path)
        sync_folder(self._folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.close(self._descriptor)
        self._descriptor, self._generation, self._cipher = descriptor, fresh, cipher
        self._destroy_all_but(fresh)
        remove(self._folder / (self._name + LENT))
        self._lent = frozenset()

    def _copy(self, path: Path, cipher: Cipher) -> None:
        """All slots, under another key; one that cannot be read is left empty."""
        with path.open("wb") as file:
            for slot in range(self.count):
                parts = [(self.header(slot), "header"), (self.body(slot), "body")]
                sealed = [cipher.seal(part, self._about(slot, kind)) for part, kind in parts if part is not None]
                file.write(b"".join(sealed) if len(sealed) == len(parts) else bytes(self.slot_bytes))
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self, slot: int, kind: str, start: int, size: int) -> bytes | None:
        with suppress(KeyLost, OSError):  # OSError: a sector that cannot be read
            return self._cipher.open(os.pread(self._descriptor, size, start), self._about(slot, kind))
        return None

    def _about(self, slot: int, kind: str) -> str:
        return f"{self._name}/{slot}/{kind}"

    @property
    def _key_of_all(self) -> str:
        return f"{KEY}{self._name}."

    def _key(self, generation: int) -> str:
        return f"{self._key_of_all}{generation}"

    def _generations(self) -> set[int]:
        """Those of which a key or a file is there."""
        return {_generation(name) for name in self._vault.names(self._key_of_all)} | self._files()

    def _files(self) -> set[int]:
        return {_generation(path.name) for path in listed(self._folder, f"{self._name}.", SUFFIX)}

    def _destroy_all_but(self, kept: int | None) -> None:
        for generation in self._generations() - {kept}:
            self._vault.destroy(self._key(generation))
            remove(self._folder / f"{self._name}.{generation}{SUFFIX}")


def _read_lent(path: Path) -> frozenset[str] | None:
    """The names in a list of files that contents were moved to; None where nobody can tell any more."""
    content = read_if_there(path)
    if content is None:
        return frozenset()
    try:
        return frozenset(map(str, json.loads(content)))
    except (ValueError, TypeError):
        return None


def slot_bytes(header_bytes: int, body_bytes: int) -> int:
    """What a slot takes on the disk."""
    return header_bytes + body_bytes + 2 * OVERHEAD_BYTES


def destroy(folder: Path, vault: Vault, start: str) -> None:
    """Destroy every file whose name starts so, keys first, open or not; done again, it does what is left to do.

    Raises:
        OSError: a file may be left, without a key.
        StorageFailed: a key may be left.
    """
    for key in vault.names(KEY + start):
        vault.destroy(key)
    for path in listed(folder, start):
        remove(path)


def sweep(folder: Path, vault: Vault, keep: frozenset[str]) -> int:
    """Destroy the files of all other names, keys first; returns how many there were.

    Raises:
        OSError: something may be left.
        StorageFailed: a key may be left.
    """
    for key in vault.names(KEY):
        if key.removeprefix(KEY).partition(".")[0] not in keep:
            vault.destroy(key)
    strays = [path for path in folder.iterdir() if path.name.partition(".")[0] not in keep]
    for path in strays:
        remove(path)
    return sum(path.suffix == SUFFIX for path in strays)


def _generation(name: str) -> int:
    number = name.removesuffix(SUFFIX).rpartition(".")[2]
    return int(number) if number.isdecimal() else 0
