"""Where job folders lie: in memory where there is room, so that bare windows and weights never reach a disk.

In memory means a tmpfs: ``forget.work_dir``, else systemd's RuntimeDirectory, else /dev/shm. Without one, or without
room in it, a job works in the state directory, and its files are overwritten before they are unlinked. A place in
memory is written down in the state directory first: after a crash the configuration may name another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge_agent.files import below, is_file, is_folder, listed, read_if_there, remove, shred, storage, write_atomically

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  only a folder of our own in it is used, see _own
BARE: Final = "edge-agent-bare-"
SPARE_BYTES: Final = 16 << 20
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class Workplace:
    """The places of one state directory's jobs, best first."""

    def __init__(self, state_dir: Path, configured: Path | None = None) -> None:
        self._disk = state_dir / "jobs"
        self._used = state_dir / "workplaces"
        self._name = f"edge-agent-{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]}"
        self._roots = [configured] if configured else _usual_roots()

    def folder(self, name: str, needed_bytes: int) -> Path:
        """Where a job of this name and size goes; its parent is there.

        Raises:
            StorageFailed: not even in the state directory, or it cannot be written down.
        """
        for place in (root / self._name for root in self._roots):
            if file_system(place.parent) in IN_MEMORY and _own(place):
                if shutil.disk_usage(place).free >= needed_bytes + SPARE_BYTES:
                    self._write_down(place.parent)
                    return place / name
                remove(place)
        with storage("the folder for jobs cannot be made"):
            self._disk.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._disk / name

    def used_disk(self) -> bool:
        """Whether there are job folders that are not in memory."""
        with storage("the folder for jobs cannot be read"):
            return bool(listed(self._disk))

    def clear(self) -> bool:
        """Remove every job folder, those of earlier starts too; whether one lay on the disk.

        Raises:
            StorageFailed: something is left.
        """
        with storage("a job folder cannot be removed"):
            for path in below(self._disk):
                if is_file(path, follow=False):
                    shred(path)
            folders = listed(self._disk)
            for folder in folders:
                remove(folder)
            for root in {*self._roots, *_usual_roots(), *self._written_down()}:
                place = root / self._name
                if is_folder(place) and _own(place):
                    remove(place)
            remove(self._used)
            sweep_bare()
        return bool(folders)

    def _write_down(self, root: Path) -> None:
        with storage("the place for jobs cannot be written down"):
            known = self._written_down()
            if root not in known:
                write_atomically(self._used, b"\0".join(map(os.fsencode, sorted({*known, root}))))

    def _written_down(self) -> set[Path]:
        """Where jobs of earlier starts may have left something, also where the configuration says otherwise by now."""
        content = read_if_there(self._used) or b""
        return {Path(os.fsdecode(root)) for root in content.split(b"\0") if root}


@contextmanager
def bare_folder() -> Iterator[Path]:
    """A folder for what is not sealed yet, in memory if there is any, gone at the end; what a crash left goes first.

    Raises:
        StorageFailed: there is no room.
    """
    with storage("there is no place for a release that is not sealed yet"):
        sweep_bare()
        folder, held = _held_folder()
    try:
        yield folder
    finally:
        try:
            with storage(f"{folder} cannot be removed"):
                _destroy(folder)
        finally:
            os.close(held)  # what is left may be swept


def _held_folder() -> tuple[Path, int]:
    """A new folder, and its lock, by which others know that somebody works in it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=BARE, dir=_bare_root()))
        with suppress(FileNotFoundError):  # swept before it was locked
            held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_SH)
            if is_folder(folder):
                return folder, held
            os.close(held)


def sweep_bare() -> None:
    """Remove what processes that were killed have left of releases that were not sealed yet, wherever that may lie.

    Raises:
        OSError: some of it is left.
    """
    for root in {*_usual_roots(), Path(tempfile.gettempdir())}:
        for path in listed(root, BARE):
            with suppress(FileNotFoundError):  # somebody else sweeps as well
                if path.lstat().st_uid == os.geteuid():
                    _sweep(path)


def _sweep(folder: Path) -> None:
    """Destroy a folder that nobody holds. /proc would not tell: it may hide a process that has given root up."""
    held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _destroy(folder)
    finally:
        os.close(held)


def _destroy(folder: Path) -> None:
    """Remove what is not sealed; where that lies on a disk, it is overwritten first."""
    if file_system(folder) not in IN_MEMORY:
        for path in below(folder):
            if is_file(path, follow=False):
                shred(path)
    remove(folder)


def _bare_root() -> Path:
    usable = [root for root in _usual_roots() if file_system(root) in IN_MEMORY and os.access(root, os.W_OK)]
    return next((root for root in usable if shutil.disk_usage(root).free > SPARE_BYTES), Path(tempfile.gettempdir()))


def _usual_roots() -> list[Path]:
    return [*filter(None, [_runtime_directory()]), SHARED_MEMORY]


def _runtime_directory() -> Path | None:
    given = os.environ.get("RUNTIME_DIRECTORY")
    return Path(given.split(":")[0]) if given else None


def engines_folder(model: str) -> Path | None:
    """Where an accelerator may keep what it has compiled of a model's releases: in memory, or nowhere."""
    runtime = _runtime_directory()
    folder = runtime / f"engines-{model}" if runtime else None
    return folder if folder is not None and file_system(folder.parent) in IN_MEMORY and _own(folder) else None


def _own(place: Path) -> bool:
    """Make a folder that is ours alone; False where somebody else has put something there, or nothing can be made."""
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077 and not place.is_symlink()


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, as /proc/mounts names it; empty if that cannot be told."""
    try:
        real = path.resolve(strict=True)
        mounts = dict(_mounts(Path("/proc/self/mounts").read_bytes()))
    except OSError:
        return ""
    return next((mounts[place] for place in (real, *real.parents) if place in mounts), "")


def _mounts(content: bytes) -> Iterator[tuple[Path, str]]:
    for line in content.splitlines():
        _, place, kind, *_ = line.split(b" ")
        # A space in a path stands there as \040; other bytes as they are, also such as are no UTF-8.
        yield Path(os.fsdecode(re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), place))), kind.decode()
