"""Files that survive a power cut: write beside, fsync, rename, fsync the folder.

And a disk that fails to read is never taken for an empty one. pathlib does that, more of it with each Python: ``glob``
of a folder that cannot be read finds nothing from 3.12 on, and what cannot be looked at does not exist from 3.14 on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge_agent.core.errors import StorageFailed

CREDSTORE: Final = Path("/etc/credstore")  # where systemd's units, ours too, load credentials from
SHRED_BYTES: Final = 1 << 20  # of one write


@contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn an ``OSError`` into ``StorageFailed`` that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise StorageFailed("E_STORAGE", f"{what}: {error.strerror or error} ({error.filename or ''})") from error


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` by ``content``; after a crash it holds the old or the new bytes, whole.

    ``mode`` is that of the file, less the process's umask.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def credential(name: str, otherwise: Path | None = None) -> Path | None:
    """A secret that systemd hands to the service (``LoadCredential=``), or None.

    ``otherwise`` is the folder to look into for a process that is no such service.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY") or otherwise
    return Path(folder, name) if folder and os.access(Path(folder, name), os.R_OK) else None


def append_durably(descriptor: int, line: bytes) -> None:
    """Append to a file that is open for it, whole and synced; after an ``OSError`` it is as it was before."""
    end = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)  # a torn line would hide all later ones
        raise


def sync_folder(folder: Path) -> None:
    """Make renames and unlinks in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """What ``stat`` says of a path, of a link itself unless it is followed; None if nothing is there.

    Raises:
        OSError: nobody can tell.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.stat(follow_symlinks=follow)
    return None


def is_folder(path: Path, *, follow: bool = True) -> bool:
    """Whether a folder is there; ``OSError`` if nobody can tell."""
    found = status(path, follow=follow)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: Path, *, follow: bool = True) -> bool:
    """Whether a plain file is there; ``OSError`` if nobody can tell."""
    found = status(path, follow=follow)
    return found is not None and stat.S_ISREG(found.st_mode)


def read_if_there(path: Path) -> bytes | None:
    """The content of a file, None if there is none; ``OSError`` if it cannot be read."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


def listed(folder: Path, start: str = "", end: str = "") -> list[Path]:
    """What lies in a folder under names that begin and end so, in order; nothing if there is no such folder.

    Raises:
        OSError: it cannot be read.
    """
    with suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(end))
    return []


def below(folder: Path) -> Iterator[Path]:
    """All that lies below a folder, contents before the folders that they are in; links are not followed.

    Raises:
        OSError: something cannot be read.
    """
    for path in listed(folder):
        if is_folder(path, follow=False):
            yield from below(path)
        yield path


def sync_tree(folder: Path) -> None:
    """Make every file below ``folder``, and the folders, durable."""
    for path in below(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def remove(path: Path) -> None:
    """Unlink a file or a folder with all below it, durably; gone already is fine."""
    if is_folder(path, follow=False):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if is_folder(path.parent):
        sync_folder(path.parent)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is there under its name, durably, once the block has ended; not at all if that fails."""
    beside = folder.with_name(f".{folder.name}.new")
    remove(beside)  # of an attempt that was killed
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.replace(folder)
    finally:
        remove(beside)  # gone already if all went well; syncs the folder above either way


def shred(path: Path) -> None:
    """Overwrite a file in place, then unlink it, both durably; gone already is fine.

    What the overwriting is worth depends on the disk: flash and copy-on-write file systems write it elsewhere.
    """
    if status(path) is None:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        left = os.fstat(descriptor).st_size
        while left:
            left -= os.write(descriptor, os.urandom(min(left, SHRED_BYTES)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_folder(path.parent)


def size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    found = (status(path) for path in below(folder))
    return sum(each.st_size for each in found if each is not None and stat.S_ISREG(each.st_mode))
