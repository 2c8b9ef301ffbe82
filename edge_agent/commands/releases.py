"""``edge-agent releases``: look at the store, and ask the agent to adopt another release."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from edge_agent.adapters.audit import read_rows
from edge_agent.adapters.journal import read_states
from edge_agent.adapters.releases import Release, ReleaseStore, read_release
from edge_agent.commands.state import become_owner, open_vault
from edge_agent.core.errors import BrokenRelease, Refused, StorageFailed
from edge_agent.files import storage, write_atomically
from edge_agent.live import refuse_erased
from edge_agent.masks import REVIVE, erased_classes, on_probation, unwelcome
from edge_agent.schemas.card import Card
from edge_agent.schemas.messages import TERMINAL
from edge_agent.settings import Config


def store_of(config: Config, *, create: bool = False) -> ReleaseStore:
    """The store of a gateway's model, with the keys that open it; ``create``: or a new one."""
    vault = open_vault(config.gateway, create=create)
    return ReleaseStore(config.gateway.state_dir, vault)


def overview(store: ReleaseStore) -> list[tuple[str, str, str, str]]:
    """A row for each release: whole digest, state, what it forgot, name; broken ones with the reason."""
    rows = []
    for digest in store.digests():
        mark = "live" if digest == store.current() else "wanted" if digest == store.wanted() else ""
        try:
            card = store.get(digest).card
        except (BrokenRelease, StorageFailed) as error:
            rows.append((digest, "broken", "", error.code))
        else:
            rows.append((digest, mark, ", ".join(card.forgotten) or "-", card.name))
    return rows


def install(config: Config, store: ReleaseStore, folder: Path) -> Release:
    """Add a release and ask for it to be adopted: at once by a running agent, else by the next."""
    release = read_release(folder)
    refuse(config, store, release.card, release.digest)  # first: what was erased must not lie there again
    release = store.add(folder)
    store.want(release.digest)
    return release


def ask(config: Config, store: ReleaseStore, release: Release) -> None:
    """Ask the agent to adopt a release of the store.

    Raises:
        BrokenRelease: ``E_ERASED``, it knows a class that was erased on this gateway.
    """
    refuse(config, store, release.card, release.digest)
    store.want(release.digest)


def discard(store: ReleaseStore, name: str) -> str:
    """Destroy a release, whole or damaged, that nothing needs; returns its digest.

    Raises:
        BrokenRelease: ``E_NO_RELEASE``, there is none.
        Refused: ``E_IN_USE``, with what needs it.
        StorageFailed: some of it is left.
    """
    digest = store.whole(name)
    # Asked a second time where nobody can find it: an agent at work may have taken it meanwhile.
    needed = _needed(store).get(digest) or store.remove_unless(lambda: _needed(store).get(digest), digest)
    if needed:
        raise Refused("E_IN_USE", f"release {digest[:12]} {needed}")
    return digest


def _needed(store: ReleaseStore) -> dict[str | None, str]:
    """What the releases are needed for that are."""
    needed: dict[str | None, str] = {}
    for state in read_states(store.state_dir / "journal.jsonl"):
        if state.kept_s is not None:
            needed[state.release_before] = f"is kept for the probation of {state.name}"
        if state.status not in TERMINAL:
            words = f"is part of command {state.id!r}, which is not finished"
            needed |= {state.release_before: words, state.release_after: words}
    return needed | {store.wanted(): "is wanted by an operator", store.current(): "is live"}


def refuse(config: Config, store: ReleaseStore, card: Card, digest: str) -> None:
    """Refuse a release that would bring an erased class back.

    Raises:
        BrokenRelease: ``E_ERASED``.
    """
    live, current = None, store.current()
    if current is not None:
        with suppress(BrokenRelease, StorageFailed):  # one that is damaged is what another release is to repair
            live = store.get(current).card
    if config.forget.known_again == "refuse":
        states = read_states(store.state_dir / "journal.jsonl")
        refuse_erased(card, unwelcome(tombstones(store.state_dir, live), states, digest))


def tombstones(state_dir: Path, live: Card | None = None) -> frozenset[str]:
    """The classes erased on a gateway, read beside its agent."""
    return erased_classes(read_states(state_dir / "journal.jsonl"), read_rows(state_dir / "audit.jsonl"), live)


def revive(config: Config, name: str) -> None:
    """Ask the agent, which alone writes its state, to let an erased class come back.

    Raises:
        Refused: ``E_CLASS``, it is not forgotten on this gateway, or on probation.
        StorageFailed: the wish cannot be stored.
    """
    become_owner(config.gateway.root_dir)
    erased = tombstones(config.gateway.state_dir)
    if name not in erased:
        raise Refused("E_CLASS", f"class {name!r} is not forgotten here; forgotten: {', '.join(sorted(erased)) or '-'}")
    if name in on_probation(read_states(config.gateway.state_dir / "journal.jsonl")):
        words = "the release before it is kept and can be adopted again (edge-agent releases rollback)"
        raise Refused("E_CLASS", f"class {name!r} is on probation: {words}")
    with storage("the wish cannot be stored"):
        write_atomically(config.gateway.state_dir / REVIVE, name.encode())


def parent_of_live(store: ReleaseStore) -> Release:
    """The release that the live one was edited from.

    Raises:
        BrokenRelease: ``E_NO_RELEASE`` or, where it was destroyed with what it knew, ``E_ERASED``.
    """
    current = store.current()
    if current is None:
        raise BrokenRelease("E_NO_RELEASE", f"{store.folder} has no live release")
    parent = store.get(current).card.parent
    if parent is None:
        raise BrokenRelease("E_NO_RELEASE", f"release {current[:12]} was trained, not edited: it has no parent")
    if parent not in store.digests():
        raise BrokenRelease("E_ERASED", f"parent {parent[:12]} was destroyed with the class it knew")
    return store.get(parent)
