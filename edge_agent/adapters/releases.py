"""The release store: ``releases/<digest>/`` folders that never change, and ``current``, a symlink moved by rename.

A release's digest is the SHA-256 of its ``card.json``, which names the SHA-256 of every other file; a release is what
its digest says or it is not used.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.errors import BrokenRelease
from edge_agent.files import remove, sha256, storage, sync_folder, sync_tree, write_atomically
from edge_agent.schemas.card import CARD, MODEL, WEIGHTS, Card, digest, parse_card


@dataclass(frozen=True)
class Release:
    """A release whose hashes have been checked."""

    folder: Path
    digest: str
    card: Card

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / WEIGHTS


def read_release(folder: Path, without: frozenset[str] = frozenset()) -> Release:
    """Read and verify a release; the files named in ``without`` need not be there.

    Raises:
        BrokenRelease: ``E_NO_RELEASE``, ``E_CARD`` or ``E_HASH``.
    """
    if not folder.is_dir():
        raise BrokenRelease("E_NO_RELEASE", f"{folder} is no folder")
    try:
        content = (folder / CARD).read_bytes()
    except OSError as error:
        raise BrokenRelease("E_CARD", f"{folder / CARD} cannot be read: {error.strerror}") from error
    card = parse_card(content)
    for name, wanted in card.files.items():
        if name in without:
            continue
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BrokenRelease("E_HASH", f"{path} is missing or is no plain file")
        if (found := sha256(path)) != wanted:
            raise BrokenRelease("E_HASH", f"{path} has SHA-256 {found[:12]}, its card says {wanted[:12]}")
    return Release(folder, digest(content), card)


def write_card(folder: Path, card: Card) -> Release:
    """Write the card into a folder that holds the other files, and make all of it durable."""
    write_atomically(folder / CARD, card.to_bytes())
    sync_tree(folder)
    return read_release(folder)


class ReleaseStore:
    """The releases of one state directory. Only the agent's main thread moves ``current``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.folder = state_dir / "releases"
        self._current = state_dir / "current"
        self._wanted = state_dir / "wanted"
        with storage("the release store cannot be made"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def digests(self) -> list[str]:
        """Digests of all releases in the store, oldest first."""
        found = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def get(self, name: str) -> Release:
        """Verify and return the release with this digest, which may be shortened to 6 characters or more.

        Raises:
            BrokenRelease: there is none, several, or it is not what its digest says.
        """
        matches = [name] if name in self.digests() else [one for one in self.digests() if one.startswith(name)]
        if len(matches) != 1 or len(name) < 6:
            raise BrokenRelease("E_NO_RELEASE", f"{len(matches)} releases in {self.folder} start with {name!r}")
        release = read_release(self.folder / matches[0])
        if release.digest != matches[0]:
            raise BrokenRelease("E_HASH", f"folder {matches[0][:12]} holds a card with digest {release.digest[:12]}")
        return release

    def add(self, folder: Path) -> Release:
        """Copy a release into the store; it is there whole or not at all. A damaged copy there is replaced."""
        release = read_release(folder)
        target = self.folder / release.digest
        with storage("the release cannot be stored"):
            if not self._is_whole(release.digest):
                self.remove(release.digest)
                beside = self.folder / f".{release.digest}.new"
                remove(beside)
                beside.mkdir()
                for name in (*release.card.files, CARD):
                    shutil.copyfile(folder / name, beside / name)
                sync_tree(beside)
                beside.rename(target)
                sync_folder(self.folder)
        return self.get(release.digest)

    def _is_whole(self, name: str) -> bool:
        try:
            return self.get(name).digest == name
        except BrokenRelease:
            return False

    def current(self) -> str | None:
        """Digest that ``current`` points to."""
        return self._read_link(self._current)

    def set_current(self, name: str) -> None:
        """Move ``current`` by rename."""
        self._move_link(self._current, name)

    def wanted(self) -> str | None:
        """Digest that an operator asked the agent to adopt, not yet adopted."""
        return self._read_link(self._wanted)

    def want(self, name: str) -> None:
        """Ask the agent, which alone moves ``current``, to adopt a release."""
        self._move_link(self._wanted, name)

    def forget_wish(self) -> None:
        """The wish was granted or refused."""
        with storage("the wish cannot be removed"):
            remove(self._wanted)

    def remove(self, name: str) -> None:
        """Destroy a release: unlinked at once, so that no half of it is ever found."""
        with storage("the release cannot be removed"):
            doomed = self.folder / f".{name}.gone"
            if (self.folder / name).exists():
                (self.folder / name).rename(doomed)
                sync_folder(self.folder)
            remove(doomed)

    def sweep(self) -> None:
        """Remove what a crash left half added or half removed."""
        with storage("the release store cannot be swept"):
            for path in self.folder.glob(".*"):
                remove(path)

    def _read_link(self, link: Path) -> str | None:
        return link.readlink().name if link.is_symlink() else None

    def _move_link(self, link: Path, name: str) -> None:
        beside = link.with_name(f".{link.name}.new")
        with storage(f"{link.name} cannot be moved"):
            beside.unlink(missing_ok=True)
            beside.symlink_to(Path("releases") / name)
            beside.replace(link)
            sync_folder(link.parent)
