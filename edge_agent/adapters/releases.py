"""The release store: ``releases/<digest>/`` folders that never change, and ``current``, a symlink moved by rename.

A release's digest is the SHA-256 of its ``card.json``, which names the SHA-256 of every other file; a release is what
its digest says or it is not used. In the store all files but the card are sealed with a key of the release's own, so
that destroying the key destroys what the release knew (decision 0012).
"""

from __future__ import annotations

import fcntl
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_agent.core.errors import BrokenRelease, KeyLost, StorageFailed
from edge_agent.files import (
    appearing,
    is_file,
    is_folder,
    listed,
    remove,
    status,
    storage,
    sync_folder,
    sync_tree,
    write_atomically,
)
from edge_agent.schemas.card import CARD, Card, digest, parse_card
from edge_agent.vault import Cipher, Vault

SEALED: Final = ".sealed"  # at the end of the names of sealed files
LEAST_DIGITS: Final = 6  # of a digest that is named by its beginning
LOCK: Final = "releases.lock"  # of the state directory


@dataclass(frozen=True)
class Release:
    """A release whose hashes have been checked; ``cipher`` opens its files where they are sealed."""

    folder: Path
    digest: str
    card: Card
    cipher: Cipher | None = field(default=None, compare=False, repr=False)

    def read(self, name: str) -> bytes:
        """The content of the card or of one of the files that it names, held against its hash.

        Raises:
            BrokenRelease: ``E_HASH``, it is missing, no plain file, or not what the card says.
            StorageFailed: the disk cannot read it now.
        """
        sealed = self.cipher is not None and name != CARD
        path = self.folder / (name + SEALED if sealed else name)
        with storage("a file of the release cannot be read"):
            if not is_file(path, follow=False):
                raise BrokenRelease("E_HASH", f"{path} is missing or is no plain file")
            content = path.read_bytes()
        if self.cipher is not None and sealed:
            try:
                content = self.cipher.open(content, f"{self.digest}/{name}")
            except KeyLost as error:
                raise BrokenRelease("E_HASH", f"{path}: {error.reason}") from error
        found, wanted = digest(content), self.digest if name == CARD else self.card.files[name]
        if found != wanted:
            raise BrokenRelease("E_HASH", f"{path} has SHA-256 {found[:12]}, its card says {wanted[:12]}")
        return content


def read_release(folder: Path, without: frozenset[str] = frozenset()) -> Release:
    """Read and verify a release that is not sealed; the files named in ``without`` need not be there.

    Raises:
        BrokenRelease: ``E_NO_RELEASE``, ``E_CARD`` or ``E_HASH``.
        StorageFailed: the disk cannot read it now.
    """
    return _verified(folder, None, without)


def _verified(folder: Path, cipher: Cipher | None, without: frozenset[str] = frozenset()) -> Release:
    with storage("the release cannot be read"):
        if not is_folder(folder):
            raise BrokenRelease("E_NO_RELEASE", f"{folder} is no folder")
    content = _card(folder)
    release = Release(folder, digest(content), parse_card(content), cipher)
    for name in release.card.files.keys() - without:
        release.read(name)
    return release


def _card(folder: Path) -> bytes:
    path = folder / CARD
    with storage("the card of a release cannot be read"):
        if not is_file(path):
            raise BrokenRelease("E_CARD", f"{path} is missing or is no plain file")
        return path.read_bytes()


def _hold_against(name: str, found: str) -> None:
    """Refuse a card whose digest is not the name of its folder."""
    if found != name:
        raise BrokenRelease("E_HASH", f"folder {name[:12]} holds a card with digest {found[:12]}")


def write_card(folder: Path, card: Card) -> Release:
    """Write the card into a folder that holds the other files, and make all of it durable."""
    write_atomically(folder / CARD, card.to_bytes())
    sync_tree(folder)
    return read_release(folder)


class ReleaseStore:
    """The releases of one state directory. Only the agent's main thread moves ``current``."""

    def __init__(self, state_dir: Path, vault: Vault) -> None:
        self.state_dir, self._vault = state_dir, vault
        self.folder = state_dir / "releases"
        self._current = state_dir / "current"
        self._wanted = state_dir / "wanted"
        with storage("the release store cannot be made"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def digests(self) -> list[str]:
        """Digests of all releases in the store, oldest first.

        Raises:
            StorageFailed: the store cannot be read.
        """
        with storage("the release store cannot be read"):
            looked = [(status(path), path.name) for path in listed(self.folder) if not path.name.startswith(".")]
            # One that is not there any more was removed meanwhile, by the agent while a tool looks.
            found = [(seen.st_mtime_ns, name) for seen, name in looked if seen and stat.S_ISDIR(seen.st_mode)]
            return [name for _, name in sorted(found)]

    def get(self, name: str) -> Release:
        """Verify and return the release with this digest, which may be shortened to 6 characters or more.

        Raises:
            BrokenRelease: there is none, several, or it is not what its digest says.
            StorageFailed: the disk cannot read it now, which says nothing of the release.
        """
        digest = self.whole(name)
        try:
            release = _verified(self.folder / digest, self._vault.find(_key(digest)))
        except KeyLost as error:
            raise BrokenRelease("E_KEY", f"release {digest[:12]} cannot be opened: {error.reason}") from error
        _hold_against(digest, release.digest)
        return release

    def whole(self, name: str) -> str:
        """The digest that a name of 6 characters or more begins, also of a release that is damaged.

        Raises:
            BrokenRelease: ``E_NO_RELEASE``, there is none, or several.
            StorageFailed: the store cannot be read.
        """
        digests = self.digests()
        matches = [name] if name in digests else [one for one in digests if one.startswith(name)]
        if len(name) < LEAST_DIGITS:
            words = f"{name!r} has {len(name)} digits, at least {LEAST_DIGITS} are needed to name a release"
            raise BrokenRelease("E_NO_RELEASE", words)
        if len(matches) != 1:
            which = ": " + ", ".join(one[:12] for one in matches) if matches else ""
            raise BrokenRelease("E_NO_RELEASE", f"{len(matches)} releases in {self.folder} start with {name!r}{which}")
        return matches[0]

    def card(self, name: str) -> Card:
        """The card of the release with this digest; its other files, which take longer to verify, may be damaged.

        Raises:
            BrokenRelease: there is none, or it is not what its digest says.
            StorageFailed: the disk cannot read it now.
        """
        content = _card(self.folder / name)
        _hold_against(name, digest(content))
        return parse_card(content)

    def add(self, folder: Path) -> Release:
        """Seal a release into the store; it is there whole or not at all. A damaged copy there is replaced."""
        release = read_release(folder)
        with self._adding(wait=True):
            self._add(release)
        return self.get(release.digest)

    def _add(self, release: Release) -> None:
        if not self._is_whole(release.digest):
            self.remove(release.digest)
            try:
                self._seal(release)
            except BaseException:  # Ctrl-C, too: what is left, and opens, would outlive the erasure of what it knows
                with suppress(StorageFailed):
                    self.remove(release.digest)
                raise

    @contextmanager
    def _adding(self, *, wait: bool) -> Iterator[None]:
        """Hold the lock under which releases are added: by whichever thread or process.

        Raises:
            StorageFailed: it cannot be had, or somebody else has it.
        """
        with ExitStack() as stack:
            with storage("the release store cannot be locked, or a release is being added"):
                file = stack.enter_context((self.state_dir / LOCK).open("wb"))
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield

    def _seal(self, release: Release) -> None:
        with storage("the release cannot be stored"), appearing(self.folder / release.digest) as beside:
            cipher = self._vault.make(_key(release.digest))
            for name in release.card.files:
                content = cipher.seal(release.read(name), f"{release.digest}/{name}")
                (beside / (name + SEALED)).write_bytes(content)
            (beside / CARD).write_bytes(release.read(CARD))
            sync_tree(beside)

    def _is_whole(self, name: str) -> bool:
        try:
            return self.get(name).digest == name
        except (BrokenRelease, StorageFailed):
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

    def remove_unless(self, needed: Callable[[], str | None], name: str) -> str | None:
        """Destroy a release, unless somebody needs it who came before nobody could find it: then that is returned.

        Raises:
            StorageFailed: some of it is left.
        """
        with storage("the release cannot be set aside"):
            (self.folder / name).rename(self._hidden(name))
        if words := needed():
            with storage("the release cannot be put back"):
                self._hidden(name).rename(self.folder / name)
            return words
        self.remove(name)
        return None

    def remove(self, name: str) -> None:
        """Destroy a release: its key first; then it is unlinked at once, so that no half of it is ever found."""
        self._vault.destroy(_key(name))
        with storage("the release cannot be removed"):
            if status(self.folder / name) is not None:
                (self.folder / name).rename(self._hidden(name))
                sync_folder(self.folder)
            remove(self._hidden(name))

    def _hidden(self, name: str) -> Path:
        """Where nobody finds a release: there until it is gone, or put back; ``sweep`` removes what stays."""
        return self.folder / f".{name}.gone"

    def sweep(self, *, wait: bool = False) -> None:
        """Remove what a crash or a failing disk left half added or half removed.

        Args:
            wait: until a release that somebody is adding is there.

        Raises:
            StorageFailed: something is left, or a release is just being added.
        """
        with self._adding(wait=wait):
            with storage("the release store cannot be swept"):
                for path in listed(self.folder, "."):
                    remove(path)
            for key in set(self._vault.names(_key(""))) - {_key(name) for name in self.digests()}:
                self._vault.destroy(key)

    def export(self, name: str, folder: Path) -> Release:
        """Write a release out as it was before it was sealed, into a new folder, for its owner alone to read.

        Raises:
            BrokenRelease: it cannot be read.
            StorageFailed: the folder is there already, or cannot be written.
        """
        release = self.get(name)
        if status(folder) is not None:
            raise StorageFailed("E_STORAGE", f"{folder} is there already")
        with storage(f"the release cannot be written to {folder}"), appearing(folder) as fresh:
            fresh.chmod(0o700)
            for each in (*release.card.files, CARD):
                (fresh / each).write_bytes(release.read(each))
            sync_tree(fresh)
        return read_release(folder)

    def _read_link(self, link: Path) -> str | None:
        with storage(f"{link.name} cannot be read"):
            found = status(link, follow=False)
            return link.readlink().name if found is not None and stat.S_ISLNK(found.st_mode) else None

    def _move_link(self, link: Path, name: str) -> None:
        before = self._read_link(link)
        with storage(f"{link.name} cannot be moved"):
            _point(link, name)
            try:
                sync_folder(link.parent)
            except OSError:  # who asked goes on as before, and so must the next start
                with suppress(OSError):
                    if before is None:
                        link.unlink()
                    else:
                        _point(link, before)
                raise


def _point(link: Path, name: str) -> None:
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(Path("releases") / name)
    beside.replace(link)


def _key(name: str) -> str:
    """The name of a release's key in the vault."""
    return f"release-{name}"
