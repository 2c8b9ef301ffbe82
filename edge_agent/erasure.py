"""Destroying what knew a class, and vouching for it: the end of every forget command.

    windows      the key of the class's file, then the file; files that windows were moved from get a new key
    job folder   removed from memory, or overwritten and unlinked
    releases     all that know the class: the key, then the files; the parent stays sealed during its probation
    audit log    a row that says so, before anybody is told
    certificate  signed; it says what was destroyed and how, and what was not

Each step can be done again: after a crash ``erase`` starts from its beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from edge_agent import __version__
from edge_agent.adapters.audit import WITHDRAWN, AuditLog
from edge_agent.adapters.releases import Release, ReleaseStore
from edge_agent.adapters.windows import WindowCache
from edge_agent.clock import Clock
from edge_agent.core.errors import BrokenRelease, StorageFailed, Untrusted
from edge_agent.files import is_file, read_if_there, remove, storage, write_atomically
from edge_agent.jobs import Jobs
from edge_agent.schemas.card import CARD, parse_card
from edge_agent.schemas.certificate import KIND, VERSION
from edge_agent.schemas.messages import JobState
from edge_agent.settings import Gateway
from edge_agent.signing import Signer, opened
from edge_agent.vault import MASTER, MASTER_COPY

log = structlog.get_logger(__name__)

ERASING: Final = ("class.forgotten", "class.erased")  # rows of the audit log that say what was destroyed
# What no gateway can reach, so that no certificate is read as a word about it.
NOT_COVERED: Final = (
    "copies of the state directory from before (backups, snapshots): with their keys and the master key they open",
    "windows and models elsewhere: at the broker, at other subscribers, where the release was trained",
)
KEY_DESTROYED: Final = "sealed with AES-256-GCM; key overwritten and unlinked, then the file unlinked"


@dataclass(frozen=True)
class Parts:
    """Who knows something of a class, and who writes down that it is gone."""

    store: ReleaseStore
    cache: WindowCache
    jobs: Jobs
    audit: AuditLog
    clock: Clock
    signer: Signer
    # The gateway's other models and what they know, if a card that cannot be read is taken to know the classes given.
    neighbours: Callable[[Collection[str]], Mapping[str, Collection[str]]]


@dataclass(frozen=True)
class Publisher:
    """Who is told: of a command's state, of its certificate, and that another release has gone live."""

    state: Callable[[JobState], None]
    certificate: Callable[[str, bytes], None]
    release: Callable[[], None]


class Erasure:
    """Owner of the certificates. Everything here runs in the agent's main thread."""

    def __init__(self, gateway: Gateway, parts: Parts) -> None:
        self._gateway, self._parts = gateway, parts
        self._folder = gateway.state_dir / "certificates"

    def erase(
        self, state: JobState, live: Release, spared: Callable[[], frozenset[str]] = frozenset
    ) -> Generator[None, None, bytes]:
        """Destroy everything that knew the classes of a command, a piece at each step; returns the certificate.

        A disk takes its time to forget, and between two steps there are windows to be answered. What comes between
        them, a label or a release, is seen to in the last one.

        Args:
            spared: tells the digests of releases that are kept, sealed, for a probation.

        Raises:
            StorageFailed: something may be left, or it could not be written down.
        """
        destroyed = list[dict[str, Any]]()
        for name in state.classes:
            yield
            destroyed.append(self._erase_windows(name, state))
            while self._parts.cache.rekey_one(name):
                yield
        yield
        on_disk = self._parts.jobs.clear() or state.on_disk
        how = "overwritten and unlinked" if on_disk else "removed from memory"
        destroyed.append({"what": "job folder", "how": how})
        for digest, knows in state.doomed.items():
            yield
            if digest not in {live.digest, *spared()}:
                self._destroy_release(digest, knows)
        yield
        for name in state.classes:
            while self._parts.cache.rekey_one(name):
                pass
        kept = spared()
        destroyed += self._destroy_releases(state, live.digest, kept)
        return self._vouch(state, "class.forgotten" if kept else "class.erased", destroyed, live)

    def end_probation(self, state: JobState, live: Release) -> bytes:
        """Destroy the parent that was kept; returns the new certificate.

        Raises:
            StorageFailed: something may be left, or it could not be written down.
        """
        return self._vouch(state, "class.erased", self._destroy_releases(state, live.digest), live)

    def certificate(self, state: JobState) -> bytes | None:
        """The newest certificate of a command, if it has one.

        Raises:
            StorageFailed: it cannot be read, or is not as it was signed.
        """
        path = self._path(state)
        with storage("the certificate cannot be read"):
            document = read_if_there(path)
        try:
            if document is not None:
                opened(document, self._parts.signer.public)
        except Untrusted as error:
            raise StorageFailed("E_STORAGE", f"{path}: {error.reason}") from error
        return document

    def withdraw(self, state: JobState) -> None:
        """Take a certificate back: its class is known again, for the parent came back during its probation.

        Raises:
            StorageFailed: it is there still.
        """
        with storage("the certificate cannot be removed"):
            remove(self._path(state))
        audit = self._parts.audit
        told = [row["event"] for row in audit.rows if row["content"].get("id") == state.id]
        if told[-1:] != [WITHDRAWN]:  # else it is done again, for the journal could not be written
            audit.append(WITHDRAWN, id=state.id, classes=list(state.classes))

    def _erase_windows(self, name: str, state: JobState) -> dict[str, Any]:
        self._parts.cache.erase(name)
        count = state.metrics.get("windows_erased", {}).get(name, 0)
        return {"what": "cached windows", "class": name, "windows": count, "how": KEY_DESTROYED}

    def _destroy_releases(
        self, state: JobState, live: str, spared: frozenset[str] = frozenset()
    ) -> list[dict[str, Any]]:
        """Destroy every release that knows one of the classes, not only the parent."""
        self._parts.store.sweep()  # a copy that could not be stored whole may know it as well
        doomed = {**state.doomed, **self.knowing(state, live)}
        doomed = {digest: knows for digest, knows in doomed.items() if digest not in {live, *spared}}
        for digest, knows in doomed.items():
            self._destroy_release(digest, knows)
        before = state.release_before
        if before is not None and before not in self._parts.store.digests():  # a crash may have come after it was gone
            doomed.setdefault(before, sorted(state.classes))
        return [
            {"what": "release", "digest": digest, "knew": knows, "how": KEY_DESTROYED}
            for digest, knows in doomed.items()
        ]

    def _destroy_release(self, digest: str, knows: Sequence[str]) -> None:
        stored = digest in self._parts.store.digests()
        self._parts.store.remove(digest)  # also where only its key is left
        if stored:
            log.info("release.destroyed", release=digest[:12], classes=list(knows))

    def knowing(self, state: JobState, live: str) -> dict[str, list[str]]:
        """What the stored releases know of the classes of a command; one whose card nobody can read, all of them.

        Raises:
            StorageFailed: the store cannot be read.
        """
        known: dict[str, list[str]] = {}
        for digest in [one for one in self._parts.store.digests() if one != live]:
            try:
                known[digest] = sorted(set(self._parts.store.card(digest).living) & set(state.classes))
            except (BrokenRelease, StorageFailed):
                known[digest] = sorted(state.classes)
        return {digest: knows for digest, knows in known.items() if knows}

    def _vouch(self, state: JobState, event: str, destroyed: list[dict[str, Any]], live: Release) -> bytes:
        audit = self._parts.audit
        before = [row for row in audit.rows if row["event"] in ERASING and row["content"].get("id") == state.id]
        # What was destroyed before: at the beginning of the probation, or before a crash that left nothing to destroy.
        destroyed = _united([*(one for row in before for one in row["content"]["destroyed"]), *destroyed])
        head = audit.head
        if event not in [row["event"] for row in before]:
            head = audit.append(event, id=state.id, classes=list(state.classes), destroyed=destroyed)
        document = self._parts.signer.document(
            {
                "kind": KIND,
                "version": VERSION,
                "gateway": self._gateway.name,
                "agent": __version__,
                "issued": self._parts.clock.now().document(),
                "command": {"id": state.id, "classes": list(state.classes), "digest": state.digest},
                "releases": {"before": state.release_before, "after": state.release_after},
                "edit": dict(state.metrics),
                "destroyed": destroyed,
                "not_destroyed": self._left(state, live),
                "not_covered": list(NOT_COVERED),
                "master_key": self._where_master_key(),
                "audit": {"n": head.n, "hash": head.hash},
            }
        )
        with storage("the certificate cannot be stored"):
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._path(state), document)
        return document

    def _where_master_key(self) -> str:
        """On flash, which may keep old blocks, an overwritten key is gone for good only if this one lies elsewhere."""
        root, given = self._gateway.root_dir, self._gateway.master_key_file
        with storage("the master key cannot be looked for"):
            beside = any(is_file(root / name) for name in (MASTER, MASTER_COPY))
            beside |= given is not None and given.resolve().is_relative_to(root.resolve())
        return "in the state directory, beside the keys that it wraps" if beside else "outside the state directory"

    def _left(self, state: JobState, live: Release) -> list[dict[str, Any]]:
        """What may still know a class, for a certificate never says more than was done."""
        left: list[dict[str, Any]] = [
            {"what": "release", "digest": digest, "knows": knows, "how": "kept sealed during a probation"}
            for digest, knows in self.knowing(state, live.digest).items()
        ]
        if again := sorted(set(live.card.living) & set(state.classes)):
            how = "served with the class masked"
            left.append({"what": "release", "digest": live.digest, "knows": again, "how": how})
        for name, knows in self._parts.neighbours(state.classes).items():
            if both := sorted(set(knows) & set(state.classes)):
                words = "another model of the same gateway, configured or left from before; it is not the command's"
                left.append({"what": "model", "name": name, "knows": both, "how": words})
        source = self._gateway.release
        if source is not None and (knows := _known(source, frozenset(state.classes))):
            words = "the folder that gateway.release names is not the agent's to write"
            left.append({"what": "release folder", "path": str(source), "knows": sorted(knows), "how": words})
        return left

    def _path(self, state: JobState) -> Path:
        return self._folder / f"{hashlib.sha256(state.id.encode()).hexdigest()[:16]}.json"


def _known(source: Path, classes: frozenset[str]) -> frozenset[str]:
    """What a release folder knows of some classes; one that is there and cannot be read is taken to know all."""
    try:
        return classes & set(parse_card((source / CARD).read_bytes()).living)
    except FileNotFoundError:
        return frozenset()
    except (OSError, BrokenRelease):
        return classes


def _united(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in order."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(thing, sort_keys=True) for thing in things)]
